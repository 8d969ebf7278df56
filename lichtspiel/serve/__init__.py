"""Serving: a queue of videos to make, the workers that make them, and the HTTP API and page in front."""

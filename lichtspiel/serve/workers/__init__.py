"""Processes that make videos: one worker, its supervisor, and workers on a Ray cluster."""

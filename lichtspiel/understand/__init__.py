"""What is in videos, who wants them, and which may stay: extractors, an index, moderation, curation and measures."""

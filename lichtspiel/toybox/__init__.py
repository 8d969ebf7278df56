"""The world of the embedded model: procedural scenes, rendered with exact captions."""

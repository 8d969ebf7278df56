"""Fine-tuning a published model on one's own clips, checked before it starts."""

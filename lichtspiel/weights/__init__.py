"""Checkpoints: reading files of tensors and filling modules with them, strictly."""

"""Inference, from a request to decoded frames: the plan, the inputs, the conditions and the pipeline."""

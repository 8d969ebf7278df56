"""What a person asks for as a whole: generate, decode, batch, replay, reseal."""

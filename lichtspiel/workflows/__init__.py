"""Complete tasks for a user: generate, decode, batch, replay, reseal."""

"""Read pictures and videos from users, within limits."""

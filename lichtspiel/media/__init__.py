"""Pictures and videos that people bring, read within limits."""

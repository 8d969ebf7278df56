"""The job queue: the database, leases, limits, API keys and stored files. Jobs survive restarts."""

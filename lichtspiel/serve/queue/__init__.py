"""Jobs that survive: the database, leases, limits, keys and stored files."""

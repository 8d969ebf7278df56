"""Alembic's environment: how the tables come to their present layout, one version after the other."""

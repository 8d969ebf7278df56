"""The fourth schema: the record of videos that the machines of a server share.

It only adds, so servers of the version before go on working on the database while a new one is rolled out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

GUARD = """
CREATE FUNCTION lichtspiel_record_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF OLD.created > extract(epoch FROM now()) - 184 * 86400 THEN
      RAISE EXCEPTION 'the record is append-only: an entry is kept for 184 days';
    END IF;
    RETURN OLD;
  END IF;
  IF NEW.texts IS NOT NULL OR ROW(NEW.id, NEW.watermark, NEW.created, NEW.sha256, CAST(NEW.body AS text))
      IS DISTINCT FROM ROW(OLD.id, OLD.watermark, OLD.created, OLD.sha256, CAST(OLD.body AS text)) THEN
    RAISE EXCEPTION 'the record is append-only: an entry is never changed';
  END IF;
  RETURN NEW;
END $$
"""
"""Refuses what the record of one computer refuses: to change an entry, except to erase its texts, and to delete it
early."""

TRIGGER = """
CREATE TRIGGER record_guard BEFORE UPDATE OR DELETE ON record
FOR EACH ROW EXECUTE FUNCTION lichtspiel_record_guard()
"""


def upgrade() -> None:
    """Add the table and, on PostgreSQL, where machines share it, its guard."""
    op.create_table(
        "record",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("watermark", sa.BigInteger()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("texts", sa.JSON(none_as_null=True)),
    )
    for column in ("watermark", "created", "sha256"):
        op.create_index(f"record_by_{column}", "record", [column])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(GUARD)
        op.execute(TRIGGER)

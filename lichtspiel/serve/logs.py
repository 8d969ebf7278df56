"""Logging for the server and its workers, as lines of text or JSON. Logs never contain prompts or keys."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

__all__ = ["FIELDS", "configure"]

FIELDS = ("request", "job", "model", "worker", "method", "path", "status", "seconds", "code", "webhook", "event")
"""The fields that a message may carry in `extra`: ids of the request and the job, and how they ended."""


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    """Time, level and message, followed by the other fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        more = " ".join(f"{name}={getattr(record, name)}" for name in FIELDS if hasattr(record, name))
        return f"{super().format(record)} {more}".rstrip()


def configure(as_json: bool) -> None:
    """Send the logs of `lichtspiel` (INFO and above) and uvicorn (WARNING and above) to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if as_json else _Text("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("lichtspiel", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)

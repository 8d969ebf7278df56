"""Logs of the server and its workers, as lines of text or of JSON. No prompt and no key is ever in them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

__all__ = ["FIELDS", "configure"]

FIELDS = ("request", "job", "model", "worker", "method", "path", "status", "seconds", "code")
"""What a message may carry beside its text (`extra`): ids of the request and the job, and how either ended."""


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    """Time, level and message, and then what else the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        more = " ".join(f"{name}={getattr(record, name)}" for name in FIELDS if hasattr(record, name))
        return f"{super().format(record)} {more}".rstrip()


def configure(as_json: bool) -> None:
    """Write what `lichtspiel` and uvicorn log to stderr, from level INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if as_json else _Text("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("lichtspiel", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)

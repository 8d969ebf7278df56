"""The verbs of the server's API keys."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import Json
from lichtspiel.cli.serve import Database, moment, open_jobs

if TYPE_CHECKING:
    from lichtspiel.serve.queue.api_keys import KeyRow, Keys

__all__ = ["create_key", "list_keys", "renew_key", "revoke_key"]

Owner = Annotated[str, typer.Argument(metavar="NAME", help="Who the key is for.")]
Days = Annotated[float | None, typer.Option(metavar="DAYS", help="How long it works. [default: until it is revoked]")]
QUOTAS, PRIORITIES = "Quotas", 9


def _keys(database: str | None) -> Keys:
    from lichtspiel.serve.queue.api_keys import Keys

    return Keys(open_jobs(database))


def _limit(help: str) -> Any:
    return typer.Option(metavar="LIMIT", help=help, rich_help_panel=QUOTAS)


def create_key(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    name: Owner,
    days: Days = None,
    limit: Annotated[str | None, _limit("How many videos, such as 20/h, 5/min or 100/d.")] = None,
    video_seconds: Annotated[str | None, _limit("How many seconds of video in all, such as 600/d.")] = None,
    worker_seconds: Annotated[str | None, _limit("How many seconds workers may work for it, such as 3600/d.")] = None,
    at_once: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=1, help="How many of its jobs may be in progress.", rich_help_panel=QUOTAS),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="How much its files may take, such as 10GB.", rich_help_panel=QUOTAS),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(
            metavar="NUMBER", min=-PRIORITIES, max=PRIORITIES, help="Jobs of higher ones come first.",
            rich_help_panel=QUOTAS,
        ),
    ] = 0,
    reviews: Annotated[
        bool, typer.Option("--reviews", help="May see all moderations, and decide what needs review.")
    ] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Create an API key, which is shown once.

    The server keeps a digest of it. Clients send it as the header `Authorization: Bearer KEY`.
    """
    from lichtspiel.serve.queue.api_keys import Quotas

    quotas = Quotas(
        limit=limit, video_seconds=video_seconds, worker_seconds=worker_seconds, at_once=at_once, storage=storage,
        priority=priority,
    )  # fmt: skip
    _hand_out("created", *_keys(database).create(name, quotas, days=days, reviews=reviews), as_json)


def renew_key(name: Owner, days: Days = None, database: Database = None, as_json: Json = False) -> None:
    """Replace the secret of an API key, which is shown once.

    The old secret stops working at once. Videos and quotas stay with the key.
    """
    _hand_out("renewed", *_keys(database).renew(name, days=days), as_json)


def _hand_out(did: str, key: KeyRow, secret: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**_facts(key), "key": secret}))
        return
    until = f" and works until {moment(key.expires)}" if key.expires is not None else ""
    send = "Send it as: Authorization: Bearer KEY"
    print(f"{did} a key for {key.name}; it is shown only now{until}. {send}", file=sys.stderr)
    print(secret)


def list_keys(database: Database = None, as_json: Json = False) -> None:
    """List the API keys."""
    keys = _keys(database).list()
    if as_json:
        print(json.dumps([_facts(key) for key in keys]))
        return
    for key in keys:
        created = str(moment(key.created))[:16].replace("T", " ")
        print(f"{created}  {key.state(time.time()):<8}  {key.name:<16}  {_quotas(key)}")


def _quotas(key: KeyRow) -> str:
    rates = (("videos", key.limit), ("s of video", key.video_seconds), ("s of work", key.worker_seconds))
    parts = [quota.replace("/", f" {kind}/") for kind, quota in rates if quota]
    if key.at_once is not None:
        parts.append(f"{key.at_once} at once")
    if key.storage is not None:
        parts.append(f"{key.storage / 1e6:,.0f} MB kept")
    if key.priority:
        parts.append(f"priority {key.priority}")
    if key.reviews:
        parts.append("reviews")
    if key.expires is not None:
        parts.append(f"until {str(moment(key.expires))[:10]}")
    return ", ".join(parts) or "no limit"


def revoke_key(name: Owner, database: Database = None, as_json: Json = False) -> None:
    """Revoke an API key.

    Videos that were made with it are kept.
    """
    key = _keys(database).revoke(name)
    print(json.dumps(_facts(key)) if as_json else f"revoked the key of {key.name}")


def _facts(key: KeyRow) -> dict[str, Any]:
    """A key as plain values."""
    facts = {**asdict(key), "state": key.state(time.time())}
    return {
        name: moment(value) if name in {"created", "revoked", "expires"} else value for name, value in facts.items()
    }

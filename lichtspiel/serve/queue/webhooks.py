"""Webhooks: who is told when a job has ended, and what is still to be delivered.

Whoever runs the server registers the addresses; requests cannot name any. An ended job becomes one delivery for each
webhook that concerns it, in one transaction, so nothing is forgotten when a server stops. This module sends nothing;
see `serve.webhooks`.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import Conflict, NotFound
from lichtspiel.serve.queue.jobs import ENDED, PREFIXES, Jobs
from lichtspiel.serve.queue.schema import delivery, job, webhook

__all__ = ["PAUSES", "Delivery", "Webhook", "Webhooks", "check_url"]

PAUSES = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Seconds after each failed attempt, as Standard Webhooks proposes: three days in all, then the event is dropped."""

HELD = 60.0
"""Seconds for which a server holds a delivery; if it stops meanwhile, another one sends it again."""


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """An address that is told of ended jobs: those of one owner, or of all (None).

    `private` allows addresses inside the network of the server. A `disabled` one asked, by 410, for no more.
    """

    id: str
    owner: str | None
    url: str
    secret: str = field(repr=False)
    private: bool
    created: float
    disabled: float | None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One event for one webhook, after `attempts` attempts, of which this is one."""

    number: int
    event: str
    body: str
    attempts: int
    to: Webhook


_COLUMNS = [webhook.c[each.name] for each in fields(Webhook)]
_LIVE = webhook.c.disabled.is_(None)
_FRESH = (
    select(job.c.id, job.c.owner, job.c.state, job.c.request, job.c.ended)
    .where(job.c.told.is_(None), job.c.state.in_(ENDED))
    .order_by(job.c.ended)
    .limit(100)
)
_TOLD = update(job).where(job.c.id == bindparam("this_id"))
_DUE = (
    select(delivery)
    .where(delivery.c.due <= bindparam("now"))
    .order_by(delivery.c.due)
    .limit(16)
    .with_for_update(skip_locked=True)
)


class Webhooks:
    """The webhooks of one database, and their deliveries."""

    def __init__(self, jobs: Jobs) -> None:
        self._database, self._clock = jobs.database, jobs.watch.now

    def create(self, url: str, owner: str | None = None, *, private: bool = False) -> Webhook:
        """Register an address. Raises InvalidInput for one that is not allowed, and Conflict for one that is there."""
        check_url(url, private=private)
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        made = Webhook(
            id=f"wh_{secrets.token_hex(8)}", owner=owner, url=url, secret=secret, private=private,
            created=self._clock(), disabled=None,
        )  # fmt: skip
        same = webhook.c.owner.is_(None) if owner is None else webhook.c.owner == owner
        with self._database.writing(alone=True) as connection:
            if connection.scalar(select(webhook.c.id).where(webhook.c.url == url, same, _LIVE)) is not None:
                raise Conflict(f"{url} is registered already; remove it first to get a new secret")
            connection.execute(insert(webhook).values(**vars(made)))
        return made

    def list(self) -> Sequence[Webhook]:
        """All webhooks, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(*_COLUMNS).order_by(webhook.c.created, webhook.c.id))
            return [_webhook(row) for row in rows]

    def remove(self, id: str) -> None:
        """Remove a webhook with what is still to be delivered to it. Raises NotFound."""
        with self._database.writing() as connection:
            connection.execute(delete(delivery).where(delivery.c.webhook == id))
            if not connection.execute(delete(webhook).where(webhook.c.id == id)).rowcount:
                raise NotFound(f"there is no webhook {id!r}")

    def collect(self) -> int:
        """Turn jobs that have ended since the last time into deliveries; returns the number of jobs."""
        with self._database.reading() as connection:
            if connection.execute(_FRESH).first() is None:
                return 0
        with self._database.writing(alone=True) as connection:
            now, rows = self._clock(), connection.execute(_FRESH).all()
            for row in rows:
                connection.execute(_TOLD, {"this_id": row.id, "told": now})
                self._announce(connection, row, now)
        return len(rows)

    def _announce(self, connection: Connection, row: Any, now: float) -> None:
        concerned = select(*_COLUMNS).where(or_(webhook.c.owner.is_(None), webhook.c.owner == row.owner), _LIVE)
        for values in connection.execute(concerned).all():
            to = _webhook(values)
            if to.created > row.ended:
                continue
            event = f"evt_{uuid.uuid4().hex}"
            moment = datetime.fromtimestamp(row.ended, UTC).isoformat(timespec="milliseconds")
            about = {"id": row.id, "status": row.state, "metadata": row.request.get("metadata")}
            kind = "video" if row.id.startswith(PREFIXES["video"]) else "moderation"
            body: dict[str, Any] = {"id": event, "object": "event", "type": f"{kind}.{row.state}"}
            body |= {"created_at": int(row.ended), "timestamp": moment, "data": about}
            fresh = {"webhook": to.id, "event": event, "body": json.dumps(body), "created": now}
            connection.execute(insert(delivery).values(**fresh, attempts=0, due=now))

    def due(self) -> Sequence[Delivery]:
        """Take the deliveries whose time has come. Unless settled, they are due again after `HELD` seconds."""
        with self._database.reading() as connection:
            if connection.scalar(select(delivery.c.number).where(delivery.c.due <= self._clock()).limit(1)) is None:
                return []
        taken = []
        with self._database.writing(alone=True) as connection:
            now = self._clock()
            targets = {one.id: one for one in map(_webhook, connection.execute(select(*_COLUMNS)).all())}
            for row in connection.execute(_DUE, {"now": now}).all():
                values = {"attempts": row.attempts + 1, "due": now + HELD}
                connection.execute(update(delivery).where(delivery.c.number == row.number).values(**values))
                taken.append(
                    Delivery(
                        number=row.number, event=row.event, body=row.body, attempts=row.attempts + 1,
                        to=targets[row.webhook],
                    )
                )  # fmt: skip
        return taken

    def settle(self, sent: Delivery, *, done: bool, gone: bool = False) -> bool:
        """Write how an attempt ended; returns whether there will be another one. `gone` disables the webhook."""
        again = not done and not gone and sent.attempts <= len(PAUSES)
        with self._database.writing() as connection:
            this = delivery.c.number == sent.number
            if gone:
                this = delivery.c.webhook == sent.to.id
                connection.execute(update(webhook).where(webhook.c.id == sent.to.id).values(disabled=self._clock()))
            if again:
                due = self._clock() + PAUSES[sent.attempts - 1]
                connection.execute(update(delivery).where(this).values(due=due))
            else:
                connection.execute(delete(delivery).where(this))
        return again


def _webhook(row: Sequence[Any]) -> Webhook:
    return Webhook(**{column.name: value for column, value in zip(_COLUMNS, row, strict=True)})


def check_url(url: str, *, private: bool) -> None:
    """Raise InvalidInput for an address that no webhook may have: not HTTPS, with a password, or inside the network.

    A name is looked up at each delivery, so it is judged then; here only addresses in numbers are.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidInput(f"{url!r} is not an address; write https://HOST/PATH") from None
    schemes = {"https", "http"} if private else {"https"}
    if parts.scheme not in schemes or not host or len(url) > 2000 or not url.isascii() or not url.isprintable():
        remedy = "" if private else "; http and hosts of your own network need --allow-private"
        raise InvalidInput(f"{url!r} is not an address for a webhook: write https://HOST/PATH{remedy}")
    if parts.username or parts.password or parts.fragment or " " in url:
        raise InvalidInput(f"{url!r} is not an address for a webhook: it has a user, a password, a blank or a fragment")
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        inside = host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
    else:
        inside = not is_public(number)
    if inside and not private:
        raise InvalidInput(f"{url} is inside the network of the server; add --allow-private if it is yours")


_TUNNELS = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""Addresses that lead to IPv4 addresses inside them, and so possibly back into the network."""


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address belongs to the public internet, and not to this machine or its networks."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast

"""Sends the deliveries of webhooks, signed as Standard Webhooks 1.0 says (https://www.standardwebhooks.com).

A request goes to the address that was checked, not to what the name means a moment later, and redirects are not
followed: a webhook cannot be led to a service inside the network. Answers are read up to their status and then dropped.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from lichtspiel import __version__
from lichtspiel.errors import InvalidInput
from lichtspiel.serve.queue.webhooks import Delivery, Webhooks, is_public

__all__ = ["deliver", "post", "run", "signature"]

TIMEOUT, LONGEST = 10.0, 20.0
"""Seconds without a byte, and in all, after which an attempt has failed."""

PAUSE = 1.0
"""Seconds between two looks for ended jobs and due deliveries."""

TOGETHER = 4
"""How many deliveries are sent at once."""

log = logging.getLogger("lichtspiel.serve")


def signature(secret: str, event: str, moment: int, body: str) -> str:
    """The value of `webhook-signature`: HMAC-SHA256 of `event.moment.body` with the secret, which is base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{event}.{moment}.{body}".encode(), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def post(url: str, headers: Mapping[str, str], body: str, *, private: bool) -> int:
    """Post to an address and return the status of the answer.

    Raises InvalidInput for a host inside the network unless `private`, and OSError or HTTPException if nothing answers.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    if not private and not all(map(is_public, numbers)):
        raise InvalidInput(f"{host} is inside the network of the server")
    raw: socket.socket = socket.create_connection((str(numbers[0]), port), TIMEOUT)
    try:
        if parts.scheme == "https":
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        connection.sock = raw
        watch = threading.Timer(LONGEST, _break, [raw])
        watch.daemon = True
        watch.start()
        try:
            sent = {"Host": parts.netloc, "Connection": "close", **headers}
            connection.request("POST", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", body, sent)
            with connection.getresponse() as answer:
                return answer.status
        finally:
            watch.cancel()
    finally:
        raw.close()


def _break(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended by itself
        connection.shutdown(socket.SHUT_RDWR)


def deliver(webhooks: Webhooks, sent: Delivery) -> None:
    """Make one attempt at a delivery, and write how it ended."""
    moment = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Lichtspiel/{__version__}",
        "webhook-id": sent.event,
        "webhook-timestamp": str(moment),
        "webhook-signature": signature(sent.to.secret, sent.event, moment, sent.body),
    }
    try:
        status = post(sent.to.url, headers, sent.body, private=sent.to.private)
        end = str(status)
    except (OSError, http.client.HTTPException, InvalidInput) as error:
        status, end = 0, f"{type(error).__name__}: {error}"
    done, gone = 200 <= status < 300, status == 410
    again = webhooks.settle(sent, done=done, gone=gone)
    about = {"webhook": sent.to.id, "event": sent.event, "code": end}
    if done:
        log.info("webhook told", extra=about)
    else:
        log.warning("webhook not told%s", "" if again else ", and will not be told again", extra=about)


def run(webhooks: Webhooks, over: threading.Event) -> None:
    """Tell webhooks of ended jobs until `over` is set."""
    with ThreadPoolExecutor(TOGETHER, thread_name_prefix="webhook") as threads:
        while not over.wait(PAUSE):
            try:
                webhooks.collect()
                list(threads.map(lambda sent: deliver(webhooks, sent), webhooks.due()))
            except Exception:  # the database is away; tried again in a second
                log.exception("webhooks could not be told")

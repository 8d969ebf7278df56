"""Webhooks: who is told of which job, signed as Standard Webhooks says, again after failures, and never inside."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI
from typer.testing import CliRunner

from lichtspiel.cli import app
from lichtspiel.errors import InvalidInput
from lichtspiel.serve import webhooks as sending
from lichtspiel.serve.errors import Conflict, NotFound
from lichtspiel.serve.queue.api_keys import Keys
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.queue.webhooks import PAUSES, Webhooks, check_url
from tests.serve.conftest import Clock, add, claim

Received = list[tuple[dict[str, str], str]]


class Receiver:
    """A service that gets webhooks, and answers with what a test says."""

    def __init__(self) -> None:
        self.got: Received = []
        self.answers: list[int] = []
        got, answers = self.got, self.answers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(answers.pop(0) if answers else 204)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/videos?from=us"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def events(self) -> list[tuple[str, str]]:
        said = [json.loads(body) for _, body in self.got]
        return [(one["type"], one["data"]["id"]) for one in said]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join()


def send(webhooks: Webhooks) -> None:
    """What the server does each second."""
    webhooks.collect()
    for sent in webhooks.due():
        sending.deliver(webhooks, sent)


def test_whoever_registered_is_told_of_the_end(jobs: Jobs, clock: Clock, receiver: Receiver) -> None:
    before, webhooks = add(jobs), Webhooks(jobs)
    jobs.cancel(before.id, None)
    clock.pass_by(1)
    made = webhooks.create(receiver.url, private=True)
    done, failed = add(jobs, request={"prompt": "a turtle", "metadata": {"order": "7"}}), add(jobs)
    jobs.complete(claim(jobs), video="v", result={})
    jobs.fail(claim(jobs), "out_of_memory", "no")
    waiting = add(jobs)
    send(webhooks)
    assert receiver.events == [("video.completed", done.id), ("video.failed", failed.id)]
    headers, body = receiver.got[0]
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["data"] == {"id": done.id, "status": "completed", "metadata": {"order": "7"}}
    assert json.loads(body)["id"] == headers["webhook-id"]
    assert "turtle" not in body, "prompts stay on the server"
    judge = OpenAI(api_key="unused").webhooks
    judge.verify_signature(body, headers, secret=made.secret)
    with pytest.raises(ValueError, match="signature"):
        judge.verify_signature(body + " ", headers, secret=made.secret)
    with pytest.raises(ValueError, match="signature"):
        judge.verify_signature(body, headers, secret=f"whsec_{'A' * 43}=")
    jobs.cancel(waiting.id, None)
    send(webhooks)
    send(webhooks)
    assert receiver.events[2:] == [("video.cancelled", waiting.id)]


def test_a_key_hears_of_its_own_videos(jobs: Jobs, receiver: Receiver) -> None:
    ada = Keys(jobs).create("ada")[0]
    webhooks = Webhooks(jobs)
    webhooks.create(receiver.url, ada.id, private=True)
    hers, his = add(jobs, ada.id), add(jobs, "key_of_grace")
    for job in (hers, his):
        jobs.cancel(job.id, None)
    jobs.delete(hers.id, ada.id) if webhooks.collect() else None
    send(webhooks)
    assert receiver.events == [("video.cancelled", hers.id)]


def test_what_fails_is_sent_again_also_by_another_server(
    jobs: Jobs, jobs_of: Callable[..., Jobs], clock: Clock, receiver: Receiver
) -> None:
    webhooks = Webhooks(jobs)
    webhooks.create(receiver.url, private=True)
    jobs.cancel(add(jobs).id, None)
    webhooks.collect()
    assert len(webhooks.due()) == 1  # and then this server is killed
    other = Webhooks(jobs_of())
    assert other.due() == []
    clock.pass_by(61)
    receiver.answers += [500, 302]  # a redirection is not followed
    send(other)
    send(other)
    assert len(receiver.got) == 1
    clock.pass_by(PAUSES[1] + 1)
    send(other)
    clock.pass_by(PAUSES[2] + 1)
    send(other)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 3
    clock.pass_by(10**6)
    send(other)
    assert len(receiver.got) == 3


def test_after_three_days_an_event_is_given_up_and_410_ends_a_webhook(
    jobs: Jobs, clock: Clock, receiver: Receiver
) -> None:
    webhooks = Webhooks(jobs)
    webhooks.create(receiver.url, private=True)
    jobs.cancel(add(jobs).id, None)
    receiver.answers += [503] * (len(PAUSES) + 1)
    for pause in (0, *PAUSES):
        clock.pass_by(pause)
        send(webhooks)
    assert receiver.answers == []
    clock.pass_by(10**6)
    send(webhooks)
    assert len(receiver.got) == len(PAUSES) + 1
    receiver.answers.append(410)
    for _ in range(2):
        jobs.cancel(add(jobs).id, None)
        clock.pass_by(1)
        send(webhooks)
    assert len(receiver.got) == len(PAUSES) + 2
    assert webhooks.list()[0].disabled is not None


INSIDE = [
    "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.8/", "https://169.254.169.254/latest/meta-data",
    "https://[::ffff:10.0.0.8]/", "https://[64:ff9b::a00:8]/", "https://100.64.0.1/", "https://0.0.0.0/",
    "https://localhost/", "https://printer.local/", "https://metadata.google.internal/", "https://224.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", INSIDE)
def test_nothing_inside_the_network_can_be_registered(url: str) -> None:
    with pytest.raises(InvalidInput, match="--allow-private"):
        check_url(url, private=False)
    check_url(url, private=True)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://example.org/", "https://", "https://a:b@example.org/", "https://example.org/#a", "https://example.org/ä",
     "https://example.org:port/", "https://example.org/a b", "https://example.org/\r\nX: y", "https://[::1"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    for private in (False, True):
        with pytest.raises(InvalidInput, match="address"):
            check_url(url, private=private)


def test_a_name_that_leads_inside_is_not_followed(jobs: Jobs, receiver: Receiver, monkeypatch: Any) -> None:
    port = receiver.server.server_port
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("93.184.215.14", "127.0.0.1")]
    monkeypatch.setattr(sending.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InvalidInput, match="inside the network"):
        sending.post(f"https://rebound.example:{port}/", {}, "{}", private=False)
    webhooks = Webhooks(jobs)
    webhooks.create(f"https://rebound.example:{port}/")
    jobs.cancel(add(jobs).id, None)
    send(webhooks)
    assert receiver.got == []


def test_from_the_command_line(tmp_path: Any) -> None:
    database = ["--database", f"sqlite:///{tmp_path / 'jobs.sqlite'}", "--json"]

    def said(*words: str) -> Any:
        done = CliRunner().invoke(app, ["serve", *words, *database])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    said("key", "create", "ada")
    made = said("webhook", "create", "https://example.org/videos", "--key", "ada")
    assert made["secret"].startswith("whsec_")
    (listed,) = said("webhook", "list")
    assert listed == {name: value for name, value in made.items() if name != "secret"}
    assert (listed["key"], listed["url"], listed["private"]) == ("ada", "https://example.org/videos", False)
    again = CliRunner().invoke(
        app, ["serve", "webhook", "create", "https://example.org/videos", "--key", "ada", *database]
    )
    assert isinstance(again.exception, Conflict)
    for wrong in (["--key", "grace", "https://example.org/"], ["http://example.org/"]):
        done = CliRunner().invoke(app, ["serve", "webhook", "create", *wrong, *database])
        assert isinstance(done.exception, InvalidInput)
    said("webhook", "remove", made["id"])
    assert said("webhook", "list") == []
    assert isinstance(CliRunner().invoke(app, ["serve", "webhook", "remove", "wh_0", *database]).exception, NotFound)

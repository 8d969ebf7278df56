"""Keys: shown once, kept as digests, found by their secret until they are revoked."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import Conflict, NotFound
from lichtspiel.serve.queue.api_keys import PREFIX, Keys, Quotas
from lichtspiel.serve.queue.jobs import Jobs
from tests.serve.conftest import Clock


def test_a_key_is_found_by_its_secret_only(jobs: Jobs) -> None:
    keys = Keys(jobs)
    row, secret = keys.create("laptop", Quotas(limit="20/h"))
    other, another = keys.create("phone")
    assert re.fullmatch(r"ls_[A-Za-z0-9_-]{43}", secret)
    assert re.fullmatch(r"key_[0-9a-f]{16}", row.id)
    assert (row.name, row.prefix, row.limit, row.created, row.revoked) == ("laptop", secret[:11], "20/h", 1000.0, None)
    assert keys.find(secret) == row
    assert keys.find(another) == other
    swapped = secret[:PREFIX] + another[PREFIX:]
    for wrong in (
        swapped,
        secret[:-1],
        f"{secret}\n",
        secret.lower() + "0",
        secret[:PREFIX],
        "",
        "\0",
        "ls_" + "ü" * 43,
    ):
        assert keys.find(wrong) is None


def test_two_keys_may_begin_alike(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    tails = iter(["A" * 35, "B" * 35])
    monkeypatch.setattr("lichtspiel.serve.queue.api_keys.secrets.token_urlsafe", lambda _: "12345678" + next(tails))
    keys = Keys(jobs)
    made = [keys.create(name) for name in ("a", "b")]
    assert [keys.find(secret) for _, secret in made] == [row for row, _ in made]


def test_the_secret_is_not_in_the_database(tmp_path: Path) -> None:
    jobs = Jobs.open(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    row, secret = Keys(jobs).create("laptop")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # the log beside, too
    jobs.close()
    content += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert row.prefix.encode() in content
    assert secret.encode() not in content
    assert secret[PREFIX : PREFIX + 8].encode() not in content


def test_a_revoked_key_opens_nothing_and_its_name_is_free(jobs: Jobs, clock: Clock) -> None:
    keys = Keys(jobs)
    row, secret = keys.create("laptop")
    with pytest.raises(Conflict, match="already") as taken:
        keys.create("laptop")
    assert (taken.value.code, taken.value.status) == ("conflict", 409)
    clock.pass_by(5)
    revoked = keys.revoke("laptop")
    assert (revoked.id, revoked.revoked) == (row.id, 1005.0)
    assert keys.find(secret) is None
    with pytest.raises(NotFound):
        keys.revoke("laptop")
    again, fresh = keys.create("laptop")
    assert keys.find(fresh) == again
    assert again.id != row.id
    assert list(keys.list()) == [revoked, again]


def test_a_key_works_for_its_days_and_can_be_renewed(jobs: Jobs, clock: Clock) -> None:
    keys = Keys(jobs)
    row, secret = keys.create("laptop", Quotas(at_once=2, storage="10GB", priority=3), days=2)
    assert (row.expires, row.at_once, row.storage, row.priority) == (1000.0 + 172800, 2, 10**10, 3)
    assert keys.find(secret) == row
    renewed, another = keys.renew("laptop", days=3)
    assert renewed == dataclasses.replace(row, prefix=renewed.prefix, expires=1000.0 + 259200)  # its jobs stay its own
    assert keys.find(secret) is None
    clock.pass_by(259199)
    assert keys.find(another) == renewed
    assert renewed.state(clock()) == "valid"
    clock.pass_by(1)
    assert keys.find(another) is None
    assert renewed.state(clock()) == "expired"
    assert keys.renew("laptop")[0].state(clock()) == "valid"
    for days in (0.0, -1.0, 4000.0, math.nan):
        with pytest.raises(InvalidInput, match="days"):
            keys.create("phone", days=days)


def test_the_name_of_an_expired_key_is_free(jobs: Jobs, clock: Clock) -> None:
    keys = Keys(jobs)
    row, _ = keys.create("laptop", days=1)
    clock.pass_by(86400)
    again, secret = keys.create("laptop")
    assert again.id != row.id
    assert keys.revoke("laptop").id == again.id
    assert keys.find(secret) is None


@pytest.mark.parametrize(
    "wrong", [{"storage": "10"}, {"storage": "0GB"}, {"storage": "1.5GB"}, {"at_once": 0}, {"video_seconds": "x"}]
)
def test_quotas_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is not valid"):
        Quotas(**wrong)


@pytest.mark.parametrize("limit", ["", "20", "0/h", "-1/h", "20/w", "20/h ", "1.5/h", "20/hour", "1234567/d"])
def test_limits_that_are_none(jobs: Jobs, limit: str) -> None:
    with pytest.raises(InvalidInput, match="as in 20/h"):
        Keys(jobs).create("laptop", Quotas(limit=limit))


@pytest.mark.parametrize("limit", ["1/s", "5/min", "20/h", "100/d"])
def test_limits(jobs: Jobs, limit: str) -> None:
    assert Keys(jobs).create("laptop", Quotas(limit=limit))[0].limit == limit


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\0", "a" * 65, "<b>"])
def test_names_that_are_none(jobs: Jobs, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        Keys(jobs).create(name)

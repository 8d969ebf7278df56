"""The numbers of the house: that they are counted right, and that docs/architecture.md does not lag behind."""

from __future__ import annotations

import re

from scripts import rooms
from tests.sources import ROOT


def test_circles_are_counted() -> None:
    assert rooms.circles({"a": {"b"}, "b": {"c"}, "c": set()}) == 0
    assert rooms.circles({"a": {"b"}, "b": {"a"}}) == 1
    assert rooms.circles({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}) == 2


def test_inner_walls_can_be_left_out() -> None:
    inner = {"seal": {"seal/verify"}, "seal/verify": {"media", "seal/labels"}, "seal/labels": {"media"}, "media": set()}
    assert rooms.top_level(inner) == {"seal": {"media"}, "media": set()}


def test_the_map_has_every_room_and_the_table_its_number() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    measured = dict(rooms.table())
    shown = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE))
    for row in ("rooms", "circles between files, imports for types included"):
        assert shown[row] == measured[row]
    names = {*rooms.top_level(rooms.room_graph())} - {"__main__"}
    assert names <= set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)), "a room is missing in the map"

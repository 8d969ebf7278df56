from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from lichtspiel.errors import RequestError
from lichtspiel.seal.marks import CORNERS, LEAST_SECONDS, TEXTS, Marks, rules

FLAGS = ("watermark", "credentials", "comment", "aigc", "label")
PROFILES = {entry["profile"]: entry for entry in rules()}


def on(marks: Marks) -> set[str]:
    return {flag for flag in FLAGS if getattr(marks, flag)}


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("eu", {"watermark", "credentials", "comment"}),
        ("us", {"watermark", "credentials", "comment"}),
        ("cn", set(FLAGS)),
        ("all", set(FLAGS)),
    ],
)
def test_what_each_profile_turns_on(profile: str, expected: set[str]) -> None:
    assert on(Marks.of(profile)) == expected
    assert {flag for flag in FLAGS if PROFILES[profile][flag]} == expected


def test_the_default_is_for_the_european_union() -> None:
    assert Marks.of() == Marks.of("eu")
    assert (Marks.of().language, Marks.of().corner, Marks.of().seconds) == ("en", "top-right", None)


def test_the_visible_label_is_added_for_deep_fakes() -> None:
    marks = Marks.of("eu", label=True, language="de", corner="bottom-left", seconds=3)
    assert on(marks) == {"watermark", "credentials", "comment", "label"}
    assert (marks.language, marks.corner, marks.seconds) == ("de", "bottom-left", 3)


def test_chinese_profiles_speak_chinese_and_name_the_producer() -> None:
    for profile in ("cn", "all"):
        assert Marks.of(profile).language == "zh"
        assert Marks.of(profile).producer == "Lichtspiel"
        assert Marks.of(profile, producer="001191110102MAD55U9H0F10002").producer == "001191110102MAD55U9H0F10002"


@pytest.mark.parametrize(
    ("given", "field", "nearest"),
    [
        ({"profile": "usa"}, "profile", "us"),
        ({"profile": "none"}, "profile", "eu"),
        ({"label": True, "language": "deu"}, "language", "de"),
        ({"label": True, "language": "klingon"}, "language", "en"),
        ({"profile": "cn", "language": "en"}, "language", "zh"),
        ({"label": True, "corner": "top-rigth"}, "corner", "top-right"),
        ({"label": True, "corner": "bottomleft"}, "corner", "bottom-left"),
        ({"label": True, "seconds": 1.5}, "seconds", LEAST_SECONDS),
        ({"label": True, "seconds": -1}, "seconds", LEAST_SECONDS),
        ({"profile": "cn", "label": False}, "label", True),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_that_is_right(given: Any, field: str, nearest: object) -> None:
    with pytest.raises(RequestError) as caught:
        Marks.of(**given)
    assert (caught.value.field, caught.value.nearest) == (field, nearest)
    assert "\n" not in str(caught.value)
    assert f"nearest valid value: {nearest}" in str(caught.value)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, "3", True])
def test_seconds_are_a_number(seconds: Any) -> None:
    with pytest.raises(RequestError, match="at least 2 seconds"):
        Marks.of("cn", seconds=seconds)


@pytest.mark.parametrize("producer", ["", "  ", "two\nlines", "x" * 101])
def test_a_producer_is_one_line(producer: str) -> None:
    with pytest.raises(RequestError, match=r"producer: .* is not valid"):
        Marks.of("cn", producer=producer)


@pytest.mark.parametrize(
    "given", [{"corner": "top-left"}, {"language": "de"}, {"seconds": 4.0}, {"label": False, "seconds": 4.0}]
)
def test_nothing_that_is_asked_for_is_ignored(given: Any) -> None:
    with pytest.raises(RequestError, match="describes the visible label, which is off"):
        Marks.of("eu", **given)
    with pytest.raises(RequestError, match="AIGC entry, which only cn or all has"):
        Marks.of("eu", producer="Somebody")


def test_all_marks_go_off_only_for_a_reason() -> None:
    marks = Marks.none("a test of the encoder")
    assert on(marks) == set()
    assert (marks.profile, marks.reason) == ("none", "a test of the encoder")
    for reason in ("", " \t", "two\nlines", "x" * 501):
        with pytest.raises(RequestError, match=r"reason: .* is not valid"):
            Marks.none(reason)
    with pytest.raises(RequestError, match="it cannot be empty"):
        Marks(profile="none", **dict.fromkeys(FLAGS, False))
    with pytest.raises(RequestError, match="only when all marks are off"):
        dataclasses.replace(Marks.of("eu"), reason="because")


def test_marks_can_be_recorded() -> None:
    recorded = json.loads(json.dumps(dataclasses.asdict(Marks.of("cn", seconds=2))))
    assert Marks(**recorded) == Marks.of("cn", seconds=2)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_rule_says_who_asks_for_what_how_it_is_met_and_where_that_is_written(profile: str) -> None:
    assert PROFILES[profile]["summary"]
    assert PROFILES[profile]["rules"]
    for rule in PROFILES[profile]["rules"]:
        assert set(rule) == {"law", "article", "says", "met_by", "source", "read_in"}
        assert all(isinstance(text, str) and text.strip() for text in rule.values())
        assert rule["source"].startswith("https://")


def test_the_profile_for_everywhere_has_the_rules_and_marks_of_all() -> None:
    others = [entry for name, entry in PROFILES.items() if name != "all"]
    assert PROFILES["all"]["rules"] == [rule for entry in others for rule in entry["rules"]]
    assert all(PROFILES["all"][flag] for entry in others for flag in FLAGS if entry[flag])
    assert set(PROFILES) == {"eu", "us", "cn", "all"}


def test_rules_are_plain_data_of_their_own() -> None:
    assert json.loads(json.dumps(rules())) == rules()
    rules()[0]["rules"][0]["law"] = "changed"
    rules()[0]["languages"].clear()
    assert rules()[0]["rules"][0]["law"] != "changed"
    assert rules()[0]["languages"]


def test_every_text_says_both_words_in_its_language() -> None:
    assert "AI" in TEXTS["zh"]
    assert "生成" in TEXTS["zh"]
    assert set(PROFILES["eu"]["languages"]) == set(TEXTS)
    assert Marks.of().corner == CORNERS[0]

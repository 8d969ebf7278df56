"""Rankings follow a viewer's taste, differ from each other, and say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.understand.personalization import Event, Library, measure, ndcg, read_events, recommend


def library(per_topic: int = 6, topics: int = 5) -> Library:
    """Videos of some topics, whose vectors are near each other."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((topics, 32))
    rows = np.concatenate([center + 0.3 * rng.standard_normal((per_topic, 32)) for center in centers])
    return Library([f"{n // per_topic}/{n}.mp4" for n in range(len(rows))], rows.astype(np.float32))


def test_what_is_like_the_liked_comes_first_and_says_why() -> None:
    found = recommend(library(), {0: 1.0, 1: 1.0, 6: -1.0}, 4, diverse=0.0)
    assert [one.path.split("/")[0] for one in found] == ["0"] * 4
    assert {one.because for one in found} <= {"0/0.mp4", "0/1.mp4"}
    assert "0/0.mp4" not in {one.path for one in found}


def test_diversity_brings_other_topics() -> None:
    rewards = {0: 1.0, 6: 0.9}
    alike = recommend(library(), rewards, 6, diverse=0.0)
    mixed = recommend(library(), rewards, 6, diverse=0.9)
    assert len({one.path[0] for one in mixed}) > len({one.path[0] for one in alike}) - 1
    assert [one.path for one in mixed] != [one.path for one in alike]


def test_a_dislike_moves_a_topic_to_the_end() -> None:
    everything = recommend(library(), {0: 1.0, 12: -1.0}, 100, diverse=0.0)
    assert {one.path[0] for one in everything[-5:]} == {"2"}
    assert everything[-1].because == "", "nothing liked speaks for it"


def test_nothing_known_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--liked"):
        recommend(library(), {})


def test_videos_are_called_by_path_or_by_a_name_that_is_theirs_alone() -> None:
    videos = Library(["/a/x.mp4", "/b/x.mp4", "/b/y.mp4"], np.eye(3, dtype=np.float32))
    assert videos.number("/a/x.mp4") == 0
    assert videos.number("y.mp4") == 2
    with pytest.raises(InvalidInput, match="2 indexed videos are called so"):
        videos.number("x.mp4")


def test_events_are_read_in_two_forms(tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text("viewer,video,event\nada,a.mp4,like\nbob,b.mp4,skip\n")
    assert [(one.viewer, one.video, one.kind) for one in read_events(path)] == [
        ("ada", "a.mp4", "like"), ("bob", "b.mp4", "skip")]  # fmt: skip
    path.write_text("userId,movieId,rating,timestamp\n1,a.mp4,4.5,0\n1,b.mp4,1,0\n1,c.mp4,3,0\n")
    assert [one.kind for one in read_events(path)] == ["like", "dislike", "play"]
    path.write_text("video,event\na.mp4,adored\n")
    with pytest.raises(InvalidInput, match="line 2: 'adored' is not one of"):
        read_events(path)


def test_ndcg_is_one_for_the_best_order() -> None:
    assert ndcg([1, 1, 0], [1, 0, 1]) == pytest.approx(1)
    assert ndcg([0, 0, 1], [1, 0, 0]) == pytest.approx(0.5)
    assert ndcg([0], [0]) == 0


def test_a_log_tells_how_well_later_likes_are_foretold() -> None:
    videos = library(per_topic=10)
    rng = np.random.default_rng(1)
    events = []
    for viewer in range(20):
        topic = viewer % 5
        liked = [f"{topic}/{n}.mp4" for n in 10 * topic + rng.permutation(10)[:6]]
        others = [videos.names[n] for n in rng.integers(0, 50, 4) if n // 10 != topic]
        events += [Event(video, "skip", str(viewer)) for video in dict.fromkeys(others)]
        events += [Event(video, "like", str(viewer)) for video in liked]
    found = measure(videos, events, diverse=0.0)
    assert found.viewers == 20
    assert found.ours > 1.5 * found.popularity
    assert found.ours > 1.5 * found.random
    assert measure(videos, events, diverse=0.0) == found
    with pytest.raises(InvalidInput, match="needs more events"):
        measure(videos, [Event("0/0.mp4", "like", "a")])

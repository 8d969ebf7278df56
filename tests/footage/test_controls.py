"""Control films: what is drawn of a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lichtspiel.errors import MediaError
from lichtspiel.footage.controls import KINDS, boxes, control
from lichtspiel.footage.selection import Selection
from lichtspiel.footage.track import follow_selections
from lichtspiel.media.video import video_info
from lichtspiel.workflows.control import make_control
from tests.footage.files import HEIGHT, WIDTH, clip, clip_file


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_film_has_a_frame_for_each_frame(kind: str) -> None:
    films = list(control(list(clip().frames[:3]), kind))  # type: ignore[arg-type]
    assert [frame.shape for frame in films] == [(HEIGHT, WIDTH, 3)] * 3
    assert all(frame.dtype == np.uint8 and frame.std() > 3 for frame in films)


def test_edges_are_where_the_picture_changes() -> None:
    frame = np.full((60, 80, 3), 40, np.uint8)
    frame[20:40, 30:50] = 200
    (edges,) = control([frame], "edges")
    assert edges[18:42, 28:52].max() == 255
    assert edges[:15].max() == 0
    (scribble,) = control([frame], "scribble")
    assert (scribble > 0).sum() > (edges > 0).sum()


def test_flow_is_white_where_nothing_moves_and_colored_where_something_does() -> None:
    first, _ = control(list(clip().frames[:2]), "flow")
    actor = clip().masks[1] == 1
    saturation = first.max(2).astype(int) - first.min(2)
    assert saturation[actor].mean() > 3 * saturation[:20].mean() + 5


def test_boxes_surround_the_tracked_objects() -> None:
    found = follow_selections(list(clip().frames[:1]), 0, [Selection(polygon=((20, 20), (60, 20), (60, 50), (20, 50)))])
    (frame,) = boxes(found)
    assert (frame[20, 40] == (255, 0, 0)).all()
    assert (frame[35, 40] == 255).all()


def test_a_control_film_is_written_at_the_clip_s_size_and_rate(tmp_path: Path) -> None:
    result = make_control(clip_file(tmp_path, frames=2), tmp_path / "edges.mp4", "edges")
    info = video_info(tmp_path / "edges.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (WIDTH, HEIGHT, 2, 8)
    assert result["kind"] == "edges"
    with pytest.raises(MediaError, match="has one frame"):
        make_control(clip_file(tmp_path, frames=1, name="one.mp4"), tmp_path / "flow.mp4", "flow")

"""Animated pictures frame by frame, and samples of videos that do not say how long they are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lichtspiel.errors import MediaError
from lichtspiel.media.animation import is_animation, read_animation
from lichtspiel.media.video import sample_video


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_an_animation_comes_frame_by_frame(tmp_path: Path, form: str) -> None:
    path = tmp_path / "animation"
    pictures = [Image.new("RGBA", (32, 16), (40 * number, 0, 0, 255)) for number in range(4)]
    pictures[0].save(path, format=form, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    assert is_animation(path)
    assert [int(frame[0, 0, 0]) for frame in read_animation(path)] == [0, 40, 80, 120]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MediaError, match="damaged"):
        list(read_animation(path))
    pictures[0].save(path, format=form)
    assert not is_animation(path)
    assert not is_animation(tmp_path / "nowhere")


@pytest.mark.parametrize("live", ["0", "1"])
def test_matroska_is_sampled_from_begin_to_end(tmp_path: Path, live: str) -> None:
    path = tmp_path / "long.mkv"  # 200 s; with live=1 the file does not say how long it is
    with av.open(str(path), "w", format="matroska", options={"live": live}) as file:
        stream = file.add_stream("mpeg4", rate=8, options={"g": "8"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(1600):
            pixels = np.full((32, 32, 3), 30 + number // 8, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(str(path)) as file:
        assert (file.duration is None) == (live == "1")
    seconds = [float(frame.mean()) - 30 for frame in sample_video(path, 8)]
    assert np.allclose(seconds, [25 * place for place in range(8)], atol=3)

"""From a clip's file to a mask's file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from lichtspiel.errors import LichtspielError, MediaError, RequestError
from lichtspiel.footage.segment import box_of
from lichtspiel.footage.selection import Selection
from lichtspiel.media.video import read_video, video_info
from lichtspiel.seal import verify
from lichtspiel.workflows import clips
from lichtspiel.workflows.clips import read_clip
from lichtspiel.workflows.track import Look, track
from tests.footage.files import FRAMES, HEIGHT, WIDTH, clip, clip_file, large_file


def selected(number: int = 0) -> Selection:
    return Selection(box=box_of(clip().masks[number] == 1))


def test_a_mask_video_has_the_size_rate_and_length_of_the_clip_and_names_its_parent(tmp_path: Path) -> None:
    source = clip_file(tmp_path)
    result = track(source, tmp_path / "mask.mp4", [selected(6)], at=6 / 8, sheet=tmp_path / "look.png")
    info = video_info(tmp_path / "mask.mp4")
    assert (info.width, info.height, info.frames) == (WIDTH, HEIGHT, FRAMES)
    assert info.fps == 8
    masks = [frame[..., 0] > 127 for frame in read_video(tmp_path / "mask.mp4")]
    truth = clip().masks == 1
    rights = [(mask & true).sum() / (mask | true).sum() for mask, true in zip(masks, truth, strict=True)]
    assert np.mean(rights) > 0.8
    assert result["start"] == 6
    assert len(result["confidence"]) == FRAMES
    assert result["low"] == []
    credentials = verify(tmp_path / "mask.mp4").credentials
    assert credentials.source_type == "algorithmicMedia"
    assert [(it.role, it.relationship) for it in credentials.ingredients] == [("video", "parentOf")]
    with Image.open(tmp_path / "look.png") as sheet:
        assert sheet.width > 600


def test_shape_margin_and_edge_reach_the_file(tmp_path: Path) -> None:
    source = clip_file(tmp_path, frames=3)
    levels = {}
    for name, look in (
        ("tight", Look()),
        ("box", Look(shape="box")),
        ("wide", Look(grow=6)),
        ("soft", Look(feather=8)),
    ):
        track(source, tmp_path / f"{name}.mp4", [selected()], look=look)
        levels[name] = next(read_video(tmp_path / f"{name}.mp4"))[..., 0]
    area = {name: int((level > 127).sum()) for name, level in levels.items()}
    assert area["box"] > area["tight"] < area["wide"]
    between = ((level > 60) & (level < 200) for level in (levels["tight"], levels["soft"]))
    hard, soft = (int(each.sum()) for each in between)
    assert soft > 2 * hard


def test_where_the_object_is_lost_the_frame_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    source = clip_file(tmp_path, frames=6, then_empty=4)
    with pytest.raises(LichtspielError, match=r"from frame [67] \(0\.\d\d s\) on, the object may be lost"):
        track(source, tmp_path / "mask.mp4", [selected()])
    assert not (tmp_path / "mask.mp4").exists()
    result = track(source, tmp_path / "mask.mp4", [selected()], look=Look(keep_going=True))
    assert result["low"]
    assert (tmp_path / "mask.mp4").exists()


def test_clips_and_times_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    source = clip_file(tmp_path, frames=3)
    with pytest.raises(RequestError, match="lasts from 0 to"):
        track(source, tmp_path / "mask.mp4", [selected()], at=9)
    with pytest.raises(RequestError, match="reaches beyond the clip"):
        track(source, tmp_path / "mask.mp4", [Selection(box=(0, 0, 900, 100))])
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError):
        track(tmp_path / "text.mp4", tmp_path / "mask.mp4", [selected()])


def test_a_clip_cut_without_its_key_frame_is_refused_with_the_way_out(tmp_path: Path) -> None:
    source = clip_file(tmp_path, frames=5)
    with av.open(str(source)) as whole, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in list(whole.demux(video=0))[1:-1]:
            packet.stream = stream
            cut.mux(packet)
    with pytest.raises(MediaError, match=r"cut\.mp4: begins without a key frame, and holds none.*ffmpeg -ss"):
        read_clip(tmp_path / "cut.mp4")


def test_a_clip_too_large_for_the_disk_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = clip_file(tmp_path, frames=5)
    monkeypatch.setattr(clips, "MEMORY_BYTES", 1000)
    monkeypatch.setattr(clips.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5000))
    with pytest.raises(MediaError, match=r"its 5 frames of 208x120 need 0\.0 GB in .*TMPDIR"):
        read_clip(source)


def test_a_clip_of_one_frame_has_a_mask_of_one_frame(tmp_path: Path) -> None:
    result = track(clip_file(tmp_path, frames=1), tmp_path / "mask.mp4", [selected()])
    assert result["frames"] == 1
    assert result["confidence"] == [1.0]


def test_a_4k_clip_has_a_4k_mask(tmp_path: Path) -> None:
    across, down = 3840 / WIDTH, 2160 / HEIGHT
    left, top, right, bottom = box_of(clip().masks[0] == 1) or (0, 0, 0, 0)
    box = int(left * across), int(top * down), int(right * across), int(bottom * down)
    result = track(large_file(tmp_path, frames=2), tmp_path / "mask.mp4", [Selection(box=box)])
    assert (result["size"], result["frames"], result["fps"]) == ([3840, 2160], 2, 25.0)
    masks = [frame[..., 0] > 127 for frame in read_video(tmp_path / "mask.mp4")]
    assert masks[1].shape == (2160, 3840)
    for mask, true in zip(masks, clip().masks[:2] == 1, strict=True):
        small = np.asarray(cv2.resize(mask.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)) > 0.5
        assert (small & true).sum() / (small | true).sum() > 0.7

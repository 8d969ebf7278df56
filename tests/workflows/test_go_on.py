"""Clips that go on: what stays as it is, how seams are, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lichtspiel.errors import InvalidInput, RequestError
from lichtspiel.footage import seams
from lichtspiel.footage.stitch import GRAY
from lichtspiel.inference.inputs import Inputs
from lichtspiel.media.video import read_video, video_info
from lichtspiel.request import Request
from lichtspiel.seal import record, verify
from lichtspiel.workflows import go_on
from lichtspiel.workflows.admission import Admission
from lichtspiel.workflows.go_on import Job, Joint, bridge, extend, loop
from lichtspiel.workflows.terms import Terms
from tests.footage.files import HEIGHT, WIDTH, clip, clip_file
from tests.inference.tiny import registered

QUICK = {"steps": 1, "guidance": 1.0, "seed": 3}


def job(folder: Path, weights: Path, seconds: float = 0.5, **changes: object) -> Job:
    options = {"prompt": "a leopard walks", "out": folder / "out.mp4", "options": QUICK, "weights": weights, **changes}
    return Job(seconds=seconds, **options)  # type: ignore[arg-type]


def test_a_loop_keeps_the_clip_and_ends_where_it_began(tmp_path: Path, random_nano: Path) -> None:
    source = clip_file(tmp_path)
    result = loop(source, job(tmp_path, random_nano))
    before, after = list(read_video(source)), list(read_video(tmp_path / "out.mp4"))
    assert len(after) == result["frames"] == len(before) + 3
    assert result["new_frames"] == [len(before), len(before) + 2]
    assert video_info(tmp_path / "out.mp4").fps == 8
    for one, other in zip(before, after[: len(before)], strict=True):
        assert np.abs(one.astype(int) - other).mean() < 6  # the watermark and a second encoding
    own = seams.motion_of(before)
    assert result["clip_motion"] == pytest.approx(own, rel=0.01)
    assert result["seam"] == pytest.approx(max(result["seams"]) / own, rel=0.02)


def test_an_extension_takes_rounds_and_names_the_region_and_the_parent(tmp_path: Path, random_nano: Path) -> None:
    source = clip_file(tmp_path, frames=3)
    result = extend(source, job(tmp_path, random_nano, seconds=2.5))
    assert result["rounds"] == 2
    assert result["frames"] == 3 + 20
    credentials = verify(tmp_path / "out.mp4").credentials
    assert credentials.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert [(it.role, it.relationship) for it in credentials.ingredients] == [("video", "parentOf")]
    entry = record.find(result["seal"]["id"])
    assert entry is not None
    assert entry.request["region"] == {"frames": [3, 22]}


def test_a_clip_of_one_frame_goes_on_and_has_no_motion_to_compare_its_seam_with(
    tmp_path: Path, random_nano: Path
) -> None:
    result = extend(clip_file(tmp_path, frames=1), job(tmp_path, random_nano, seconds=0.25))
    assert (result["frames"], result["new_frames"]) == (3, [1, 2])
    assert result["seam"] is None
    assert result["clip_motion"] == 0


def test_a_bridge_joins_clips_of_one_size_only(tmp_path: Path, random_nano: Path) -> None:
    one, two = clip_file(tmp_path, frames=3), clip_file(tmp_path, frames=2, name="two.mp4")
    result = bridge(one, two, job(tmp_path, random_nano))
    assert result["frames"] == 3 + 3 + 2
    assert len(result["seams"]) == 2
    with pytest.raises(RequestError, match="at most 60"):
        job(tmp_path, random_nano, seconds=100)
    with pytest.raises(RequestError, match="more than 0") as refused:
        job(tmp_path, random_nano, seconds=-1)
    assert refused.value.nearest == 1


def test_frames_of_a_join_start_and_end_with_the_given_ones() -> None:
    first, last = clip().frames[0], clip().frames[5]
    new = [np.full_like(first, 100 + 5 * number) for number in range(9)]
    joined = seams.join(new, first, last, 4)
    assert np.abs(joined[0].astype(int) - first).max() <= 1
    assert np.abs(joined[-1].astype(int) - last).max() <= 1
    assert (joined[4] == new[4]).all()


def test_colors_are_matched_and_their_drift_is_measured() -> None:
    frames = list(clip().frames[:3])
    tinted = [np.clip(frame.astype(int) + np.array([25, 0, -10]), 0, 255).astype(np.uint8) for frame in frames]
    assert seams.color_drift(frames, frames) == 0
    drift = seams.color_drift(frames, tinted)
    assert drift > 8
    assert seams.color_drift(frames, seams.match_color(tinted, frames[0])) < drift / 3


def test_frames_at_another_rate_last_as_long() -> None:
    frames = list(clip().frames[:9])
    assert len(seams.resampled(frames, 8, 24)) == 25
    assert (seams.resampled(frames, 8, 24)[0] == frames[0]).all()
    assert (seams.resampled(frames, 8, 24)[-1] == frames[-1]).all()
    assert seams.resized(frames, 100, 50)[0].shape == (50, 100, 3)
    assert Joint().blend == 4
    assert frames[0].shape[:2] == (HEIGHT, WIDTH)
    assert issubclass(RequestError, InvalidInput)


def test_vace_is_given_frames_of_both_sides(
    random_nano: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Inputs] = []
    real = go_on.admit

    def admit(request: Request, terms: Terms, inputs: Inputs) -> Admission:
        seen.append(inputs)
        return real(request, terms, inputs)

    monkeypatch.setattr(go_on, "admit", admit)
    with registered(random_nano, tmp_path_factory.mktemp, ["tiny-vace"]) as folders:
        options = {**QUICK, "model": "tiny-vace", "dtype": "float32"}
        task = job(tmp_path, folders["tiny-vace"], seconds=0.5, options=options)
        source = clip_file(tmp_path, frames=6)
        result = bridge(source, source, task)
        assert result["frames"] == 6 + 5 + 6  # 17 of the model
        assert result["new_frames"] == [6, 10]
        longer = extend(source, job(tmp_path, folders["tiny-vace"], seconds=1.5, options=options))
        assert longer["frames"] == 6 + 12
    (film, mask), *rounds = ((inputs.video, inputs.mask) for inputs in seen)
    assert film is not None
    assert mask is not None
    before = list(read_video(source))
    assert (film.frames[5] == before[5]).all()
    assert (film.frames[-6] == before[0]).all()
    assert (film.frames[7] == GRAY).all()
    white = [bool(frame.all()) for frame in mask.frames]
    assert white == [False] * 6 + [True] * (len(white) - 12) + [False] * 6
    assert len(rounds) == longer["rounds"] > 1
    assert seen[1].mask is not None
    assert seen[1].mask.frames[-1].all()

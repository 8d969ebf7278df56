"""Frames of the toybox per second of one core's time: `python benchmarks/toybox.py [CLIPS]`.

Prints one line a size for the whole vocabulary and one for the starter vocabulary. The sprites are decoded before
the clock starts, because a training run decodes each once.
"""

from __future__ import annotations

import sys
import time

import cv2

from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, STARTER, Vocabulary, sample

FRAMES = 17


def measure(vocabulary: Vocabulary, size: int, clips: int) -> float:
    """Frames per second of process time over `clips` clips."""
    scenes = [sample(seed, vocabulary) for seed in range(clips)]
    for seed, scene in enumerate(scenes):
        render(scene, seed, width=8, height=8, frames=1)
    start = time.process_time()
    for seed, scene in enumerate(scenes):
        render(scene, seed, width=size, height=size, frames=FRAMES)
    return clips * FRAMES / (time.process_time() - start)


def main() -> None:
    """Measure all sizes on one thread."""
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    cv2.setNumThreads(1)
    for name, vocabulary in (("full", FULL), ("starter", STARTER)):
        for size in (64, 128, 256):
            rate = measure(vocabulary, size, clips)
            print(f"{name:8} {size}x{size}: {rate:6.0f} frames/s, {rate / FRAMES * 3600:8.0f} clips/h")


if __name__ == "__main__":
    main()

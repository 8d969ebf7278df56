"""Compare `lichtspiel evaluate` with VBench's own code, on the same frames and the same features.

    git clone https://github.com/Vchitect/VBench
    python -m benchmarks.vbench VBench

Runs the functions of VBench's files that need no download: all of temporal_flickering, the rule of dynamic_degree with
our optical flow, the rule of motion_smoothness with our frames in between, and the averages of the consistencies with
our features. A table has both numbers. Nothing of VBench is stored here.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import random
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.understand import drawn, write
from lichtspiel.media.video import open_video
from lichtspiel.understand.evaluation import measure
from lichtspiel.understand.measures import flow
from lichtspiel.understand.pictures import picture_vectors


def functions(file: Path, names: set[str], **given: Any) -> dict[str, Any]:
    """Functions and classes of a Python file by name, without what it imports; they see what is `given` instead."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names]
    assert {node.name for node in kept} == names, f"{file} is another edition of VBench"
    space: dict[str, Any] = {"np": np, "cv2": cv2, "torch": torch, **given}
    exec(compile(ast.Module(kept, []), str(file), "exec"), space)
    return space


def flickering(vbench: Path, path: Path) -> float:
    names = {"get_frames", "mae_seq", "calculate_mae", "cal_score"}
    return float(functions(vbench / "temporal_flickering.py", names)["cal_score"](str(path)))


def dynamic(vbench: Path, frames: list[Any], fps: float) -> float:
    rule = functions(vbench / "dynamic_degree.py", {"DynamicDegree"})["DynamicDegree"]
    theirs = object.__new__(rule)
    gray = [frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) for frame in frames]
    taken = theirs.extract_frame(gray, max(1, round(fps / 8)))
    theirs.set_params(frame=torch.from_numpy(taken[0])[None], count=len(taken))
    picture = torch.zeros(1, 3, *taken[0].shape)
    fields = [flow(one, other) for one, other in itertools.pairwise(taken)]
    scores = [theirs.get_score(picture, torch.from_numpy(np.moveaxis(field, -1, 0))[None]) for field in fields]
    return float(theirs.check_move(scores))


def consistency(vbench: Path, frames: list[Any]) -> float:
    class Encoder:
        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(picture_vectors([np.asarray(one) for one in images]))

    space = functions(
        vbench / "background_consistency.py", {"background_consistency"}, F=torch.nn.functional, get_rank=lambda: 0,
        tqdm=lambda items, disable: items, load_video=lambda _: torch.from_numpy(np.stack(frames)),
        clip_transform=lambda _: lambda images: images,
    )  # fmt: skip
    return float(space["background_consistency"](Encoder(), None, ["a"], "cpu", False)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkout of VBench")
    parser.add_argument("--clips", type=int, default=3)
    options = parser.parse_args()
    vbench = options.folder / "vbench"
    print(f"{'clip':<6}{'dimension':<24}{'VBench':>9}{'ours':>9}{'distance':>11}")
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.clips):
            path = Path(folder) / f"{number}.mp4"
            write(drawn(rng.randrange(1_000_000), 13), path)
            frames = list(open_video(path, max_frames=100).frames)
            ours = measure(frames, fps=8)[0]
            theirs = {
                "temporal_flickering": flickering(vbench, path),
                "dynamic_degree": dynamic(vbench, frames, 8),
                "subject_consistency": consistency(vbench, frames),
            }
            for name, value in theirs.items():
                print(f"{number:<6}{name:<24}{value:9.5f}{ours[name]:9.5f}{abs(value - ours[name]):11.2e}")


if __name__ == "__main__":
    main()

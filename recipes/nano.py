"""nano's whole recipe as one command: render clips, train the VAE, cache latents, train text encoder and DiT, distill
(where the variant has a student), write weights, measure.

    python recipes/nano.py --run runs/nano --minutes 180
    python recipes/nano.py --run runs/big --variant large --minutes 25 --device cuda --compile --teacher
    python recipes/nano.py --run runs/more --variant large --minutes 25 --device cuda --compile --start runs/big/weights

A run is one folder and resumes where it stopped. `--start` begins another run with weights that a run wrote; write
those with `--teacher`, because a student's weights only work for its own few steps. It needs this package with torch,
NumPy, OpenCV, Pillow, einops, safetensors and ftfy, and no network. At the end it prints how long each stage took and
how to generate a video with the weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lichtspiel.train.nano.stages import (
    Stage,
    distil_stage,
    dit_stage,
    export_stage,
    generate_command,
    score_stage,
    vae_stage,
)
from lichtspiel.train.nano.variants import VARIANTS
from lichtspiel.train.state import Budget

SHARES = {"vae": 0.5, "dit": 0.35, "distil": 0.1, "judge": 0.05}
"""Shares of the time; the VAE limits how good pictures can be, so it gets most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--variant", choices=tuple(VARIANTS), help="default: the run's, or small")
    parser.add_argument("--minutes", type=float, help="time box for all training together")
    parser.add_argument("--steps", type=int, help="optimizer steps of each network, instead of --minutes")
    parser.add_argument("--clips", type=int, help="clips to render; default: the variant's")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="let PyTorch write kernels for the DiT first")
    parser.add_argument(
        "--teacher", action="store_true", help="no distillation: write weights from which another run can start"
    )
    parser.add_argument("--start", type=Path, help="folder of weights to begin from")
    parser.add_argument("--export", type=Path, help="folder for the weights; default: weights/ in the run's folder")
    parser.add_argument("--count", type=int, default=96, help="clips to measure with at the end; 0: none")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # on a GPU, products that are still in 32 bit take fewer bits
    seconds: dict[str, float] = {}

    def stage(name: str) -> Stage:
        minutes = None if options.minutes is None else SHARES[name] * options.minutes
        budget = Budget(minutes=minutes, steps=options.steps)
        return Stage(
            budget=budget, variant=options.variant, device=options.device, seed=options.seed, start=options.start,
            compiled=options.compile,
        )  # fmt: skip

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds[name] = time.monotonic() - began

    run = options.run
    with timed("clips and VAE"):
        vae_stage(run, stage("vae"), clips=options.clips)
    with timed("latents, text encoder and DiT"):
        dit_stage(run, stage("dit"))
    if not options.teacher:
        with timed("distillation"):
            distil_stage(run, stage("distil"))
    with timed("weights"):
        files = export_stage(run, options.export or run / "weights", teacher=options.teacher)
    if options.count:
        with timed("judge and measurement"):
            print(score_stage(run, stage("judge"), options.count, teacher=options.teacher))
    for path in files:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    print(", ".join(f"{name} {taken / 60:.1f} min" for name, taken in seconds.items()))
    command = generate_command(run, options.export or run / "weights", teacher=options.teacher)
    if command:
        print(f"Try it: {command}")


if __name__ == "__main__":
    main()

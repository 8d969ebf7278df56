"""nano's whole recipe as one command: render, train the VAE, cache latents, train text encoder and DiT, write weights.

    python recipes/nano.py --run runs/nano --minutes 180
    python recipes/nano.py --run runs/large --edition large --minutes 25 --device cuda
    python recipes/nano.py --run runs/again --edition large --minutes 25 --device cuda --start runs/large/weights

A run is one folder and goes on where it stopped; `--start` begins another one with weights that a run wrote. It needs
Python, torch, NumPy, OpenCV, Pillow and this package; no network. In the end it says what each stage took.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from lichtspiel.train.editions import EDITIONS
from lichtspiel.train.nano import Stage, dit_stage, ship, vae_stage
from lichtspiel.train.state import Budget

VAE_SHARE = 0.6
"""The VAE is what limits pictures, so it gets more than half of the time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--edition", choices=tuple(EDITIONS), help="default: the run's, or small")
    parser.add_argument("--minutes", type=float, help="time box for all training together")
    parser.add_argument("--steps", type=int, help="optimiser steps of each network, instead of --minutes")
    parser.add_argument("--clips", type=int, help="clips to render; default: the edition's")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="folder of weights to begin from")
    parser.add_argument("--ship", type=Path, help="folder for the weights; default: weights/ in the run's folder")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # on a GPU, products that are still in 32 bit take fewer bits
    took: dict[str, float] = {}

    def stage(share: float) -> Stage:
        minutes = None if options.minutes is None else share * options.minutes
        budget = Budget(minutes=minutes, steps=options.steps)
        return Stage(
            budget=budget, edition=options.edition, device=options.device, seed=options.seed, start=options.start
        )

    began = time.monotonic()
    vae_stage(options.run, stage(VAE_SHARE), clips=options.clips)
    took["clips and VAE"], began = time.monotonic() - began, time.monotonic()
    dit_stage(options.run, stage(1 - VAE_SHARE))
    took["latents, text encoder and DiT"], began = time.monotonic() - began, time.monotonic()
    files = ship(options.run, options.ship or options.run / "weights")
    took["weights"] = time.monotonic() - began
    for path in files:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    print(", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in took.items()))


if __name__ == "__main__":
    main()

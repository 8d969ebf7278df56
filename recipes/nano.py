"""nano's whole recipe as one command: render, train the VAE, cache latents, train text encoder and DiT, write weights.

    python recipes/nano.py --run runs/nano --minutes 180
    python recipes/nano.py --run runs/nano --minutes 25 --device cuda

A run is one folder and goes on where it stopped. It needs Python, torch, NumPy, OpenCV, Pillow and this package; no
network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lichtspiel.train.nano import dit_stage, ship, vae_stage

VAE_SHARE = 0.6
"""The VAE is what limits pictures, so it gets more than half of the time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, help="time box for all training together")
    parser.add_argument("--steps", type=int, help="optimiser steps of each network, instead of --minutes")
    parser.add_argument("--clips", type=int, help="clips to render; default: 8000")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ship", type=Path, help="folder for the weights; default: weights/ in the run's folder")
    options = parser.parse_args()
    box = options.minutes
    began = time.monotonic()
    vae_stage(
        options.run, minutes=None if box is None else VAE_SHARE * box, steps=options.steps, clips=options.clips,
        device=options.device, seed=options.seed,
    )  # fmt: skip
    dit_stage(
        options.run, minutes=None if box is None else (1 - VAE_SHARE) * box, steps=options.steps,
        device=options.device, seed=options.seed,
    )  # fmt: skip
    folder = options.ship or options.run / "weights"
    ship(options.run, folder)
    print(f"weights in {folder}, after {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()

"""Predicted and measured memory of a tuning step, and seconds a step.

    python -m benchmarks.tuning FOLDER [--rows nano-lora,nano-full,1.3b-lora,1.3b-int8,1.3b-streamed] [--steps N]

Writes a file of random 16-bit weights of the true size into FOLDER (2.8 GB, removed at the end). Every row is a process
of its own: it loads the model as a run does, takes `--steps` steps on one batch, and measures what the process holds
beyond what it held before, without pages that are mapped from a file. The prediction is made without any of that.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.true_size import write
from lichtspiel.host import return_freed_memory
from lichtspiel.spec import MODELS, Model
from lichtspiel.tune.cache import Batch
from lichtspiel.tune.dataset import Bucket
from lichtspiel.tune.meter import measured
from lichtspiel.tune.peaks import fake_batch, predict
from lichtspiel.tune.settings import RunOptions
from lichtspiel.tune.trainer import Trainer
from lichtspiel.weights.checkpoint import EMBEDDED, Checkpoint
from lichtspiel.weights.components import scan

SMALL, LARGE = Bucket(width=128, height=128, frames=17), Bucket(width=256, height=256, frames=17)
ROWS: dict[str, tuple[str, Bucket, RunOptions]] = {
    "nano-lora": ("nano", SMALL, RunOptions(batch=4)),
    "nano-full": ("nano", SMALL, RunOptions(method="full", batch=4)),
    "1.3b-lora": ("t2v-1.3b", LARGE, RunOptions()),
    "1.3b-int8": ("t2v-1.3b", LARGE, RunOptions(base="int8")),
    "1.3b-streamed": ("t2v-1.3b", LARGE, RunOptions(base="streamed")),
}


def transformer(row: Model, folder: Path) -> Checkpoint:
    """The checkpoint of a model of which only the transformer is there."""
    found = scan([EMBEDDED if row.embedded else folder])
    return Checkpoint(row, {part.part: part for part in found.parts if part.part == "dit"}, {})


def filled(batch: Batch) -> Batch:
    """The batch with numbers in it."""
    return replace(batch, latents=torch.randn(batch.latents.shape), text=torch.randn(batch.text.shape))


def measure(name: str, folder: Path, steps: int) -> dict[str, object]:
    """One row."""
    model, bucket, options = ROWS[name]
    row = MODELS[model]
    files = transformer(row, folder)
    torch.randn(256, 256) @ torch.randn(256, 256)  # what the libraries allocate once
    seconds = []
    return_freed_memory()  # as a run does
    with measured("cpu") as whole:
        trainer = Trainer(row, files, options, "cpu")
        batch = filled(fake_batch(row, bucket, options.batch))
        noise, times = torch.randn(batch.latents.shape), torch.full((options.batch,), 0.5)
        for _ in range(steps):
            with measured("cpu") as spent:
                trainer.step(batch, times=times, noise=noise)
            seconds.append(round(spent.seconds, 2))
    predicted = predict(row, bucket, options)  # last: what it frees would be there for the step to take
    return {
        "row": name, "predicted_gb": predicted / 1e9, "measured_gb": whole.bytes / 1e9,
        "error": predicted / whole.bytes - 1, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(measure(words.one, words.folder, words.steps)))
        return
    names = words.rows.split(",")
    words.folder.mkdir(parents=True, exist_ok=True)
    written = []
    if any(name.startswith("1.3b") for name in names) and not any(words.folder.glob("dit*.safetensors")):
        write(MODELS["t2v-1.3b"], "dit", words.folder)
        written = list(words.folder.glob("dit*.safetensors"))
    print(f"{datetime.date.today()}, {torch.get_num_threads()} threads, {words.steps} steps")
    try:
        for name in names:
            command = [sys.executable, "-m", "benchmarks.tuning", str(words.folder), "--one", name, "--steps"]
            answer = subprocess.run([*command, str(words.steps)], check=True, capture_output=True, text=True).stdout
            row = json.loads(answer.splitlines()[-1])
            print(
                f"{name:<14} predicted {row['predicted_gb']:6.3f} GB  measured {row['measured_gb']:6.3f} GB  "
                f"{100 * row['error']:+5.1f} %  seconds {row['seconds']}"
            )
    finally:
        for path in written:
            path.unlink()


if __name__ == "__main__":
    main()

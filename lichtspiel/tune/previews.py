"""Samples of fixed prompts while a run trains, by the pipeline that `generate` uses, with the model as it is then.

The texts are encoded before the model that is trained loads. A sample leaves like every other video: judged by the
policy, marked and sealed, with the adapter's file among what it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.inference.pipeline import Files, Pipeline, load
from lichtspiel.request import Request
from lichtspiel.spec import Model
from lichtspiel.tune.settings import RunOptions
from lichtspiel.tune.texts import read_prompts
from lichtspiel.tune.trainer import Trainer
from lichtspiel.workflows.batch import read_jobs
from lichtspiel.workflows.generate import generate

__all__ = ["Previews", "read_requests"]

SEED = 42
"""Seed of the first prompt of a text file; the others count on. Fixed, so that samples of two steps can be compared."""


def read_requests(path: Path, row: Model, options: RunOptions, size: tuple[int, int], frames: int) -> list[Request]:
    """The requests of a list of jobs (.jsonl, as `lichtspiel batch` reads it), or one for each line of a text file, of
    this size and length. Raises InvalidInput for a list that cannot be read, or that asks for another model."""
    if path.suffix.lower() == ".jsonl":
        lines = read_jobs(path)
        for line in lines:
            if line.request.model != row.name:
                raise InvalidInput(
                    f'{path}, line {line.number} asks for {line.request.model}; write "model": "{row.name}" there'
                )
        return [line.request for line in lines]
    return [
        Request.of(prompt=prompt, model=row.name, size=size, frames=frames, seed=SEED + number, dtype=options.dtype)
        for number, prompt in enumerate(read_prompts(path))
    ]


class Previews:
    """The samples of one run, in its folder. Encodes their texts at once, and releases the text encoder again."""

    def __init__(self, folder: Path, requests: Sequence[Request], weights: Files, note: Callable[[str], None]) -> None:
        self.folder, self.requests, self.note = folder, requests, note
        largest = max(requests, key=lambda request: request.pixels)
        self.pipeline: Pipeline = load(largest, weights)
        self.pipeline.encode_prompts(requests)
        self.pipeline.release()

    def make(self, trainer: Trainer, step: int, adapter: Path | None) -> list[Path]:
        """Make the samples of a step with the model in training. `adapter` is the file that holds what it learned."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made = []
        with trainer.averaged(), trainer.sampling(), self.pipeline.lend(trainer.dit):
            for number, request in enumerate(self.requests, start=1):
                suffix = "png" if request.frames == 1 else "mp4"
                out = self.folder / f"step-{step:06d}-{number:02d}.{suffix}"
                told = request if adapter is None else Request.of(**request.model_dump() | {"lora": (adapter,)})
                made.append(generate(told, out, pipeline=self.pipeline).sealed.path)
        return made

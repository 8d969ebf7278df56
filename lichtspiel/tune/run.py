"""A tuning run from its first step to its last: batches, checkpoints, validation, samples, and what it leaves behind.

    RUN/run.json                what the run is; a run that goes on has to be the same
    RUN/state.pt                everything that a killed run needs to go on to the same bits
    RUN/lora.safetensors        the adapter (RUN/weights/ with whole weights) as of the last checkpoint
    RUN/README.md               a model card
    RUN/log.jsonl, tensorboard/ numbers by step
    RUN/samples/                fixed prompts, by step

Part p of step s is batch number (s · parts + p) · processes + rank, and all that is random about it comes from its
number and the seed. So a run is the same after every restart, and does not depend on how its parts are shared out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lichtspiel.errors import Interrupted, InvalidInput
from lichtspiel.storage import atomic_write
from lichtspiel.tune.cache import Batch, Cache, batches
from lichtspiel.tune.export import Made, export_adapter, export_weights, write_card
from lichtspiel.tune.journal import Journal
from lichtspiel.tune.objective import draw, leave_out
from lichtspiel.tune.optimizers import scheduled
from lichtspiel.tune.parallel import add_gradients, agreed
from lichtspiel.tune.trainer import Trainer
from lichtspiel.tune.validation import base_loss, validation_loss

__all__ = ["Outcome", "Run", "Schedule"]

STATE, SETTINGS = "state.pt", "run.json"

PARTS = 1_000_003
"""Seeds of two runs differ by this many parts, so that they draw different numbers."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a run does what, in steps; 0 is never, except for what happens at the end anyway. A state is kept every
    `save_minutes`, too. `dialect` is that of the adapter's file, and `layout` that of whole weights."""

    steps: int
    log_every: int = 10
    validate_every: int = 100
    sample_every: int = 0
    save_minutes: float = 10.0
    dialect: str = "comfy"
    layout: str = "official"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidInput(f"--steps {self.steps} is not valid; use a whole number from 1")
        for flag, value in (("--validate-every", self.validate_every), ("--sample-every", self.sample_every)):
            if value < 0:
                raise InvalidInput(f"{flag} {value} is not valid; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: the steps taken, the seconds they took in all, the files it leaves, and the mean losses on what
    was kept aside, of the base model and now (None without any)."""

    steps: int
    seconds: float
    files: tuple[Path, ...]
    base: float | None
    validation: float | None

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return {
            "steps": self.steps, "seconds": round(self.seconds, 1), "files": [str(path) for path in self.files],
            "base_validation": self.base, "validation": self.validation,
        }  # fmt: skip


Sampler = Callable[[int], None]
"""Makes the samples of a step."""


def _nothing(step: int) -> None:
    """No samples."""


@dataclass
class Run:
    """One run in its folder. `kept` [n, l, d] are the states of the prompts to keep, the first of the empty one.

    `sample` makes samples of a step. `rank` of `processes` says which part of the work is this process's; only the
    first process writes files.
    """

    folder: Path
    trainer: Trainer
    cache: Cache
    schedule: Schedule
    made: Made
    use: str
    kept: Tensor | None = None
    sample: Sampler = _nothing
    progress: Callable[[str, float], None] = lambda stage, done: None
    rank: int = 0
    processes: int = 1
    seconds: float = 0.0
    base: dict[float, float] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return self.trainer.steps_taken

    def go(self) -> Outcome:
        """Go on from the last checkpoint, if there is one, to the last step; writes everything that the run leaves.

        Raises InvalidInput if the folder holds another run, and Interrupted, which says what is kept.
        """
        self._begin()
        if not self.base:
            self.base = base_loss(self.trainer, self.cache)
        journal = Journal(self.folder, self.step) if self.rank == 0 else None
        saved, whole = time.monotonic(), True
        if self.step == 0 and self.schedule.sample_every:
            self.sample(0)
        try:
            for batch_parts in self._steps():
                begun = time.monotonic()
                values = self._gradients(batch_parts)
                whole = False
                values["gradient"] = self.trainer.update(
                    scheduled(self.trainer.options, self.step, self.schedule.steps)
                )
                whole = True
                self.seconds += time.monotonic() - begun
                self._report(journal, values)
                if agreed(time.monotonic() - saved > 60 * self.schedule.save_minutes):
                    self.save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if whole and not self.trainer.sharded:  # shares are gathered together, and processes stop one by one
                self.save()
            raise Interrupted(
                f"stopped after step {self.step} of {self.schedule.steps}; the same command goes on from the last "
                "checkpoint"
            ) from None
        finally:
            if journal is not None:
                journal.close()
        return self._end()

    def _steps(self) -> Iterator[list[tuple[int, Batch]]]:
        """The parts of this process, step by step, each with its number."""
        options = self.trainer.options
        first = self.step * options.accumulate * self.processes + self.rank
        source = batches(self.cache, options.batch, options.seed, start=first, step=self.processes)
        number = first
        while self.step < self.schedule.steps:
            parts = []
            for _ in range(options.accumulate):
                parts.append((number, next(source)))
                number += self.processes
            yield parts

    def _gradients(self, parts: list[tuple[int, Batch]]) -> dict[str, float]:
        """Add up the gradients of a step; returns its losses."""
        options, trainer = self.trainer.options, self.trainer
        # Shared-out weights average their gradients over the processes by themselves.
        share = 1 / (options.accumulate * (1 if trainer.sharded else self.processes))
        values = {"loss": 0.0} | ({} if self.kept is None else {"kept": 0.0})
        for number, batch in parts:
            generator = torch.Generator().manual_seed(options.seed * PARTS + number)
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # dropout draws from the global one
            told = batch
            if self.kept is None:
                told = leave_out(batch, self.cache.empty, options.drop_text, generator)
            drawn = draw(batch, trainer.row, options, generator)
            values["loss"] += trainer.backward(told, drawn, share=share) / len(parts)
            if self.kept is not None:
                other = replace(batch, text=self._kept_texts(len(batch), generator), weight=None)
                again = draw(batch, trainer.row, options, generator)
                values["kept"] += trainer.backward_kept(other, again, share=share) / len(parts)
        if self.processes > 1 and not trainer.sharded:
            add_gradients(trainer.parameters)
        return values

    def _kept_texts(self, count: int, generator: torch.Generator) -> Tensor:
        """The states of prompts to keep, and of the empty one as often as captions are otherwise left out."""
        assert self.kept is not None
        rows = torch.randint(1, len(self.kept), (count,), generator=generator)
        rows[torch.rand(count, generator=generator) < self.trainer.options.drop_text] = 0
        return self.kept[rows]

    def _report(self, journal: Journal | None, values: dict[str, float]) -> None:
        step, steps = self.step, self.schedule.steps
        every = self.schedule.validate_every
        if every and step % every == 0 and step < steps:
            values |= self._validated()
        if journal is not None and (step % self.schedule.log_every == 0 or "validation" in values or step == steps):
            journal.write(step, values | {"seconds/step": self.seconds / step})
        self.progress(f"step {step} of {steps}, loss {values['loss']:.3f}", step / steps)
        if self.schedule.sample_every and step % self.schedule.sample_every == 0:
            self.sample(step)

    def _validated(self) -> dict[str, float]:
        found = validation_loss(self.trainer, self.cache)
        if not found:
            return {}
        named = {f"validation at {time:g}": value for time, value in found.items()}
        return {"validation": _mean(found), "validation of the base": _mean(self.base), **named}

    def _begin(self) -> None:
        """Check that the folder is this run's, or make it so, and load the last checkpoint."""
        settings = self._settings()
        path = self.folder / SETTINGS
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            for name, value in settings.items():
                if before.get(name) != value:
                    raise InvalidInput(
                        f"{self.folder} holds a run with {name} {before.get(name)}, not {value}; choose another folder "
                        "with -o, or the same settings to go on"
                    )
        elif self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as draft:
                draft.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        state = self.folder / STATE
        if state.is_file():
            content = torch.load(state, map_location=self.trainer.device, weights_only=True)
            self.trainer.restore(content["trainer"])
            self.seconds, self.base = content["seconds"], content["base"]

    def _settings(self) -> dict[str, Any]:
        """What makes a run this run and no other; as JSON would give it back."""
        options: dict[str, Any] = self.trainer.options.to_json()
        free = ("base", "checkpointing")  # how a frozen model is held may change from machine to machine
        kept = {name: value for name, value in options.items() if name not in free}
        facts = {
            "model": self.made.row.name, "base digest": self.made.fingerprints["dit"],
            "data digest": self.cache.facts.digest,
        }  # fmt: skip
        return json.loads(json.dumps(facts | kept))  # type: ignore[no-any-return]

    def save(self) -> None:
        """Write a checkpoint, and the result as of now."""
        state = self.trainer.state()
        if self.rank == 0:
            with atomic_write(self.folder / STATE) as draft:
                torch.save({"trainer": state, "seconds": self.seconds, "base": self.base}, draft)
        self._export()

    def _export(self) -> None:
        """Write the adapter or the weights as of now."""
        made = replace(self.made, steps=self.step)
        with self.trainer.averaged():
            if self.trainer.adapter is not None:
                if self.rank == 0:
                    path = self.folder / "lora.safetensors"
                    export_adapter(path, self.trainer.adapter.deltas(), made, self.schedule.dialect)
                return
            whole = self.trainer.whole_weights()
            if self.rank == 0:
                export_weights(self.folder / "weights", whole, made, self.schedule.layout)

    def _end(self) -> Outcome:
        self.save()
        found = validation_loss(self.trainer, self.cache)
        base, validation = (_mean(self.base), _mean(found)) if found else (None, None)
        name = "lora.safetensors" if self.trainer.adapter is not None else "weights"
        files = [self.folder / name]
        if self.rank == 0:
            results = {"training time": f"{self.seconds / 60:.1f} minutes"}
            shown = {"validation loss": validation, "validation loss of the base": base} if found else {}
            made = replace(self.made, steps=self.step)
            files.append(write_card(self.folder / "README.md", made, results | shown, self.use))
        return Outcome(
            steps=self.step, seconds=self.seconds, files=tuple(files), base=base, validation=validation
        )  # fmt: skip


def _mean(values: Mapping[float, float]) -> float:
    return sum(values.values()) / len(values)

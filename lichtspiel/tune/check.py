"""Check a run before it starts: what the data are, whether every bucket fits into memory, how long the run takes, and
whether the model can learn a batch at all.

Only what a step of each length needs is encoded, into the cache that the run will use. Memory is predicted for every
bucket and measured for the largest of each length, so that both stand side by side.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lichtspiel.host import free_memory, return_freed_memory
from lichtspiel.inference.plan import plan
from lichtspiel.spec import Model
from lichtspiel.tune.cache import Batch, Cache
from lichtspiel.tune.dataset import Bucket, DataOptions, Finding, Sample
from lichtspiel.tune.encode import Encoder
from lichtspiel.tune.meter import Measured, measured
from lichtspiel.tune.objective import Draw
from lichtspiel.tune.peaks import base_bytes, predict
from lichtspiel.tune.placement import placed
from lichtspiel.tune.prepare import Observe, Surveyed, assemble
from lichtspiel.tune.samples import by_bucket
from lichtspiel.tune.settings import RunOptions
from lichtspiel.tune.texts import encode_texts
from lichtspiel.tune.trainer import Trainer

__all__ = ["BucketLine", "Probe", "Report", "StageLine", "check"]

PROBE_STEPS = 10
PROBE_TIME = 0.7
"""The time of the probe's noise, where the content of a clip is decided."""

FALLS = 1e-4
"""The part of the loss that ten steps on one batch take away at least."""

GIGABYTE = 1e9
MARGIN = 0.9
"""The share of free memory that a run may need; the rest is left for fragmentation and for other programs."""


@dataclass
class StageLine:
    """A stage of the run that encodes: predicted and measured peak in bytes, and seconds for one caption or sample."""

    name: str
    predicted: int
    measured: int | None = None
    seconds: float | None = None


@dataclass
class BucketLine:
    """A bucket: its samples, how many an epoch sees, tokens of one, predicted and measured peak of a step in bytes,
    and seconds a step, measured or, where `scaled`, taken from the measured bucket by the number of operations."""

    bucket: Bucket
    samples: int
    per_epoch: int
    tokens: int
    predicted: int
    measured: int | None = None
    seconds: float | None = None
    scaled: bool = True


@dataclass
class Probe:
    """The loss on one batch, with the same noise each time, before each of ten steps and after the last."""

    losses: list[float]

    @property
    def fall(self) -> float:
        """The part of the loss that the steps took away; below 0 if it rose."""
        return 1 - self.losses[-1] / self.losses[0]

    @property
    def falls(self) -> bool:
        """Whether the model learns the batch."""
        return math.isfinite(self.fall) and self.fall > FALLS


@dataclass
class Report:
    """What was found. `form` says how the model is held where that follows from the memory. `refusals` say why the run
    would not do; without any, it can start."""

    model: str
    device: str
    free_bytes: int | None
    steps: int
    findings: list[Finding]
    stages: list[StageLine] = field(default_factory=list)
    buckets: list[BucketLine] = field(default_factory=list)
    probe: Probe | None = None
    encoding_seconds: float | None = None
    form: str | None = None
    refusals: list[str] = field(default_factory=list)

    @property
    def step_seconds(self) -> float | None:
        """Seconds a step, averaged over the buckets as often as an epoch has them."""
        timed = [line for line in self.buckets if line.seconds is not None and line.per_epoch]
        total = sum(line.per_epoch for line in timed)
        return sum((line.seconds or 0) * line.per_epoch for line in timed) / total if total else None

    @property
    def hours(self) -> float | None:
        """Hours of the whole run: encoding what is not in the cache yet, and all steps."""
        step = self.step_seconds
        return None if step is None else (step * self.steps + (self.encoding_seconds or 0.0)) / 3600

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; bytes are integers."""
        return {
            "model": self.model, "device": self.device, "free_bytes": self.free_bytes, "steps": self.steps,
            "findings": [
                {"path": str(one.path), "message": one.message, "refused": one.refused} for one in self.findings
            ],
            "form": self.form,
            "stages": [vars(stage) for stage in self.stages],
            "buckets": [vars(line) | {"bucket": str(line.bucket)} for line in self.buckets],
            "probe": None if self.probe is None else {"losses": self.probe.losses, "falls": self.probe.falls},
            "seconds_per_step": self.step_seconds, "hours": self.hours, "refusals": self.refusals,
        }  # fmt: skip


def check(
    surveyed: Surveyed, encoder: Encoder, data: DataOptions, run: RunOptions, *, steps: int, observe: Observe,
    automatic: bool = False,
) -> Report:  # fmt: skip
    """Check a run of `steps` steps. What is wrong with the data or the plan ends it before any network is loaded. With
    `automatic`, the model is held as the run would hold it, by the memory there is.

    Raises Refused if consent is needed and was not stated, and OutputError if the disk is too small.
    """
    row, device = encoder.row, encoder.device
    report = Report(row.name, device, free_memory(device), steps, list(surveyed.found.findings))
    report.refusals += [str(finding) for finding in surveyed.refusals]
    if report.refusals or not surveyed.samples:
        return report
    buckets = by_bucket(surveyed.samples)
    _plan_stages(report, encoder, next(iter(buckets)))
    resident = 0
    if automatic:
        placement = placed(row, list(buckets), run, report.free_bytes, automatic=True)
        run = replace(run, base=placement.base, checkpointing=placement.checkpointing)
        report.form, resident = str(placement), placement.resident
    _plan_buckets(report, row, buckets, run, resident)
    _refuse_what_does_not_fit(report, row, run)
    if report.refusals:
        return report
    chosen = _chosen(buckets, run.batch)
    cache = _encode_some(report, surveyed, encoder, data, chosen, observe)
    _measure(report, row, cache, chosen, run, encoder, resident, observe)
    return report


def _plan_stages(report: Report, encoder: Encoder, largest: Bucket) -> None:
    planned = plan(
        encoder.row, size=(largest.width, largest.height), frames=largest.frames, device=encoder.device,
        dtype=encoder.dtype, free_bytes=report.free_bytes,
    )  # fmt: skip
    report.stages.append(StageLine("text encoder", planned.stage("umt5").peak))
    clip = planned.stage("clip").peak if encoder.row.clip is not None else 0
    report.stages.append(StageLine("VAE and CLIP" if clip else "VAE", planned.stages[-1].peak + clip))


def _plan_buckets(
    report: Report, row: Model, buckets: dict[Bucket, list[Sample]], run: RunOptions, resident: int
) -> None:
    """Predict the peak of each bucket; buckets of the same number of tokens need the same."""
    peaks: dict[int, int] = {}
    for bucket, samples in buckets.items():
        training = [sample for sample in samples if not sample.held_out]
        tokens = row.dit.tokens(row.latent_shape(bucket.frames, (bucket.width, bucket.height)))
        size = min(run.batch, max(len(training), 1))
        key = tokens * size
        if key not in peaks:
            peaks[key] = predict(row, bucket, replace(run, batch=size), resident=resident)
        often = sum(sample.item.repeats for sample in training)
        batches = -(-often // run.batch) if often else 0
        report.buckets.append(BucketLine(bucket, len(samples), batches, tokens, peaks[key]))


def _refuse_what_does_not_fit(report: Report, row: Model, run: RunOptions) -> None:
    if report.free_bytes is None:
        return
    worst = max(report.buckets, key=lambda line: line.predicted)
    if worst.predicted <= MARGIN * report.free_bytes:
        return
    remedies = []
    for base in ("int8", "streamed"):
        if run.method == "lora" and run.base == "resident":
            smaller = worst.predicted - base_bytes(row, run) + base_bytes(row, replace(run, base=base))
            if smaller <= MARGIN * report.free_bytes:
                remedies.append(f"--base {base} ({smaller / GIGABYTE:.1f} GB)")
    if run.batch > 1:
        remedies.append("--batch 1")
    if not run.checkpointing:
        remedies.append("--checkpointing")
    remedies += ["a smaller --size", "fewer --frames"]
    report.refusals.append(
        f"a step of {worst.bucket} needs {worst.predicted / GIGABYTE:.1f} GB and {report.free_bytes / GIGABYTE:.1f} GB "
        f"are free on {report.device}; use {', '.join(remedies[:-1])} or {remedies[-1]}"
    )


def _chosen(buckets: dict[Bucket, list[Sample]], batch: int) -> dict[Bucket, list[Sample]]:
    """The samples to measure: a batch of the largest bucket of each length."""
    chosen: dict[Bucket, list[Sample]] = {}
    lengths: set[int] = set()
    for bucket, samples in buckets.items():
        training = [sample for sample in samples if not sample.held_out]
        if bucket.frames not in lengths and training:
            lengths.add(bucket.frames)
            chosen[bucket] = training[:batch]
    return chosen


def _encode_some(
    report: Report,
    surveyed: Surveyed,
    encoder: Encoder,
    data: DataOptions,
    chosen: dict[Bucket, list[Sample]],
    observe: Observe,
) -> Cache:
    """Encode what the measured steps need, and measure that too."""
    samples = [sample for group in chosen.values() for sample in group]
    surveyed.people.consent(data.consent, encoder.folder)
    encoder.check_disk(surveyed.samples, len({sample.item.caption for sample in surveyed.samples}))
    texts, frames = report.stages
    new_texts = encoder.missing_texts([sample.item.caption for sample in samples])
    with measured(encoder.device) as spent:
        encoder.encode_texts([sample.item.caption for sample in samples], observe.progress)
    _note(texts, spent, len(new_texts))
    new_samples = encoder.missing(samples)
    with measured(encoder.device) as spent:
        encoder.encode_samples(samples, observe.progress)
    _note(frames, spent, len(new_samples))
    _estimate_encoding(report, surveyed, encoder, new_samples)
    return assemble(surveyed, encoder, data, samples)


def _note(stage: StageLine, spent: Measured, count: int) -> None:
    """Keep what was measured; a stage whose results are all in the cache did not run."""
    if count:
        stage.measured, stage.seconds = spent.bytes, spent.seconds / count


def _estimate_encoding(report: Report, surveyed: Surveyed, encoder: Encoder, measured_on: Sequence[Sample]) -> None:
    """Seconds for what is still to be encoded, by pixels and by captions, from what was measured."""
    texts, frames = report.stages
    left = encoder.missing(surveyed.samples)
    captions = encoder.missing_texts([sample.item.caption for sample in surveyed.samples])
    seconds = (texts.seconds or 0.0) * len(captions)
    pixels = sum(sample.bucket.pixels for sample in measured_on)
    if pixels and frames.seconds is not None:
        per_pixel = frames.seconds * len(measured_on) / pixels
        seconds += per_pixel * sum(sample.bucket.pixels for sample in left)
    report.encoding_seconds = seconds


def _measure(
    report: Report,
    row: Model,
    cache: Cache,
    chosen: dict[Bucket, list[Sample]],
    run: RunOptions,
    encoder: Encoder,
    resident: int,
    observe: Observe,
) -> None:
    """Load the model, take a few steps of each chosen bucket, the largest first, and try to learn one batch."""
    kept = None
    if run.keep:
        kept = encode_texts(encoder.folder, ("", *run.keep), encoder.files, torch.device(encoder.device))
    gc.collect()
    lines = {line.bucket: line for line in report.buckets}
    largest = next(iter(chosen))
    return_freed_memory()
    with measured(encoder.device) as loading:
        observe.progress("loading the model", 0.0)
        # Without the slow start of a run, so that ten steps are enough to see whether the loss falls.
        trainer = Trainer(row, encoder.files, replace(run, warmup=0), encoder.device, resident=resident)
        batch = _batch(cache, largest)
        report.probe = _probe(trainer, batch, observe, lines[largest])
        _rest_of_step(trainer, batch, kept, lines[largest])
    lines[largest].measured = loading.bytes
    for bucket in list(chosen)[1:]:
        batch = _batch(cache, bucket)
        times, noise = _fixed(batch)
        with measured(encoder.device, before=loading.before) as spent:
            trainer.step(batch, times=times, noise=noise)
        lines[bucket].measured, lines[bucket].seconds, lines[bucket].scaled = spent.bytes, spent.seconds, False
        _rest_of_step(trainer, batch, kept, lines[bucket])
    _scale_times(report, row, lines[largest])
    if not report.probe.falls:
        first, last = report.probe.losses[0], report.probe.losses[-1]
        word = "rose" if last > first else "stayed"
        report.refusals.append(
            f"ten steps on one batch did not teach it: the loss {word}, {first:.4f} and then {last:.4f}; try "
            + (
                "a lower --learning-rate"
                if last > first
                else "a higher --learning-rate, a larger --rank or more --layers"
            )
        )


def _batch(cache: Cache, bucket: Bucket) -> Batch:
    return cache.read(cache.select(bucket))


def _fixed(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Times and noise that are the same in every step."""
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    return torch.full((len(batch),), PROBE_TIME), noise


def _probe(trainer: Trainer, batch: Batch, observe: Observe, line: BucketLine) -> Probe:
    """Ten steps on one batch; the second half of them says how long a step lasts."""
    times, noise = _fixed(batch)
    losses, seconds = [], []
    for number in range(PROBE_STEPS):
        observe.progress("trying to learn one batch", number / PROBE_STEPS)
        with measured(trainer.device) as spent:
            losses.append(trainer.step(batch, times=times, noise=noise))
        seconds.append(spent.seconds)
    losses.append(trainer.loss(batch, times=times, noise=noise))
    line.seconds, line.scaled = sorted(seconds[PROBE_STEPS // 2 :])[PROBE_STEPS // 4], False
    return Probe(losses)


def _rest_of_step(trainer: Trainer, batch: Batch, kept: torch.Tensor | None, line: BucketLine) -> None:
    """Add to the time of one batch what else a step of the run does: the pass with prompts to keep, whose states are
    `kept` [n, l, d], and the other batches that it adds up."""
    assert line.seconds is not None
    if kept is not None:
        times, noise = _fixed(batch)
        other = replace(batch, text=kept[-1:].expand(len(batch), -1, -1), weight=None)
        with measured(trainer.device) as spent:
            trainer.backward_kept(other, Draw(times, noise, torch.zeros(len(batch), dtype=torch.long)))
        trainer.optimizer.zero_grad(set_to_none=True)
        line.seconds += spent.seconds
    line.seconds *= trainer.options.accumulate


def _operations(row: Model, line: BucketLine) -> float:
    """What the time of a step grows with: products with weights, and of tokens with tokens."""
    spec = row.dit
    return line.tokens * (2.0 * row.parameters) + 4.0 * line.tokens**2 * spec.width * spec.layers


def _scale_times(report: Report, row: Model, known: BucketLine) -> None:
    """Estimate the time of buckets that were not measured from the largest one that was."""
    for line in report.buckets:
        if line.seconds is None and known.seconds is not None:
            line.seconds = known.seconds * _operations(row, line) / _operations(row, known)

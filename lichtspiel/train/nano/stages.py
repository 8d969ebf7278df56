"""nano's stages: data, VAE, latents, text encoder and DiT, distillation, weights, scores. Each can resume on its own.

A run is one folder. The command line and `recipes/nano.py` call these functions in this order. A run trains on
rendered clips of the toybox, or on a person's own clips and pictures.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import MODELS, VAESpec
from lichtspiel.storage import atomic_write
from lichtspiel.tokenizer import Tokenizer
from lichtspiel.toybox.captions import LANGUAGES, WORDINGS, caption
from lichtspiel.toybox.prompts import prompt as short_prompt
from lichtspiel.toybox.sample import Vocabulary, sample
from lichtspiel.train.data import Dataset, Subset, of_length
from lichtspiel.train.distil import DistilPlan, distil
from lichtspiel.train.dit import DiTPlan, TrainingSet, train_dit
from lichtspiel.train.folder import cache_folder, open_cache
from lichtspiel.train.latents import LatentStore, encode_dataset
from lichtspiel.train.nano import export, samples
from lichtspiel.train.nano.clips import ClipStore, open_store, render_store
from lichtspiel.train.nano.probe import SceneProbe
from lichtspiel.train.nano.score import Trial, generated, judge_of, judged_by, rows_of, table
from lichtspiel.train.nano.variants import Variant, variant_of
from lichtspiel.train.optim import muon_adamw
from lichtspiel.train.state import Budget, Logger, check_device
from lichtspiel.train.text import Prompts, vocabulary
from lichtspiel.train.vae import VAEPlan, blank_vae, placed, train_vae

HELD_OUT_CLIPS = range(10_000_000, 10_000_256)

CAPTION_SEEDS = range(40_000_000, 40_003_000)
"""Number of scenes from whose captions the vocabulary is built."""


def print_metrics(values: dict[str, float], file: TextIO | None = None) -> None:
    """Print one line of metrics, to standard output or to `file`."""
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    print(f"{time.strftime('%H:%M:%S')}  {numbers}", file=file, flush=True)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a stage runs: for how long, of which variant if the run has none yet, and from which exported weights (a
    folder) instead of random ones; `compiled` is for the DiT. Raises InvalidInput if the device is not available."""

    budget: Budget
    variant: str | None = None
    device: str = "cpu"
    seed: int = 1
    start: Path | None = None
    compiled: bool = False
    log: Logger = print_metrics

    def __post_init__(self) -> None:
        check_device(self.device)


class Log:
    """The log of a stage: printed with the time left, written as JSON lines, and to TensorBoard if it is installed."""

    def __init__(self, folder: Path, log: Logger) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / "log.jsonl", log
        self.last: dict[str, float] = {}
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # training does not need it
            self.scalars = None
        else:
            self.scalars = SummaryWriter(folder / "tensorboard")
        self.began: tuple[float, float] | None = None

    def __call__(self, values: dict[str, float]) -> None:
        """Log one set of metrics, which includes `step` and `progress`."""
        now, progress = time.monotonic(), values["progress"]
        self.began = self.began or (now, progress)
        done = progress - self.began[1]
        left = {"minutes left": (now - self.began[0]) / 60 * (1 - progress) / done} if done > 0 else {}
        self.last |= values
        self.log(values | left)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self.scalars is not None:
            for name, value in values.items():
                self.scalars.add_scalar(name, value, int(values["step"]))
            self.scalars.flush()


@dataclass(frozen=True)
class RunData:
    """The data of a run: all items, those that the VAE trains on, and clips that it is measured on. The DiT does not
    see the last `held_out` clips of all items."""

    items: Dataset
    training: Dataset
    measured: Dataset
    held_out: int


def open_data(run: Path, variant: Variant, *, count: int | None = None, source: Path | None = None) -> RunData:
    """The data of a run. A new run decodes the folder `source`, or renders `count` clips of the variant's world.

    Raises InvalidInput when the run already has other data, or when it is new and neither is given.
    """
    clips = run / "clips"
    if source is not None or (clips / "texts.json").is_file():
        return _own_data(run, variant, source)
    if not clips.is_dir() and count is None:
        raise InvalidInput(f"{run} holds no run; start one with `lichtspiel train vae --run {run}`")
    workers = os.cpu_count() or 1
    run.mkdir(parents=True, exist_ok=True)
    world, shape = variant.world, variant.shape
    held_out = render_store(run / "held", world, HELD_OUT_CLIPS, shape, held_out=True, workers=workers)
    store = render_store(clips, world, range(count or 0), shape, held_out=False, workers=workers)
    if count not in (None, len(store)):
        raise InvalidInput(
            f"{run} has {len(store)} clips already, not {count}; leave --clips out or use another folder"
        )
    store = replace(store, short=variant.short)
    return RunData(store, store, held_out, 64)


def _own_data(run: Path, variant: Variant, source: Path | None) -> RunData:
    """A person's own clips and pictures; a tenth of the clips, but at least one, is held out."""
    clips = run / "clips"
    if source is not None and not clips.is_dir():
        run.mkdir(parents=True, exist_ok=True)
        data = cache_folder(source, clips, variant.shape, variant.model.sampling.fps)
    elif (clips / "texts.json").is_file():
        data = open_cache(clips)
    else:
        raise InvalidInput(f"{run} was started on rendered clips; use another --run for the clips in {source}")
    whole = of_length(data, data.shape.frames)
    if len(whole) < 2:
        raise InvalidInput("one clip cannot be both trained on and measured; add at least one more")
    held_out = min(max(len(whole) // 10, 1), 64)
    train_count = len(data) - held_out  # clips come last
    return RunData(data, Subset(data, range(train_count)), Subset(data, range(train_count, len(data))), held_out)


def toybox(run: Path) -> ClipStore:
    """The rendered clips of a run; raises InvalidInput if it was started on other data."""
    return open_store(run / "clips")


def vae_stage(run: Path, stage: Stage, *, clips: int | None = None, source: Path | None = None) -> dict[str, float]:
    """Train the VAE on the folder `source`, or on `clips` rendered clips (by default the variant's number, or as many
    as the run has). Returns the last metrics."""
    variant = variant_of(run, stage.variant)
    count = clips if clips or source or (run / "clips").is_dir() else variant.clips
    data = open_data(run, variant, count=count, source=source)
    plan = VAEPlan(
        budget=stage.budget, crop=variant.crop, frames=variant.vae_frames, batch=variant.vae_batch,
        optimizer=partial(muon_adamw, learning_rates=variant.vae_learning_rates), decay_from=0.55, device=stage.device,
        seed=stage.seed, start=export.load_exported(stage.start, "vae"),
    )  # fmt: skip
    log = Log(run / "vae", stage.log)
    train_vae(plan, variant.model.vae, data.training, data.measured, run / "vae", log=log)
    return log.last


def trained_vae(folder: Path, spec: VAESpec, device: str) -> VAE:
    """The averaged VAE of a stage's folder, with neutral statistics."""
    vae = blank_vae(spec)
    vae.load_state_dict(_averages(folder, "VAE", "lichtspiel train vae")["vae"])
    return placed(vae, device).eval().requires_grad_(False)


def latents(run: Path, variant: Variant, data: RunData, device: str) -> LatentStore:
    """Latents of all items from the frozen encoder, and the conditions of some of the clips that are not held out: a
    quarter and an eighth, or all if there are few."""
    vae = trained_vae(run / "vae", variant.model.vae, device)
    path = run / "latents.safetensors"
    clips = len(of_length(data.items, data.items.shape.frames))
    few = min(clips - data.held_out, 64)
    first, first_last = max(clips // 4, few), max(clips // 8, few)
    return encode_dataset(vae, data.items, path, first=first, first_last=first_last, device=device)


def captions_of(world: Vocabulary, *, short: bool) -> Iterable[str]:
    """Captions of many scenes of a world, in every language and wording, and with `short` as many short prompts."""
    for seed in CAPTION_SEEDS:
        scene, generator = sample(seed, world), random.Random(seed)
        for language in LANGUAGES:
            for wording in range(WORDINGS):
                yield caption(scene, language, wording)
                if short:
                    yield short_prompt(scene, language, generator)[0]


def training_set(run: Path, variant: Variant, data: RunData, device: str) -> TrainingSet:
    """What the DiT is trained on, with prompts tokenized by the run's own vocabulary."""
    rows, expected = run_vocabulary(run, variant, data), variant.model.umt5.vocabulary
    if len(rows) != expected:
        raise InvalidInput(
            f"the captions of the {variant.name} variant use {len(rows)} pieces, but its encoder has {expected} rows"
        )
    prompts = Prompts(Tokenizer.umt5(variant.model.dit.text_length, rows))
    return TrainingSet(latents(run, variant, data, device), data.items, prompts)


def run_vocabulary(run: Path, variant: Variant, data: RunData) -> list[int]:
    """The vocabulary of a run's captions, computed once and cached in its folder."""
    path = run / "vocabulary.json"
    if not path.is_file():
        if isinstance(data.items, ClipStore):
            pieces = vocabulary(captions_of(variant.world, short=variant.short > 0))
        else:
            texts = [data.items.text(index, None) for index in range(len(data.items))]
            pieces = vocabulary(texts, variant.model.umt5.vocabulary)
        with atomic_write(path) as draft:
            draft.write_text(json.dumps(pieces))
    rows: list[int] = json.loads(path.read_text())
    return rows


def dit_stage(run: Path, stage: Stage) -> dict[str, float]:
    """Train the text encoder and the DiT on the run's latents. Returns the last metrics."""
    variant, device = variant_of(run, stage.variant), stage.device
    data = open_data(run, variant)
    training = training_set(run, variant, data, device)
    store, vae = training.latents, trained_vae(run / "vae", variant.model.vae, device)
    auxiliary, prompts = None, _plain_captions(data)
    if isinstance(data.items, ClipStore):
        named = data.items.named if variant.short else None
        auxiliary = partial(SceneProbe, scenes=data.items.scenes, named=named)
        prompts = list(samples.PROMPTS)

    def write_samples(step: int, averages: dict[str, nn.Module]) -> None:
        sampler = samples.Sampler(averages, training.prompts, variant.teacher)
        sample_latents = sampler.generate(prompts, tuple(store.latents.shape[1:]), device)
        frames = samples.decoded(vae, sample_latents, store.mean, store.std)
        samples.sheet(frames, run / "dit" / "samples" / f"{step:06d}.png")

    plan = DiTPlan(
        budget=stage.budget, batch=variant.batch, optimizer=partial(muon_adamw, learning_rates=variant.learning_rates),
        shift=2.2, pictures=0.3, decay_from=0.5, device=device, seed=stage.seed, held_out=data.held_out,
        start=export.load_exported(stage.start, "umt5", "dit"), compiled=stage.compiled,
        text_steps=variant.text_steps if auxiliary else 0,
    )  # fmt: skip
    log = Log(run / "dit", stage.log)
    train_dit(
        plan, variant.model, training, run / "dit", auxiliary=auxiliary, log=log, on_validation=write_samples
    )  # fmt: skip
    return log.last


def _plain_captions(data: RunData) -> list[str]:
    """The plain captions of up to six held-out clips."""
    return [data.measured.text(index, None) for index in range(min(len(data.measured), 6))]


def trained(run: Path, variant: Variant, device: str, *, teacher: bool = False) -> dict[str, nn.Module]:
    """The averaged "umt5" and "dit" of a run: the student's if the variant has one, unless `teacher` is set.

    Raises InvalidInput if they have not been trained yet.
    """
    state = _averages(run / "dit", "text encoder and DiT", "lichtspiel train dit")
    if variant.distilled and not teacher:
        state |= _averages(run / "distil", "student", "recipes/nano.py")
    networks: dict[str, nn.Module] = {"umt5": UMT5(variant.model.umt5), "dit": DiT(variant.model.dit)}
    for name, network in networks.items():
        network.load_state_dict(state[name])
        network.to(device).eval().requires_grad_(False)
    return networks


def _averages(folder: Path, what: str, remedy: str) -> dict[str, dict[str, Tensor]]:
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise InvalidInput(f"{folder} holds no trained {what}; run `{remedy}` for this run first")
    state: dict[str, dict[str, Tensor]] = torch.load(path, map_location="cpu", weights_only=True)["averages"]
    return state


def distil_stage(run: Path, stage: Stage) -> dict[str, float]:
    """Distill a student with the variant's fewer steps; does nothing if the variant's model is not distilled."""
    variant, device = variant_of(run, stage.variant), stage.device
    if not variant.distilled:
        return {}
    data = open_data(run, variant)
    training = training_set(run, variant, data, device)
    networks = trained(run, variant, device, teacher=True)
    sampling, teacher = variant.model.sampling, variant.teacher
    plan = DistilPlan(
        budget=stage.budget, batch=max(variant.batch // 2, 1),
        optimizer=partial(muon_adamw, learning_rates=variant.student_learning_rates), steps=sampling.steps,
        parts=teacher.steps // sampling.steps, guidance=teacher.guidance, shift=sampling.shift, device=device,
        seed=stage.seed, held_out=data.held_out,
    )  # fmt: skip
    log = Log(run / "distil", stage.log)
    distil(plan, networks, training, run / "distil", log=log)
    return log.last


def score_stage(run: Path, stage: Stage, count: int, *, teacher: bool = False) -> str:
    """Measure a run, or its teacher, on `count` scenes of held-out combinations, and write the table to `quality.md`.

    The budget is for the judge, which is trained before the first measurement.
    """
    variant, device = variant_of(run, stage.variant), stage.device
    training = training_set(run, variant, open_data(run, variant), device)
    vae = trained_vae(run / "vae", variant.model.vae, device)
    judge = judge_of(variant, vae, stage.budget, run / "judge", device)
    trial = Trial.draw(variant.world, variant.shape, count)
    networks = trained(run, variant, device, teacher=teacher)
    sampling = variant.teacher if teacher else variant.model.sampling
    sampler = samples.Sampler(networks, training.prompts, sampling)
    columns = generated(sampler, vae, training.latents, trial, device)
    scores = table(["", "chance", *columns], rows_of(judge, trial, columns), markdown=True)
    text = f"{count} scenes of held-out combinations, one clip each. {judged_by(judge)}\n\n{scores}\n"
    (run / "quality.md").write_text(text, encoding="utf-8")
    samples.sheet(columns["text"][:24], run / "quality.png")
    return text


def export_stage(run: Path, folder: Path, *, teacher: bool = False) -> list[Path]:
    """Write the averaged weights of a run, or of its teacher, to files that the package loads; returns their paths."""
    variant = variant_of(run)
    data = open_data(run, variant)
    networks = {
        "vae": trained_vae(run / "vae", variant.model.vae, "cpu"), **trained(run, variant, "cpu", teacher=teacher)
    }  # fmt: skip
    store = latents(run, variant, data, "cpu")
    return export.export(networks, store, run_vocabulary(run, variant, data), folder)


def generate_command(run: Path, weights: Path, *, teacher: bool = False) -> str | None:
    """The command that generates a video with exported weights; None if the package has no model of their shape."""
    variant = variant_of(run)
    registered = MODELS["nano"]
    if (variant.model.dit, variant.model.vae, variant.model.umt5) != (registered.dit, registered.vae, registered.umt5):
        return None
    data = open_data(run, variant)
    prompt = samples.PROMPTS[0] if isinstance(data.items, ClipStore) else data.measured.text(0, None)
    command = ["lichtspiel", "generate", prompt, "--weights", str(weights), "-o", "nano.mp4"]
    if teacher and variant.distilled:
        command += ["--steps", str(variant.teacher.steps), "--guidance", f"{variant.teacher.guidance:g}"]
    return shlex.join(command)

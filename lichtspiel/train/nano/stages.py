"""nano's stages: clips, VAE, latents, text encoder and DiT, files to ship. Every stage resumes where it stopped.

A run is one folder; the command line and `recipes/nano.py` call these functions in this order.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import VAESpec
from lichtspiel.storage import atomic_write
from lichtspiel.tokenizer import END, UNKNOWN, Tokenizer, clean, umt5
from lichtspiel.toybox.captions import LANGUAGES, WORDINGS, caption
from lichtspiel.toybox.sample import Vocabulary, sample
from lichtspiel.train.distil import DistilPlan, distil
from lichtspiel.train.dit import DiTPlan, train_dit
from lichtspiel.train.latents import LatentStore, encode_store
from lichtspiel.train.nano import samples
from lichtspiel.train.nano.captions import Captions
from lichtspiel.train.nano.clips import ClipStore, render_store
from lichtspiel.train.nano.score import Trial, generated, judge_of, judged_by, rows_of, table
from lichtspiel.train.nano.variants import Edition, edition_of
from lichtspiel.train.state import Budget
from lichtspiel.train.vae import VAEPlan, blank_vae, layout, train_vae

HELD_OUT_CLIPS = range(10_000_000, 10_000_256)

FILE_BYTES = 15_000_000
"""A file of weights that would be larger is written as several, so that each can be carried anywhere."""

CAPTION_SEEDS = range(40_000_000, 40_003_000)
"""Scenes from whose captions the vocabulary is read."""

Report = Callable[[dict[str, float]], None]


def log(values: dict[str, float]) -> None:
    """Print one line of numbers."""
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    print(f"{time.strftime('%H:%M:%S')}  {numbers}", flush=True)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a stage is run: for how long, of which edition if the run has none yet, and from which shipped weights (a
    folder) instead of from nothing; `compiled` is for the DiT."""

    budget: Budget
    edition: str | None = None
    device: str = "cpu"
    seed: int = 1
    start: Path | None = None
    compiled: bool = False
    report: Report = log


class Log:
    """What a stage reports: printed with the time left, kept as JSON lines, and as TensorBoard scalars if installed."""

    def __init__(self, folder: Path, report: Report) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.report = folder / "log.jsonl", report
        self.last: dict[str, float] = {}
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # a bare machine trains without it
            self.scalars = None
        else:
            self.scalars = SummaryWriter(folder / "tensorboard")
        self.began: tuple[float, float] | None = None

    def __call__(self, values: dict[str, float]) -> None:
        """Take one set of numbers; `step` and `progress` are among them."""
        now, progress = time.monotonic(), values["progress"]
        self.began = self.began or (now, progress)
        done = progress - self.began[1]
        left = {"minutes left": (now - self.began[0]) / 60 * (1 - progress) / done} if done > 0 else {}
        self.last |= values
        self.report(values | left)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self.scalars is not None:
            for name, value in values.items():
                self.scalars.add_scalar(name, value, int(values["step"]))
            self.scalars.flush()


def stores(run: Path, edition: Edition, count: int | None = None) -> tuple[ClipStore, ClipStore]:
    """Training clips and clips of held-out combinations; rendered where `count` says how many and none are there.

    Raises InvalidInput when the run has another number of clips already, or none and no number is given.
    """
    if not (run / "clips").is_dir() and count is None:
        raise InvalidInput(f"{run} holds no run; start one with `lichtspiel train vae --run {run}`")
    workers = os.cpu_count() or 1
    run.mkdir(parents=True, exist_ok=True)
    world, shape = edition.world, edition.shape
    held = render_store(run / "held", world, HELD_OUT_CLIPS, shape, held_out=True, workers=workers)
    store = render_store(run / "clips", world, range(count or 0), shape, held_out=False, workers=workers)
    if count not in (None, len(store)):
        raise InvalidInput(
            f"{run} has {len(store)} clips already, not {count}; leave --clips out or use another folder"
        )
    return store, held


def vae_stage(run: Path, stage: Stage, *, clips: int | None = None) -> dict[str, float]:
    """Train the VAE on `clips` clips (by default the edition's, or as many as the run has). Returns the last
    measurements."""
    edition = edition_of(run, stage.edition)
    store, held = stores(run, edition, clips if clips or (run / "clips").is_dir() else edition.clips)
    plan = VAEPlan(
        budget=stage.budget, crop=edition.crop, frames=edition.vae_frames, batch=edition.vae_batch,
        rates=edition.vae_rates, decay_from=0.55, device=stage.device, seed=stage.seed,
        start=shipped(stage.start, "vae"),
    )  # fmt: skip
    stage_log = Log(run / "vae", stage.report)
    train_vae(plan, edition.model.vae, store, held, run / "vae", report=stage_log)
    return stage_log.last


def trained_vae(folder: Path, spec: VAESpec, device: str) -> VAE:
    """The averaged VAE of a stage's folder, with neutral statistics."""
    vae = blank_vae(spec)
    vae.load_state_dict(_averages(folder, "VAE", "lichtspiel train vae")["vae"])
    return layout(vae).to(device).eval().requires_grad_(False)


def latents(run: Path, edition: Edition, store: ClipStore, device: str) -> LatentStore:
    """Latents of all clips under the frozen encoder, and conditions for a quarter and an eighth of them."""
    vae = trained_vae(run / "vae", edition.model.vae, device)
    path = run / "latents.safetensors"
    return encode_store(vae, store, path, first=len(store) // 4, first_last=len(store) // 8, device=device)


def vocabulary(world: Vocabulary) -> list[int]:
    """Every UMT5 id that captions of a world use, in order, with the two that every encoder needs."""
    unigram = umt5()
    texts = {
        caption(sample(seed, world), language, wording)
        for seed in CAPTION_SEEDS
        for language in LANGUAGES
        for wording in range(WORDINGS)
    }
    pieces = {piece for text in texts for piece in unigram.segment(clean(text))}
    return sorted(pieces | {END, UNKNOWN})


def dit_stage(run: Path, stage: Stage) -> dict[str, float]:
    """Train text encoder and DiT on the run's latents. Returns the last measurements."""
    edition, device = edition_of(run, stage.edition), stage.device
    store, _ = stores(run, edition)
    cached = latents(run, edition, store, device)
    vae, known = trained_vae(run / "vae", edition.model.vae, device), captions(run, edition)
    stage_log = Log(run / "dit", stage.report)

    def look(step: int, averages: dict[str, nn.Module]) -> None:
        shape = tuple(cached.latents.shape[1:])
        drawn = samples.Sampler(averages, known, edition.teacher)
        made = drawn.generate(samples.PROMPTS, shape, device)
        frames = samples.decoded(vae, made, cached.mean, cached.std)
        samples.sheet(frames, run / "dit" / "samples" / f"{step:06d}.png")

    plan = DiTPlan(
        budget=stage.budget, batch=edition.batch, rates=edition.rates, shift=2.2, pictures=0.3, decay_from=0.5,
        device=device, seed=stage.seed, start=shipped(stage.start, "umt5", "dit"), compiled=stage.compiled,
    )  # fmt: skip
    train_dit(plan, edition.model, cached, store.scenes, known, run / "dit", report=stage_log, look=look)
    return stage_log.last


def known_pieces(run: Path, world: Vocabulary) -> list[int]:
    """The vocabulary of a run, found once and kept in its folder."""
    path = run / "vocabulary.json"
    if not path.is_file():
        with atomic_write(path) as draft:
            draft.write_text(json.dumps(vocabulary(world)))
    pieces: list[int] = json.loads(path.read_text())
    return pieces


def captions(run: Path, edition: Edition) -> Captions:
    """Captions tokenised with the run's own vocabulary."""
    rows, expected = known_pieces(run, edition.world), edition.model.umt5.vocabulary
    if len(rows) != expected:
        raise InvalidInput(f"the world's captions use {len(rows)} pieces, the {edition.name} edition says {expected}")
    return Captions(Tokenizer.umt5(edition.model.dit.text_length, rows))


def trained(run: Path, edition: Edition, device: str, *, teacher: bool = False) -> dict[str, nn.Module]:
    """The averaged "umt5" and "dit" of a run: the student's, if the edition has one and not the teacher is asked for.

    Raises InvalidInput when they have not been trained yet.
    """
    state = _averages(run / "dit", "text encoder and DiT", "lichtspiel train dit")
    if edition.distilled and not teacher:
        state |= _averages(run / "distil", "student", "recipes/nano.py")
    networks: dict[str, nn.Module] = {"umt5": UMT5(edition.model.umt5), "dit": DiT(edition.model.dit)}
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
    """Teach a student the edition's fewer steps; nothing happens where its model ships as it was trained."""
    edition, device = edition_of(run, stage.edition), stage.device
    if not edition.distilled:
        return {}
    store, _ = stores(run, edition)
    cached = latents(run, edition, store, device)
    networks = trained(run, edition, device, teacher=True)
    wanted, teacher = edition.model.sampling, edition.teacher
    plan = DistilPlan(
        budget=stage.budget, batch=max(edition.batch // 2, 1), rates=edition.student_rates,
        steps=wanted.steps, parts=teacher.steps // wanted.steps, guidance=teacher.guidance, shift=wanted.shift,
        device=device, seed=stage.seed,
    )  # fmt: skip
    stage_log = Log(run / "distil", stage.report)
    distil(plan, networks, cached, store.scenes, captions(run, edition), run / "distil", report=stage_log)
    return stage_log.last


def score_stage(run: Path, stage: Stage, count: int, *, teacher: bool = False) -> str:
    """Measure a run, or its teacher, on `count` scenes of held-out combinations; the table is kept in `quality.md`.

    The budget is for the judge, which the first measurement trains.
    """
    edition, device = edition_of(run, stage.edition), stage.device
    cached = latents(run, edition, stores(run, edition)[0], device)
    vae = trained_vae(run / "vae", edition.model.vae, device)
    judge = judge_of(edition, vae, stage.budget, run / "judge", device)
    trial = Trial.draw(edition.world, edition.shape, count)
    networks = trained(run, edition, device, teacher=teacher)
    drawn = samples.Sampler(networks, captions(run, edition), edition.teacher if teacher else edition.model.sampling)
    columns = generated(drawn, vae, cached, trial, device)
    found = table(["", "chance", *columns], rows_of(judge, trial, columns), markdown=True)
    text = f"{count} scenes of held-out combinations, one clip each. {judged_by(judge)}\n\n{found}\n"
    (run / "quality.md").write_text(text, encoding="utf-8")
    samples.sheet(columns["text"][:24], run / "quality.png")
    return text


def ship(run: Path, folder: Path, *, teacher: bool = False) -> list[Path]:
    """Write the averaged weights of a run, or of its teacher, as the files that the package loads, in 16 bit; returns
    their paths."""
    edition = edition_of(run)
    networks = trained(run, edition, "cpu", teacher=teacher)
    vae = trained_vae(run / "vae", edition.model.vae, "cpu")
    cached = latents(run, edition, stores(run, edition)[0], "cpu")
    half = {name: _half(network.state_dict()) for name, network in {"vae": vae, **networks}.items()}
    half["vae"] |= {"latent_mean": cached.mean.float(), "latent_std": cached.std.float()}
    half["umt5"]["vocabulary"] = torch.tensor(known_pieces(run, edition.world), dtype=torch.int32)
    folder.mkdir(parents=True, exist_ok=True)
    return [path for name, tensors in half.items() for path in _write(tensors, folder, name)]


def shipped(folder: Path | None, *parts: str) -> dict[str, dict[str, Tensor]]:
    """The weights of some parts that `ship` wrote, to start another run from; none without a folder.

    Raises InvalidInput if they are not there.
    """
    found: dict[str, dict[str, Tensor]] = {}
    if folder is None:
        return found
    for part in parts:
        files = sorted(folder.glob(f"{part}.safetensors")) + sorted(folder.glob(f"{part}-*.safetensors"))
        if not files:
            raise InvalidInput(f"{folder} holds no {part} to start from; name the folder a recipe wrote weights to")
        found[part] = {name: value.float() for file in files for name, value in load_file(file).items()}
        for extra in ("latent_mean", "latent_std", "vocabulary"):
            found[part].pop(extra, None)
    return found


def _write(tensors: dict[str, Tensor], folder: Path, name: str) -> list[Path]:
    """One file, or several of at most `FILE_BYTES` named as the published shards are."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        size += value.nbytes
        if size > FILE_BYTES and shards[-1]:
            shards.append({})
            size = value.nbytes
        shards[-1][key] = value
    count = len(shards)
    names = [name] if count == 1 else [f"{name}-{number:05d}-of-{count:05d}" for number in range(1, count + 1)]
    for old in folder.glob(f"{name}*.safetensors"):
        old.unlink()
    for shard, stem in zip(shards, names, strict=True):
        with atomic_write(folder / f"{stem}.safetensors") as draft:
            save_file(shard, draft)
    return [folder / f"{stem}.safetensors" for stem in names]


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half().contiguous() for name, value in tensors.items()}

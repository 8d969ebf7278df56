"""nano's stages: clips, VAE, latents, text encoder and DiT, files to ship. Every stage resumes where it stopped.

A run is one folder; the command line and `recipes/nano.py` call these functions in this order.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import model
from lichtspiel.text import END, UNKNOWN, Tokenizer, clean, umt5
from lichtspiel.train import samples
from lichtspiel.train.captions import Captions
from lichtspiel.train.data import ClipStore, Shape, render_store
from lichtspiel.train.dit import DiTPlan, train_dit
from lichtspiel.train.latents import LatentStore, encode_store
from lichtspiel.train.state import Budget
from lichtspiel.train.vae import VAEPlan, blank_vae, layout, train_vae
from lichtspiel.worlds.captions import LANGUAGES, WORDINGS, caption
from lichtspiel.worlds.sample import STARTER, Vocabulary, sample

NANO = model("nano")

WORLD: Vocabulary = replace(
    STARTER,
    subjects=(
        *("turtle", "elephant", "penguin", "flamingo", "pig", "taxi", "bus", "fire-engine"),
        *("helicopter", "bee", "rocket", "tropical-fish", "whale", "sailboat"),
    ),
    places=("meadow", "snowfield", "beach", "road", "sea", "underwater"),
    weathers=("clear", "rain"),
    actions=("walk", "drive", "fly", "swim", "sail"),
)
"""What this edition of nano learns: two hours of two processor cores do not reach further."""

SHAPE = Shape(width=64, height=64, frames=17)
CLIPS = 8000
HELD_OUT_CLIPS = range(10_000_000, 10_000_256)
VAE_FRAMES = (5, 9, 17)
"""Lengths of the clips that the VAE trains on; in the last part of its time only the longest."""

CAPTION_SEEDS = range(40_000_000, 40_003_000)
"""Scenes from whose captions the vocabulary is read."""

Report = Callable[[dict[str, float]], None]


def log(values: dict[str, float]) -> None:
    """Print one line of numbers."""
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    print(f"{time.strftime('%H:%M:%S')}  {numbers}", flush=True)


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


def stores(run: Path, count: int | None = None) -> tuple[ClipStore, ClipStore]:
    """Training clips and clips of held-out combinations; rendered where `count` says how many and none are there.

    Raises InvalidInput when the run has another number of clips already, or none and no number is given.
    """
    if not (run / "clips").is_dir() and count is None:
        raise InvalidInput(f"{run} holds no run; start one with `lichtspiel train vae --run {run}`")
    workers = os.cpu_count() or 1
    run.mkdir(parents=True, exist_ok=True)
    held = render_store(run / "held", WORLD, HELD_OUT_CLIPS, SHAPE, held_out=True, workers=workers)
    store = render_store(run / "clips", WORLD, range(count or 0), SHAPE, held_out=False, workers=workers)
    if count not in (None, len(store)):
        raise InvalidInput(
            f"{run} has {len(store)} clips already, not {count}; leave --clips out or use another folder"
        )
    return store, held


def vae_stage(
    run: Path,
    *,
    minutes: float | None,
    steps: int | None,
    clips: int | None,
    device: str,
    seed: int,
    report: Report = log,
) -> dict[str, float]:
    """Train the VAE on `clips` clips (by default 8000, or as many as the run has). Returns the last measurements."""
    budget = Budget(minutes=minutes, steps=steps)  # a wrong one is refused before anything is rendered
    store, held = stores(run, clips if clips or (run / "clips").is_dir() else CLIPS)
    plan = VAEPlan(
        budget=budget, crop=32, frames=VAE_FRAMES, batch=2, rates=(0.012, 0.0015), decay_from=0.55, device=device,
        seed=seed,
    )  # fmt: skip
    stage_log = Log(run / "vae", report)
    train_vae(plan, NANO.vae, store, held, run / "vae", report=stage_log)
    return stage_log.last


def trained_vae(folder: Path, device: str) -> VAE:
    """The averaged VAE of a stage's folder, with neutral statistics."""
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise InvalidInput(f"{folder} holds no trained VAE; run `lichtspiel train vae` for this run first")
    vae = blank_vae(NANO.vae)
    vae.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["averages"]["vae"])
    return layout(vae).to(device).eval().requires_grad_(False)


def latents(run: Path, store: ClipStore, device: str) -> LatentStore:
    """Latents of all clips under the frozen encoder, and conditions for a quarter and an eighth of them."""
    vae = trained_vae(run / "vae", device)
    path = run / "latents.safetensors"
    return encode_store(vae, store, path, first=len(store) // 4, first_last=len(store) // 8, device=device)


def vocabulary() -> list[int]:
    """Every UMT5 id that captions of this world use, in order, with the two that every encoder needs."""
    unigram = umt5()
    texts = {
        caption(sample(seed, WORLD), language, wording)
        for seed in CAPTION_SEEDS
        for language in LANGUAGES
        for wording in range(WORDINGS)
    }
    pieces = {piece for text in texts for piece in unigram.segment(clean(text))}
    return sorted(pieces | {END, UNKNOWN})


def dit_stage(
    run: Path, *, minutes: float | None, steps: int | None, device: str, seed: int, report: Report = log
) -> dict[str, float]:
    """Train text encoder and DiT on the run's latents. Returns the last measurements."""
    store, _ = stores(run)
    cached = latents(run, store, device)
    vae, known, stage_log = trained_vae(run / "vae", device), captions(run), Log(run / "dit", report)

    def look(step: int, averages: dict[str, nn.Module]) -> None:
        shape = tuple(cached.latents.shape[1:])
        made = samples.generate(averages, known, samples.PROMPTS, shape, device)
        samples.sheet(vae, made, cached.mean, cached.std, run / "dit" / "samples" / f"{step:06d}.png")

    plan = DiTPlan(
        budget=Budget(minutes=minutes, steps=steps), batch=32, rates=(0.02, 0.002), shift=2.2, pictures=0.3,
        decay_from=0.5, device=device, seed=seed,
    )  # fmt: skip
    train_dit(plan, NANO, cached, store.scenes, known, run / "dit", report=stage_log, look=look)
    return stage_log.last


def known_pieces(run: Path) -> list[int]:
    """The vocabulary of a run, found once and kept in its folder."""
    path = run / "vocabulary.json"
    if not path.is_file():
        draft = path.with_suffix(".partial")
        draft.write_text(json.dumps(vocabulary()))
        draft.replace(path)
    pieces: list[int] = json.loads(path.read_text())
    return pieces


def captions(run: Path) -> Captions:
    """Captions tokenised with nano's own vocabulary."""
    rows = known_pieces(run)
    if len(rows) != NANO.umt5.vocabulary:
        raise InvalidInput(f"the world's captions use {len(rows)} pieces, the registry says {NANO.umt5.vocabulary}")
    return Captions(Tokenizer.umt5(NANO.dit.text_length, rows))


def ship(run: Path, folder: Path) -> None:
    """Write the averaged weights of a run as the three files that the package loads, in 16 bit."""
    state = torch.load(run / "dit" / "checkpoint.pt", map_location="cpu", weights_only=True)["averages"]
    vae = trained_vae(run / "vae", "cpu").state_dict()
    encoder, dit = UMT5(NANO.umt5), DiT(NANO.dit)
    encoder.load_state_dict(state["umt5"])
    dit.load_state_dict(state["dit"])
    cached = latents(run, stores(run)[0], "cpu")
    statistics = {"latent_mean": cached.mean.float(), "latent_std": cached.std.float()}
    half = {"vae": _half(vae), "umt5": _half(encoder.state_dict()), "dit": _half(dit.state_dict())}
    half["vae"] |= statistics
    half["umt5"]["vocabulary"] = torch.tensor(known_pieces(run), dtype=torch.int32)
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in half.items():
        draft = folder / f"{name}.partial"
        save_file(tensors, draft)
        draft.replace(folder / f"{name}.safetensors")


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half().contiguous() for name, value in tensors.items()}

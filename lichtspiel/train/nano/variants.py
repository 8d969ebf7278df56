"""The variants of nano that the recipe can train: networks, world and batch sizes that suit a machine and a time.

`SMALL` is in the package and trains in hours on two processor cores. `MEDIUM` takes a night of them, `LARGE`
is for one GPU. The folder of a run says which variant it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.spec import Model, Sampling, model
from lichtspiel.toybox.knowledge import LEARNED
from lichtspiel.toybox.sample import FULL, Vocabulary
from lichtspiel.train.data import Shape

__all__ = ["LARGE", "MEDIUM", "SMALL", "VARIANTS", "Variant", "variant_of"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train nano.

    The VAE trains on batches of `vae_batch` crops of `crop` pixels and `vae_frames` frames, toward the end only the
    longest; `batch` is the number of whole clips for the DiT. Learning rates are Muon's and AdamW's. `teacher` is how
    the trained DiT is sampled; if its model is sampled differently, in fewer steps without guidance, a student is
    distilled. `short` is the share of texts that are short prompts, and `text_steps` are for the text encoder alone.
    """

    name: str
    model: Model
    world: Vocabulary
    shape: Shape
    clips: int
    crop: int
    vae_batch: int
    batch: int
    teacher: Sampling
    vae_frames: tuple[int, ...] = (5, 9, 17)
    vae_learning_rates: tuple[float, float] = (0.012, 0.0015)
    learning_rates: tuple[float, float] = (0.02, 0.002)
    student_learning_rates: tuple[float, float] = (0.005, 0.0005)
    short: float = 0.45
    text_steps: int = 600

    def __post_init__(self) -> None:
        assert self.teacher.steps % self.model.sampling.steps == 0, "a student's step is several of the teacher's"

    @property
    def distilled(self) -> bool:
        """Whether a student is exported."""
        return self.model.sampling.guidance != self.teacher.guidance


_NANO = model("nano")
_TEACHER = replace(_NANO.sampling, steps=16, guidance=5.0)

SMALL = Variant(
    name="small",
    model=_NANO,
    world=LEARNED["nano"],
    shape=Shape(width=64, height=64, frames=17),
    clips=8000,
    crop=32,
    vae_batch=2,
    batch=32,
    teacher=_TEACHER,
    short=0.0,
    text_steps=0,
)
"""The variant in the package. Its world is small, because two CPU cores cannot learn more in a few hours."""

_ENCODER = replace(_NANO.umt5, width=256, attention_width=256, ffn_width=512, heads=4, layers=4)
_LARGE_VAE = replace(_NANO.vae, width=32)

MEDIUM = Variant(
    name="medium",
    model=replace(
        _NANO,
        dit=replace(_NANO.dit, width=256, ffn_width=1024, heads=4, layers=8, text_width=256),
        vae=_LARGE_VAE,
        umt5=replace(_ENCODER, vocabulary=729),
        sampling=replace(_NANO.sampling, sizes=((128, 128),)),
        digests={},
    ),
    world=replace(
        FULL,
        subjects=(
            *("cat", "dog", "horse", "cow", "pig", "rabbit", "elephant", "giraffe", "tiger", "monkey", "penguin"),
            *("bird", "turtle", "t-rex", "car", "taxi", "bus", "fire-engine", "police-car"),
            *("airplane", "helicopter", "rocket", "butterfly", "dragon", "eagle", "ghost"),
            *("tropical-fish", "shark", "whale", "octopus", "dolphin", "sailboat", "ship", "duck"),
            *("heart", "star", "snowman", "teddy-bear", "christmas-tree", "pumpkin"),
        ),
        actions=("walk", "hop", "drive", "fly", "swim", "sail", "stand", "bounce"),
        sizes=("medium", "big"),
        cameras=("still",),
        pairs=False,
    ),
    shape=Shape(width=128, height=128, frames=17),
    clips=4000,
    crop=64,
    vae_batch=2,
    batch=20,
    teacher=replace(_TEACHER, sizes=((128, 128),)),
)
"""Forty subjects that people type first, in all places, times and weathers, at 128x128 under a still camera: many hours
of two processor cores, or minutes of a GPU. It has not been trained to the end yet."""

LARGE = Variant(
    name="large",
    model=replace(
        _NANO,
        dit=replace(_NANO.dit, width=320, ffn_width=1280, heads=5, layers=12, text_width=256),
        vae=_LARGE_VAE,
        umt5=replace(_ENCODER, vocabulary=1290),
        sampling=replace(_NANO.sampling, sizes=((128, 128),), steps=8, guidance=1.0),
        digests={},
    ),
    world=replace(FULL, pairs=False),
    shape=Shape(width=128, height=128, frames=17),
    clips=24_000,
    crop=64,
    vae_batch=16,
    batch=256,
    teacher=replace(_TEACHER, sizes=((128, 128),)),
)
"""All subjects, places, actions and cameras at 128x128, for one GPU. It has not been trained yet."""

VARIANTS = {variant.name: variant for variant in (SMALL, MEDIUM, LARGE)}


def variant_of(run: Path, name: str | None = None) -> Variant:
    """The variant of a run; a new run gets the variant `name`, or the small one without a name.

    Raises InvalidInput for a name that does not exist or that differs from the run's.
    """
    path = run / "variant"
    stored = path.read_text().strip() if path.is_file() else None
    chosen = stored or name or SMALL.name
    if chosen not in VARIANTS:
        raise InvalidInput(f"there is no variant {chosen} of nano; choose {' or '.join(VARIANTS)}")
    if name not in {None, chosen}:
        raise InvalidInput(f"{run} is a run of the {chosen} variant, not the {name} one; use another folder")
    if stored is None and name is not None:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(name + "\n")
    return VARIANTS[chosen]

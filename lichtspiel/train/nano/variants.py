"""The editions of nano that there is a recipe for: networks, world and sizes of batches, for a machine and its time.

`SMALL` is what ships: hours on two processor cores. `LARGE` is for one GPU. What a run is of stands in its folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.spec import Model, Sampling, model
from lichtspiel.toybox.sample import FULL, STARTER, Vocabulary
from lichtspiel.train.nano.clips import Shape

__all__ = ["EDITIONS", "LARGE", "SMALL", "Edition", "edition_of"]


@dataclass(frozen=True, kw_only=True)
class Edition:
    """`crop` and `vae_frames` are of the clips that the VAE trains on (in the last part of its time only the longest),
    `vae_batch` how many at once; `batch` counts whole clips for the DiT, and `rates` are Muon's and Adam's.
    `teacher` is how the trained DiT is sampled; where its model is sampled otherwise, in fewer steps without guidance,
    a student is distilled from it."""

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
    vae_rates: tuple[float, float] = (0.012, 0.0015)
    rates: tuple[float, float] = (0.02, 0.002)
    student_rates: tuple[float, float] = (0.005, 0.0005)

    def __post_init__(self) -> None:
        assert self.teacher.steps % self.model.sampling.steps == 0, "a student's step is several of the teacher's"

    @property
    def distilled(self) -> bool:
        """Whether a student is what ships."""
        return self.model.sampling.guidance != self.teacher.guidance


_NANO = model("nano")
_TEACHER = replace(_NANO.sampling, steps=16, guidance=5.0)

SMALL = Edition(
    name="small",
    model=_NANO,
    world=replace(
        STARTER,
        subjects=(
            *("turtle", "elephant", "penguin", "flamingo", "pig", "taxi", "bus", "fire-engine"),
            *("helicopter", "bee", "rocket", "tropical-fish", "whale", "sailboat"),
        ),
        places=("meadow", "snowfield", "beach", "road", "sea", "underwater"),
        weathers=("clear", "rain"),
        actions=("walk", "drive", "fly", "swim", "sail"),
    ),
    shape=Shape(width=64, height=64, frames=17),
    clips=8000,
    crop=32,
    vae_batch=2,
    batch=32,
    teacher=_TEACHER,
)
"""What ships. Its world is small because two processor cores do not reach further in some hours."""

LARGE = Edition(
    name="large",
    model=replace(
        _NANO,
        dit=replace(_NANO.dit, width=320, ffn_width=1280, heads=5, layers=12, text_width=256),
        vae=replace(_NANO.vae, width=24),
        umt5=replace(_NANO.umt5, vocabulary=989, width=256, attention_width=256, ffn_width=512, heads=4, layers=4),
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

EDITIONS = {edition.name: edition for edition in (SMALL, LARGE)}


def edition_of(run: Path, name: str | None = None) -> Edition:
    """The edition that a run is of; a run that has none yet becomes one of `name`, or of the small one.

    Raises InvalidInput for a name that does not exist, or that the run is not of.
    """
    path = run / "edition"
    found = path.read_text().strip() if path.is_file() else None
    chosen = found or name or SMALL.name
    if chosen not in EDITIONS:
        raise InvalidInput(f"there is no edition {chosen} of nano; choose {' or '.join(EDITIONS)}")
    if name not in {None, chosen}:
        raise InvalidInput(f"{run} is a run of the {chosen} edition, not the {name} one; use another folder")
    if found is None and name is not None:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(name + "\n")
    return EDITIONS[chosen]

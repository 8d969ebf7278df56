"""The variants of nano that the recipe can train: networks, world and batch sizes that suit a machine and a time.

`STANDARD` is in the package and trains in a night on two processor cores; `LARGE` is for one GPU. The folder of a run
says which variant it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.spec import Model, Sampling, model
from lichtspiel.toybox.knowledge import LEARNED
from lichtspiel.toybox.sample import FULL, Vocabulary
from lichtspiel.train.data import Shape

__all__ = ["LARGE", "STANDARD", "VARIANTS", "Variant", "variant_of"]


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

STANDARD = Variant(
    name="standard",
    model=_NANO,
    world=LEARNED["nano"],
    shape=Shape(width=128, height=128, frames=17),
    clips=4000,
    crop=64,
    vae_batch=2,
    batch=20,
    teacher=_TEACHER,
)
"""The variant in the package: forty subjects that people type first, in all places, times and weathers, at 128x128
under a still camera. It takes a night of two processor cores, or minutes of a GPU."""

LARGE = Variant(
    name="large",
    model=replace(
        _NANO,
        dit=replace(_NANO.dit, width=320, ffn_width=1280, heads=5, layers=12, text_width=256),
        umt5=replace(_NANO.umt5, vocabulary=1290),
        sampling=replace(_NANO.sampling, steps=8, guidance=1.0),
        digests={},
    ),
    world=replace(FULL, pairs=False),
    shape=Shape(width=128, height=128, frames=17),
    clips=24_000,
    crop=64,
    vae_batch=16,
    batch=256,
    teacher=_TEACHER,
)
"""All subjects, places, actions and cameras at 128x128, for one GPU. It has not been trained yet."""

VARIANTS = {variant.name: variant for variant in (STANDARD, LARGE)}


def variant_of(run: Path, name: str | None = None) -> Variant:
    """The variant of a run; a new run gets the variant `name`, or the standard one without a name.

    Raises InvalidInput for a name that does not exist or that differs from the run's.
    """
    path = run / "variant"
    stored = path.read_text().strip() if path.is_file() else None
    chosen = stored or name or STANDARD.name
    if chosen not in VARIANTS:
        raise InvalidInput(f"there is no variant {chosen} of nano; choose {' or '.join(VARIANTS)}")
    if name not in {None, chosen}:
        raise InvalidInput(f"{run} is a run of the {chosen} variant, not the {name} one; use another folder")
    if stored is None and name is not None:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(name + "\n")
    return VARIANTS[chosen]

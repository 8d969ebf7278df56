"""MagCache: steps in which the blocks of a DiT are not computed, because they would add what they added before.

From one step to the next, what the blocks add to the residual stream keeps its direction and changes its length by a
ratio that hardly depends on the prompt. The products of these ratios say how far an old addition is off; as long as
their summed error stays below a threshold, it is used again (Z. Ma et al., "MagCache", arXiv:2506.09045, and
`MagCache4Wan2.1/magcache_generate.py` of Zehong-Ma/MagCache at df81cb1, from which the published curves and their
settings in `data/magcache.json` come). `Recorder` measures the curve of any other checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from lichtspiel.errors import RequestError
from lichtspiel.models.dit import Context, DiT, Stream, run_blocks
from lichtspiel.spec import MODELS
from lichtspiel.storage import home

__all__ = ["Curve", "MagCache", "Recorder", "curve_for", "curve_path", "parse", "reusing", "to_json"]

PUBLISHED = Path(__file__).parent.parent / "data" / "magcache.json"


@dataclass(frozen=True)
class Curve:
    """How what the blocks add changes in length from step to step, and how far reusing it may go.

    `conditional` and `unconditional` hold one ratio for each step of the run that was measured, the first of them 1.
    A run reuses an addition while the summed error is below `threshold`, at most `longest` steps in a row, and not in
    the first part `keep` of its steps. `weights` is the digest of the DiT that was measured, empty for published ones.
    """

    threshold: float
    longest: int
    keep: float
    conditional: tuple[float, ...]
    unconditional: tuple[float, ...]
    weights: str = ""

    def ratios(self, steps: int) -> tuple[list[float], list[float]]:
        """The ratios of both branches for a run of `steps` steps: the nearest ones that were measured."""
        return _nearest(self.conditional, steps), _nearest(self.unconditional, steps)

    def __str__(self) -> str:
        return f"{self.threshold:g}:{self.longest}:{self.keep:g}"


def _nearest(values: Sequence[float], count: int) -> list[float]:
    if count == 1:
        return [values[-1]]
    return [values[round(index * (len(values) - 1) / (count - 1))] for index in range(count)]


@cache
def _published() -> dict[str, Curve]:
    return {name: _curve(values) for name, values in json.loads(PUBLISHED.read_text(encoding="utf-8")).items()}


def _curve(values: dict[str, Any]) -> Curve:
    return Curve(**values | {name: tuple(values[name]) for name in ("conditional", "unconditional")})


def curve_path(model: str) -> Path:
    """Where `lichtspiel calibrate` keeps the curve of a checkpoint on this computer."""
    return home() / "magcache" / f"{model}.json"


def curve_for(model: str, weights: str) -> Curve | None:
    """The curve of a checkpoint: measured on this computer with the DiT of the digest `weights`, else the published one
    of its name or of another model with the same weights, or None."""
    path = curve_path(model)
    if path.exists():
        measured = _curve(json.loads(path.read_text(encoding="utf-8")))
        if measured.weights == weights:
            return measured
    published, repository = _published(), MODELS[model].repository
    same = (name for name in published if repository and MODELS[name].repository == repository)
    return published.get(model) or published.get(next(same, ""))


def parse(option: str, model: str, weights: str) -> Curve | None:
    """The curve and settings that the option `magcache` asks for; None for "off" and for a threshold of 0.

    "auto" takes the settings that belong to the curve, THRESHOLD[:LONGEST[:KEEP]] others. Raises RequestError for a
    checkpoint whose curve is not known.
    """
    if option == "off":
        return None
    curve = curve_for(model, weights)
    if curve is None:
        reason = f"nobody has measured {model} with these weights; run `lichtspiel calibrate` with them first"
        raise RequestError("magcache", option, reason, "off")
    if option == "auto":
        return curve
    threshold, *more = option.split(":")
    if float(threshold) == 0:
        return None
    longest = int(more[0]) if more else curve.longest
    keep = float(more[1]) if len(more) > 1 else curve.keep
    return replace(curve, threshold=float(threshold), longest=longest, keep=keep)


@dataclass(eq=False)
class _Branch:
    """One branch of guidance: the text that it belongs to, what its blocks added last, and how far that may be off."""

    number: int
    context: Context
    ratios: list[float]
    added: Tensor | None = None
    ratio: float = 1.0
    reused: int = 0
    error: float = 0.0


@dataclass
class MagCache:
    """Replaces the blocks of a DiT for one run of `steps` steps. The caller counts `step` on.

    Branches are told apart by their contexts, which `kv_cache` keeps the same in all steps; the first one is the
    conditional one. `spared` counts evaluations that were not computed.
    """

    curve: Curve
    steps: int
    step: int = 0
    spared: int = 0
    branches: list[_Branch] = field(default_factory=list)

    def __call__(self, dit: DiT, stream: Stream) -> None:
        """Add to the residual stream what the blocks added in an earlier step, or compute them."""
        branch = self._branch(stream.context)
        if self._reuses(branch):
            assert branch.added is not None
            stream.x = stream.x + branch.added
            self.spared += 1
            return
        branch.added = None
        before = stream.x
        run_blocks(dit, stream)
        branch.added = stream.x - before

    def _branch(self, context: Context) -> _Branch:
        for branch in self.branches:
            if branch.context is context:
                return branch
        number = len(self.branches)
        self.branches.append(_Branch(number, context, self.curve.ratios(self.steps)[min(number, 1)]))
        return self.branches[-1]

    def _reuses(self, branch: _Branch) -> bool:
        # The official code counts evaluations, two for each step.
        count = 2 * self.step + min(branch.number, 1)
        if branch.added is None or count < int(2 * self.steps * self.curve.keep):
            return False
        branch.ratio *= branch.ratios[self.step]
        branch.reused += 1
        branch.error += abs(1 - branch.ratio)
        if branch.error < self.curve.threshold and branch.reused <= self.curve.longest:
            return True
        branch.ratio, branch.reused, branch.error = 1.0, 0, 0.0
        return False


@dataclass
class Recorder:
    """Computes all blocks and measures what `Curve` holds.

    That is, for each branch of guidance, the length of what the blocks add over its length one step before, as a mean
    over tokens.
    """

    lengths: list[tuple[Context, Tensor]] = field(default_factory=list)
    measured: list[list[float]] = field(default_factory=list)

    def __call__(self, dit: DiT, stream: Stream) -> None:
        """Compute the blocks of a DiT."""
        before = stream.x
        run_blocks(dit, stream)
        length = (stream.x - before).norm(dim=-1)
        known = [context for context, _ in self.lengths]
        branch = next((number for number, context in enumerate(known) if context is stream.context), len(known))
        if branch == len(known):
            self.lengths.append((stream.context, length))
            self.measured.append([1.0])
            return
        self.measured[branch].append(float((length / self.lengths[branch][1]).mean()))
        self.lengths[branch] = (stream.context, length)

    def curve(self, weights: str, threshold: float, longest: int, keep: float) -> Curve:
        """The curve; a run without guidance has one branch, which then stands for both."""
        conditional, unconditional = tuple(self.measured[0]), tuple(self.measured[-1])
        return Curve(threshold, longest, keep, conditional, unconditional, weights)


def to_json(curve: Curve) -> str:
    """A curve as `curve_for` reads it, with five digits as published."""
    rounded = {name: [round(ratio, 5) for ratio in getattr(curve, name)] for name in ("conditional", "unconditional")}
    return json.dumps(asdict(curve) | rounded, indent=1) + "\n"


@contextmanager
def reusing(dit: DiT, blocks: MagCache | Recorder | None) -> Iterator[None]:
    """Inside the block, the DiT's blocks run through `blocks`, for inference only."""
    if blocks is not None:
        dit.blocks_fn = blocks
    try:
        yield
    finally:
        dit.blocks_fn = run_blocks
        if isinstance(blocks, MagCache):
            blocks.branches.clear()

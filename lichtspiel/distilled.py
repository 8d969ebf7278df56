"""Distillations to few steps that people have as files: how each is sampled, and how it is recognized by its name.

Pure data. A distilled model sampled like the original one is blurred or burnt, so its sampler, times and guidance 1
become the defaults of a run, and what contradicts them is told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

__all__ = ["DISTILLATIONS", "Distillation", "defaults", "notes", "recognized"]


@dataclass(frozen=True)
class Distillation:
    """A family of distilled weights: its name, a pattern of its files' names, and the options of a run."""

    name: str
    pattern: str
    options: dict[str, Any] = field(default_factory=dict)
    remark: str = ""


DISTILLATIONS = (
    # The README of lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill: four Euler steps on the grid shifted by 5.
    Distillation(
        "LightX2V's step and guidance distillation",
        r"lightx2v|step[-_]?distill|cfg[-_]?(step[-_]?)?distill",
        {"solver": "euler", "steps": 4, "shift": 5.0, "guidance": 1.0},
    ),
    # CausVid as a LoRA of rank 32 (Kijai/WanVideo_comfy); the list of times is that of its sampler in Wan2GP.
    Distillation(
        "CausVid",
        r"causvid",
        {"solver": "euler", "times": (1000, 934, 862, 756, 603, 410, 250, 140, 74), "guidance": 1.0},
    ),
    # FastVideo's FastWan2.1: DMD at three times.
    Distillation(
        "FastWan",
        r"fastwan",
        {"solver": "lcm", "times": (1000, 757, 522), "guidance": 1.0},
        "it was trained with sparse attention (VSA), which is not supported yet, so results are worse than its own",
    ),
    # guandeh17/Self-Forcing: [1000, 750, 500, 250] warped by a shift of 5, which is the shifted grid of four steps.
    Distillation(
        "Self-Forcing", r"self[-_]?forcing", {"solver": "lcm", "steps": 4, "shift": 5.0, "guidance": 1.0},
        "it is used with all frames at once, not block by block",
    ),
    # rCM (arXiv:2510.08431), also TurboDiffusion's: sin t / (sin t + cos t) at atan(80), 1.5, 1.4 and 1.0.
    Distillation(
        "rCM", r"(^|[-_/])rcm([-_.]|$)|turbo[-_]?(wan|diffusion)",
        {"solver": "lcm", "times": (987.654, 933.781, 852.895, 608.979), "guidance": 1.0},
    ),
)  # fmt: skip


def recognized(names: Iterable[str]) -> Distillation | None:
    """The first distillation that the name of a file, or of the two folders around it, belongs to."""
    for name in names:
        last = "/".join(PurePath(name).parts[-3:])
        for known in DISTILLATIONS:
            if re.search(known.pattern, last, re.IGNORECASE):
                return known
    return None


def defaults(names: Iterable[str], chosen: Collection[str] = ()) -> dict[str, Any]:
    """The options of a run with these files; without times if the caller has `chosen` steps or a shift."""
    known = recognized(names)
    return {} if known is None else _options(known, chosen)


def notes(chosen: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """What to tell about a run with these files: which distillation they are, and what was `chosen` against it."""
    known = recognized(names)
    if known is None:
        return []
    wanted = _options(known)
    listed = ", ".join(f"{name} {shown(value)}" for name, value in wanted.items())
    told = [f"this is {known.name}, sampled with {listed}"]
    told += [known.remark] if known.remark else []
    for name, value in wanted.items():
        if chosen[name] != value:
            told.append(f"{name} is {shown(chosen[name])}; {known.name} was made for {shown(value)}")
    return told


def _options(known: Distillation, chosen: Collection[str] = ()) -> dict[str, Any]:
    options = dict(known.options)
    if "times" in options and {"steps", "shift"} & {*chosen}:
        del options["times"]
    elif "times" in options:
        options["steps"] = len(options["times"])
    return options


def shown(value: Any) -> str:
    """A value of an option as it is typed."""
    if isinstance(value, tuple):
        return " ".join(f"{one:g}" for one in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

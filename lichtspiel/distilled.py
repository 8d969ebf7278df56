"""Distillations to few steps that people have as files: how each is sampled, and how it is recognized: by the names of
its files, by the titles in their metadata, and by tensors that only it has.

A distilled model sampled like the original one is blurred or burnt, so its sampler, times and guidance 1 become the
defaults of a run, and what contradicts them is told. Knows no networks; of files it reads the list of tensors.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

__all__ = ["DISTILLATIONS", "Distillation", "defaults", "notes", "recognized"]


@dataclass(frozen=True)
class Distillation:
    """A family of distilled weights: its name, a pattern of its files' names and titles, and the options of a run.
    `tensors` is a pattern of tensors that no other Wan2.1 model has, each with its shape, such as "a.weight 8x4"."""

    name: str
    pattern: str
    options: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    tensors: str = ""


# rCM (arXiv:2510.08431): sin t / (sin t + cos t) at atan(80), 1.5, 1.4 and 1.0.
_RCM = {"solver": "lcm", "times": (987.654, 933.781, 852.895, 608.979), "guidance": 1.0}

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
        r"\.to_gate_compress\.weight ",
    ),
    # guandeh17/Self-Forcing: [1000, 750, 500, 250] warped by a shift of 5, which is the shifted grid of four steps.
    Distillation(
        "Self-Forcing", r"self[-_]?forcing", {"solver": "lcm", "steps": 4, "shift": 5.0, "guidance": 1.0},
        "it is used with all frames at once, not block by block",
    ),
    # TurboDiffusion is rCM with sparse-linear attention (SLA): here its softmax is dense, and its linear part left out.
    Distillation(
        "TurboDiffusion", r"turbo[-_]?(wan|diffusion)", dict(_RCM),
        "it was trained with sparse-linear attention (SLA), which is not supported yet; dense attention replaces it",
        r"\.proj_l\.weight ",
    ),
    # NVIDIA's trainer keeps the patch embedding as a linear layer, behind the prefix of its wrapper.
    Distillation("rCM", r"(^|[-_/])rcm([-_.]|$)", dict(_RCM), tensors=r"^net\.patch_embedding\.weight (\d+x\d+)?$"),
)  # fmt: skip


TITLES = ("modelspec.title", "ss_output_name", "title", "name", "model_name")
"""Entries of a file's metadata that name what is in it."""

LONGEST = 100_000_000
"""The most bytes of a list of tensors that are read; the format of safetensors allows no more."""


def recognized(names: Iterable[str]) -> Distillation | None:
    """The first distillation that a file belongs to: by its name and those of the two folders around it, else by the
    titles and tensors in it. What cannot be read is left to whoever loads it."""
    paths = [*names]
    for name in paths:
        last = "/".join(PurePath(name).parts[-3:])
        for known in DISTILLATIONS:
            if re.search(known.pattern, last, re.IGNORECASE):
                return known
    for file in (file for name in paths for file in _files(Path(name))):
        titles, tensors = _listed(file)
        for known in DISTILLATIONS:
            if any(re.search(known.pattern, title, re.IGNORECASE) for title in titles):
                return known
            if known.tensors and any(re.search(known.tensors, tensor) for tensor in tensors):
                return known
    return None


def _files(path: Path) -> Iterator[Path]:
    """A file; of a folder, the first file of tensors in it, and in the folder in which Diffusers keeps the network."""
    if not os.path.isdir(path):  # unlike the methods of Path this does not raise for a name that is too long
        yield path
        return
    for folder in (path, path / "transformer"):
        yield from sorted(folder.glob("*.safetensors"))[:1]


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """The titles of a file, and its tensors with their shapes, which a .pth file does not tell without being run."""
    try:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LONGEST)))
            about = header.pop("__metadata__", None) or {}
            titles = [str(about[name]) for name in TITLES if name in about]
            return titles, [f"{name} {'x'.join(map(str, entry['shape']))}" for name, entry in header.items()]
        if path.suffix in {".pth", ".pt"} and zipfile.is_zipfile(path):
            return [], [f"{name} " for name in _pickled(path)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        pass
    return [], []


def _pickled(path: Path) -> Iterator[str]:
    """The texts in a pickle of PyTorch; the names of its tensors are among them. Nothing in it is run."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl") and archive.getinfo(name).file_size <= LONGEST:
                for code, value, _ in pickletools.genops(archive.read(name)):
                    if "UNICODE" in code.name and isinstance(value, str):
                        yield value


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

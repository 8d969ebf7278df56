"""Check before the work begins that results can be written to their paths.

A result never replaces an input, another result, or a file that the user did not ask to replace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lichtspiel.errors import OutputError, RequestError
from lichtspiel.request import Request
from lichtspiel.seal import ANIMATIONS, Sound, check_output
from lichtspiel.spec import model

__all__ = [
    "check_distinct",
    "check_folder",
    "check_free",
    "check_outputs",
    "check_picture_name",
    "free_name",
    "input_files",
]


def check_outputs(request: Request, out: Path, sheet: Path | None) -> None:
    """Check names, folders, disk space and the signing identity. A name that ends in .png requests a picture, which has
    one frame. Raises OutputError or RequestError."""
    check_distinct({"--out": out, "--sheet": sheet}, input_files(request))
    if sheet is not None:
        check_picture_name(sheet)
        check_output(sheet, suffix=".png")
    if request.sound and request.video is not None:
        if out.suffix.lower() in {".png", *ANIMATIONS}:
            raise RequestError("sound", True, f"{out} is a picture, which has no sound", False)
        Sound(request.video).check()
    pixels = request.pixels * request.upscale**2
    if out.suffix.lower() == ".png":
        if request.frames != 1:
            raise RequestError("frames", request.frames, f"{out} is a picture, which is one frame", 1)
        check_output(out, pixels=pixels, suffix=".png")
        return
    if model(request.model).sampling.max_frames == 1:
        raise OutputError(f"{out}: {request.model} makes pictures; nearest valid name: {out.with_suffix('.png')}")
    check_output(out, pixels=pixels, suffix=out.suffix.lower() if out.suffix.lower() in ANIMATIONS else ".mp4")


def check_picture_name(path: Path) -> None:
    """Check the path of a sheet or preview, which must be PNG. Raises OutputError for another extension or a folder
    that cannot be written."""
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: contact sheets are written as PNG; nearest valid name: {path.with_suffix('.png')}")
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raise OutputError when the folder of a file that will be written is not there, or cannot be written."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} does not exist or cannot be written; choose another")


def input_files(request: Request) -> list[tuple[str, Path]]:
    """The files and folders that a request reads, with their flags."""
    single = {
        "--image": request.image, "--last-image": request.last_image, "--video": request.video, "--mask": request.mask,
    }  # fmt: skip
    files = [(flag, path) for flag, path in single.items() if path is not None]
    files += [("--reference", path) for path in request.references]
    return files + [("--lora", adapter.path) for adapter in request.lora]


def check_distinct(outputs: Mapping[str, Path | None], inputs: Iterable[tuple[str, Path]]) -> None:
    """Raise OutputError when an output is also an input, would replace a file in an input folder, or is the same file
    as another output. Inputs and outputs are given with their flags; outputs that are None are ignored."""
    taken = [*inputs]
    for flag, path in outputs.items():
        if path is None:
            continue
        for other, before in taken:
            if _same(path, before):
                raise OutputError(f"{path}: {flag} and {other} name the same file; give {flag} another name")
            if os.path.lexists(path) and before.is_dir() and _same(path.parent, before):
                raise OutputError(f"{path}: {flag} would replace a file of {other}; give {flag} another name")
        taken.append((flag, path))


def check_free(paths: Iterable[Path | None], *, force: bool) -> None:
    """Raise OutputError for a file that exists already, unless it may be replaced."""
    for path in paths:
        if path is not None and not force and os.path.lexists(path):  # Path.exists raises for a name that is too long
            raise OutputError(f"{path} exists; choose another name, or add --force to replace it")


def free_name(path: Path) -> Path:
    """Return the path itself if it is free, otherwise the first free one of video-2.mp4, video-3.mp4 and so on."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are the same file, following links, even if it does not exist yet."""
    try:
        return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
    except (OSError, RuntimeError):  # a loop of links, or a name that no file can have
        return False

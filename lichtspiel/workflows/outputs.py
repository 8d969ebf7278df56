"""Whether results can be written where they are wanted, before the work begins.

Nothing that is given may be overwritten, and no result by another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lichtspiel.errors import OutputError, RequestError
from lichtspiel.request import Request
from lichtspiel.seal import check_output
from lichtspiel.spec import model

__all__ = ["check_distinct", "check_outputs", "check_picture_name"]


def check_outputs(request: Request, out: Path, sheet: Path | None) -> None:
    """Check names, folders, disk space and the signing identity. A name that ends in .png is a picture's, which is one
    frame. Raises OutputError or RequestError."""
    check_distinct({"--out": out, "--sheet": sheet}, request)
    if sheet is not None:
        check_picture_name(sheet)
        check_output(sheet, suffix=".png")
    pixels = request.pixels * request.upscale**2
    if out.suffix.lower() == ".png":
        if request.frames != 1:
            raise RequestError("frames", request.frames, f"{out} is a picture, which is one frame", 1)
        check_output(out, pixels=pixels, suffix=".png")
        return
    if model(request.model).sampling.max_frames == 1:
        raise OutputError(f"{out}: {request.model} makes pictures; nearest valid name: {out.with_suffix('.png')}")
    check_output(out, pixels=pixels)


def check_picture_name(path: Path) -> None:
    """Sheets and previews are PNG. Raises OutputError for another name or a folder that cannot be written."""
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: contact sheets are written as PNG; nearest valid name: {path.with_suffix('.png')}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} does not exist or cannot be written; choose another")


def check_distinct(outputs: Mapping[str, Path | None], request: Request) -> None:
    """Raise OutputError when an output is a given file, or two outputs are one file. `outputs` are named by flags."""
    files: dict[Path, str] = {}
    given = {
        "--image": [request.image], "--last-image": [request.last_image], "--video": [request.video],
        "--mask": [request.mask], "--reference": request.references,
        "--lora": [adapter.path for adapter in request.lora],
    }  # fmt: skip
    for flag, paths in given.items():
        files |= {path.resolve(): flag for path in paths if path is not None}
    for flag, path in outputs.items():
        if path is None:
            continue
        other = files.setdefault(path.resolve(), flag)
        if other != flag:
            raise OutputError(f"{path}: {flag} and {other} name the same file; give {flag} another name")

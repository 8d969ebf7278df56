"""Latents on disk, between denoising and decoding, with the request that they come from: finished work that is kept."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lichtspiel import __version__
from lichtspiel.errors import MediaError
from lichtspiel.request import Request
from lichtspiel.storage import atomic_write, by_age, home

__all__ = ["keep", "read_latents"]

KEPT = 50
"""Latents files that stay in the data folder; older ones are removed when a new one is written."""


def keep(latents: Tensor, request: Request, identity: str, folder: Path | None = None) -> Path:
    """Write latents with their request to a folder, by atomic rename: to the data folder if none is given, from which
    the oldest beyond `KEPT` are then removed.

    The file holds the prompt, so only its owner may read it.
    """
    ours = home() / "latents"
    place = folder or ours
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = place / f"{identity}.safetensors"
    metadata = {"lichtspiel": __version__, "request": request.model_dump_json()}
    with atomic_write(path, mode=0o600) as draft:
        save_file({"latents": latents.float().cpu().contiguous()}, draft, metadata)
    if folder is None:
        for _, _, old in by_age(ours)[:-KEPT]:
            old.unlink(missing_ok=True)
    return path


def read_latents(path: Path) -> tuple[Tensor, Request]:
    """Latents [1, c, t, h, w] and the request they came from; raises MediaError when `path` holds no such thing."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "request" not in metadata or "latents" not in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                raise MediaError(f"{path}: holds no latents of this package; name the file that generate kept")
            return file.get_tensor("latents"), Request.of(**json.loads(metadata["request"]))
    except (OSError, SafetensorError) as error:
        raise MediaError(f"{path}: cannot be read as latents: {error}") from None

"""Save latents to disk between denoising and decoding, with the request they come from, so that no work is lost.

A marker file next to the latents says that they have been decoded; only decoded latents are ever removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lichtspiel import __version__
from lichtspiel.errors import InvalidInput, MediaError, OutputError
from lichtspiel.request import Request
from lichtspiel.seal import digest
from lichtspiel.spec import model
from lichtspiel.storage import atomic_write, by_age, draft_path, home

__all__ = [
    "check_folder",
    "latents_of",
    "latents_path",
    "latents_sha256",
    "mark_decoded",
    "read_latents",
    "save_latents",
]

KEPT = 50
"""How many decoded latents stay in the data folder; older ones are removed. Others stay until they are decoded."""

SPARE_BYTES = 16 << 20
"""Bytes of disk space for the signing identity, the record and the rest of the data folder."""

TEXTS = ("prompt", "negative")


def check_folder(request: Request) -> None:
    """Check in advance that a request's latents can be saved in the data folder. Raises OutputError with the remedy."""
    folder = home() / "latents"
    remedy = "free some space, or set LICHTSPIEL_HOME to another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = draft_path(folder / "latents")
        draft.touch(exist_ok=False)
        draft.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(f"{folder}: latents cannot be kept here: {error.strerror or error}; {remedy}") from error
    time, rows, columns = model(request.model).latent_shape(request.frames, request.size)
    needed = 4 * model(request.model).vae.latent_channels * time * rows * columns + SPARE_BYTES
    if free < needed:
        sizes = f"{free >> 20:,} MiB are free on this disk and {needed >> 20:,} MiB may be needed"
        raise OutputError(f"{folder}: {sizes}; {remedy}")


def save_latents(
    latents: Tensor, request: Request, identity: str, folder: Path | None = None, *, with_texts: bool = True
) -> Path:
    """Save latents with their request to a folder, by default the data folder, by atomic rename.

    Only the owner can read the file, because it may contain the prompt. Without the texts, it contains their digests,
    with which `read_latents` can check them. Raises OSError or SafetensorError when writing fails.
    """
    directory = folder or home() / "latents"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / f"{identity}.safetensors"
    fields = request.model_dump(mode="json", exclude=set() if with_texts else {*TEXTS})
    metadata = {"lichtspiel": __version__, "id": identity, "request": json.dumps(fields)}
    if not with_texts:
        digests = {name: digest(identity, getattr(request, name)) for name in TEXTS}
        metadata["text_digests"] = json.dumps(digests)
    with atomic_write(path, mode=0o600) as draft:
        save_file({"latents": latents.float().cpu().contiguous()}, draft, metadata)
    return path


def latents_path(identity: str) -> Path:
    """Where the data folder holds the latents that were saved under an identity."""
    return home() / "latents" / f"{identity}.safetensors"


def mark_decoded(path: Path) -> None:
    """Mark latents as decoded, then remove the oldest decoded ones in the data folder beyond `KEPT`."""
    folder = home() / "latents"
    if path.parent.resolve() != folder.resolve():
        return
    _mark(path).touch(mode=0o600)
    decoded = [old for _, _, old in by_age(folder) if _mark(old).exists()]
    for old in decoded[:-KEPT]:
        old.unlink(missing_ok=True)
        _mark(old).unlink(missing_ok=True)


def _mark(path: Path) -> Path:
    return path.with_suffix(".decoded")


def latents_sha256(latents: Tensor) -> str:
    """The digest of latents in float32: equal latents have equal digests, whatever file they are stored in."""
    content = latents.float().cpu().contiguous().numpy()
    return hashlib.sha256(repr(tuple(latents.shape)).encode() + content.tobytes()).hexdigest()


def read_latents(path: Path, *, prompt: str | None = None, negative: str | None = None) -> tuple[Tensor, Request]:
    """Read latents [1, c, t, h, w] and the request they came from.

    Latents that were saved without texts need the original `prompt` and `negative`. Raises MediaError when `path`
    contains no latents from this package, or latents that do not fit its request, and InvalidInput for a text that is
    missing or wrong.
    """
    latents, metadata = _open(path)
    try:
        fields = json.loads(metadata["request"])
        digests = json.loads(metadata.get("text_digests", "{}"))
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{path}: its request is damaged ({error}); it cannot be decoded") from None
    if not isinstance(fields, dict) or not isinstance(digests, dict):
        raise MediaError(f"{path}: its request is damaged; it cannot be decoded")
    identity = metadata.get("id", "")
    for name, text in (("prompt", prompt), ("negative", negative)):
        if name in digests:
            fields[name] = _text(path, name, text, lambda text: digest(identity, text), digests[name])
        elif text is not None:
            raise InvalidInput(f"--{name}: {path} holds its own; leave --{name} out")
    request = Request.of(**fields)
    _check_shape(path, latents, request)
    return latents, request


def latents_of(request: Request, path: Path) -> Tensor:
    """Read the latents in a file for a known request. Raises MediaError when they do not fit the request."""
    latents, _ = _open(path)
    _check_shape(path, latents, request)
    return latents


def _open(path: Path) -> tuple[Tensor, dict[str, str]]:
    """Read the tensor and the metadata of a latents file."""
    if not path.is_file():
        raise MediaError(f"{path}: cannot be read as latents: there is no such file; name the file that generate kept")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "request" not in metadata or "latents" not in file.keys():  # noqa: SIM118  (safe_open is not a mapping)
                raise MediaError(f"{path}: holds no latents of this package; name the file that generate kept")
            return file.get_tensor("latents"), metadata
    except (OSError, SafetensorError) as error:
        raise MediaError(f"{path}: cannot be read as latents: {error}") from None


def _check_shape(path: Path, latents: Tensor, request: Request) -> None:
    row = model(request.model)
    expected = (1, row.vae.latent_channels, *row.latent_shape(request.frames, request.size))
    if tuple(latents.shape) != expected or not latents.is_floating_point():
        shapes = f"{_shape(latents.shape)}, and its request makes {_shape(expected)}"
        raise MediaError(f"{path}: holds latents of {shapes}; it was altered, so it is not decoded")


def _text(path: Path, name: str, text: str | None, digest_of: Callable[[str], str], expected: object) -> str:
    """Return the text that the caller passed, after checking it against the digest in the file."""
    if text is None and expected == digest_of(""):
        return ""
    if text is None:
        raise InvalidInput(f"{path} was kept without its {name}; give it with --{name}")
    if digest_of(text) != expected:
        raise InvalidInput(f"--{name}: {text!r} is not what {path} was made from; give its exact words")
    return text


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) or "a single number"

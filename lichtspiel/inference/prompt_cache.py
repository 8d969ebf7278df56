"""An on-disk cache of text states, so that the text encoder is loaded only for texts that it has not seen.

A state belongs to a text and an encoder. The encoder is named by the digest of its published file, or by the
`fingerprint` of local files. The cache never raises errors: a damaged or missing file counts as a text not seen yet,
and if the disk is full, nothing is stored. Texts can be private, so only the user can read the files, which do not
contain the text. Their names are hashes with a secret of this installation, so that nobody who sees a list of names can
find out whether a certain text is among them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lichtspiel.storage import atomic_write, by_age, home

__all__ = ["fingerprint", "get", "paths_of", "put"]

LIMIT_BYTES = 256_000_000
"""The limit for the whole folder. The longest state of the published encoder takes 8 MB, a typical one 0.5 MB."""

_SECRET_BYTES = 32

EDITION = 2
"""Part of every file name. Increase it when the tokenizer or the encoder changes its output."""


def fingerprint(paths: Iterable[Path], precision: str) -> str:
    """A name for the encoder in these files at this precision. It changes if a file is replaced; no file is read."""
    parts = [precision]
    for path in sorted(path.resolve() for path in paths):
        status = path.stat()
        parts.append(f"{path}:{status.st_size}:{status.st_mtime_ns}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def get(text: str, encoder: str) -> Tensor | None:
    """The states [1, l, w] of `text`, on the CPU, from the encoder with that digest; None if they are not cached."""
    try:
        path = _path(text, encoder)
        states = load(path.read_bytes())["states"]
        os.utime(path)  # mark it as the most recently used
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return states if states.ndim == 3 and states.is_floating_point() and states.isfinite().all() else None


def put(text: str, encoder: str, states: Tensor) -> None:
    """Store the states [1, l, w] of `text`, and evict the least recently used ones if there are too many."""
    assert states.ndim == 3
    content = save({"states": states.detach().to("cpu", copy=True).contiguous()})
    with suppress(OSError):
        path = _path(text, encoder)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(path, mode=0o600) as draft:
            draft.write_bytes(content)
        _trim(path.parent)


def paths_of(text: str) -> list[Path]:
    """The files with states of `text`, from any encoder, for whoever has to erase them. Those of earlier editions are
    among them, because their names do not say whose they are."""
    kept = [path for _, _, path in by_age(home() / "states")]
    if not kept:
        return []
    own = _name(text)
    return [path for path in kept if "-" not in path.stem or path.stem.startswith(own)]


def _path(text: str, encoder: str) -> Path:
    edition = hashlib.sha256(f"{EDITION}\0{encoder}".encode()).hexdigest()
    return home() / "states" / f"{_name(text)}-{edition[:16]}.safetensors"


def _name(text: str) -> str:
    """What the names of all files of a text begin with."""
    return hmac.new(_secret(), text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


def _secret() -> bytes:
    """The secret of this installation, made on first use. Raises OSError."""
    path = home() / "states.key"
    with suppress(FileNotFoundError):
        if len(secret := path.read_bytes()) == _SECRET_BYTES:
            return secret
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_write(path, mode=0o600) as draft:
        draft.write_bytes(secrets.token_bytes(_SECRET_BYTES))
    return path.read_bytes()  # of several processes at once, the last one's counts


def _trim(folder: Path) -> None:
    """Remove the least recently used files until the rest fits."""
    files = by_age(folder)
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= LIMIT_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size

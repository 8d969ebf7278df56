"""Files of tensors, opened safely and read one tensor at a time. It knows no model and no layout by name.

What a file is, is read from its first bytes, never from its name. Opening reads names, shapes and precisions; the
values stay on disk (memory-mapped) until a tensor is asked for. A damaged file, one that would run code and one in a
precision that cannot be read are refused by name, with the remedy.
"""

from __future__ import annotations

import pickle
import zipfile
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lichtspiel.errors import WeightsError
from lichtspiel.storage import file_sha256

__all__ = ["SUFFIXES", "Entry", "Pickle", "SafetensorsFile", "TensorFile", "check_digest", "file_kind"]


SUFFIXES = (".safetensors", ".gguf", ".pth", ".pt", ".bin", ".ckpt")
"""Files of a folder that are opened; a file named by itself may be called anything."""


class Entry(NamedTuple):
    """What is known of a tensor before it is read: its shape, and its precision as safetensors or GGML writes it."""

    shape: tuple[int, ...]
    precision: str


class TensorFile(ABC):
    """One file: `entries` by name, in the file's order, and each tensor's values when they are asked for."""

    def __init__(self, path: Path, kind: str, entries: dict[str, Entry]) -> None:
        self.path, self.kind, self.entries = path, kind, entries

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor on the CPU: as it is stored if torch can hold that, else dequantized to float32."""


class SafetensorsFile(TensorFile):
    """A .safetensors file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = cast("Any", safe_open(path, framework="pt"))
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
            entries = {name: Entry(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        except SafetensorError as error:
            raise WeightsError(f"{path} is not a whole .safetensors file ({error}); download it again") from error
        super().__init__(path, "safetensors", entries)

    def read(self, name: str) -> Tensor:
        """See the base class."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
}
"""What safetensors calls torch's precisions."""


class Pickle(TensorFile):
    """A .pth file; memory-mapped unless it is of the old kind that is not a zip archive."""

    def __init__(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise WeightsError(
                f"{path} holds more than tensors and could run code when opened; use a .safetensors file instead"
            ) from error
        except (RuntimeError, EOFError, ValueError, OSError) as error:
            raise WeightsError(f"{path} is not a whole PyTorch checkpoint; download it again") from error
        self._content = _tensors(path, content)
        entries = {
            name: Entry(tuple(value.shape), NAMES.get(value.dtype, str(value.dtype)))
            for name, value in self._content.items()
        }
        super().__init__(path, "pickle", entries)

    def read(self, name: str) -> Tensor:
        """See the base class."""
        return self._content[name]


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, dict) and set(content) == {"state_dict"}:
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise WeightsError(f"{path} is not a dictionary of tensors; use the published inference checkpoint")
    return content


def file_kind(path: Path) -> str:
    """The kind of file that the first bytes announce: safetensors, gguf, pickle, pointer (Git LFS) or nothing known."""
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(b"GGUF"):
        return "gguf"
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "pickle"
    return "pointer" if head.startswith(b"version https://git-lfs") else ""


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    """The file's SHA-256, taken again only when its size or the time of its last change differs."""
    return file_sha256(path)


def check_digest(path: Path, expected: str) -> None:
    """Compare the file's SHA-256 with the registry's; raises WeightsError when they differ."""
    status = path.stat()
    found = _digest(path, status.st_size, status.st_mtime_ns)
    if found != expected:
        raise WeightsError(f"{path} has the digest {found[:12]}…, not {expected[:12]}…; install or download it again")

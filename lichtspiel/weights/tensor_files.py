"""Files of tensors, opened safely and read one tensor at a time. It knows no model and no layout by name.

What a file is, is read from its first bytes, never from its name. Opening reads names, shapes and precisions; the
values stay on disk (memory-mapped) until a tensor is read. A damaged file, one that would run code and one in a
precision that cannot be read are refused by name, with the remedy.
"""

from __future__ import annotations

import json
import mmap
import pickle
import warnings
import zipfile
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lichtspiel.errors import WeightsError
from lichtspiel.storage import file_sha256

__all__ = ["SUFFIXES", "Entry", "Pickle", "SafetensorsFile", "TensorFile", "check_digest", "file_kind", "mapped"]


SUFFIXES = (".safetensors", ".gguf", ".pth", ".pt", ".bin", ".ckpt")
"""Files of a folder that are opened; a file named by itself may be called anything."""


class Entry(NamedTuple):
    """What is known of a tensor before it is read: its shape, and its precision as safetensors or GGML writes it."""

    shape: tuple[int, ...]
    precision: str


class TensorFile(ABC):
    """One file: `entries` by name, in the file's order, and each tensor's values on request."""

    def __init__(self, path: Path, kind: str, entries: dict[str, Entry]) -> None:
        self.path, self.kind, self.entries = path, kind, entries

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor on the CPU: as it is stored if torch can hold that, else dequantized to float32. It may be the
        file itself, which is mapped read-only: never write into it."""

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """The rows `ids` [l] of a matrix, as `read` gives them, without decoding the others."""
        return self.read(name)[ids]


def mapped(path: Path) -> Tensor:
    """The bytes of a file, mapped read-only: the system grants such a map of any size, whatever memory there is.

    Raises WeightsError for an empty file, and when the system refuses all the same.
    """
    try:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise WeightsError(f"{path} is empty; download it again") from error
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be mapped into memory ({error.strerror}); raise the limit (ulimit -v)"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns once that the buffer is read-only
        return torch.frombuffer(memory, dtype=torch.uint8)


class SafetensorsFile(TensorFile):
    """A .safetensors file, memory-mapped. The library checks the header, and the values are read here, because the
    library maps a file in a way for which Linux wants as much memory as the file has."""

    def __init__(self, path: Path) -> None:
        try:
            with cast("Any", safe_open(path, framework="numpy")) as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                entries = {name: Entry(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a whole .safetensors file ({error}); download it again") from error
        super().__init__(path, "safetensors", entries)
        self._bytes = mapped(path)
        length = int.from_bytes(self._bytes[:8].numpy().tobytes(), "little")
        header = json.loads(self._bytes[8 : 8 + length].numpy().tobytes())
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._spans = {
            name: tuple(8 + length + offset for offset in entry["data_offsets"]) for name, entry in header.items()
        }

    def read(self, name: str) -> Tensor:
        """See the base class."""
        shape, precision = self.entries[name]
        dtype = next((dtype for dtype, text in NAMES.items() if text == precision), None)
        if dtype is None:
            raise WeightsError(f"{self.path}: {name} is stored as {precision}, which cannot be read")
        begin, end = self._spans[name]
        values = self._bytes[begin:end]
        if begin % dtype.itemsize:  # the format asks for no alignment
            values = values.clone()
        return values.view(dtype).view(shape)


NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls torch's precisions."""


class Pickle(TensorFile):
    """A .pth file; memory-mapped unless it has the old format, which is not a zip archive."""

    def __init__(self, path: Path) -> None:
        try:
            content = _unpickled(path)
        except pickle.UnpicklingError as error:
            if (protocol := _protocol(path)) > _READABLE:
                raise WeightsError(
                    f"{path} is a pickle of protocol {protocol}, which PyTorch does not read safely; save it as "
                    ".safetensors, or with torch.save as it does by default"
                ) from error
            raise WeightsError(
                f"{path} holds more than tensors and could run code when opened; use a .safetensors file instead"
            ) from error
        except MemoryError as error:
            raise WeightsError(f"{path} needs more memory than there is; use a .safetensors file instead") from error
        except (RuntimeError, EOFError, ValueError, OSError) as error:
            raise WeightsError(f"{path} is not a whole PyTorch checkpoint; download it again") from error
        self._content = _tensors(path, content)
        entries = {
            name: Entry(tuple(value.shape), NAMES.get(value.dtype, str(value.dtype)))
            for name, value in self._content.items()
        }
        super().__init__(path, "pickle", entries)
        self._bytes = mapped(path)

    def read(self, name: str) -> Tensor:
        """See the base class."""
        value = self._content[name]
        if not isinstance(value, FakeTensor):
            return value
        storage = value.untyped_storage()
        begin = cast("Any", storage)._checkpoint_offset
        stored = self._bytes[begin : begin + storage.nbytes()]
        if begin % value.dtype.itemsize:
            stored = stored.clone()
        stored = stored.view(value.dtype)
        offset = stored.storage_offset() + int(value.storage_offset())
        return stored.as_strided(value.shape, value.stride(), offset)


def _unpickled(path: Path) -> Any:
    """The content of a checkpoint. Of a zip archive the tensors have no values yet, but know where in the file theirs
    are; torch's own map would be a writable one, for which Linux wants as much memory as the file has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # what fails is told as an error
        if not zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        with FakeTensorMode():
            return torch.load(path, map_location="cpu", weights_only=True)


_READABLE = 2  # the protocol of pickles that PyTorch writes, and reads without running code


def _protocol(path: Path) -> int:
    """The protocol of a pickle, which stands at its beginning; inside an archive, at that of its index."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                head = file.read(2)
        else:
            with zipfile.ZipFile(path) as archive:
                index = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(index) as file:
                    head = file.read(2)
    except (OSError, StopIteration, zipfile.BadZipFile):
        return 0
    return head[1] if len(head) == 2 and head[0] == 0x80 else 0


NESTED = ("generator_ema", "generator", "ema", "state_dict", "model", "module")
"""Keys under which trainers keep the weights, the best first: Self-Forcing has the average beside the last step."""


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, dict):
        content = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), content)
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
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        return "pickle"
    return "pointer" if head.startswith(b"version https://git-lfs") else ""


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    """The file's SHA-256, taken again only when its size or the time of its last change differs."""
    return file_sha256(path)


def check_digest(path: Path, expected: str) -> None:
    """Compare the file's SHA-256 with the registry's; raises WeightsError when they differ."""
    status = path.stat()
    actual = _digest(path, status.st_size, status.st_mtime_ns)
    if actual != expected:
        raise WeightsError(f"{path} has the digest {actual[:12]}…, not {expected[:12]}…; install or download it again")

"""GGUF files: quantized tensors, decoded one at a time when they are read. It knows no model.

The format is read by the package `gguf`, which loads only when there is such a file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lichtspiel.errors import WeightsError
from lichtspiel.weights.tensor_files import Entry, TensorFile, mapped

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

__all__ = ["GGUFFile"]

SHAPE = "comfy.gguf.orig_shape."
"""Metadata by which converters keep shapes that GGUF, which has four axes at most, cannot express."""

PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32}
"""Types of numbers that torch can hold as they are stored."""

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value of each kind of metadata; the format is `docs/gguf.md` of ggml-org/ggml."""

STRING, ARRAY = 8, 9

SMALLEST_FIELD, SMALLEST_TENSOR = 13, 32
"""Bytes that a field of metadata and the description of a tensor take at least."""

MOST_ELEMENTS = 2_000_000
"""Of an array in the metadata; the longest that is known are vocabularies of 260,000 pieces."""


class GGUFFile(TensorFile):
    """A .gguf file, memory-mapped read-only; tensors of 16 bit and more are read as they are, others as float32."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self._bytes = mapped(path)
        try:
            _check_header(memoryview(self._bytes.numpy().data))
            reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
            raise WeightsError(f"{path} is not a whole GGUF file ({error}); download it again") from error
        self._tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}
        entries = {
            name: Entry(_shape(reader, tensor), str(tensor.tensor_type.name)) for name, tensor in self._tensors.items()
        }
        super().__init__(path, "gguf", entries)

    def read(self, name: str) -> Tensor:
        """See the base class."""
        tensor, entry = self._tensors[name], self.entries[name]
        if dtype := PLAIN.get(entry.precision):
            begin = int(tensor.data_offset)
            return self._bytes[begin : begin + int(tensor.n_bytes)].view(dtype).reshape(entry.shape)
        return self._decoded(name, tensor.data).reshape(entry.shape)

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """See the base class."""
        if self.entries[name].precision in PLAIN:
            return super().rows(name, ids)
        return self._decoded(name, self._tensors[name].data[ids.numpy()])

    def _decoded(self, name: str, data: NDArray[Any]) -> Tensor:
        """Quantized numbers, row by row, as float32."""
        from gguf import dequantize

        kind = self._tensors[name].tensor_type
        try:
            return torch.from_numpy(dequantize(data, kind))
        except NotImplementedError as error:
            raise WeightsError(
                f"{self.path}: {name} is stored as {kind.name}, which the gguf package cannot decode; "
                "use a file in Q8_0, Q6_K, Q5_K or Q4_K"
            ) from error


def _check_header(content: memoryview) -> None:
    """Check every count in the metadata against the file's size; raises ValueError.

    The package trusts these counts: without this check a file of 176 bytes may take minutes and all memory.
    """
    position = 4

    def number(form: str) -> int:
        nonlocal position
        value = int(struct.unpack_from(form, content, position)[0])
        position += struct.calcsize(form)
        return value

    def skip(count: int, size: int) -> None:
        nonlocal position
        if count * size > len(content) - position:
            raise ValueError("a count is larger than the file")
        position += count * size

    number("<I")
    tensors, fields = number("<Q"), number("<Q")
    if tensors * SMALLEST_TENSOR + fields * SMALLEST_FIELD > len(content):
        raise ValueError("it has fewer tensors than it says")
    for _ in range(fields):
        skip(number("<Q"), 1)
        kind, count = number("<I"), 1
        if kind == ARRAY:
            kind, count = number("<I"), number("<Q")
            if kind == ARRAY or count > MOST_ELEMENTS:
                raise ValueError("an array of its metadata is nested or too long")
        if kind == STRING:
            for _ in range(count):
                skip(number("<Q"), 1)
        else:
            skip(count, SIZES[kind])


def _shape(reader: GGUFReader, tensor: ReaderTensor) -> tuple[int, ...]:
    if field := reader.get_field(SHAPE + tensor.name):
        return tuple(int(field.parts[index][0]) for index in field.data)
    return tuple(int(length) for length in reversed(tensor.shape))

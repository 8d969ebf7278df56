"""GGUF files: quantized tensors, decoded one at a time when they are read. It knows no model.

The format is read by the package `gguf`, which is an extra; without it these files are refused with the command that
installs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lichtspiel.errors import WeightsError
from lichtspiel.weights.tensor_files import Entry, TensorFile

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

__all__ = ["GGUFFile"]

SHAPE = "comfy.gguf.orig_shape."
"""Metadata by which converters keep shapes that GGUF, which has four axes at most, cannot express."""

INSTALL = "pip install 'lichtspiel[gguf]'"


class GGUFFile(TensorFile):
    """A .gguf file, memory-mapped; 16-bit and 32-bit tensors are handed out as they are, others as float32."""

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise WeightsError(f"{path} is a GGUF file, which needs one more package: {INSTALL}") from error
        try:
            reader = GGUFReader(path, "c")  # copy on write, because torch wants memory that it may write to
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path} is not a whole GGUF file ({error}); download it again") from error
        self._tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}
        entries = {
            name: Entry(_shape(reader, tensor), str(tensor.tensor_type.name)) for name, tensor in self._tensors.items()
        }
        super().__init__(path, "gguf", entries)

    def read(self, name: str) -> Tensor:
        """See the base class."""
        from gguf import GGMLQuantizationType as Kind
        from gguf import dequantize

        tensor = self._tensors[name]
        kind = tensor.tensor_type
        shape = self.entries[name].shape
        if kind in {Kind.F32, Kind.F16, Kind.F64}:
            return torch.from_numpy(tensor.data).reshape(shape)
        if kind == Kind.BF16:
            return torch.from_numpy(tensor.data).view(torch.bfloat16).reshape(shape)
        try:
            return torch.from_numpy(dequantize(tensor.data, kind)).reshape(shape)
        except NotImplementedError as error:
            raise WeightsError(
                f"{self.path}: {name} is stored as {kind.name}, which the gguf package cannot decode; "
                "use a file in Q8_0, Q6_K, Q5_K or Q4_K"
            ) from error


def _shape(reader: GGUFReader, tensor: ReaderTensor) -> tuple[int, ...]:
    if field := reader.get_field(SHAPE + tensor.name):
        return tuple(int(field.parts[index][0]) for index in field.data)
    return tuple(int(length) for length in reversed(tensor.shape))

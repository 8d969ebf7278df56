"""Reading a file of tensors safely and filling a module with it strictly. It knows no model by name.

A damaged file, one that would run code, and one that does not fit are refused by name, with the remedy.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lichtspiel.errors import WeightsError

__all__ = ["check_digest", "fill", "read"]

SHOWN = 3
"""How many tensor names a message lists before it says how many more there are."""


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .pth file by name, on the CPU, memory-mapped where the format allows.

    Raises WeightsError for a missing, truncated or foreign file, and for a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; name the folder that holds the checkpoint with --weights")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole .safetensors file ({error}); download it again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors and could run code when opened; use a .safetensors file instead"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"{path} is not a whole PyTorch checkpoint; download it again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} is not a dictionary of tensors; use the published inference checkpoint")
    return content


def check_digest(path: Path, expected: str) -> None:
    """Compare the file's SHA-256 with the registry's; raises WeightsError when they differ."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise WeightsError(f"{path} has the digest {found[:12]}…, not {expected[:12]}…; install or download it again")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path, dtype: torch.dtype) -> None:
    """Give every parameter of `module` (built on the meta device or not) its tensor, converted to `dtype`.

    Raises WeightsError when a tensor is missing, left over or has another shape; nothing is loaded halfway.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if missing := [name for name in wanted if name not in found]:
        raise WeightsError(f"{source} lacks {_some(missing)}; it is a different model or an incomplete download")
    if extra := [name for name in found if name not in wanted]:
        raise WeightsError(f"{source} has {_some(extra)} that this model does not use; it is a different model")
    if other := [name for name in wanted if wanted[name] != found[name]]:
        name = other[0]
        raise WeightsError(
            f"{source}: {name} has the shape {list(found[name])}, this model needs {list(wanted[name])} "
            f"({len(other)} tensors differ); it is a checkpoint of another size"
        )
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    module.load_state_dict(state, strict=True, assign=True)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

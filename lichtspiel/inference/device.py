"""The device and the precision that a request names, or the best ones that this machine has."""

from __future__ import annotations

import torch

from lichtspiel.errors import RequestError
from lichtspiel.host import computing_dtype
from lichtspiel.inference.fp8 import check_fp8

__all__ = ["choose_device", "choose_precision", "exact_dtype", "weight_dtype"]

EIGHT_BIT = {"int8": (torch.int8, torch.float32), "fp8": (torch.float8_e4m3fn, torch.bfloat16)}
"""For each precision of eight bits, the dtype of the weights in the DiT's blocks, and that of everything else."""


def choose_device(name: str) -> torch.device:
    """The device with this name; "auto" is a GPU if there is one. Raises RequestError if the machine lacks it."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *available]
    if torch.backends.mps.is_available():
        available = ["mps", *available]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise RequestError("device", name, f"this machine has {', '.join(available)}", available[0])
    return torch.device(name)


def choose_precision(name: str, device: torch.device, *, here: bool = True) -> str:
    """The precision with this name; "auto" is the fastest without loss (`host.computing_dtype`).

    Raises RequestError for int8 on a GPU, and for fp8 where there are no units for it; of a GPU that is not `here`,
    only the caller can know.
    """
    if name == "fp8" and (here or device.type != "cuda"):
        check_fp8(device)
    if name == "int8" and device.type != "cpu":
        raise RequestError("dtype", name, "int8 layers run on processors only", "bfloat16")
    return str(computing_dtype(device.type)).removeprefix("torch.") if name == "auto" else name


def weight_dtype(precision: str) -> torch.dtype:
    """The dtype of the weights in the DiT's blocks."""
    dtype: torch.dtype = EIGHT_BIT[precision][0] if precision in EIGHT_BIT else getattr(torch, precision)
    return dtype


def exact_dtype(precision: str) -> torch.dtype:
    """The dtype of what is not in eight bits: the text encoder and the DiT outside its blocks."""
    return EIGHT_BIT[precision][1] if precision in EIGHT_BIT else weight_dtype(precision)

"""The capabilities of this machine: free and peak memory, the best precision, and the measured speed."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

__all__ = ["computing_dtype", "free_memory", "measure_rate", "peak_memory", "return_freed_memory"]

M_MMAP_THRESHOLD = -3
"""The number of this setting in glibc's malloc.h."""

LARGE_BLOCK = 1 << 20
"""Bytes from which a freed tensor goes back to the system. With 64 KiB, steps of nano take twice as long."""

PROCESSOR = Path("/proc/cpuinfo")
"""Where Linux lists the features of the CPU."""


def computing_dtype(device: str) -> torch.dtype:
    """The fastest precision without loss of quality.

    That is bfloat16 on GPUs and on CPUs with bfloat16 units. On other CPUs it is float32, which is several times as
    fast there as 16 bits.
    """
    if device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if _has_bfloat16(PROCESSOR) else torch.float32


def _has_bfloat16(description: Path) -> bool:
    """Whether the CPU multiplies bfloat16: AVX-512 BF16 or AMX on x86, BF16 of Armv8.6. False except on Linux."""
    try:
        lines = description.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    names = {"flags", "Features"}
    flags = next((line.split(":")[1].split() for line in lines if line.split(":")[0].strip() in names), [])
    wanted = {"bf16"} if platform.machine() in {"aarch64", "arm64"} else {"avx512_bf16", "amx_bf16"}
    return bool(wanted & set(flags))


def free_memory(device: str, groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that are free now; None if the system does not say.

    For a GPU with its own memory, that is the GPU's; otherwise the machine's, within the limit of this process's
    control group (Linux).
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    try:
        free = int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, NotImplementedError):
        return None
    limit = _group_limit(groups)
    return free if limit is None else min(free, limit)


def _group_limit(groups: Path) -> int | None:
    """Bytes left within a control group. Its inactive page cache counts as free, because it is dropped when needed."""
    try:
        limit, used = ((groups / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        if limit.strip() == "max":
            return None
        left = int(limit) - int(used)
    except (OSError, ValueError):
        return None
    with suppress(OSError):
        lines = (groups / "memory.stat").read_text(encoding="ascii").splitlines()
        left += next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(left, 0)


def peak_memory(device: str) -> int:
    """The peak memory of this process in bytes, on its GPU or on the machine; 0 if it is not known."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(torch.device(device))
    if sys.platform == "linux":  # not getrusage, which starts at the peak of the parent process
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))  # Windows reports the peak, macOS only what is resident now


def return_freed_memory() -> None:
    """Let the C library give large freed tensors back to the system at once, for the rest of this process.

    glibc maps a large block from the system and returns it when it is freed, but what "large" means grows with the
    blocks that a program frees, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Smaller ones come from a heap that
    fragments: training T2V-1.3B as a LoRA held 4 GB of freed tensors (LOG.md). Elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


@functools.cache
def measure_rate(device: str, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Measure for `seconds` the operations per second of matrix products, which dominate the time of a DiT; once in a
    process."""
    side = 1024
    a, b = torch.ones(side, side, device=device, dtype=dtype), torch.ones(side, side, device=device, dtype=dtype)
    float((a @ b)[0, 0])  # warm up the threads or the GPU
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not count:
        float((a @ b)[0, 0])
        count += 1
    return 2.0 * side**3 * count / spent if spent else 0.0

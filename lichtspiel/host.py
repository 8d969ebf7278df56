"""What the machine can do: free and peak memory, the precision that suits it, and its measured speed."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch

__all__ = ["computing_dtype", "free_memory", "measure_rate", "peak_memory"]

PROCESSOR = Path("/proc/cpuinfo")
"""Where Linux says what the processor can do."""


def computing_dtype(device: str) -> torch.dtype:
    """The precision that is fastest without loss: bfloat16 on GPUs and on processors that have units for it, else
    float32, which there is several times as fast as 16 bit."""
    if device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if _has_bfloat16(PROCESSOR) else torch.float32


def _has_bfloat16(description: Path) -> bool:
    """Whether the processor multiplies bfloat16: AVX-512 BF16 or AMX on x86, BF16 of Armv8.6 (Linux only, else no)."""
    try:
        lines = description.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    names = {"flags", "Features"}
    flags = next((line.split(":")[1].split() for line in lines if line.split(":")[0].strip() in names), [])
    wanted = {"bf16"} if platform.machine() in {"aarch64", "arm64"} else {"avx512_bf16", "amx_bf16"}
    return bool(wanted & set(flags))


def free_memory(device: str, system: Path = Path("/")) -> int | None:
    """Bytes that can be had now: of the GPU, or of the machine within the limit of its control group.

    None where that is not known: on anything but Linux, and on GPUs that share the machine's memory.
    """
    if device == "mps":
        return None
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    try:
        lines = (system / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    group = system / "sys/fs/cgroup"
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, max(int(limit) - int(used), 0))
    except (OSError, ValueError):
        return free


def peak_memory(device: str) -> int:
    """The most bytes that this process ever had: of the GPU it uses, or of the machine; 0 where that is not known."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(torch.device(device))
    try:  # not getrusage, which begins with what the process that started this one had
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def measure_rate(device: str, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Operations a second of matrix products on this machine, tried for so long: what a DiT spends its time on."""
    side = 1024
    a, b = torch.ones(side, side, device=device, dtype=dtype), torch.ones(side, side, device=device, dtype=dtype)
    float((a @ b)[0, 0])  # starts threads or the GPU
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not count:
        float((a @ b)[0, 0])
        count += 1
    return 2.0 * side**3 * count / spent if spent else 0.0

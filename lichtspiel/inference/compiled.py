"""Compiled blocks of a DiT: PyTorch fuses what lies between the products, about 3,000 kernels in each step of Wan2.1.

All blocks share one compilation for each shape. It happens in the first step and is kept on disk by PyTorch, so that
later processes only load it. What is looked up in Python dictionaries (the keys and values of the text) stays outside.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from lichtspiel.inference.clock import Clock
from lichtspiel.models.dit import DiT

__all__ = ["can_compile", "compile_blocks", "compiling"]


def can_compile(device: torch.device) -> str | None:
    """None if blocks are compiled on this device, else the reason why not.

    On a processor, compiling takes longer than it saves in one video.
    """
    if device.type != "cuda":
        return "blocks are compiled for CUDA only"
    from torch.utils._triton import has_triton

    return None if has_triton() else "PyTorch finds no Triton here, so blocks are not compiled; install triton"


def compile_blocks(dit: DiT, backend: str = "inductor") -> None:
    """Compile the blocks of a DiT, each time a new shape comes.

    Only what a block computes is compiled, and not the hooks around it, which fill a block whose weights are streamed.
    """
    blocks: list[nn.Module] = [*dit.blocks, *(dit.vace_blocks if dit.spec.vace_layers else [])]
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend, dynamic=False)


@contextmanager
def compiling(clock: Clock) -> Iterator[None]:
    """Inside the block, time that PyTorch spends on compiling counts as the stage "compile"."""
    from torch._dynamo.callback import callback_handler

    stages = ExitStack()
    thread = threading.get_ident()

    def begin(*_: object) -> None:
        if threading.get_ident() == thread:
            stages.enter_context(clock.stage("compile"))

    def end(*_: object) -> None:
        if threading.get_ident() == thread:
            stages.close()

    callback_handler.register_start_callback(begin)
    callback_handler.register_end_callback(end)
    try:
        yield
    finally:
        callback_handler.remove_start_callback(begin)
        callback_handler.remove_end_callback(end)

"""The model that a run trains, or trains on: loaded as the plan says; its blocks compute again in the backward pass.

A frozen model may be resident, in eight bit, or streamed from its file, forward and backward. Checkpointed blocks keep
only their input (arXiv 1604.06174). Models are changed from outside: by exchanging layers, and by wrapping `forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.models.dit import DiT
from lichtspiel.tune.eight_bit import to_eight_bit
from lichtspiel.tune.settings import RunOptions
from lichtspiel.weights.checkpoint import Checkpoint
from lichtspiel.weights.offload import Stream

__all__ = ["checkpoint_blocks", "load_base"]

Run = Callable[..., Any]


def load_base(files: Checkpoint, options: RunOptions, device: torch.device, *, resident: int = 0) -> DiT:
    """The diffusion transformer in the form that the options name. Of a streamed one, the first `resident` blocks stay.

    With the method "lora" it is frozen; with "full" every parameter is trained, and kept in float32.
    """
    full = options.method == "full"
    dtype = torch.float32 if full else getattr(torch, options.dtype)
    count = resident if options.base == "streamed" else None
    each = to_eight_bit if options.base == "int8" else None
    dit, stream = files.dit_to_train(dtype, device, resident=count, each=each)
    dit.eval().requires_grad_(full)
    if device.type == "cpu":
        use_cpu_kernels(dit)
    if options.checkpointing or stream is not None:
        checkpoint_blocks(dit, stream, random=options.adapter.dropout > 0)
    return dit


def checkpoint_blocks(dit: DiT, stream: Stream | None = None, *, random: bool = False) -> None:
    """Make every block keep only its input while gradients are wanted, and compute the rest again in the backward pass.

    Blocks of `stream` get their weights before they run, both times. `random` says that blocks draw random numbers,
    which then are the same both times.
    """
    for stack in (dit.blocks, getattr(dit, "vace_blocks", ())):
        for block in stack:
            held = stream if stream is not None and stream.holds(block) else None
            block.forward = _checkpointed(block, held, random)


def _checkpointed(block: nn.Module, stream: Stream | None, random: bool) -> Run:
    inner: Run = block.forward
    again = False

    def run(*args: Any) -> Any:
        if stream is None:
            return inner(*args)
        recomputing = again
        try:
            stream.before(block, again=recomputing)
            return inner(*args)
        finally:
            stream.after(block, again=recomputing)

    @contextmanager
    def recompute() -> Iterator[None]:
        nonlocal again
        again = True
        try:
            yield
        finally:
            again = False

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), recompute()

    def forward(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return run(*args)
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=random, context_fn=contexts)

    return forward

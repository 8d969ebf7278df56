"""How much memory a step of a run needs at its peak, before anything is loaded.

The step itself is run on tensors without content: PyTorch's fake tensors have shapes and storages, and cost no memory.
A count of the storages that are alive says what the real step will hold: activations, the inputs that checkpointed
blocks keep, gradients, optimizer states. The frozen weights are counted from the specification, because what is held of
them depends on whether they are resident, in eight bit or streamed. So the prediction follows the code that trains.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lichtspiel import flow
from lichtspiel.inference.plan import BLOCK
from lichtspiel.models import shapes
from lichtspiel.models.attention import rotary_angles
from lichtspiel.models.dit import DiT
from lichtspiel.spec import DiTSpec, Model
from lichtspiel.tune.adapter import Adapter
from lichtspiel.tune.base import checkpoint_blocks
from lichtspiel.tune.cache import Batch
from lichtspiel.tune.dataset import Bucket
from lichtspiel.tune.optimizers import make_optimizer
from lichtspiel.tune.settings import RunOptions

__all__ = ["KEPT_BYTES", "StorageCount", "base_bytes", "fake_batch", "predict"]


KEPT_BYTES = {"lora": 52_000_000, "full": 32_000_000}
"""What the allocator of the C library keeps of small freed blocks, beyond the storages that are alive, by the method of
the run: measured with nano, where gradients and states of the whole model fill some of the holes that an adapter leaves
(`python -m benchmarks.tuning`, 2026-11-28). Large blocks go back at once (`host.return_freed_memory`)."""


DEVICE: Any = torch.ops.prim.device.default
"""How PyTorch asks a fake tensor for its device."""


class StorageCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that were made within it and are still alive, and keeps the highest count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._left_out: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE:  # every second call, and it makes nothing
            return args[0].fake_device
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":
                self.add(leaf)
        return result

    def leave_out(self, tensor: Tensor) -> None:
        """Count nothing for a tensor that is there already, and for views of it."""
        storage = tensor.untyped_storage()
        self._left_out[storage._cdata] = storage

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._left_out or (key in self._seen and self._seen[key]() is not None):
            return

        def freed(_: object) -> None:
            self.alive -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, freed)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def predict(row: Model, bucket: Bucket, options: RunOptions, *, resident: int = 0) -> int:
    """Bytes that a run needs at the peak of a step on a batch of this bucket, beyond what the process has before the
    model is loaded. Of a streamed model, `resident` blocks stay in memory.

    Blocks are alike, so models of two and of three blocks say what each further one adds (the first is no measure: its
    input needs no gradient). A model with VACE's second stream takes a third, for the blocks of that.
    """
    return _above(row, bucket, options) + base_bytes(row, options, resident) + KEPT_BYTES[options.method]


_KNOWN: dict[tuple[object, ...], int] = {}
"""What fake steps have said, because forms of the model that differ only in how its weights are held share them."""


def _above(row: Model, bucket: Bucket, options: RunOptions) -> int:
    """The peak of a step without the model's own weights."""
    again = options.checkpointing or options.base == "streamed"
    key = (
        row.dit, bucket, options.method, options.adapter, options.dtype, options.optimizer, options.batch,
        bool(options.ema), again,
    )  # fmt: skip
    if key not in _KNOWN:
        _KNOWN[key] = _of_all_blocks(row, bucket, options)
    return _KNOWN[key]


def _of_all_blocks(row: Model, bucket: Bucket, options: RunOptions) -> int:
    spec, second = row.dit, bool(row.dit.vace_layers)
    two = _step(_shallow(spec, 2, 1 if second else 0), row, bucket, options)
    each = _step(_shallow(spec, 3, 1 if second else 0), row, bucket, options) - two
    peak = two + (spec.layers - 2) * each
    if second:
        joined = _step(_shallow(spec, 4, 2), row, bucket, options)
        peak += (len(spec.vace_layers) - 1) * (joined - two - 2 * each)
    return peak


def _shallow(spec: DiTSpec, layers: int, second: int) -> DiTSpec:
    """The same model with few blocks, every other of which has one in the second stream."""
    return replace(spec, layers=layers, vace_layers=tuple(range(0, 2 * second, 2)))


def _step(spec: DiTSpec, row: Model, bucket: Bucket, options: RunOptions) -> int:
    """The peak of a step on fake tensors, without the model's own weights but with the states of the optimizer."""
    dtype = torch.float32 if options.method == "full" else getattr(torch, options.dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            dit = DiT(spec).eval().requires_grad_(options.method == "full")
            for parameter in dit.parameters():
                parameter.data = parameter.data.to(dtype)
            count = StorageCount()
            for parameter in dit.parameters():
                count.leave_out(parameter)
            with count:
                if options.checkpointing or options.base == "streamed":
                    checkpoint_blocks(dit, None, random=options.adapter.dropout > 0)
                trained: nn.Module = dit if options.method == "full" else Adapter(dit, options.adapter, options.seed)
                parameters = dict(trained.named_parameters())
                averages = [torch.empty_like(one) for one in parameters.values()] if options.ema else []
                optimizer, more = _optimizer(parameters, options)
                batch = fake_batch(row, bucket, options.batch)
                for parameter in parameters.values():
                    parameter.grad = torch.empty_like(parameter)
                optimizer.step()  # makes the states, so that one pass shows what all but the first hold
                optimizer.zero_grad(set_to_none=True)
                _backward(dit, batch)
                optimizer.step()
                del averages, more
    finally:
        rotary_angles.cache_clear()  # real steps must not get the fake angles of this one
    return count.peak


def _optimizer(parameters: dict[str, nn.Parameter], options: RunOptions) -> tuple[Any, list[Tensor]]:
    """The optimizer of a run, and states that it has beside its own. Prodigy looks at values, which fake tensors do not
    have: AdamW stands in for it, which has two states for each parameter where Prodigy has four."""
    if options.optimizer != "prodigy":
        return make_optimizer(parameters, options), []
    states = [torch.empty_like(one) for one in parameters.values() for _ in range(2)]
    return make_optimizer(parameters, replace(options, optimizer="adamw")), states


def _backward(dit: DiT, batch: Batch) -> None:
    """The gradients of a batch, as `objective.loss` has them computed."""
    spec, latents = dit.spec, batch.latents
    times = torch.full((len(batch),), 0.5)
    noisy, target = flow.training_pair(latents, torch.empty_like(latents), times)
    if known := spec.in_channels - spec.out_channels:  # the mask and the latents of given pictures
        noisy = torch.cat([noisy, latents.new_zeros(len(batch), known, *latents.shape[2:])], dim=1)
    velocity = dit(noisy, times * flow.TIMESTEPS, batch.text, image=batch.clip, vace=batch.vace)
    flow.loss(velocity, target).backward()  # type: ignore[no-untyped-call]


def fake_batch(row: Model, bucket: Bucket, size: int) -> Batch:
    """A batch of this bucket without content, with all that a model of this kind takes."""
    cells = row.latent_shape(bucket.frames, (bucket.width, bucket.height))
    channels = row.vae.latent_channels
    latents = torch.empty(size, channels, *cells)
    known = torch.empty_like(latents) if row.dit.in_channels > channels else None
    images = row.dit.image_tokens // 257
    clip = torch.empty(size * images, 257, row.dit.image_width) if images else None
    vace = torch.empty(size, row.dit.vace_channels, *cells) if row.dit.vace_layers else None
    text = torch.empty(size, row.dit.text_length, row.dit.text_width)
    return Batch(bucket, (), latents, text, known, known, clip, vace)


def base_bytes(row: Model, options: RunOptions, resident: int = 0) -> int:
    """Bytes of the model's own weights in memory: all, in eight bit, or, where they are streamed, two blocks and what
    is outside the blocks."""
    inside: dict[str, int] = {}
    outside = 0
    for name, shape in shapes(row.dit).items():
        if block := BLOCK.match(name):
            inside[block[0]] = inside.get(block[0], 0) + math.prod(shape)
        else:
            outside += math.prod(shape)
    wide = 4 if options.method == "full" or options.dtype == "float32" else 2
    largest, total = max(inside.values()), sum(inside.values())
    if options.base == "int8":
        return outside * wide + total
    if options.base == "streamed":
        stay = sum(sorted(inside.values(), reverse=True)[:resident])
        return (outside + stay + 2 * largest) * wide
    return (outside + total) * wide

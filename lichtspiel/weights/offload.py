"""Networks larger than memory: weights stay in their file as they are, and each block is converted just before it runs.

A network built on the meta device gets its small parts for good. Hooks fill each block of its lists of blocks
(`blocks`, `vace_blocks`) while the block before it computes: a thread prepares the next one, from disk to memory on a
processor, from disk through pinned memory on a stream of its own to a GPU. The results are those of the loaded network,
bit for bit. It knows no model by name and reads no file: the caller passes the tensors.

A trainer that recomputes blocks in its backward pass asks for the `Stream` instead of hooks, and says itself when a
block begins and ends.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Each", "HasFloat8", "KeepsFloat8", "Stream", "block_names", "load_with_offload"]

ROWS = 100_000
"""An embedding with more rows is not loaded: the rows of a prompt are read where they are."""


@runtime_checkable
class HasRows(Protocol):
    """Tensors whose rows can be read individually."""

    def rows(self, name: str, ids: Tensor, /) -> Tensor:
        """The rows `ids` [l] of a matrix."""


@runtime_checkable
class HasFloat8(Protocol):
    """Tensors of which some are stored in eight-bit floating point."""

    def float8(self, name: str, /) -> tuple[Tensor, Tensor] | None:
        """A matrix [out, in] in e4m3 as it is stored, and the scale [out, 1] of each row in float32; None for a tensor
        that is stored otherwise."""


@runtime_checkable
class KeepsFloat8(Protocol):
    """An `Each` that computes with matrices in e4m3, also in blocks that do not stay."""

    def __call__(self, block: nn.Module, /) -> object:
        """See `load_with_offload`. A block that does not stay comes once, before it has any memory."""

    def keeps(self, block: nn.Module, name: str, /) -> bool:
        """Whether the `weight` of the layer with this name in a block may stay in e4m3, with a buffer `scales` [out, 1]
        beside it."""

    def tensors(self, weight: Tensor, scales: Tensor | None, /) -> dict[str, Tensor]:
        """What such a layer then holds instead of its weight [out, in], by name: of one in e4m3 with the scales [out,
        1] of its rows, or of a wider one without."""


Each = Callable[[nn.Module], object]


def load_with_offload(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    *,
    resident: int = 0,
    each: Each | None = None,
    hooked: bool = True,
) -> Stream | None:
    """Give `model`, built on the meta device, its weights: some for good, the others as they are needed.

    `tensors` has every name of the model's state and no other, best memory-mapped; the mapping is asked anew for each
    use, so it may also make tensors when asked. It has to live as long as the model. Floating tensors become `dtype`.
    The first `resident` blocks stay; `each` is called with every block that stays, when it is filled (to quantize it,
    say), so that never more than one of them is in memory as it was. If it `KeepsFloat8`, matrices that are stored in
    e4m3 are not widened, and blocks that do not stay compute as those that do, bit for bit. The model must not be
    called by two threads.

    Returns the stream of the blocks that do not stay, if there are any. Without `hooked`, the caller calls its `before`
    and `after` around each of these blocks.
    """
    blocks = dict(_blocks(model))
    assert set(tensors) == {name for name, _ in model.named_parameters()}, "the reader of the file checks names"
    stay, stream = list(blocks)[:resident], list(blocks)[resident:]
    inside = tuple(f"{name}." for name in blocks)
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        if prefix.startswith(inside):
            continue
        if isinstance(module, nn.Embedding) and module.num_embeddings > ROWS:
            _gather(module, tensors, prefix + "weight", dtype, device)
            continue
        own = [name for name, _ in module.named_parameters(recurse=False)]
        _fill(module, {name: _convert(tensors[prefix + name], dtype, device) for name in own})
    for name in stay:
        source = _named(blocks[name], name)
        for key in _keep_float8(blocks[name], source, tensors, device, each):
            del source[key]
        _fill(blocks[name], {key: _convert(tensors[full], dtype, device) for key, full in source.items()})
        _forget([tensors[full] for full in source.values()])
        if each is not None:
            each(blocks[name])
    if not stream:
        return None
    eight = each if isinstance(each, KeepsFloat8) else None
    return Stream({name: blocks[name] for name in stream}, tensors, dtype, device, hooked=hooked, eight=eight)


def _keep_float8(
    block: nn.Module, source: Mapping[str, str], tensors: Mapping[str, Tensor], device: torch.device, each: Each | None
) -> list[str]:
    """Give the layers of a block the matrices that stay as they are stored; returns their names in it."""
    kept: list[str] = []
    if not (isinstance(each, KeepsFloat8) and isinstance(tensors, HasFloat8)):
        return kept
    for name, layer in block.named_modules():
        key = f"{name}.weight"
        stored = tensors.float8(source[key]) if key in source and each.keeps(block, name) else None
        if stored is not None:
            values, scales = stored
            _fill(layer, {"weight": values.to(device, copy=True)})
            layer.register_buffer("scales", scales.to(device), persistent=False)
            _forget([values])
            kept.append(key)
    return kept


def block_names(model: nn.Module) -> list[str]:
    """The names of the blocks of a model, in the order in which `load_with_offload` counts them as resident."""
    return [name for name, _ in _blocks(model)]


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{number}", block) for number, block in enumerate(child))


class Stream:
    """The blocks that do not stay in memory, and the thread that loads them.

    A training step runs every block twice: in the forward pass, and again in the backward pass, in the opposite order.
    """

    def __init__(
        self, blocks: dict[str, nn.Module], tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device, *,
        hooked: bool, eight: KeepsFloat8 | None = None,
    ) -> None:  # fmt: skip
        self.tensors, self.dtype, self.device, self.eight = tensors, dtype, device, eight
        self.source = {block: _named(block, name) for name, block in blocks.items()}
        # The weights that are held in e4m3, and what is held instead of them and of the biases beside them.
        self.kept: dict[nn.Module, set[str]] = {block: set() for block in self.source}
        self.buffers: dict[nn.Module, dict[str, Tensor]] = {block: {} for block in self.source}
        if eight is not None:
            for block, names in self.source.items():
                kept = {f"{name}.weight" for name, _ in block.named_modules() if eight.keeps(block, name)}
                self.kept[block] = kept & {*names}
                eight(block)
                self.buffers[block] = dict(block.named_buffers())
        order = list(self.source)
        # Which block follows a block that runs, or runs again; corrected when they come in another order, as those of
        # two lists do.
        self.follows = {(block, False): after for block, after in zip(order, [*order[1:], order[0]], strict=True)}
        self.follows |= {(block, True): after for block, after in zip(order, [order[0], *order[:-1]], strict=True)}
        self.filled: dict[nn.Module, dict[str, Tensor]] = {}
        self.spare: list[dict[str, Tensor]] = []
        self.last: tuple[nn.Module, bool] | None = None
        self.ahead: tuple[nn.Module, Future[Prepared]] | None = None
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights")
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        for block in order if hooked else ():
            block.register_forward_pre_hook(lambda block, *_: self.before(block))
            block.register_forward_hook(lambda block, *_: self.after(block), always_call=True)

    def holds(self, block: nn.Module) -> bool:
        """Whether this block is one of those that do not stay in memory."""
        return block in self.source

    def before(self, block: nn.Module, *, again: bool = False) -> None:
        """Fill the block that is about to run and start loading the one after it. `again` says that it is recomputed
        in the backward pass."""
        if self.last is not None:
            self.follows[self.last] = block
        self.last = block, again
        if self.ahead is not None and self.ahead[0] is block:
            state, event = self.ahead[1].result()
        else:
            if self.ahead is not None:
                self.ahead[1].cancel()
            state, event = self.prepare(block)
        self.ahead = None
        if event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(event)
            for tensor in state.values():
                tensor.record_stream(stream)  # memory of the side stream is not reused before this one is through
        _fill(block, state)
        self.filled[block] = state
        coming = self.follows[block, again]
        if coming is not block:
            self.ahead = (coming, self.worker.submit(self.prepare, coming))

    def after(self, block: nn.Module, *, again: bool = False) -> None:
        """Release the weights of a block, even if it failed. The gradients of a recomputed block still need them, and
        free them when they are done."""
        state = self.filled.pop(block, None)
        if state is not None and self.side is None and not again:
            self.spare.append(state)
        held = {**dict(block.named_parameters()), **dict(block.named_buffers())}
        _fill(block, {name: torch.empty_like(value, device="meta") for name, value in held.items()})

    def prepare(self, block: nn.Module) -> Prepared:
        """Tensors of a block on the device, and on a GPU what to wait for before they are used."""
        with torch.inference_mode(False), torch.no_grad():
            stored = [Stored(key, *self.read(block, key)) for key in self.source[block]]
            if self.side is None:
                state, event = self.room(block, stored), None
                for one in stored:
                    parts = self.rounded(one) if one.key in self.kept[block] else {one.key: one.value}
                    for name, value in parts.items():
                        state[name].copy_(value)
            else:
                state = {}
                with torch.cuda.stream(self.side):
                    for one in stored:
                        moved = self.sent(one)  # converted on the GPU: what is stored travels
                        if one.key in self.kept[block]:
                            state |= self.rounded(moved)
                        else:
                            state[one.key] = moved.value.to(self.target(block, moved))
                    event = self.side.record_event()
            _forget([one.value for one in stored])
        return state, event

    def read(self, block: nn.Module, key: str) -> tuple[Tensor, Tensor | None]:
        """A tensor of a block as it is stored, and the scales [out, 1] of one that is held in e4m3 and stored so."""
        full = self.source[block][key]
        if key in self.kept[block] and isinstance(self.tensors, HasFloat8):
            found = self.tensors.float8(full)
            if found is not None:
                return found
        return self.tensors[full], None

    def sent(self, one: Stored) -> Stored:
        """A tensor on its way to the GPU. Pinned memory is not reused before the copy is done."""
        value, scales = one.value, one.scales
        return Stored(
            one.key,
            value.pin_memory().to(self.device, non_blocking=True),
            # One scale of a whole tensor is expanded to its rows, which pinned memory cannot be.
            None if scales is None else scales.contiguous().pin_memory().to(self.device, non_blocking=True),
        )

    def rounded(self, one: Stored) -> dict[str, Tensor]:
        """What a block holds instead of a weight, by name in the block; rounded from the computing precision, as blocks
        that stay are."""
        assert self.eight is not None
        value = one.value if one.scales is not None else one.value.to(_target(one.value, self.dtype))
        layer = one.key.removesuffix("weight")
        return {f"{layer}{name}": part for name, part in self.eight.tensors(value, one.scales).items()}

    def target(self, block: nn.Module, one: Stored) -> torch.dtype:
        """The precision in which a block holds a tensor that it does not hold in e4m3."""
        buffer = self.buffers[block].get(one.key)
        return _target(one.value, self.dtype) if buffer is None else buffer.dtype

    def room(self, block: nn.Module, stored: list[Stored]) -> dict[str, Tensor]:
        """Memory of a block of this shape that has run, because new memory takes longer than filling it."""
        wanted = {name: (value.shape, value.dtype) for name, value in self.buffers[block].items()}
        for one in stored:
            wanted.setdefault(one.key, (one.value.shape, self.target(block, one)))
        for index, state in enumerate(self.spare):
            if {key: (value.shape, value.dtype) for key, value in state.items()} == wanted:
                return self.spare.pop(index)
        return {key: torch.empty(shape, dtype=dtype, device=self.device) for key, (shape, dtype) in wanted.items()}


class Stored(NamedTuple):
    """A tensor of a block by its name there, and the scales of its rows if it is stored in e4m3 and stays so."""

    key: str
    value: Tensor
    scales: Tensor | None


Prepared = tuple[dict[str, Tensor], torch.cuda.Event | None]


def _convert(value: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor in the computing precision; always a copy, because the file's own memory may be reclaimed."""
    return value.to(device, _target(value, dtype), copy=value.device.type == "cpu")


def _target(value: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if value.is_floating_point() else value.dtype


def _named(block: nn.Module, name: str) -> dict[str, str]:
    return {key: f"{name}.{key}" for key in block.state_dict()}


def _fill(block: nn.Module, state: dict[str, Tensor]) -> None:
    for path, value in state.items():
        parent, _, name = path.rpartition(".")
        module = block.get_submodule(parent)
        own = value if name in module._buffers else nn.Parameter(value, requires_grad=False)
        setattr(module, name, own)


def _gather(
    module: nn.Embedding, tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, device: torch.device
) -> None:
    def forward(ids: Tensor) -> Tensor:
        flat = ids.cpu().flatten()
        rows = tensors.rows(name, flat) if isinstance(tensors, HasRows) else tensors[name][flat]
        return _convert(rows, dtype, device).view(*ids.shape, -1)

    module.forward = forward  # type: ignore[method-assign, assignment]


def _forget(values: list[Tensor]) -> None:
    """Tell the system that the pages of a mapped file are not needed now; they stay in its cache as long as it likes.

    Without this, all of a file that was ever read counts as memory of this process. Only for pages that belong to a
    file: those of other memory would be lost.
    """
    if not sys.platform.startswith("linux"):
        return
    mapped = _mapped_files()
    for value in values:
        if value.device.type != "cpu" or not value.is_contiguous():
            continue
        first = -(-value.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (value.data_ptr() + value.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first and any(low <= first and end <= high for low, high in mapped):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


def _mapped_files() -> list[tuple[int, int]]:
    """First and last address of every file in this process's memory (format: `proc_pid_maps(5)`).

    Memory that belongs to no file has no path, or one in brackets.
    """
    spans = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, *_, path = line.split(maxsplit=5)
        if path.startswith("/") and not path.startswith("/dev/") and not path.endswith(" (deleted)"):
            low, high = span.split("-")
            spans.append((int(low, 16), int(high, 16)))
    return spans

"""Several processes, one video: under `torchrun` or as one worker of the server, each process with a GPU of its own.

With guidance and an even number of processes, one half computes the conditional branch and the other the unconditional
one. Within a half, each process holds an equal part of the tokens (Ulysses, arXiv:2309.14509): before self-attention
the processes exchange tokens for heads, so that each attends to all tokens with some of the heads, and after it they
exchange back. Weights are held by every process.

The first process leads: it reads files, encodes prompts, decodes and writes. The others denoise what it hands out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lichtspiel import flow
from lichtspiel.errors import LichtspielError
from lichtspiel.inference.kv_cache import outside_graphs
from lichtspiel.models.attention import AttentionFn
from lichtspiel.models.dit import DiT, SelfAttention, Stream, through_blocks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["Share", "Team", "current", "formed", "joined", "sharing", "torchrun_group"]

Item = TypeVar("Item")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, for example while the first reads a text encoder or decodes."""

_teams: list[Team] = []


@dataclass(frozen=True)
class Share:
    """What one process computes of each velocity: the branch of this number (of one or two), and in it the part of the
    tokens of this number, of `parts`. `tokens` and `branch_group` are those with whom it exchanges them."""

    branches: int
    branch: int
    parts: int
    part: int
    tokens: dist.ProcessGroup
    branch_group: dist.ProcessGroup

    def both(
        self, network: flow.Network, text: Tensor, negative: Tensor, latents: Tensor, timestep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional velocity: one is computed here, the other elsewhere."""
        mine = network(latents, timestep, (text, negative)[self.branch]).contiguous()
        conditional, unconditional = (torch.empty_like(mine) for _ in range(2))
        dist.all_gather([conditional, unconditional], mine, group=self.branch_group)
        return conditional, unconditional


@dataclass
class Team:
    """The processes that compute one video together, seen from the one of this `rank`."""

    rank: int
    size: int
    _shares: dict[int, Share] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        """Whether this process hands out the work."""
        return self.rank == 0

    def share(self, *, heads: int, guided: bool) -> Share:
        """What this process computes of a model with so many heads, with two branches or one; every process has to ask.

        Raises LichtspielError for a number of processes that does not divide them.
        """
        branches = 2 if guided and self.size % 2 == 0 else 1
        parts = self.size // branches
        if heads % parts:
            numbers = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
            twice = ", or twice as many with guidance" if guided else ""
            raise LichtspielError(
                f"{self.size} processes cannot share {heads} attention heads evenly; "
                f"set torchrun's --nproc-per-node to {numbers}{twice}"
            )
        if branches not in self._shares:
            halves = [list(range(branch * parts, (branch + 1) * parts)) for branch in range(branches)]
            branch, part = divmod(self.rank, parts)
            # Every process makes every group, its own and those of others, in the same order.
            tokens = [dist.new_group(half, timeout=PATIENCE) for half in halves]
            across = [dist.new_group(list(ranks), timeout=PATIENCE) for ranks in zip(*halves, strict=True)]
            self._shares[branches] = Share(branches, branch, parts, part, tokens[branch], across[part])
        return self._shares[branches]

    def hand_out(self, work: object) -> None:
        """Give every other process the same work; None sends them home."""
        dist.broadcast_object_list([work], src=0, device=torch.device("cpu"))

    def receive(self) -> Any:
        """The next work from the process that leads, or None if there is no more."""
        received: list[Any] = [None]
        dist.broadcast_object_list(received, src=0, device=torch.device("cpu"))
        return received[0]

    def together(self, items: Iterable[Item]) -> Iterator[Item]:
        """Items that all processes compute at the same time. When the leader stops asking for them, all stop."""
        iterator, end, running = iter(items), object(), True
        try:
            while running := self._go_on(True):
                item = next(iterator, end)
                if item is end:
                    running = False
                    return
                yield cast("Item", item)
        except GeneratorExit:
            if running and self.leads:
                self._go_on(False)
            raise

    def _go_on(self, wish: bool) -> bool:
        told = torch.tensor([wish], dtype=torch.uint8)
        dist.broadcast(told, src=0)
        return bool(told.item())


def current() -> Team | None:
    """The team of this process, inside `joined`."""
    return _teams[-1] if _teams else None


@contextmanager
def torchrun_group(backend: str) -> Iterator[bool]:
    """Join the process group that `torchrun` announces, and leave it at the end. False without `torchrun`, and where
    this process is in a group already."""
    joins = dist.is_available() and not dist.is_initialized() and dist.is_torchelastic_launched()
    if joins:
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield joins
    finally:
        if joins:
            dist.destroy_process_group()


@contextmanager
def joined() -> Iterator[Team | None]:
    """Join the processes that `torchrun` started; None if this process is alone. At the end, the leader sends the
    others home."""
    gpu = torch.cuda.is_available()
    with torchrun_group("cpu:gloo,cuda:nccl" if gpu else "gloo") as joins:
        if not joins or dist.get_world_size() == 1:
            yield None
            return
        if gpu:
            torch.cuda.set_device(dist.get_node_local_rank(fallback_rank=0))
        team = Team(dist.get_rank(), dist.get_world_size())
        _teams.append(team)
        try:
            yield team
        finally:
            _teams.remove(team)
            if team.leads:
                team.hand_out(None)


@contextmanager
def formed(team: Team, store: Store, gpu: int | None) -> Iterator[Team]:
    """Join the processes of a team that meet at `store`, each on a GPU of its own if it has one."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    backend = "gloo" if gpu is None else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=team.rank, world_size=team.size, timeout=PATIENCE)
    _teams.append(team)
    try:
        yield team
    finally:
        _teams.remove(team)
        dist.destroy_process_group()


@contextmanager
def sharing(dit: DiT, share: Share, *, compiled: bool = False) -> Iterator[None]:
    """Inside the block, the DiT's blocks compute this process's tokens only; velocities are whole on every process."""
    layers = [module for module in dit.modules() if isinstance(module, SelfAttention)]
    before = [layer.attention_fn for layer in layers]
    lengths: list[int] = []  # of the token sequence that is being computed

    def run(dit: DiT, stream: Stream) -> None:
        length = stream.x.shape[1]
        lengths[:] = [length]
        stream.x, stream.angles = _own(stream.x, share, 1), _own(stream.angles, share, 1)
        stream.vace = None if stream.vace is None else _own(stream.vace, share, 1)
        through_blocks(dit, stream)
        parts = [torch.empty_like(stream.x) for _ in range(share.parts)]
        dist.all_gather(parts, stream.x.contiguous(), group=share.tokens)
        stream.x = torch.cat(parts, dim=1)[:, :length]

    def attend(inner: AttentionFn, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, /) -> Tensor:
        assert bias is None, "only cross-attention has a bias"
        return _exchanged(inner, q, k, v, share, lengths[0])

    if share.parts > 1:
        dit.run_fn = run
        for layer, inner in zip(layers, before, strict=True):
            function: Callable[..., Tensor] = partial(attend, inner)
            layer.attention_fn = outside_graphs(function) if compiled else function
    try:
        yield
    finally:
        dit.run_fn = through_blocks
        for layer, inner in zip(layers, before, strict=True):
            layer.attention_fn = inner


def _own(values: Tensor, share: Share, dim: int) -> Tensor:
    """This process's part of the tokens in dimension `dim`, padded with zeros so that all parts are of one length."""
    length = -(-values.shape[dim] // share.parts)
    begin = min(share.part * length, values.shape[dim])
    own = values.narrow(dim, begin, min(length, values.shape[dim] - begin))
    missing = [0, 0] * (values.ndim - 1 - dim) + [0, length - own.shape[dim]]
    return F.pad(own, missing).contiguous()


def _exchanged(inner: AttentionFn, q: Tensor, k: Tensor, v: Tensor, share: Share, length: int) -> Tensor:
    """Self-attention from q, k and v [b, l, n, d] of this process's tokens to its tokens, over all `length` tokens.

    Padding stands at the end of the sequence, so that it can be cut off.
    """
    sent = rearrange(torch.stack([q, k, v]), "three b l (p n) d -> p three b l n d", p=share.parts).contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=share.tokens)
    q, k, v = rearrange(received, "p three b l n d -> three b (p l) n d")[:, :, :length].unbind()
    result = inner(q, k, v)
    result = F.pad(result, (0, 0, 0, 0, 0, received.shape[3] * share.parts - length))
    sent = rearrange(result, "b (p l) n d -> p b l n d", p=share.parts).contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=share.tokens)
    return rearrange(received, "p b l n d -> b l (p n) d")

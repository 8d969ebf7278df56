"""Several processes, one run: under `torchrun`, or wherever a process group was made before.

An adapter is small: every process holds all of it and adds up the gradients (data parallelism). Whole weights, their
gradients and the optimizer's states are shared out instead, block by block (FSDP2), and gathered for checkpoints. One
process reads what another writes only through the group; files are written by the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lichtspiel.inference.parallel import torchrun_group
from lichtspiel.models.dit import DiT

__all__ = ["add_gradients", "agreed", "gathered", "group", "place", "scatter", "scatter_states", "shard"]


@contextmanager
def group(device: str) -> Iterator[tuple[int, int]]:
    """The rank of this process and how many there are. Joins the group that `torchrun` announces, and leaves it again
    at the end; a group that exists already is used as it is; without either, this process is alone."""
    with torchrun_group("nccl" if device.startswith("cuda") else "gloo"):
        if dist.is_available() and dist.is_initialized():
            yield dist.get_rank(), dist.get_world_size()
        else:
            yield 0, 1


def place(device: str) -> torch.device:
    """The device of this process: on a machine with several GPUs, each process takes its own."""
    if device == "cuda" and dist.is_available() and dist.is_initialized():
        chosen = torch.device("cuda", dist.get_node_local_rank(fallback_rank=0))
        torch.cuda.set_device(chosen)
        return chosen
    return torch.device(device)


def agreed(value: bool) -> bool:
    """What the first process says, so that all do the same."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def add_gradients(parameters: Mapping[str, Tensor]) -> None:
    """Replace every process's gradients by their sum over all, in one message."""
    held = [parameter for parameter in parameters.values() if parameter.requires_grad]
    flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in held])
    dist.all_reduce(flat)
    for parameter, part in zip(held, torch.split(flat, [one.numel() for one in held]), strict=True):
        parameter.grad = part.view_as(parameter)


def shard(dit: DiT) -> None:
    """Share the weights of a model out over all processes, each block by itself and the rest together."""
    for stack in (dit.blocks, getattr(dit, "vace_blocks", ())):
        for block in stack:
            fully_shard(block)
    fully_shard(dit)


def gathered(value: Any) -> Any:
    """A nested state with whole tensors instead of shares; every process has to call it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: gathered(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gathered(one) for one in value)
    return value


def scatter(value: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor that has the shape of `like`; the tensor itself if `like` is whole."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


def scatter_states(states: Mapping[int, dict[str, Any]], parameters: Sequence[nn.Parameter]) -> dict[int, Any]:
    """An optimizer's states by the number of the parameter, each shared out as its parameter is."""
    return {
        number: {
            name: scatter(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }
        for number, state in states.items()
    }

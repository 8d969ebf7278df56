"""DoRA (arXiv 2402.09353): a weight's direction changes by a low-rank pair, and the lengths of its rows separately."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["row_lengths"]


@torch.no_grad()
def row_lengths(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """The lengths [out] of the rows of W + B·A in float32, without computing that sum.

    |w + b·A|² = |w|² + 2·b·(A w) + b·(A Aᵀ)·b for each row w of W [out, in] and b of B (`up` [out, rank], with the
    scale in it); A is `down` [rank, in]. No gradient goes through it (section 4.3 of the paper).
    """
    weight, down, up = weight.float(), down.float(), up.float()
    cross = torch.einsum("or,or->o", up, F.linear(weight, down.to(weight.device)).to(up))
    own = torch.einsum("or,rq,oq->o", up, down @ down.T, up)
    lengths = weight.square().sum(dim=1).to(up) + 2 * cross + own
    return lengths.clamp(min=torch.finfo(torch.float32).tiny).sqrt()

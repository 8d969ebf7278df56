"""The optimiser: Muon for matrices and convolutions, Adam for the rest, one learning-rate factor for both.

Muon (K. Jordan, "Muon: an optimizer for hidden layers", 2024) replaces a matrix's momentum by the nearest
half-orthogonal matrix. Convolutions count as matrices of outputs × everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration in the same source, chosen for slope at zero."""


class Muon(Optimizer):
    """Muon for parameter groups with `muon=True`, Adam (betas .9, .95) for those without.

    `rate` is the learning rate of each group; `scale` (set before every step) multiplies all of them.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], rates: tuple[float, float]):
        groups = [
            {"params": list(matrices), "muon": True, "rate": rates[0]},
            {"params": list(others), "muon": False, "rate": rates[1]},
        ]
        super().__init__([group for group in groups if group["params"]], {})
        self.scale = 1.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, self.state[parameter], group["rate"] * self.scale)

    @staticmethod
    def _muon(parameter: Tensor, grad: Tensor, state: dict[str, Any], rate: float) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        momentum = state["momentum"]
        momentum.lerp_(grad, 0.05)
        direction = orthogonal(grad.lerp(momentum, 0.95).flatten(1))
        rows, columns = direction.shape
        step = direction.view(parameter.shape).to(parameter.dtype)
        parameter.add_(step, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    @staticmethod
    def _adam(parameter: Tensor, grad: Tensor, state: dict[str, Any], rate: float) -> None:
        if not state:
            state.update(step=0, mean=torch.zeros_like(grad), square=torch.zeros_like(grad))
        state["step"] += 1
        state["mean"].lerp_(grad, 0.1)
        state["square"].lerp_(grad.square(), 0.05)
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        square = state["square"] / (1 - 0.95 ** state["step"])
        parameter.addcdiv_(mean, square.sqrt().add_(1e-8), value=-rate)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The half-orthogonal matrix nearest to `matrix` [r, c], approximately: singular values come out near 1."""
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = _iterate_gram(x, iterations) if x.shape[1] >= 3 * x.shape[0] else _iterate(x, iterations)
    result: Tensor = x.T if tall else x
    return result


def _iterate(x: Tensor, iterations: int) -> Tensor:
    """X <- (a + b XX' + c (XX')^2) X, again and again."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _iterate_gram(x: Tensor, iterations: int) -> Tensor:
    """The same for wide matrices, as convolutions are, with small products only: XX' of the next step is P XX' P, and
    the Ps of all steps, which commute, are applied to X together. In float32, because XX' squares the spread of
    singular values."""
    a, b, c = NEWTON_SCHULZ
    wide = x.float()
    gram = wide @ wide.T
    identity = torch.eye(len(gram), device=x.device)
    product = identity
    for step in range(iterations):
        p = a * identity + b * gram + c * gram @ gram
        product = p @ product
        if step + 1 < iterations:
            gram = p @ gram @ p
    return product @ wide


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon applies: a matrix or convolution inside the network, not an embedding, a first or a last layer.

    The text encoder is left to Adam as well: its attention is not scaled, which Muon upsets."""
    edges = ("umt5.", "embedding", "head", "modulation", "encoder.conv1", "decoder.conv1", "time_projection")
    inner = not any(part in name for part in edges)
    return inner and parameter.ndim >= 2 and min(parameter.flatten(1).shape) > 1


def split(modules: dict[str, nn.Module], rates: tuple[float, float]) -> Muon:
    """One optimiser over several modules; their names prefix the parameters' names in `is_matrix`."""
    named = [(f"{key}.{name}", p) for key, module in modules.items() for name, p in module.named_parameters()]
    matrices = [p for name, p in named if p.requires_grad and is_matrix(name, p)]
    others = [p for name, p in named if p.requires_grad and not is_matrix(name, p)]
    return Muon(matrices, others, rates)

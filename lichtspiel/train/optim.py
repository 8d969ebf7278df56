"""Optimizers: the interface that a run needs, and Muon for matrices and convolutions with AdamW for the rest.

Muon (K. Jordan, "Muon: an optimizer for hidden layers", 2024) replaces a matrix's momentum with the nearest
semi-orthogonal matrix. A convolution's weight is treated as a matrix of outputs × everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Combined", "Muon", "Optimizer", "OptimizerFactory", "adamw", "is_matrix", "muon_adamw", "orthogonal"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, from the same source, chosen to maximize the slope at zero."""


class Optimizer(Protocol):
    """What a run needs from an optimizer; every `torch.optim.Optimizer` has it. The run sets every group's `lr`."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""

    def step(self) -> Any:
        """Update every parameter that has a gradient."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


OptimizerFactory = Callable[[Mapping[str, nn.Module]], Optimizer]
"""Makes the optimizer of a run from its modules by name."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum 0.95, for matrices and convolutions."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameters in _alike([parameter for parameter in group["params"] if parameter.grad is not None]):
                self._update(parameters, group["lr"])

    def _update(self, parameters: list[nn.Parameter], rate: float) -> None:
        """Update parameters of one shape."""
        leading = []
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
            momentum: Tensor = state["momentum"]
            momentum.lerp_(gradient, 0.05)
            leading.append(gradient.lerp(momentum, 0.95))
        rows, columns = len(parameters[0]), parameters[0][0].numel()
        for parameter, step in zip(parameters, self.directions(leading), strict=True):
            parameter.add_(step.to(parameter.dtype), alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def directions(self, gradients: list[Tensor]) -> list[Tensor]:
        """The steps for gradients of one shape, which they are like in shape and in how they are stored."""
        steps = orthogonal(torch.stack([gradient.flatten(1) for gradient in gradients]))
        return [step.view(gradient.shape) for step, gradient in zip(steps, gradients, strict=True)]


STACKED = 1 << 24
"""Values in the matrices of one shape that are made orthogonal together. A network's blocks have the same few shapes,
and one product of many small matrices costs far less than many products; large matrices gain nothing."""


def _alike(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters by shape and device, at most `STACKED` values at a time."""
    groups: dict[tuple[torch.Size, torch.device, torch.dtype], list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.shape, parameter.device, parameter.dtype), []).append(parameter)
    for group in groups.values():
        count = max(1, STACKED // group[0].numel())
        for begin in range(0, len(group), count):
            yield group[begin : begin + count]


class Combined:
    """Several optimizers, each with its own parameters, as one."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Approximately the semi-orthogonal matrices nearest to `matrices` [..., r, c]: their singular values are close to
    1."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = _iterate_gram(x, iterations) if x.shape[-1] >= 3 * x.shape[-2] else _iterate(x, iterations)
    return x.mT if tall else x


def _iterate(x: Tensor, iterations: int) -> Tensor:
    """Iterate X <- (a + b XX' + c (XX')^2) X."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _iterate_gram(x: Tensor, iterations: int) -> Tensor:
    """The same iteration for wide matrices, such as convolutions, with small products only.

    XX' of the next step is P XX' P, and the Ps of all steps, which commute, are applied to X together. Computed in
    float32, because XX' squares the spread of the singular values.
    """
    a, b, c = NEWTON_SCHULZ
    wide = x.float()
    gram = wide @ wide.mT
    identity = torch.eye(gram.shape[-1], device=x.device)
    product = identity
    for step in range(iterations):
        p = a * identity + b * gram + c * gram @ gram
        product = p @ product
        if step + 1 < iterations:
            gram = p @ gram @ p
    return product @ wide


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon updates this parameter: a matrix or convolution that is no embedding and no first or last layer.

    AdamW updates the text encoder as well, because its attention is unscaled, which does not work with Muon.
    """
    edges = ("umt5.", "embedding", "head", "modulation", "encoder.conv1", "decoder.conv1", "time_projection")
    inner = not any(part in name for part in edges)
    return inner and parameter.ndim >= 2 and min(parameter.flatten(1).shape) > 1


def adamw(modules: Mapping[str, nn.Module], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without weight decay, with betas 0.9 and 0.95, for every parameter of the modules."""
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    return _adamw([parameter for parameter in parameters if parameter.requires_grad], learning_rate)


def muon_adamw(modules: Mapping[str, nn.Module], learning_rates: tuple[float, float]) -> Optimizer:
    """Muon for matrices and convolutions and AdamW for the rest; the learning rates are passed in this order.

    `is_matrix` sees each parameter's name prefixed with that of its module.
    """
    named = [(f"{key}.{name}", p) for key, module in modules.items() for name, p in module.named_parameters()]
    matrices = [p for name, p in named if p.requires_grad and is_matrix(name, p)]
    adamw_parameters = [p for name, p in named if p.requires_grad and not is_matrix(name, p)]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, learning_rates[0]))
    if adamw_parameters:
        optimizers.append(_adamw(adamw_parameters, learning_rates[1]))
    return Combined(*optimizers)


def _adamw(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)

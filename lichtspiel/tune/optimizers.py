"""The optimizers of tuning runs, by name. Prodigy and schedule-free come from their own packages (extra `tune`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.train.optim import Combined, Muon, Optimizer, is_matrix
from lichtspiel.tune.parallel import gathered, scatter, scatter_states
from lichtspiel.tune.settings import RunOptions

__all__ = ["make_optimizer", "scheduled"]

BETAS = (0.9, 0.99)


def make_optimizer(named: Mapping[str, nn.Parameter], options: RunOptions) -> Optimizer:
    """The optimizer of a run for its parameters by name. Raises InvalidInput if its package is not installed."""
    parameters, rate, decay = [*named.values()], options.rate, options.weight_decay
    if options.optimizer == "prodigy":
        return _prodigy(parameters, rate, decay)
    if options.optimizer == "schedule-free":
        return _schedule_free(parameters, options)
    if options.optimizer == "adamw":
        return _adamw(parameters, rate, decay)
    matrices = [parameter for name, parameter in named.items() if is_matrix(f"dit.{name}", parameter)]
    others = [parameter for name, parameter in named.items() if not is_matrix(f"dit.{name}", parameter)]
    # Muon's steps have a fixed size, so its rate is far above AdamW's, which trains what is no matrix.
    return Combined(_SharedMuon(matrices, rate), _adamw(others, rate / 10, decay))


def scheduled(options: RunOptions, step: int, steps: int) -> float:
    """The factor of the learning rate at a step: it rises, stays, and falls to zero at the end of the run.

    Schedule-free has its own, without an end (arXiv 2405.15682).
    """
    if options.optimizer == "schedule-free":
        return 1.0
    rising = (step + 1) / max(options.warmup, 1)
    falling = (steps - step) / max(options.decay * steps, 1)
    return min(1.0, rising, falling)


class _SharedMuon(Muon):
    """Muon for weights that are shared out over processes: each orthogonalizes the whole gradient and takes its part
    of the step."""

    def directions(self, gradients: list[Tensor]) -> list[Tensor]:
        """See `Muon`; one after another, because a whole gradient takes as much memory as all its parts."""
        return [scatter(super(_SharedMuon, self).directions([gathered(one)])[0], one) for one in gradients]


def _adamw(parameters: Sequence[nn.Parameter], rate: float, decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=rate, betas=BETAS, eps=1e-8, weight_decay=decay)


def _prodigy(parameters: Sequence[nn.Parameter], rate: float, decay: float) -> Optimizer:
    """Prodigy with the settings that its authors recommend for diffusion models."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise _missing("prodigy", "prodigyopt") from error
    made: Any = Prodigy(
        parameters, lr=rate, betas=BETAS, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True
    )
    return made  # type: ignore[no-any-return]


def _schedule_free(parameters: Sequence[nn.Parameter], options: RunOptions) -> Optimizer:
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise _missing("schedule-free", "schedulefree") from error
    made: Any = AdamWScheduleFree(
        parameters, lr=options.rate, betas=(0.9, 0.999), weight_decay=options.weight_decay, warmup_steps=options.warmup
    )
    made.train()
    return made  # type: ignore[no-any-return]


def _missing(name: str, package: str) -> InvalidInput:
    return InvalidInput(
        f"--optimizer {name} needs the package {package}; install it with `pip install 'lichtspiel[tune]'`"
    )


def averages_itself(optimizer: Optimizer) -> bool:
    """Whether the optimizer keeps an average of the weights, which is what counts in the end."""
    return hasattr(optimizer, "eval")


def use_average(optimizer: Any) -> None:
    """Exchange the weights for the optimizer's average."""
    optimizer.eval()


def keep_training(optimizer: Any) -> None:
    """Tell an optimizer that its weights are those of training again, because a copy of them was put back."""
    for group in optimizer.param_groups:
        group["train_mode"] = True


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load an optimizer's whole state; of parameters that are shared out, each process takes its share."""
    if isinstance(optimizer, Combined):
        for one, saved in zip(optimizer.optimizers, state["optimizers"], strict=True):
            load_optimizer(one, saved)
        optimizer.param_groups = [group for one in optimizer.optimizers for group in one.param_groups]
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.load_state_dict(state | {"state": scatter_states(state["state"], parameters)})


def copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The values of parameters, in memory of their own."""
    return [parameter.detach().clone() for parameter in parameters]

"""One model, what is trained of it, and its optimizer: a step, and the loss without a step. Knows no files of a run.

Gradients and the loss belong to whole steps: `backward` adds the gradients of one part, and `update` takes the step.
What is trained is float32. A frozen model computes in the precision of its weights; a model that is trained whole
computes its products in bfloat16 where that is asked for, and its time embedding and head in float32 anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.errors import NonFinite
from lichtspiel.lora import LoRA
from lichtspiel.models.dit import Linear32
from lichtspiel.spec import Model
from lichtspiel.tune.adapter import Adapter
from lichtspiel.tune.base import load_base
from lichtspiel.tune.cache import Batch
from lichtspiel.tune.objective import Draw, loss, velocity
from lichtspiel.tune.optimizers import (
    averages_itself,
    copies,
    keep_training,
    load_optimizer,
    make_optimizer,
    scheduled,
    use_average,
)
from lichtspiel.tune.parallel import gathered, scatter, shard
from lichtspiel.tune.settings import RunOptions
from lichtspiel.weights.checkpoint import Checkpoint
from lichtspiel.weights.match import Weights

__all__ = ["Trainer"]

EMA_RISE = 10
"""An average follows the weights closely at first: over its first steps it keeps (1 + step) / (10 + step) at most."""


class Trainer:
    """The model of a checkpoint, ready for steps on batches of its cache.

    Of a streamed model the first `resident` blocks stay in memory. With "lora", `adapter` is what is trained; without,
    it is None. `parameters` are what is trained, by name. `sharded` shares the weights of a model that is trained whole
    out over all processes of the group.
    """

    def __init__(
        self, row: Model, files: Checkpoint, options: RunOptions, device: torch.device | str, *, resident: int = 0,
        sharded: bool = False,
    ) -> None:  # fmt: skip
        self.row, self.options, self.device = row, options, torch.device(device)
        self.dit = load_base(files, options, self.device, resident=resident)
        self.adapter: Adapter | None = None
        if options.method == "lora":
            self.adapter = Adapter(self.dit, options.adapter, options.seed)
            if options.adapter.dora:
                weights = Weights(files.parts["dit"], row.dit)
                self.adapter.measure(lambda name: weights[name])
            self.adapter.to(self.device)
        elif options.dtype == "bfloat16":
            _keep_float32(self.dit)
        self.sharded = sharded
        if sharded:
            shard(self.dit)
        trained: nn.Module = self.dit if self.adapter is None else self.adapter
        self.parameters: dict[str, nn.Parameter] = dict(trained.named_parameters())
        self.optimizer = make_optimizer(self.parameters, options)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.averages: dict[str, Tensor] | None = None
        if options.ema:
            self.averages = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.steps_taken = 0

    def backward(self, batch: Batch, drawn: Draw, *, share: float = 1.0) -> float:
        """Add the gradients of a batch, which is `share` of its step; returns its loss.

        Raises NonFinite if the loss is not finite.
        """
        self._train(True)
        batch = batch.to(self.device)
        with self._computing():
            value = loss(self.dit, batch, self.row, drawn)
        found = float(value.detach())
        if not torch.isfinite(value):
            raise NonFinite("the training loss", "start again with a lower --learning-rate")
        (value * share).backward()  # type: ignore[no-untyped-call]
        return found

    def backward_kept(self, batch: Batch, drawn: Draw, *, share: float = 1.0) -> float:
        """Add the gradients of staying with the frozen model on a batch, whose texts are prompts to keep (the idea of
        prior preservation, arXiv 2208.12242, with the model's own velocity for a target); returns the loss."""
        assert self.adapter is not None
        self._train(True)
        batch = batch.to(self.device)
        noisy, _ = flow.training_pair(batch.latents, drawn.noise.to(batch.latents), drawn.times.to(batch.latents))
        with self._computing():
            with torch.no_grad(), self.adapter.disabled():
                wanted = velocity(self.dit, batch, self.row, noisy, drawn)
            value = flow.loss(velocity(self.dit, batch, self.row, noisy, drawn), wanted)
        (value * (share * self.options.keep_weight)).backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    @torch.no_grad()
    def start(self, lora: LoRA) -> None:
        """Begin with an adapter instead of the model as it is; before the first step."""
        assert self.adapter is not None
        assert not self.steps_taken
        self.adapter.start(lora)
        if self.averages is not None:
            for name, parameter in self.parameters.items():
                self.averages[name].copy_(parameter)

    def update(self, factor: float = 1.0) -> float:
        """Take one optimizer step with `factor` times the learning rate; returns the length of the gradient before it
        was clipped. Raises NonFinite if that is not finite."""
        parameters = [*self.parameters.values()]
        length = self.gradient_length()
        if not torch.isfinite(length):
            raise NonFinite("a gradient", "start again with a lower --learning-rate")
        limit = self.options.clip
        if limit and float(length) > limit:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], limit / float(length))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        self.steps_taken += 1
        return float(length)

    def gradient_length(self) -> Tensor:
        """The Euclidean length of the whole gradient."""
        grads = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        lengths = [torch.linalg.vector_norm(grad).float() for grad in grads]
        total: Tensor = torch.linalg.vector_norm(torch.stack([gathered(length) for length in lengths]))
        return total

    def step(self, batch: Batch, *, times: Tensor, noise: Tensor) -> float:
        """One whole step on one batch, for its text or whatever its model always gets; returns the loss before it."""
        found = self.backward(batch, Draw(times, noise, torch.zeros(len(batch), dtype=torch.long)))
        self.update(scheduled(self.options, self.steps_taken, 1 << 30))
        return found

    @torch.no_grad()
    def loss(self, batch: Batch, *, times: Tensor, noise: Tensor) -> float:
        """The loss of a batch without a step, with what would be exported now."""
        self._train(False)
        drawn = Draw(times, noise, torch.zeros(len(batch), dtype=torch.long))
        with self._computing():
            return float(loss(self.dit, batch.to(self.device), self.row, drawn))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block, the weights are the average, if there is one; after it, those of training, bit for bit."""
        own = averages_itself(self.optimizer)
        if self.averages is None and not own:
            yield
            return
        parameters = [*self.parameters.values()]
        kept = copies(parameters)
        try:
            if self.averages is None:
                use_average(self.optimizer)
            else:
                with torch.no_grad():
                    for name, parameter in self.parameters.items():
                        parameter.copy_(self.averages[name])
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)
            if own:
                keep_training(self.optimizer)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Inside the block, the model computes as it does in training, without dropout and without gradients."""
        self._train(False)
        with torch.no_grad(), self._computing():
            yield

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights of the model by their official names, which are its own; every process has to call it."""
        return {name: gathered(value.detach()) for name, value in self.dit.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had never stopped, in any number of processes; every process
        has to call it."""
        whole: dict[str, Any] = gathered({
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "averages": self.averages,
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps_taken,
        })  # fmt: skip
        return whole

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name, value in state["parameters"].items():
            self.parameters[name].copy_(scatter(value, self.parameters[name]))
        if self.averages is not None:
            for name, value in state["averages"].items():
                self.averages[name].copy_(scatter(value, self.averages[name]))
        load_optimizer(self.optimizer, state["optimizer"])
        self.steps_taken = state["steps"]

    @torch.no_grad()
    def _average(self) -> None:
        if self.averages is None:
            return
        keep = min(self.options.ema, (1 + self.steps_taken) / (EMA_RISE + self.steps_taken))
        for name, parameter in self.parameters.items():
            self.averages[name].lerp_(parameter.detach(), 1 - keep)

    def _train(self, training: bool) -> None:
        if self.adapter is not None:
            self.adapter.train(training)

    def _computing(self) -> torch.autocast:
        """The precision of products: that of the weights, but for float32 weights that are trained."""
        mixed = self.options.method == "full" and self.options.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)


def _keep_float32(dit: nn.Module) -> None:
    """Keep the layers of the time and the head in float32 within mixed precision, as the model asks for."""
    for module in dit.modules():
        if isinstance(module, Linear32):
            module.forward = _exact(module)  # type: ignore[method-assign]


def _exact(module: Linear32) -> Any:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return Linear32.forward(module, x)

    return forward

"""The state of a training run between two steps, and how it survives being killed.

A `Run` holds the modules, their moving averages, the optimizer, the step count and the seconds spent. A checkpoint is
one file, written by atomic rename. All randomness comes from `generator`, so a resumed run continues exactly as if it
had never stopped.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput, NonFinite
from lichtspiel.storage import atomic_write
from lichtspiel.train.optim import Optimizer

Weights = Mapping[str, Mapping[str, Tensor]]
"""Weights of some modules of a run, by the module's name."""

EMA_DECAY = 0.998


Logger = Callable[[dict[str, float]], None]
"""Receives the metrics of each step."""


BAD, SETTLED, PATIENCE, USUAL_SHARE = 3.0, 100, 20, 0.03
"""A loss above `BAD` times the usual one is left out from step `SETTLED` on, at most `PATIENCE` - 1 times in a row;
each loss moves the usual one by `USUAL_SHARE` of its distance."""


def check_device(device: str) -> None:
    """Raise InvalidInput unless training can run on `device`: "cpu", or "cuda" if there is a GPU."""
    if device not in {"cpu", "cuda"}:
        raise InvalidInput(f"--device {device}: training runs on cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("--device cuda: this machine has no GPU that PyTorch can use; leave --device out")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run may take, in either optimizer steps or minutes."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise InvalidInput("a training run needs --steps or --minutes, and not both")


@dataclass
class Run:
    """The state of one training run.

    A step has `accumulate` parts, whose gradients are averaged; `part` is the current one. `seconds` is the time spent
    training, over all resumes. `usual` is the moving mean of the losses by kind of batch, and `left_out` counts the
    losses that were left out since the last good one.
    """

    modules: dict[str, nn.Module]
    optimizer: Optimizer
    budget: Budget
    folder: Path
    seed: int
    accumulate: int = 1
    step: int = 0
    seconds: float = 0.0
    part: int = 0
    usual: dict[str, float] = field(default_factory=dict)
    left_out: int = 0
    averages: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        self.averages = {name: copy.deepcopy(m).eval().requires_grad_(False) for name, m in self.modules.items()}
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def progress(self) -> float:
        """The fraction of the budget that is spent, 0 to 1."""
        if self.budget.steps is not None:
            return min(self.step / self.budget.steps, 1.0)
        assert self.budget.minutes is not None
        return min(self.seconds / (60 * self.budget.minutes), 1.0)

    def generator(self, stream: int = 0) -> torch.Generator:
        """The generator of the current part of the current step; different `stream`s are for different uses."""
        # A prime near 2^32 divided by the golden ratio: PyTorch's generator reads only the low 32 bits of its seed.
        seed = (self.seed * 1_000_003 + self.step) * 16 + stream + self.part * 2_654_435_761
        return torch.Generator().manual_seed(seed)

    def steps(self, every: float = 60.0) -> Iterator[int]:
        """Yield step numbers until the budget is spent; tracks the time and writes a checkpoint at intervals."""
        saved = last = time.monotonic()
        while self.progress < 1.0:
            yield self.step
            self.step += 1
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if now - saved > every:
                self.save()
                saved = time.monotonic()
        self.save()

    def parts(self) -> Iterator[int]:
        """Yield the numbers of a step's parts."""
        for part in range(self.accumulate):
            self.part = part
            yield part
        self.part = 0

    def backward(self, loss: Tensor, kind: str = "") -> None:
        """Add the gradients of one part's loss, unless it is far above the usual one of its `kind`.

        A batch can be that bad by chance, and its gradient would undo many steps. Raises NonFinite if the loss is not
        finite, or if `PATIENCE` losses in a row are left out, because training has then diverged.
        """
        value = float(loss.detach())
        usual = self.usual.get(kind)
        if usual is not None and self.step >= SETTLED and value > BAD * usual:
            self.left_out += 1
            if self.left_out < PATIENCE:
                return
        if not math.isfinite(value) or self.left_out >= PATIENCE:
            raise NonFinite("training loss", f"resume from {self.folder} with a lower learning rate")
        self.left_out = 0
        self.usual[kind] = value if usual is None else usual + USUAL_SHARE * (value - usual)
        (loss / self.accumulate if self.accumulate > 1 else loss).backward()  # type: ignore[no-untyped-call]

    def update(self, warmup: int = 20, decay_from: float = 0.5) -> None:
        """Take one optimizer step and update the moving averages.

        The learning rate rises over `warmup` steps, stays constant, and falls to zero after the fraction `decay_from`
        of the budget.
        """
        decay = min(1.0, (1.0 - self.progress) / (1.0 - decay_from))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * min(1.0, (self.step + 1) / warmup) * decay
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        weight = 1.0 - min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, module in self.modules.items():
                for average, value in zip(self.averages[name].parameters(), module.parameters(), strict=True):
                    average.lerp_(value.to(average.dtype), weight)

    def save(self) -> Path:
        """Write `checkpoint.pt` atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.seed,
            "usual": self.usual,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "averages": {name: module.state_dict() for name, module in self.averages.items()},
            "optimizer": self.optimizer.state_dict(),
        }
        path = self.folder / "checkpoint.pt"
        with atomic_write(path) as draft:
            torch.save(state, draft)
        return path

    def start_from(self, weights: Weights) -> None:
        """Start from these weights instead of random ones. Raises InvalidInput if they do not fit."""
        for name, tensors in weights.items():
            try:
                self.modules[name].load_state_dict(tensors, strict=True)
            except RuntimeError as error:
                raise InvalidInput(f"these weights of {name} are of another variant: {error}") from error
            self.averages[name].load_state_dict(self.modules[name].state_dict(), strict=True)

    def resume(self) -> bool:
        """Continue from `checkpoint.pt` if there is one, and return whether there was."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return False
        device = next(next(iter(self.modules.values())).parameters()).device
        state = torch.load(path, map_location=device, weights_only=True)
        if state["seed"] != self.seed:
            raise InvalidInput(f"{path} was started with seed {state['seed']}, not {self.seed}; use another folder")
        if state["modules"].keys() != self.modules.keys():
            raise InvalidInput(f"{path} was made by a variant that trained other networks; use another folder")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name], strict=True)
            self.averages[name].load_state_dict(state["averages"][name], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.usual = state["step"], state["seconds"], state["usual"]
        return True

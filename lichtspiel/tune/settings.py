"""What a tuning run is: what it trains, how, and on which form of the frozen model. Pure data, checked when made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lichtspiel.errors import InvalidInput

__all__ = ["BASES", "BLOCKS", "METHODS", "OPTIMIZERS", "PRECISIONS", "TIMES", "AdapterPlan", "RunOptions"]

Method = Literal["lora", "full"]
Base = Literal["resident", "int8", "streamed"]
OptimizerName = Literal["adamw", "muon", "prodigy", "schedule-free"]
Times = Literal["logit-normal", "uniform"]
Precision = Literal["float32", "bfloat16"]

METHODS: tuple[Method, ...] = get_args(Method)
BASES: tuple[Base, ...] = get_args(Base)
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
TIMES: tuple[Times, ...] = get_args(Times)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

BLOCKS = ("blocks.*", "vace_blocks.*")
"""The layers that are adapted if nothing else is asked for: all linear layers of the blocks, as other trainers do."""

LEARNING_RATES: dict[tuple[Method, OptimizerName], float] = {
    ("lora", "adamw"): 2e-4, ("lora", "prodigy"): 1.0, ("lora", "schedule-free"): 4e-4,
    ("full", "adamw"): 1e-5, ("full", "prodigy"): 1.0, ("full", "schedule-free"): 2e-5, ("full", "muon"): 2e-4,
}  # fmt: skip
"""Learning rates if none is asked for; Prodigy finds its own and scales it by this number."""


@dataclass(frozen=True, kw_only=True)
class AdapterPlan:
    """The shape of an adapter.

    `layers` are patterns of layer names as a shell matches them. The product of a pair counts `alpha` / `rank` times.
    `dropout` is the probability with which an input of a pair is dropped while training. `dora` also learns the length
    of every row of a weight, apart from its direction (arXiv 2402.09353).
    """

    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.0
    layers: tuple[str, ...] = BLOCKS
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InvalidInput(f"--rank {self.rank} is not valid; use a whole number from 1")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InvalidInput(f"--alpha {self.alpha:g} is not valid; use a number above 0, such as the rank")
        if not 0 <= self.dropout < 1:
            raise InvalidInput(f"--dropout {self.dropout:g} is not valid; use a probability from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Everything that decides what a run computes, but for its data, its length and its machine.

    `method` is "lora", which trains an adapter on a frozen model, or "full", which trains every parameter. The frozen
    model is `base`: resident in `dtype`, with the blocks in eight bit, or with the blocks read from their file each
    time they run. With `checkpointing`, blocks keep only their input and compute the rest again in the backward pass.

    A step has `accumulate` batches of `batch` samples; gradients longer than `clip` are shortened to it (0: never).
    The learning rate rises for `warmup` steps, and falls to zero over the last `decay` of the run. `ema` is how much of
    the average of the weights a step keeps (0: no average). Times are drawn with `times` and moved toward noise by
    `shift`. `drop_text` is how often a caption is left out, and `first` and `first_last` are how often a model that
    does several tasks is given the first, or the first and the last, frame.

    `keep` are prompts that are to look as they did: for them, the adapter learns the velocity of the model without it,
    with `keep_weight` in the loss. What is learned then stays with the captions.

    `start` is the digest of the adapter file that a run begins with (None: it begins with the model as it is).
    """

    method: Method = "lora"
    adapter: AdapterPlan = field(default_factory=AdapterPlan)
    base: Base = "resident"
    checkpointing: bool = True
    dtype: Precision = "float32"
    optimizer: OptimizerName = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 0.01
    batch: int = 1
    accumulate: int = 1
    clip: float = 1.0
    warmup: int = 20
    decay: float = 0.2
    ema: float = 0.0
    times: Times = "logit-normal"
    shift: float = 3.0
    drop_text: float = 0.1
    keep: tuple[str, ...] = ()
    keep_weight: float = 1.0
    first: float = 0.2
    first_last: float = 0.1
    seed: int = 0
    start: str | None = None

    def __post_init__(self) -> None:
        if self.method == "full" and self.base != "resident":
            raise InvalidInput(f"--base {self.base} holds frozen weights; full training needs --base resident")
        if self.method == "lora" and self.optimizer == "muon":
            raise InvalidInput("--optimizer muon is for whole matrices; use adamw for an adapter, or `tune full`")
        if self.method == "full" and self.keep:
            raise InvalidInput("--keep compares with the frozen model; full training has none, so leave it out")
        if self.base == "streamed" and not self.checkpointing:
            raise InvalidInput(
                "--base streamed reads every block again in the backward pass; leave out --no-checkpointing"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        for flag, count, least in (("--batch", self.batch, 1), ("--accumulate", self.accumulate, 1),
                                   ("--warmup", self.warmup, 0)):  # fmt: skip
            if count < least:
                raise InvalidInput(f"{flag} {count} is not valid; use a whole number from {least}")
        for flag, value, example in (("--learning-rate", self.rate, "2e-4"), ("--shift", self.shift, "3")):
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"{flag} {value:g} is not valid; use a number above 0, such as {example}")
        for flag, value in (("--clip", self.clip), ("--weight-decay", self.weight_decay),
                            ("--keep-weight", self.keep_weight)):  # fmt: skip
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInput(f"{flag} {value:g} is not valid; use 0 or more")
        shares = {"--ema": self.ema, "--drop-text": self.drop_text, "--first": self.first}
        for flag, value in (shares | {"--first-last": self.first_last}).items():
            if not 0 <= value < 1:
                raise InvalidInput(f"{flag} {value:g} is not valid; use a share from 0 to below 1")
        if not 0 <= self.decay <= 1:
            raise InvalidInput(f"--decay {self.decay:g} is not valid; use a share of the run from 0 to 1")
        if self.first + self.first_last > 1:
            raise InvalidInput("--first and --first-last are shares of the same samples; together they are at most 1")

    @property
    def rate(self) -> float:
        """The learning rate at its highest."""
        return LEARNING_RATES[self.method, self.optimizer] if self.learning_rate is None else self.learning_rate

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values, the learning rate as it takes effect."""
        return asdict(self) | {"learning_rate": self.rate}

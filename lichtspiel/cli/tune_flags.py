"""The flags of the data and of a run, written down once: `tune check`, `tune lora` and `tune full` take them from here.

A verb names a parameter `options`, `adapter` or `run`; `about_data`, `about_adapter` and `about_run` put the flags
there. What changes only the course of a run, and not its check, stands in `tune_run`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import without_effect
from lichtspiel.cli.flags import expand, parameters
from lichtspiel.options import COMPUTING

if TYPE_CHECKING:
    from lichtspiel.tune.dataset import DataOptions
    from lichtspiel.tune.settings import RunOptions

__all__ = ["TypedAdapter", "TypedRun", "about_adapter", "about_data", "about_run", "checked", "run_options"]

Verb = Callable[..., None]

DATA, ADAPTER, TRAINING = "Data", "Adapter", "Training"
"""Headings of the options."""


def _option(*names: str, group: str, metavar: str | None = None, help: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=group, **more)


Folder = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder of clips and pictures with captions, or a file that lists them.")
]
ModelName = Annotated[
    str, _option("--model", group=COMPUTING, metavar="MODEL", help="Which model to tune; see `lichtspiel models`.")
]
Size = Annotated[
    str | None,
    _option(
        "--size", group=DATA, metavar="WIDTHxHEIGHT",
        help="Area of a frame; each clip keeps about its own shape. [default: the model's smallest]",
    ),
]  # fmt: skip
Frames = Annotated[
    list[int] | None,
    _option(
        "--frames", group=DATA, metavar="NUMBER",
        help="Length of a sample, 4n+1; the longest that a clip fills is taken. [default: 17 and 33; may be repeated]",
    ),
]  # fmt: skip
Extract = Annotated[
    str, _option("--extraction", group=DATA, metavar="start|whole|windows|evenly", help="Which frames of a clip.")
]
Stride = Annotated[
    int | None,
    _option("--stride", group=DATA, metavar="NUMBER", min=1, help="Frames from one window to the next."),
]
Windows = Annotated[
    int | None,
    _option("--windows", group=DATA, metavar="NUMBER", min=1, help="How many samples --extraction evenly takes."),
]
Repeats = Annotated[
    int, _option("--repeats", group=DATA, metavar="NUMBER", min=1, help="How often an epoch has each clip.")
]
Trigger = Annotated[
    list[str] | None,
    _option("--trigger", group=DATA, metavar="WORD", help="Put before captions that lack it. [may be repeated]"),
]
HoldOut = Annotated[
    int | None,
    _option(
        "--hold-out", group=DATA, metavar="NUMBER", min=0,
        help="Clips for validation only. [default: a tenth, none of fewer than 8]",
    ),
]  # fmt: skip
Consent = Annotated[
    str | None,
    _option(
        "--consent", group=DATA, metavar="TEXT",
        help="Who is shown and that they agreed, where the policy asks for it; asked once and recorded.",
    ),
]  # fmt: skip
CacheFolder = Annotated[
    Path | None,
    _option(
        "--cache", group=DATA, metavar="FOLDER",
        help="Where encoded data are kept. [default: in the data folder of this installation]",
    ),
]  # fmt: skip
Device = Annotated[str, _option("--device", group=COMPUTING, metavar="DEVICE", help="auto, cpu, cuda or cuda:0.")]
Rank = Annotated[
    int | None, _option("--rank", group=ADAPTER, metavar="NUMBER", help="Rank of the adapter. [default: 32]")
]
Alpha = Annotated[
    float | None, _option("--alpha", group=ADAPTER, metavar="NUMBER", help="Strength. [default: the rank]")
]
Dropout = Annotated[
    float | None,
    _option("--dropout", group=ADAPTER, metavar="SHARE", help="Inputs left out in training. [default: none]"),
]
Layers = Annotated[
    list[str] | None,
    _option(
        "--layers", group=ADAPTER, metavar="PATTERN",
        help="Linear layers, such as '*self_attn*'. [default: all of the blocks; may be repeated]",
    ),
]  # fmt: skip
Dora = Annotated[bool, _option("--dora", group=ADAPTER, help="Learn the lengths of weights apart (DoRA).")]
Base = Annotated[
    str | None,
    _option(
        "--base", group=COMPUTING, metavar="resident|int8|streamed",
        help="How the frozen model is held. [default: the fastest that fits]",
    ),
]  # fmt: skip
Precision = Annotated[
    str | None,
    _option("--dtype", group=COMPUTING, metavar="float32|bfloat16", help="Precision. [default: the device's fastest]"),
]
Optimizer = Annotated[
    str,
    _option("--optimizer", group=TRAINING, metavar="NAME", help="adamw, muon (full only), prodigy or schedule-free."),
]
Rate = Annotated[
    float | None,
    _option("--learning-rate", group=TRAINING, metavar="NUMBER", help="At its highest. [default: by method]"),
]
BatchSize = Annotated[int, _option("--batch", group=TRAINING, metavar="NUMBER", help="Samples in a batch.")]
Accumulate = Annotated[int, _option("--accumulate", group=TRAINING, metavar="NUMBER", help="Batches in a step.")]
Keep = Annotated[
    Path | None,
    _option("--keep", group=ADAPTER, metavar="FILE", help="Prompts, one a line, that are to look as they did."),
]
Checkpointing = Annotated[
    bool | None,
    _option(
        "--checkpointing/--no-checkpointing", group=TRAINING,
        help="Compute blocks twice, for memory. [default: if needed]",
    ),
]  # fmt: skip
Steps = Annotated[int, _option("--steps", group=TRAINING, metavar="NUMBER", help="Length of the run.")]


def data_flags(
    size: Size = None,
    frames: Frames = None,
    extraction: Extract = "start",
    stride: Stride = None,
    windows: Windows = None,
    repeats: Repeats = 1,
    trigger: Trigger = None,
    hold_out: HoldOut = None,
) -> DataOptions:
    """What was typed about the data. Raises InvalidInput for a value that is none, or that would have no effect."""
    from typing import get_args

    from lichtspiel.errors import InvalidInput
    from lichtspiel.tune.dataset import DataOptions, Extraction

    choices: tuple[Extraction, ...] = get_args(Extraction)
    chosen = next((one for one in choices if one == extraction), None)
    if chosen is None:
        raise InvalidInput(f"--extraction {extraction} is not valid; use {', '.join(choices)}")
    if stride is not None and chosen != "windows":
        raise InvalidInput(f"--stride {stride} is the distance of windows; add --extraction windows")
    if windows is not None and chosen != "evenly":
        raise InvalidInput(f"--windows {windows} is how many samples are spread evenly; add --extraction evenly")
    return DataOptions(
        size=None if size is None else _size(size), frames=tuple(frames) if frames else None, extraction=chosen,
        stride=stride, count=windows or 1, repeats=repeats, triggers=tuple(trigger or ()), held_out=hold_out,
    )  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    from lichtspiel.errors import InvalidInput

    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InvalidInput(f"--size {text} is not valid; write WIDTHxHEIGHT in pixels, such as 832x480")
    return int(width), int(height)


@dataclass(frozen=True)
class TypedAdapter:
    """What was typed about an adapter, by flag (None where nothing was), and how the frozen model is held."""

    flags: dict[str, Any]
    base: str | None

    def fields(self, *, full: bool = False) -> dict[str, Any]:
        """The fields of `RunOptions` for an adapter, or for `full` training, which has none. Raises InvalidInput for
        values that are none, and for those that would have no effect."""
        from lichtspiel.tune.settings import BLOCKS, AdapterPlan

        typed, form = self.flags, {} if self.base is None else {"base": self.base}
        if full:
            without_effect(typed, "full training has no adapter")
            return {"method": "full"} | form
        rank = 32 if typed["--rank"] is None else typed["--rank"]
        plan = AdapterPlan(
            rank=rank, alpha=float(rank) if typed["--alpha"] is None else typed["--alpha"],
            dropout=typed["--dropout"] or 0.0, dora=bool(typed["--dora"]),
            layers=tuple(typed["--layers"]) if typed["--layers"] else BLOCKS,
        )  # fmt: skip
        return {"method": "lora", "adapter": plan} | form


def adapter_flags(
    rank: Rank = None,
    alpha: Alpha = None,
    dropout: Dropout = None,
    layers: Layers = None,
    dora: Dora = False,
    base: Base = None,
) -> TypedAdapter:
    """What was typed about the adapter and the frozen model. Raises InvalidInput for a form that there is not."""
    from lichtspiel.tune.settings import BASES

    flags = {
        "--rank": rank, "--alpha": alpha, "--dropout": dropout, "--layers": layers or None, "--dora": dora or None,
    }  # fmt: skip
    return TypedAdapter(flags, checked("--base", base, BASES))


@dataclass(frozen=True)
class TypedRun:
    """What was typed about any run: its device, the fields of its options, and whether blocks compute again (None: if
    needed)."""

    device: str
    fields: dict[str, Any]
    checkpointing: bool | None


def run_flags(
    optimizer: Optimizer = "adamw",
    learning_rate: Rate = None,
    batch: BatchSize = 1,
    checkpointing: Checkpointing = None,
    dtype: Precision = None,
    device: Device = "auto",
) -> TypedRun:
    """What was typed about the run. Raises InvalidInput for a choice that there is not."""
    from lichtspiel.host import computing_dtype
    from lichtspiel.inference.device import choose_device
    from lichtspiel.tune.settings import OPTIMIZERS, PRECISIONS

    checked("--optimizer", optimizer, OPTIMIZERS)
    checked("--dtype", dtype, PRECISIONS)
    where = choose_device(device)
    fields = {
        "optimizer": optimizer, "learning_rate": learning_rate, "batch": batch,
        "dtype": dtype or str(computing_dtype(where.type)).removeprefix("torch."),
    }  # fmt: skip
    return TypedRun(str(where), fields, checkpointing)


def run_options(run: TypedRun, adapter: dict[str, Any], **more: Any) -> tuple[RunOptions, bool]:
    """The options of a run with the fields of its adapter and more; and whether the form of the model is left to the
    plan. Raises InvalidInput for values that do not go together."""
    from lichtspiel.tune.settings import RunOptions

    fields = run.fields | adapter | more
    if run.checkpointing is not None:
        fields["checkpointing"] = run.checkpointing
    return RunOptions(**fields), run.checkpointing is None and "base" not in fields


def checked(flag: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """A choice that was typed. Raises InvalidInput if there is no such."""
    from lichtspiel.errors import InvalidInput

    if value is not None and value not in known:
        raise InvalidInput(f"{flag} {value} is not valid; use {', '.join(known)}")
    return value


def about_data(verb: Verb) -> Verb:
    """Give a verb with a parameter `options` the flags of `data_flags`."""
    return expand(verb, "options", parameters(data_flags), data_flags)


def about_adapter(verb: Verb) -> Verb:
    """Give a verb with a parameter `adapter` the flags of `adapter_flags`."""
    return expand(verb, "adapter", parameters(adapter_flags), adapter_flags)


def about_run(verb: Verb) -> Verb:
    """Give a verb with a parameter `run` the flags of `run_flags`."""
    return expand(verb, "run", parameters(run_flags), run_flags)

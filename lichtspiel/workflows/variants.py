"""Generate several videos of one request that differ in their seeds: the weights are loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lichtspiel.errors import Interrupted, LichtspielError
from lichtspiel.inference.inputs import Inputs
from lichtspiel.inference.pipeline import Files, load
from lichtspiel.request import Request
from lichtspiel.workflows.generate import Observer, Result, generate
from lichtspiel.workflows.outputs import check_distinct, check_outputs, input_files
from lichtspiel.workflows.terms import Terms

__all__ = ["Variant", "generate_variants"]

Variant = tuple[Request, Path, Path | None]
"""One of several videos: its request, its path, and that of its contact sheet."""


def generate_variants(
    variants: Sequence[Variant],
    *,
    inputs: Inputs,
    weights: Files = None,
    terms: Terms | None = None,
    observer: Callable[[], Observer] = Observer,
) -> Iterator[Result | LichtspielError]:
    """Generate the videos one after another and yield the result of each, or why it could not be made; one that fails
    does not stop the others.

    `inputs` are the files of all of them. All outputs are checked before the first. Raises a LichtspielError for what
    concerns all, and Interrupted when the run is stopped.
    """
    outputs: dict[str, Path | None] = {}
    for number, (request, out, sheet) in enumerate(variants, start=1):
        outputs |= {f"--out {number}": out, f"--sheet {number}": sheet}
        check_outputs(request, out, sheet)
    check_distinct(outputs, input_files(variants[0][0]))
    pipeline = load(variants[0][0], weights)
    for request, out, sheet in variants:
        try:
            yield generate(
                request, out, sheet=sheet, terms=terms, inputs=inputs, pipeline=pipeline, observer=observer()
            )
        except Interrupted:
            raise
        except LichtspielError as error:
            yield error

"""The verbs for weights: what a file is, what fits where, how to get it, and LoRA files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lichtspiel.cli.common import Json, Weights, secret
from lichtspiel.cli.flags import of_request

__all__ = ["convert_lora", "inspect", "inspect_lora", "plan", "pull"]


def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of weights, looked at together.")],
    as_json: Json = False,
) -> None:
    """Say what weights are: parts, layout, precision, the models and tasks they fit, and what is missing."""
    from lichtspiel.weights.inspect import inspect as look

    found = look(paths)
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else "\n".join(found.lines()))
    if found.kind == "nothing":
        raise typer.Exit(2)


@of_request("model", "size", "frames", "device", "dtype")
def plan(
    *,
    asked: dict[str, Any],
    memory: Annotated[float | None, typer.Option(help="Plan for this many GB instead of what is free now.")] = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Say what would go where, how much memory each stage takes and how long a step, before anything loads."""
    from lichtspiel.inference.pipeline import estimate
    from lichtspiel.request import default_of, extent, value_of
    from lichtspiel.spec import model as find

    row = find(asked.get("model", default_of("model")))
    where = {name: value_of(name, asked.get(name, default_of(name))) for name in ("device", "dtype")}
    size, frames = extent(row, asked.get("size"), asked.get("frames"))
    found = estimate(row, size, frames, **where, gigabytes=memory, weights=weights)
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else found.table())
    if found.refusal:
        raise typer.Exit(1)


def pull(
    model: Annotated[str, typer.Argument(help="Checkpoint; see `lichtspiel models`.")],
    to: Annotated[Path | None, typer.Option(help="Folder to put it in, to be named with --weights later.")] = None,
    endpoint: Annotated[str, typer.Option(metavar="URL", help="The hub or a mirror.")] = "https://huggingface.co",
    token: Annotated[Path | None, typer.Option(help="File that holds a token of the hub.")] = None,
) -> None:
    """Get a published checkpoint from the hub: resumed, checked against the hub's digests, shared files only once."""
    from lichtspiel.spec import model as find
    from lichtspiel.weights.hub import pull as run
    from lichtspiel.weights.inspect import inspect as look

    paths = run(find(model), to, endpoint=endpoint.rstrip("/"), token=secret(token) or None, say=print)
    print("\n".join(look(paths).lines()))
    weights = f" --weights '{to}'" if to else ""
    print(f'use it with: lichtspiel generate "…" --model {model}{weights}')


def inspect_lora(path: Annotated[Path, typer.Argument(help="A LoRA file.")], as_json: Json = False) -> None:
    """Say what a LoRA is: dialect, layers, ranks, the models it fits, and its trigger words."""
    from lichtspiel.lora import read_lora

    said = read_lora(path).describe()
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
        return
    for name, value in said.items():
        if value not in ([], {}, None):
            shown = ", ".join(f"{key}: {count}" for key, count in value.items()) if isinstance(value, dict) else value
            shown = ", ".join(map(str, shown)) if isinstance(shown, list) else shown
            print(f"{name.replace('_', ' '):<22}{shown}")


def convert_lora(
    path: Annotated[Path, typer.Argument(help="A LoRA file in any dialect.")],
    to: Annotated[str, typer.Option(help="diffusers, comfy or kohya.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
) -> None:
    """Write a LoRA in another dialect; what it does is the same."""
    from lichtspiel.lora import carried, convert, read_lora, write_lora

    found = read_lora(path)
    write_lora(out, convert(found, to), carried(found, to))
    print(f"{out}: {len(found.layers)} layers, from {found.dialect} to {to}")

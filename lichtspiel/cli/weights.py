"""The verbs for weights: what a file is, what fits where, how to get it, and LoRA files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lichtspiel.cli.common import (
    Checkpoint,
    Force,
    Json,
    Weights,
    free_output,
    out_option,
    print_plan,
    say,
    secret,
    without_effect,
)
from lichtspiel.cli.flags import Options, of_request

__all__ = ["calibrate", "convert_lora", "inspect", "inspect_lora", "plan", "pull"]


def inspect(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files or folders of weights, seen as one checkpoint.")
    ],
    as_json: Json = False,
) -> None:
    """Show what weights are, and which models they fit.

    Names the parts, their layout and precision, the tasks that they serve, and what is missing.
    """
    from lichtspiel.weights.inspect import inspect as inspect_files

    inventory = inspect_files(paths)
    print(json.dumps(inventory.to_json(), ensure_ascii=False) if as_json else "\n".join(inventory.lines()))
    if inventory.kind == "nothing":
        raise typer.Exit(2)


@of_request("model", "size", "frames", "seconds", "steps", "guidance", "device", "dtype")
def plan(
    *,
    options: Options,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Memory to plan for. [default: what is free now]")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help='GPU to plan for, here or not, such as "RTX 4090".')
    ] = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Estimate memory and time before anything loads.

    Shows what would be kept in memory and what read from disk, what each stage takes, how long a step lasts, and the
    whole. With --memory, --device may name one that is not in this computer; with --gpu, the times follow from the
    maker's figures.
    """
    from lichtspiel.inference.cards import card
    from lichtspiel.inference.estimate import estimate
    from lichtspiel.request import default_of, extent, value_of
    from lichtspiel.spec import model as find

    named = None if gpu is None else card(gpu)
    if named is not None:
        without_effect({"--device": options.typed.get("device")}, "--gpu names the device; drop one of them")

    row = find(options.get("model", default_of("model")))
    where = {name: value_of(name, options.get(name, default_of(name))) for name in ("device", "dtype")}
    size, frames = extent(row, options.get("size"), options.get("frames"), options.get("seconds"))
    steps = value_of("steps", options.get("steps", row.sampling.steps))
    guided = value_of("guidance", options.get("guidance", row.sampling.guidance)) != 1
    estimated = estimate(row, size, frames, **where, gigabytes=memory, card=named, weights=weights)
    print_plan(estimated, steps, guided=guided, as_json=as_json)


@of_request("model", "image", "last_image", "video", "size", "frames", "steps", "seed", "device", "dtype")
def calibrate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the video shows that is measured.")],
    *,
    options: dict[str, Any],
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Measure which steps a model can spare (--magcache).

    Takes as long as one video, which is not kept. `generate --magcache auto` then works with these weights.
    """
    from lichtspiel.request import Request
    from lichtspiel.workflows.calibrate import calibrate as measure

    path, curve = measure(
        Request.of(prompt=prompt, **options),
        weights=weights,
        progress=lambda step, steps: say(f"step {step} of {steps}"),
    )
    if as_json:
        print(json.dumps({"path": str(path), "setting": str(curve), "steps": len(curve.conditional)}))
        return
    print(f"measured in {len(curve.conditional)} steps; written to {path}")
    print(f'use it with: lichtspiel generate "…" --magcache auto, which means {curve}')


def pull(
    model: Checkpoint,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to put it; name it with --weights later.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Hub or mirror; by default HF_ENDPOINT or the hub itself.")
    ] = None,
    token: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that holds an access token of the hub.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a published model from the hub.

    Downloads resume, are checked against the hub's digests, and files that models share are stored once.
    """
    from lichtspiel.spec import model as find
    from lichtspiel.weights.hub import pull as download
    from lichtspiel.weights.inspect import inspect as inspect_files

    paths = download(find(model), to, endpoint=endpoint and endpoint.rstrip("/"), token=secret(token) or None, say=say)
    inventory = inspect_files(paths)
    if as_json:
        print(json.dumps({"model": model, "files": [str(path) for path in paths], **inventory.to_json()}))
        return
    print("\n".join(inventory.lines()))
    weights = f" --weights '{to}'" if to else ""
    print(f'use it with: lichtspiel generate "…" --model {model}{weights}')


def inspect_lora(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="LoRA file.")], as_json: Json = False
) -> None:
    """Show what a LoRA is, and which models it fits.

    Names its dialect, layers, ranks and trigger words.
    """
    from lichtspiel.lora import read_lora

    description = read_lora(path).describe()
    if as_json:
        print(json.dumps(description, ensure_ascii=False))
        return
    for name, value in description.items():
        if value not in ([], {}, None):
            shown = ", ".join(f"{key}: {count}" for key, count in value.items()) if isinstance(value, dict) else value
            shown = ", ".join(map(str, shown)) if isinstance(shown, list) else shown
            print(f"{name.replace('_', ' '):<22}{shown}")


def convert_lora(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="LoRA file in any dialect.")],
    to: Annotated[str, typer.Option(metavar="diffusers|comfy|kohya", help="Dialect to write.")],
    out: Annotated[Path, out_option("LoRA file to write.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a LoRA in another dialect.

    Its effect stays the same.
    """
    from lichtspiel.lora import carried, convert, read_lora, write_lora
    from lichtspiel.workflows.outputs import check_distinct

    check_distinct({"--out": out}, [("FILE", path)])
    free_output(out, "", force=force)
    lora = read_lora(path)
    write_lora(out, convert(lora, to), carried(lora, to))
    if as_json:
        print(json.dumps({"path": str(out), "layers": len(lora.layers), "from": lora.dialect, "to": to}))
        return
    print(f"{out}: {len(lora.layers)} layers, from {lora.dialect} to {to}")

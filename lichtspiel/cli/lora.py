"""The verbs that make LoRA files from others and from checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lichtspiel.cli.common import Force, Json, Weights, free_output, out_option

__all__ = ["extract_lora", "merge_lora", "resize_lora"]

Dialect = Annotated[str, typer.Option("--to", metavar="comfy|diffusers|kohya", help="Dialect to write.")]
Rank = Annotated[int | None, typer.Option("--rank", metavar="NUMBER", help="Rank of the pairs.")]
Share = Annotated[
    float | None,
    typer.Option(
        "--keep", metavar="SHARE", help="Instead of --rank: the lowest rank that holds this share of the change."
    ),
]  # fmt: skip
Precision = Annotated[str, typer.Option("--dtype", metavar="bfloat16|float16|float32", help="Precision to write.")]


def merge_lora(
    files: Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]", help="LoRA files, each with its strength.")],
    out: Annotated[Path, out_option("LoRA file to write, or with --model a folder for the weights.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Merge into the weights of this model. [default: into one LoRA]")
    ] = None,
    weights: Weights = None,
    to: Dialect = "comfy",
    dtype: Precision = "bfloat16",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Merge LoRA files into one, or into a model's weights.

    The one LoRA does what all do together; its ranks are their sums. The weights need no LoRA any more.
    """
    from lichtspiel.lora import carried, convert, join, merged, read_lora, write_lora
    from lichtspiel.weights.checkpoint import diffusion_weights
    from lichtspiel.weights.shards import precision, write_shards
    from lichtspiel.workflows.outputs import check_distinct

    named = [_adapter(text) for text in files]
    check_distinct({"--out": out}, [("FILE", path) for path, _ in named])
    free_output(out, "", force=force)
    loras = [(read_lora(path), strength) for path, strength in named]
    result: dict[str, Any] = {"merged": [[str(path), strength] for path, strength in named]}
    if model is None:
        if weights:
            _refuse("--weights belong to a model; name it with --model")
        joined = join(loras)
        write_lora(out, convert(joined, to), carried(joined, to))
        result |= {"files": [str(out)], "layers": len(joined.layers)}
    else:
        from lichtspiel.spec import model as find

        row, written, layout = find(model), precision(dtype), _layout(to)
        made = merged(diffusion_weights(row, weights), row.dit, loras)
        about = {"lichtspiel.base": row.name, "lichtspiel.merged": ", ".join(files)}
        paths = write_shards(out, made, row.dit, written, about, layout=layout)
        result |= {"files": [str(path) for path in paths], "model": model}
    _print(result, as_json, f"merged {len(files)} LoRA file{'s' if len(files) > 1 else ''}")


def extract_lora(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    tuned: Annotated[Path, typer.Argument(metavar="TUNED", help="Weights of the tuned model, a file or folder.")],
    out: Annotated[Path, out_option("LoRA file to write.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="The model that was tuned.")] = "nano",
    weights: Weights = None,
    rank: Rank = None,
    keep: Share = None,
    to: Dialect = "comfy",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Extract a LoRA from a tuned model.

    It is the difference to the model it was made from, as closely as pairs of a rank can have it (SVD).
    """
    from dataclasses import replace

    from lichtspiel.lora import carried, convert, extract, write_lora
    from lichtspiel.spec import model as find
    from lichtspiel.weights.checkpoint import diffusion_weights

    free_output(out, "", force=force)
    row = find(model)
    found = extract(
        diffusion_weights(row, weights), diffusion_weights(row, tuned), rank=_rank(rank, keep), share=keep
    )  # fmt: skip
    lora = replace(found.lora, metadata={"lichtspiel.base": row.name, "lichtspiel.extracted": tuned.name})
    write_lora(out, convert(lora, to), carried(lora, to))
    result = {"files": [str(out)], "layers": len(lora.layers), "least_kept": found.least}
    _print(result, as_json, f"{len(lora.layers)} layers, each holds {100 * found.least:.1f} % of its change or more")


def resize_lora(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="LoRA file in any dialect.")],
    out: Annotated[Path, out_option("LoRA file to write.")],
    rank: Rank = None,
    keep: Share = None,
    to: Dialect = "comfy",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a LoRA with a lower rank.

    The file gets smaller, and its effect stays as close as the rank allows.
    """
    from lichtspiel.lora import carried, convert, read_lora, resize, write_lora
    from lichtspiel.workflows.outputs import check_distinct

    check_distinct({"--out": out}, [("FILE", file)])
    free_output(out, "", force=force)
    found = resize(read_lora(file), rank=_rank(rank, keep), share=keep)
    write_lora(out, convert(found.lora, to), carried(found.lora, to))
    ranks = {str(rank): count for rank, count in found.lora.ranks.items()}
    result = {"files": [str(out)], "ranks": ranks, "least_kept": found.least}
    _print(result, as_json, f"each layer holds {100 * found.least:.1f} % of its change or more")


def _layout(to: str) -> str:
    """The layout of whole weights: ComfyUI's names are the official ones, and kohya's trainers have none."""
    if to not in {"comfy", "diffusers"}:
        _refuse(f"--to {to} is a dialect of LoRA files; whole weights are written as comfy or diffusers")
    return "official" if to == "comfy" else to


def _rank(rank: int | None, keep: float | None) -> int | None:
    return 32 if rank is None and keep is None else rank


def _adapter(text: str) -> tuple[Path, float]:
    from lichtspiel.request import value_of

    (adapter,) = value_of("lora", text)
    return adapter.path, adapter.strength


def _refuse(message: str) -> None:
    from lichtspiel.errors import InvalidInput

    raise InvalidInput(message)


def _print(result: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for path in result["files"]:
        print(path)
    print(line)

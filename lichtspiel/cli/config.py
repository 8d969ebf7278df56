"""The verbs for the user's configuration: where weights are, default options, presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lichtspiel.cli.common import Checkpoint, Json
from lichtspiel.errors import InvalidInput, printable

__all__ = ["show_config", "use"]

EXAMPLE = """[defaults]                  # options of every video, as in JSON
upscale = 2

[defaults."t2v-1.3b"]       # of one model
steps = 30

[presets.draft]             # lichtspiel generate "..." --preset draft
steps = 12
size = "480x272\""""


def use(
    model: Checkpoint,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]", help="Folders or files that hold all parts of the model.")
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Forget where they are.")] = False,
    as_json: Json = False,
) -> None:
    """Remember where the weights of a model are.

    From then on every command finds them without --weights. They are checked first, and stay where they are.
    """
    from lichtspiel.config import forget_weights, remember_weights
    from lichtspiel.spec import model as find

    name = find(model).name
    if forget:
        if paths:
            raise InvalidInput("--forget takes no paths: it forgets all of the model's")
        path = forget_weights(name)
        print(json.dumps({"model": name, "weights": [], "config": str(path)}) if as_json else f"forgotten: {name}")
        return
    if not paths:
        raise InvalidInput(f"where are the weights? Type: lichtspiel use {name} FOLDER")
    from lichtspiel.weights.checkpoint import checkpoint

    files = [path for part in checkpoint(find(name), paths).parts.values() for path in part.paths]
    path = remember_weights(name, paths)
    if as_json:
        print(json.dumps({"model": name, "weights": [str(file) for file in files], "config": str(path)}))
        return
    for file in dict.fromkeys(files):
        print(printable(f"uses  {file}"))
    print(printable(f"kept  {path}"))
    print(f'try   lichtspiel generate "a cat on a beach" --model {name}')


def show_config(as_json: Json = False) -> None:
    """Show the configuration and where its file is.

    The file is TOML. It holds where weights are, default options and presets; what is typed goes before a preset, and
    a preset before the defaults.
    """
    from lichtspiel.config import read_config

    config = read_config()
    if as_json:
        print(json.dumps(config.to_json(), ensure_ascii=False))
        return
    print(printable(f"{config.path}{'' if config.path.exists() else ' (there is no such file yet)'}"))
    for name, paths in config.weights.items():
        print(printable(f"weights   {name}: {', '.join(map(str, paths))}"))
    tables = {"defaults": config.defaults}
    tables |= {f"defaults  {name}:": options for name, options in config.by_model.items()}
    tables |= {f"preset    {name}:": options for name, options in config.presets.items()}
    for name, options in tables.items():
        if options:
            print(printable(f"{name:<9} {', '.join(f'{key} {value}' for key, value in options.items())}"))
    if not config.path.exists():
        print(f"\nIt may hold, for example:\n\n{EXAMPLE}")

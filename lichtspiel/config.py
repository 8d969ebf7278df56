"""The user's configuration: where weights are, default options, and presets, in a TOML file.

The file is `config.toml` in the user's configuration folder, and people edit it; what `lichtspiel use` writes leaves
their comments where they are. It looks like this:

    [weights]
    "t2v-1.3b" = ["/models/Wan2.1-T2V-1.3B"]

    [defaults]
    upscale = 2

    [defaults."t2v-1.3b"]
    steps = 30

    [presets.draft]
    steps = 12
    size = "480x272"

Options have the names and values that they have in JSON. This module opens no weights.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput, LichtspielError, OutputError, RequestError
from lichtspiel.options import closest
from lichtspiel.request import OPTIONS, value_of
from lichtspiel.spec import MODELS
from lichtspiel.storage import atomic_write, config_folder

__all__ = ["EXCLUSIVE", "Config", "config_path", "forget_weights", "read_config", "remember_weights"]

OWN = {"prompt", "image", "last_image", "video", "mask", "references"}
"""Options that belong to one video, and have no default."""

EXCLUSIVE = {"frames": "seconds", "seconds": "frames"}
"""Options of which a video has only one."""


@dataclass(frozen=True)
class Config:
    """The content of the configuration file: folders and files of weights by model, options of every video (and by
    model, of this model's), and options by the name of a preset."""

    path: Path
    weights: Mapping[str, list[Path]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    by_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def complete(self, typed: Mapping[str, Any], preset: str | None = None) -> dict[str, Any]:
        """What was typed, completed by a preset, the defaults of the model, and the defaults, in this order.

        Raises RequestError for a preset that is not in the file.
        """
        if preset is not None and preset not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise RequestError("preset", preset, f"{self.path} has {known}", closest(preset, self.presets))
        layers = [typed, {} if preset is None else self.presets[preset]]
        model = next((layer["model"] for layer in (*layers, self.defaults) if "model" in layer), "nano")
        options: dict[str, Any] = {}
        of_model = self.by_model.get(model, {}) if isinstance(model, str) else {}  # what is wrong is told later
        for layer in (*layers, of_model, self.defaults):
            free = {name for name in layer if EXCLUSIVE.get(name) not in options}
            options |= {name: layer[name] for name in layer if name in free and name not in options}
        return options

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "path": str(self.path),
            "weights": {name: [str(path) for path in paths] for name, paths in self.weights.items()},
            "defaults": {**self.defaults, **self.by_model},
            "presets": dict(self.presets),
        }


def config_path() -> Path:
    """Where the file is, or would be."""
    return config_folder() / "config.toml"


def read_config() -> Config:
    """The user's configuration; an empty one if there is no file. Raises InvalidInput, which names the place, for a
    file that cannot be read, and for tables, options and values that do not exist."""
    path = config_path()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Config(path)
    except (OSError, ValueError) as error:  # not TOML, or not text
        raise InvalidInput(f"{path}: cannot be read: {error}") from None
    if unknown := [name for name in content if name not in {"weights", "defaults", "presets"}]:
        raise InvalidInput(f"{path}: [{unknown[0]}] is no table that is known; these are weights, defaults and presets")
    defaults = _table(path, "defaults", content.get("defaults", {}))
    by_model = {name: value for name, value in defaults.items() if isinstance(value, dict)}
    presets = _table(path, "presets", content.get("presets", {}))
    return Config(
        path,
        weights={
            _model(path, "weights", name): [Path(each).expanduser() for each in _paths(path, name, value)]
            for name, value in _table(path, "weights", content.get("weights", {})).items()
        },
        defaults=_options(path, "defaults", {name: defaults[name] for name in defaults if name not in by_model}),
        by_model={
            _model(path, "defaults", name): _options(path, f'defaults."{name}"', table)
            for name, table in by_model.items()
        },
        presets={name: _options(path, f"presets.{name}", table) for name, table in presets.items()},
    )


def remember_weights(model: str, paths: Sequence[Path]) -> Path:
    """Note where the weights of a model are; returns the path of the file. Raises OutputError if it cannot be
    written, and InvalidInput for a file that cannot be read."""
    return _edited(model, [os.path.abspath(path.expanduser()) for path in paths])


def forget_weights(model: str) -> Path:
    """Remove what `remember_weights` noted. Raises InvalidInput if there is nothing."""
    if model not in read_config().weights:
        raise InvalidInput(f"{config_path()} names no weights for {model}")
    return _edited(model, None)


def _edited(model: str, paths: list[str] | None) -> Path:
    import tomlkit

    path = read_config().path  # which also checks what is there
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        document: Any = tomlkit.parse(text)
        if paths is None:
            document["weights"].pop(model)
        else:
            document.setdefault("weights", tomlkit.table())[model] = paths
        with atomic_write(path, mode=0o600) as draft:
            draft.write_text(tomlkit.dumps(document), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _table(path: Path, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: {name} is not a table; write it as [{name}]")
    return value


def _model(path: Path, table: str, name: str) -> str:
    if name not in MODELS:
        nearest = closest(name, MODELS)
        hint = f"; did you mean {nearest}?" if nearest else f"; models are {', '.join(MODELS)}"
        raise InvalidInput(f"{path}: [{table}] names the model {name!r}, which is not known{hint}")
    return name


def _paths(path: Path, name: str, value: object) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(each, str) for each in paths):
        raise InvalidInput(f"{path}: weights of {name} are a path, or a list of paths, in quotes")
    return paths


def _options(path: Path, table: str, value: object) -> dict[str, Any]:
    """Check the options of a table one by one; how they go together shows only with the model."""
    options = _table(path, table, value)
    for name, given in options.items():
        if name in OWN or name not in OPTIONS:
            known = [name for name in OPTIONS if name not in OWN]
            rule = "belongs to one video and has no default" if name in OWN else "is no option"
            nearest = closest(name, known)
            hint = f"; did you mean {nearest}?" if nearest and name not in OWN else f"; options are {', '.join(known)}"
            raise InvalidInput(f"{path}: [{table}] {name} {rule}{hint}")
        try:
            value_of(name, given)
        except LichtspielError as error:
            raise InvalidInput(f"{path}: [{table}] {error}") from None
    if "frames" in options and "seconds" in options:
        raise InvalidInput(f"{path}: [{table}] has frames and seconds; keep one of them")
    return options

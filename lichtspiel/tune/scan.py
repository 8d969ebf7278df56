"""Find the items of a data set: a folder, a metadata file, or the data set file of another trainer."""

from __future__ import annotations

from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.spec import Model
from lichtspiel.tune.dataset import DataOptions, Item
from lichtspiel.tune.geometry import default_cut
from lichtspiel.tune.layouts import METADATA, Found, Rows, add_folder, add_rows, changed, read_rows
from lichtspiel.tune.trainers import add_described

__all__ = ["find_items"]


def find_items(data: Path, row: Model, options: DataOptions) -> Found:
    """All items of a data set: a folder, or the file that describes it.

    Raises InvalidInput if there is nothing of the kind, or a file that describes the whole cannot be understood, and
    RequestError for options that the model cannot be tuned with.
    """
    cut = default_cut(row, options)
    found = Found()
    described = _description(data)
    if described is not None and described.suffix.lower() == ".toml":
        add_described(found, described, row, cut, options)
    elif described is not None and not data.is_dir():
        add_rows(
            found,
            read_rows(described),
            Rows(source=described, folders=(described.parent,), cut=cut, repeats=options.repeats),
        )
    else:
        add_folder(found, data, cut, described, repeats=options.repeats)
    if not found.items and not found.findings:
        raise InvalidInput(f"{data} holds no clip and no picture; name a folder of clips with captions")
    found.items = [with_triggers(item, options.triggers) for item in found.items]
    return found


def _description(data: Path) -> Path | None:
    """The file that describes a data set; the data may be that file itself. None if there is none."""
    if data.is_file() and data.suffix.lower() in {".toml", ".jsonl", ".csv"}:
        return data
    if not data.is_dir():
        raise InvalidInput(f"{data} is no folder; name a folder of clips and pictures with captions, or a .toml of one")
    files = [*sorted(data.glob("*.toml")), *(data / name for name in METADATA)]
    files = [path for path in files if path.is_file()]
    if len(files) > 1:
        raise InvalidInput(f"{files[0]} and {files[1].name} both describe the data; name the one that counts")
    return files[0] if files else None


def with_triggers(item: Item, triggers: tuple[str, ...]) -> Item:
    """The item with the trigger words that its caption lacks in front of it."""
    missing = [word for word in triggers if word.casefold() not in item.caption.casefold()]
    return changed(item, caption=", ".join([*missing, item.caption])) if missing else item

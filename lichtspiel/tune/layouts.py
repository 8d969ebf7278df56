"""Read the items of a data set as people lay it out: captions beside clips, or a metadata file.

    data/cat.mp4, data/cat.txt                     a clip and its caption; pictures too
    data/metadata.jsonl or metadata.csv            one row per clip, with the columns of datasets, DiffSynth or musubi
    data/masks/cat.png, data/controls/cat.mp4,     VACE's mask (white is new) and control video, how much each pixel
    data/weights/cat.png, data/references/cat.png  counts in the loss, and pictures of the subject

What is wrong with one item becomes a finding, so that a person sees all of them at once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput
from lichtspiel.media.media import is_video
from lichtspiel.media.picture import is_picture
from lichtspiel.tune.dataset import Cut, Finding, Item

__all__ = ["METADATA", "Found", "Row", "Rows", "add_folder", "add_rows", "changed", "read_rows"]

METADATA = ("metadata.jsonl", "metadata.csv", "captions.jsonl")
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("file_name", "file", "path", "video", "image", "video_path", "image_path"),
    "caption": ("text", "caption", "prompt", "captions"),
    "control": ("control", "control_path", "control_video", "vace_video"),
    "mask": ("mask", "mask_path", "vace_video_mask"),
    "references": ("references", "reference", "vace_reference_image"),
    "weight": ("weight", "loss_mask"),
    "repeats": ("repeats", "num_repeats"),
}
"""What the columns of a metadata file are called: by Hugging Face's datasets, by DiffSynth and by musubi-tuner."""

COMPANIONS = {"control": "controls", "mask": "masks", "weight": "weights", "references": "references"}
"""The folders inside a data folder whose files belong to the clips with the same name."""

Row = tuple[str, Mapping[str, Any]]
"""A row of a metadata file: its place, for messages, and its columns."""

UNLISTED = "is not listed in {}, and has no caption beside it; list it, or write {}"


@dataclass
class Found:
    """The items of a data set, and what is wrong with some of its files."""

    items: list[Item] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def refuse(self, path: Path, message: str) -> None:
        """Add what keeps a run from starting."""
        self.findings.append(Finding(path=path, message=message))

    def note(self, path: Path, message: str) -> None:
        """Add what a person should know."""
        self.findings.append(Finding(path=path, message=message, refused=False))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where rows of items come from and what holds for all of them: the file to name in messages, the folders in which
    relative paths are looked for, the default cut and repeats, and the extension of captions beside clips."""

    source: Path
    folders: tuple[Path, ...]
    cut: Cut
    repeats: int = 1
    captions: str = ".txt"


def add_folder(
    found: Found, folder: Path, cut: Cut, metadata: Path | None = None, *, repeats: int = 1, captions: str = ".txt",
    companions: Mapping[str, Path] | None = None,
) -> None:  # fmt: skip
    """Add the clips and pictures of a folder and its subfolders, with what lies beside them and in `companions`."""
    rows = Rows(source=metadata or folder, folders=(folder,), cut=cut, repeats=repeats, captions=captions)
    places = {role: folder / name for role, name in COMPANIONS.items()} | dict(companions or {})
    listed = Found()
    if metadata is not None:
        add_rows(listed, read_rows(metadata), rows)
        found.findings += listed.findings
    by_path: dict[Path, list[Item]] = {}
    for item in listed.items:
        by_path.setdefault(item.path, []).append(item)
    used = {path for item in listed.items for path in item.files.values()} | {one.path for one in listed.findings}
    for path in _media(folder, set(places.values())):
        if path in used and path not in by_path:
            continue
        text = _caption_beside(found, path.with_suffix(captions))
        if text is None:
            continue
        items = by_path.pop(path, [])
        if text:
            base = items[0] if items else Item(path=path, caption="", source=str(path), cut=cut, repeats=repeats)
            items = [changed(base, caption=text)]
        if not items:
            _without_caption(found, path, metadata, captions)
        beside = _companions(places, folder, path)
        for item in items:
            fields = {role: value for role, value in beside.items() if not getattr(item, role)}
            found.items.append(changed(item, **fields))
    found.items += [item for items in by_path.values() for item in items]


def _without_caption(found: Found, path: Path, metadata: Path | None, captions: str) -> None:
    name = path.with_suffix(captions).name
    if path.with_suffix(captions).is_file():
        found.refuse(path, f"its caption {name} is empty; write what the clip shows into it")
    elif metadata is None:
        found.refuse(path, f"has no caption; write what it shows into {name}")
    else:
        found.note(path, UNLISTED.format(metadata.name, name))


def _media(folder: Path, left_out: set[Path]) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if not (is_video(path) or is_picture(path)) or not path.is_file():
            continue
        inside = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in inside) and not left_out & set(path.parents):
            yield path


def _caption_beside(found: Found, path: Path) -> str | None:
    """The text of a caption file, "" without one, and None if it cannot be read."""
    if not path.is_file():
        return ""
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError:
        found.refuse(path, "is not UTF-8; save it as UTF-8 (in an editor: Save as, encoding)")
    except OSError as error:
        found.refuse(path, f"cannot be read: {error.strerror}")
    return None


def _companions(places: Mapping[str, Path], folder: Path, path: Path) -> dict[str, Any]:
    """The files that belong to a clip because they have its name, by role."""
    inside = path.relative_to(folder).parent
    fields: dict[str, Any] = {}
    for role, place in places.items():
        where = place / inside
        if not where.is_dir():
            continue
        names = sorted(one for one in where.iterdir() if one.stem == path.stem or _numbered(one.stem, path.stem))
        if role == "references":
            fields[role] = tuple(one for one in names if is_picture(one))
        elif exact := [one for one in names if one.stem == path.stem and _usable(one)]:
            fields[role] = exact[0]
    return fields


def _numbered(stem: str, of: str) -> bool:
    """Whether a name is that of a clip with a number: cat-1, cat_02."""
    return stem.startswith(of) and stem[len(of) :].lstrip("-_").isdigit() and stem[len(of)] in "-_"


def _usable(path: Path) -> bool:
    return path.is_dir() or is_picture(path) or is_video(path)


def changed(item: Item, **fields: Any) -> Item:
    """The item with other values of some fields."""
    return Item(**{name: getattr(item, name) for name in Item.__dataclass_fields__} | fields)


def read_rows(path: Path) -> list[Row]:
    """The rows of a metadata file, each with its place for messages. Raises InvalidInput."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines())
        rows: list[Row] = [(f"{path}, line {reader.line_num}", dict(row)) for row in reader]
        if rows and not any(name in rows[0][1] for name in COLUMNS["path"]):
            raise InvalidInput(
                f"{path} has no column that names the clips; call it one of {', '.join(COLUMNS['path'])}"
            )
        return rows
    parsed: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            example = '{"file_name": "cat.mp4", "text": "a cat"}'
            raise InvalidInput(f"{path}, line {number}: expected an object such as {example}")
        parsed.append((f"{path}, line {number}", row))
    return parsed


def add_rows(found: Found, rows: list[Row], all_of: Rows) -> None:
    """Add the items that rows of a metadata file describe; unusable ones become findings."""
    unknown: set[str] = set()
    for source, row in rows:
        values = {role: _value(row, names) for role, names in COLUMNS.items()}
        unknown |= {str(name) for name in row} - {name for names in COLUMNS.values() for name in names}
        if not values["path"]:
            found.refuse(all_of.source, f'{_line(source)} names no clip; add "file_name"')
            continue
        path = _resolved(str(values["path"]), all_of)
        captions = _texts(values["caption"])
        if not path.exists():
            found.refuse(all_of.source, f"{_line(source)} names {values['path']}, which is not there")
            continue
        files = _files(found, source, values, all_of)
        if files is None:
            continue
        repeats = _repeats(found, source, values["repeats"], all_of)
        beside = path.with_suffix(all_of.captions)
        if not captions and beside.is_file() and (text := _caption_beside(found, beside)):
            captions = [text]
        if not captions:
            found.refuse(path, f'has an empty caption in {_line(source)}; write what it shows into "text"')
        for caption in captions:
            found.items.append(
                Item(path=path, caption=caption, source=source, cut=all_of.cut, repeats=repeats, **files)
            )
    if unknown:
        found.note(all_of.source, f"these columns are not used: {', '.join(sorted(unknown))}")


def _texts(value: Any) -> list[str]:
    """The captions of a row, none of them empty: one text, a list, or one for each language."""
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    texts = [" ".join(str(text).split()) for text in values if text is not None]
    return [text for text in texts if text]


def _value(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)


def _line(source: str) -> str:
    return source.rpartition(", ")[2]


def _resolved(name: str, all_of: Rows) -> Path:
    """A path as a row names it, looked for in each folder."""
    places = [folder / name for folder in all_of.folders]
    return next((place for place in places if place.exists()), places[0])


def _files(found: Found, source: str, values: Mapping[str, Any], all_of: Rows) -> dict[str, Any] | None:
    """The companion files that a row names; None if one of them is not there."""
    files: dict[str, Any] = {}
    for role in COMPANIONS:
        value = values[role]
        if value is None:
            continue
        names = value if isinstance(value, list) else [value]
        paths = tuple(_resolved(str(name), all_of) for name in names)
        missing = [name for name, path in zip(names, paths, strict=True) if not path.exists()]
        if missing:
            found.refuse(all_of.source, f"{_line(source)} names {missing[0]} as {role}, which is not there")
            return None
        files[role] = paths if role == "references" else paths[0]
    return files


def _repeats(found: Found, source: str, value: Any, all_of: Rows) -> int:
    if value is None:
        return all_of.repeats
    if str(value).isdigit() and int(value) >= 1:
        return int(value)
    found.refuse(all_of.source, f"{_line(source)} repeats {value!r} times; repeats are whole numbers from 1")
    return 1

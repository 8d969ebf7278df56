"""Data set files of other trainers, read as they are: the TOML of musubi-tuner and of diffusion-pipe.

Settings that say how to train, such as a batch size, belong to the command line here and are named in a note. Settings
that would change what the model sees and that are not understood are refused.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput
from lichtspiel.spec import Model
from lichtspiel.tune.dataset import Cut, DataOptions, Extraction
from lichtspiel.tune.geometry import bucket_sizes, floor_frames, sizes_of_area
from lichtspiel.tune.layouts import Found, Rows, add_folder, add_rows, read_rows

__all__ = ["add_described"]

EXTRACTIONS: dict[str, Extraction] = {
    "head": "start", "chunk": "windows", "slide": "windows", "uniform": "evenly", "full": "whole",
}  # fmt: skip
"""musubi-tuner's `frame_extraction`."""

MUSUBI = {
    "resolution", "caption_extension", "num_repeats", "enable_bucket", "bucket_no_upscale", "image_directory",
    "image_jsonl_file", "video_directory", "video_jsonl_file", "control_directory", "target_frames",
    "frame_extraction", "frame_stride", "frame_sample", "max_frames", "source_fps",
}  # fmt: skip
PIPE = {
    "resolutions", "enable_ar_bucket", "min_ar", "max_ar", "num_ar_buckets", "ar_buckets", "frame_buckets",
    "size_buckets", "path", "mask_path", "num_repeats", "directory",
}  # fmt: skip
ELSEWHERE = {"batch_size", "cache_directory", "general", "datasets"}
"""Keys of musubi-tuner that do not say what the model sees."""


def add_described(found: Found, path: Path, row: Model, cut: Cut, options: DataOptions) -> None:
    """Add the items that another trainer's file describes. Raises InvalidInput if it cannot be understood."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no TOML that can be read: {error}") from error
    if isinstance(content.get("datasets"), list):
        _musubi(found, path, content, row, cut, options)
    elif isinstance(content.get("directory"), list):
        _pipe(found, path, content, row, cut, options)
    else:
        raise InvalidInput(f"{path} has neither [[datasets]] (musubi-tuner) nor [[directory]] (diffusion-pipe)")


def _unknown(path: Path, settings: Mapping[str, Any], known: set[str]) -> None:
    for key in settings:
        if key not in known | ELSEWHERE:
            raise InvalidInput(f"{path} sets {key}, which is not supported; remove it, or describe the clips otherwise")


def _musubi(found: Found, path: Path, content: dict[str, Any], row: Model, cut: Cut, options: DataOptions) -> None:
    general = content.get("general", {})
    _unknown(path, content, set())
    for table in content["datasets"]:
        settings = general | table
        _unknown(path, settings, MUSUBI)
        repeats = _whole(path, "num_repeats", settings.get("num_repeats", options.repeats))
        still = "image_directory" in settings or "image_jsonl_file" in settings
        base = replace(
            cut, sizes=_musubi_sizes(path, settings, row, cut), enlarge=not settings.get("bucket_no_upscale", False)
        )
        cuts = [base] if still else _musubi_cuts(path, settings, row, base)
        for one in cuts:
            _musubi_items(found, path, settings, one, repeats)
    if any(
        key in settings for settings in (general, *content["datasets"]) for key in ("batch_size", "cache_directory")
    ):
        found.note(path, "batch_size and cache_directory are not read: see --batch, and the folder of the run")


def _musubi_items(found: Found, path: Path, settings: Mapping[str, Any], cut: Cut, repeats: int) -> None:
    captions = str(settings.get("caption_extension", ".txt"))
    for key in ("image_directory", "video_directory"):
        if key in settings:
            folder = _folder(path, key, settings[key])
            control = settings.get("control_directory")
            companions = {} if control is None else {"control": _folder(path, "control_directory", control)}
            add_folder(found, folder, cut, repeats=repeats, captions=captions, companions=companions)
            return
    for key in ("image_jsonl_file", "video_jsonl_file"):
        if key in settings:
            listed = _place(path, settings[key])
            rows = Rows(source=listed, folders=(Path(), listed.parent), cut=cut, repeats=repeats, captions=captions)
            add_rows(found, read_rows(listed), rows)
            return
    raise InvalidInput(f"{path}: a [[datasets]] names no image_directory, video_directory or *_jsonl_file")


def _musubi_sizes(path: Path, settings: Mapping[str, Any], row: Model, cut: Cut) -> tuple[tuple[int, int], ...]:
    if "resolution" not in settings or not row.sampling.free_size:
        return cut.sizes
    width, height = _pair(path, "resolution", settings["resolution"])
    if settings.get("enable_bucket", False):
        return sizes_of_area(width * height, row.grid)
    return ((width // row.grid * row.grid, height // row.grid * row.grid),)


def _musubi_cuts(path: Path, settings: Mapping[str, Any], row: Model, base: Cut) -> list[Cut]:
    """One cut for each of the target lengths, as musubi-tuner takes a sample of each length from every clip."""
    name = settings.get("frame_extraction", "head")
    if name not in EXTRACTIONS:
        raise InvalidInput(f"{path}: frame_extraction {name!r} is none of {', '.join(EXTRACTIONS)}")
    fps = settings.get("source_fps")
    base = replace(base, extraction=EXTRACTIONS[name], fps=None if fps is None else float(fps))
    step = row.vae.stride[0]
    if name == "full":
        most = _whole(path, "max_frames", settings.get("max_frames", max(base.lengths)))
        return [replace(base, lengths=tuple(sorted({1 + step, floor_frames(most, step)})))]
    targets = settings.get("target_frames", [1])
    lengths = sorted({floor_frames(_whole(path, "target_frames", one), step) for one in targets})
    stride = _whole(path, "frame_stride", settings.get("frame_stride", 10)) if name == "slide" else None
    count = _whole(path, "frame_sample", settings.get("frame_sample", 1)) if name == "uniform" else 1
    return [replace(base, lengths=(length,), stride=stride, count=count) for length in lengths]


def _pipe(found: Found, path: Path, content: dict[str, Any], row: Model, cut: Cut, options: DataOptions) -> None:
    _unknown(path, content, PIPE)
    for table in content["directory"]:
        settings = {key: value for key, value in content.items() if key != "directory"} | table
        _unknown(path, settings, PIPE)
        folder = _folder(path, "path", settings.get("path", ""))
        companions = {"weight": _folder(path, "mask_path", settings["mask_path"])} if "mask_path" in settings else {}
        repeats = _whole(path, "num_repeats", settings.get("num_repeats", options.repeats))
        for one in _pipe_cuts(path, settings, row, cut):
            add_folder(found, folder, one, repeats=repeats, companions=companions)


def _pipe_cuts(path: Path, settings: Mapping[str, Any], row: Model, cut: Cut) -> list[Cut]:
    """One cut per resolution, as diffusion-pipe trains every clip at each of them."""
    step = row.vae.stride[0]
    if "size_buckets" in settings:
        buckets = [tuple(int(number) for number in bucket) for bucket in settings["size_buckets"]]
        sizes = tuple(sorted({(bucket[0], bucket[1]) for bucket in buckets}))
        return [replace(cut, sizes=sizes, lengths=tuple(sorted({floor_frames(b[2], step) for b in buckets})))]
    frames = [_whole(path, "frame_buckets", number) for number in settings.get("frame_buckets", [1, max(cut.lengths)])]
    # Clips never become pictures there: the bucket of one frame is for pictures only.
    lengths = tuple(sorted({floor_frames(number, step) for number in frames if number > 1})) or (1,)
    if "resolutions" not in settings or not row.sampling.free_size:
        return [replace(cut, lengths=lengths)]
    areas = [_area(path, one) for one in settings["resolutions"]]
    aspects = _aspects(path, settings)
    return [replace(cut, lengths=lengths, sizes=bucket_sizes((area,), aspects, row.grid)) for area in areas]


def _aspects(path: Path, settings: Mapping[str, Any]) -> tuple[float, ...]:
    """Width to height of the buckets: as listed, or evenly spaced in their logarithm."""
    if not settings.get("enable_ar_bucket", False) and "ar_buckets" not in settings:
        return (1.0,)
    if "ar_buckets" in settings:
        return tuple(one[0] / one[1] if isinstance(one, list) else float(one) for one in settings["ar_buckets"])
    low, high = float(settings.get("min_ar", 0.5)), float(settings.get("max_ar", 2.0))
    count = _whole(path, "num_ar_buckets", settings.get("num_ar_buckets", 7))
    span = math.log(high / low)
    return tuple(low * math.exp(span * number / max(count - 1, 1)) for number in range(count))


def _area(path: Path, value: Any) -> int:
    if isinstance(value, list):
        return math.prod(_pair(path, "resolutions", value))
    return _whole(path, "resolutions", value) ** 2


def _pair(path: Path, key: str, value: Any) -> tuple[int, int]:
    values = [value, value] if isinstance(value, int) else value
    if not isinstance(values, list) or len(values) != 2 or not all(isinstance(one, int) and one > 0 for one in values):
        raise InvalidInput(f"{path}: {key} = {value!r} is no size; write [WIDTH, HEIGHT] in pixels")
    return values[0], values[1]


def _whole(path: Path, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{path}: {key} = {value!r} is no whole number from 1")
    return value


def _place(path: Path, name: Any) -> Path:
    """A path as a file names it: from the working directory, as these trainers read it, or else beside the file."""
    return Path(name) if Path(name).exists() else path.parent / str(name)


def _folder(path: Path, key: str, name: Any) -> Path:
    folder = _place(path, name)
    if not name or not folder.is_dir():
        raise InvalidInput(f"{path}: {key} names {name!r}, which is no folder")
    return folder

"""A person's own clips and pictures as a data set: a folder of files with their captions.

The caption of `cat.mp4` is in `cat.txt` beside it, or in `metadata.jsonl`, one object per line:

    {"file_name": "cat.mp4", "text": "a cat jumps off a chair"}

Videos are read at the model's own frame rate and cut into consecutive clips of equal length; pictures are items of one
frame. Both are scaled and center-cropped. Everything is decoded once, into a cache folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from lichtspiel.errors import InvalidInput
from lichtspiel.media.picture import is_picture, load_image
from lichtspiel.media.video import read_video, video_info
from lichtspiel.storage import atomic_folder
from lichtspiel.train.data import Frames, Shape

__all__ = ["FolderDataset", "cache_folder", "open_cache"]

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi"}
METADATA = "metadata.jsonl"
CAPTION_KEYS = ("text", "caption", "prompt")
FILE_KEYS = ("file_name", "file", "path", "video", "image")


@dataclass(frozen=True)
class FolderDataset:
    """The decoded clips uint8 [n, t, h, w, 3] and pictures [m, 1, h, w, 3] of a folder, and their captions.

    All pictures come before all clips.
    """

    pictures: Frames
    clips: Frames
    texts: list[str]

    @property
    def shape(self) -> Shape:
        """Size of every clip."""
        _, frames, height, width, _ = self.clips.shape
        return Shape(width=width, height=height, frames=frames)

    def __len__(self) -> int:
        return len(self.texts)

    def length(self, index: int) -> int:
        """Number of frames of an item."""
        return 1 if index < len(self.pictures) else self.clips.shape[1]

    def video(self, index: int) -> Frames:
        """The frames of an item, uint8 [t, h, w, 3]."""
        count = len(self.pictures)
        video: Frames = self.pictures[index] if index < count else self.clips[index - count]
        return video

    def mask(self, index: int) -> None:
        """None: there are no masks."""

    def text(self, index: int, generator: torch.Generator | None) -> str:
        """The caption of an item."""
        return self.texts[index]


def open_cache(cache: Path) -> FolderDataset:
    """Open a cache that `cache_folder` wrote."""
    texts = json.loads((cache / "texts.json").read_text(encoding="utf-8"))
    pictures, clips = (cache / "pictures.npy", cache / "clips.npy")
    empty = len(texts) == len(np.load(clips, mmap_mode="r"))
    return FolderDataset(np.load(pictures, mmap_mode=None if empty else "r"), np.load(clips, mmap_mode="r"), texts)


def cache_folder(folder: Path, cache: Path, shape: Shape, fps: float) -> FolderDataset:
    """Decode a folder of clips and pictures into `cache` and open it.

    Raises InvalidInput when the folder has no clips, when a file has no caption, or when a video is too short, and
    MediaError when a file cannot be read.
    """
    captions = _captions(folder)
    files = sorted(captions)
    pictures = [path for path in files if is_picture(path)]
    videos = [path for path in files if not is_picture(path)]
    counts = {path: _clips_in(path, shape, fps) for path in videos}
    if not videos:
        raise InvalidInput(f"{folder} holds no videos; training needs some clips beside pictures")
    texts = [captions[path] for path in pictures]
    with atomic_folder(cache) as draft:
        size = (shape.height, shape.width, 3)
        picture_frames = _create(draft / "pictures.npy", (len(pictures), 1, *size))
        clip_frames = _create(draft / "clips.npy", (sum(counts.values()), shape.frames, *size))
        for index, path in enumerate(pictures):
            picture_frames[index, 0] = _fit(load_image(path), shape)
        row = 0
        for path in videos:
            for clip in _cut(path, shape, fps, counts[path]):
                clip_frames[row] = clip
                texts.append(captions[path])
                row += 1
        del picture_frames, clip_frames  # flushes the memory maps
        (draft / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    return open_cache(cache)


def _create(path: Path, shape: tuple[int, ...]) -> Frames:
    """An array in a new file, mapped into memory; an empty array cannot be mapped."""
    np.save(path, np.empty((0, *shape[1:]), np.uint8))
    if shape[0]:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array: Frames = np.load(path, mmap_mode="r+" if shape[0] else None)
    return array


def _captions(folder: Path) -> dict[Path, str]:
    """Every clip and picture of a folder with its caption."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder; name a folder of clips and pictures with captions")
    listed = _metadata(folder / METADATA) if (folder / METADATA).is_file() else {}
    captions = {}
    missing = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in VIDEOS and not is_picture(path):
            continue
        beside = path.with_suffix(".txt")
        text = listed.get(path.name, "")
        if beside.is_file():
            text = beside.read_text(encoding="utf-8-sig")
        captions[path] = " ".join(text.split())
        if not captions[path]:
            missing.append(path.name)
    if missing:
        raise InvalidInput(
            f"{len(missing)} files in {folder} have no caption, such as {missing[0]}; write it into "
            f"{Path(missing[0]).with_suffix('.txt').name} or {METADATA}"
        )
    unknown = sorted(set(listed) - {path.name for path in captions})
    if unknown:
        raise InvalidInput(f"{folder / METADATA} names {unknown[0]}, which is no clip or picture in {folder}")
    return captions


def _metadata(path: Path) -> dict[str, str]:
    """The captions in `metadata.jsonl`, by file name."""
    captions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = next(row[key] for key in FILE_KEYS if key in row)
            captions[str(name)] = str(next(row[key] for key in CAPTION_KEYS if key in row))
        except (ValueError, TypeError, StopIteration) as error:
            example = '{"file_name": "cat.mp4", "text": "a cat"}'
            raise InvalidInput(f"{path}, line {number}: expected an object such as {example}") from error
    return captions


def _clips_in(path: Path, shape: Shape, fps: float) -> int:
    """How many clips a video is cut into. Raises InvalidInput if it is too short for one."""
    rate = video_info(path).fps or fps
    frames = sum(1 for _ in read_video(path))
    clips = int(frames / rate * fps + 1e-6) // shape.frames
    if not clips:
        raise InvalidInput(
            f"{path} lasts {frames / rate:.1f} seconds, and a clip of {shape.frames} frames at {fps:g} frames per "
            f"second lasts {shape.frames / fps:.1f}; remove it, or use a longer video"
        )
    return clips


def _cut(path: Path, shape: Shape, fps: float, count: int) -> Iterator[Frames]:
    """The first `count` clips of a video, uint8 [t, h, w, 3], at `fps`: for each time, the last frame before it."""
    rate = video_info(path).fps or fps
    wanted = [int(index * rate / fps + 1e-6) for index in range(count * shape.frames)]
    clip: list[Frames] = []
    position = 0
    for number, frame in enumerate(read_video(path)):
        while position < len(wanted) and wanted[position] == number:
            clip.append(_fit(frame, shape))
            position += 1
            if len(clip) == shape.frames:
                yield np.stack(clip)
                clip = []


def _fit(frame: Frames, shape: Shape) -> Frames:
    """Scale a frame so that it covers the size, and center-crop it."""
    rows, columns = frame.shape[:2]
    scale = max(shape.width / columns, shape.height / rows)
    width, height = max(round(columns * scale), shape.width), max(round(rows * scale), shape.height)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(frame, (width, height), interpolation=method)
    top, left = (height - shape.height) // 2, (width - shape.width) // 2
    return np.ascontiguousarray(resized[top : top + shape.height, left : left + shape.width])

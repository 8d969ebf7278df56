"""Videos of this server as the material of new ones: files by id, edits and extensions.

A client names a video that it made as `{"id": "video_..."}` in any field of files, and its file is used as if it had
been uploaded. Nothing else can be named.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from lichtspiel.errors import RequestError
from lichtspiel.media.media import last_picture
from lichtspiel.media.video import video_info
from lichtspiel.serve.api.body import Fields, Uploads
from lichtspiel.serve.api.form import CLIP, FILES, Submission
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.errors import NotFound
from lichtspiel.serve.queue.jobs import Job
from lichtspiel.spec import Task, model
from lichtspiel.storage import file_sha256
from lichtspiel.workflows.clips import MAX_FRAMES

__all__ = ["check_video", "edit", "extension", "video_of", "with_clip", "with_files"]


MAX_PIXELS = 1920 * 1088 * 300
"""How large a video may be that is continued, over all frames: a worker reads it whole, and keeps it on its disk."""


def with_files(server: Server, owner: str, fields: Fields, uploads: Uploads) -> dict[str, Job]:
    """Turn the videos that `fields` names by id into uploads; returns the jobs that made them, by field.

    Raises NotFound for a video that is not there, not completed or somebody else's.
    """
    used = {}
    for name in [name for name in fields if name in FILES]:
        ids = [_id(one) for one in (fields[name] if isinstance(fields[name], list) else [fields[name]])]
        if not ids or None in ids:
            continue  # `read_form` says what is wrong with it
        del fields[name]
        for id in ids:
            used[name] = server.jobs.get(str(id), owner)
            video = used[name].video
            if video is None:
                raise NotFound(f"{id} is {used[name].state}; there is no video of it to use as {name}")
            with server.files.open(video) as file:
                uploads.setdefault(name, []).append(io.BytesIO(file.read()))
    return used


def video_of(server: Server, owner: str, value: Any) -> tuple[Job, BinaryIO]:
    """The job that `{"id": "video_..."}` names, and its file. Raises RequestError for anything else, and NotFound."""
    id = _id(value)
    if id is None:
        raise RequestError("video", value, 'it is an upload, or {"id": "video_..."} of one that was made here')
    job = server.jobs.get(id, owner)
    if job.video is None:
        raise NotFound(f"{id} is {job.state}; there is no video of it")
    return job, server.files.open(job.video)


def _id(value: Any) -> str | None:
    """The id in `{"id": "video_..."}`, which forms send as text."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    if not isinstance(value, dict) or set(value) != {"id"} or not isinstance(value["id"], str):
        return None
    return value["id"]


def edit(server: Server, owner: str, fields: Fields, uploads: Uploads) -> Job | None:
    """Make fields and uploads those of an edit of their video; returns the job that made the video, if one did."""
    source = with_files(server, owner, fields, uploads).get("video")
    check_video(fields, uploads, "edit")
    fields.setdefault("model", _first(server, {"edit"}, "edits videos; it needs one of VACE"))
    return source


def extension(server: Server, owner: str, fields: Fields, uploads: Uploads, folder: Path) -> Job | None:
    """Make fields and uploads those of a continuation of their video; returns the job that made the video, if one did.

    The last frame of the video becomes the first picture of what is made, so its model must start from a picture. Model
    and size are those of the video if they are not set and its model can do that, and what is added to a small video is
    not enlarged. The video itself is left in `folder`, for `with_clip`.
    """
    source = with_files(server, owner, fields, uploads).get("video")
    check_video(fields, uploads, "continue")
    if "input_reference" in {*fields, *uploads}:
        raise RequestError("input_reference", "a picture", "an extension starts with the last frame of its video")
    offered = server.settings.models
    if source is not None and source.model in offered and "image" in model(source.model).tasks:
        if fields.setdefault("model", source.model) == source.model:
            fields.setdefault("size", "x".join(map(str, source.request["size"])))
    else:
        fields.setdefault("model", _first(server, {"image"}, "starts from a picture, as an extension does"))
    if fields["model"] in offered and "image" not in model(fields["model"]).tasks:
        nearest = next((name for name in offered if "image" in model(name).tasks), None)
        raise RequestError("model", fields["model"], "it does not start from a picture, as an extension does", nearest)
    path = folder / f"{CLIP}.mp4"
    with path.open("wb") as file:
        shutil.copyfileobj(uploads.pop("video")[0], file)
    info = video_info(path)
    pixels = info.width * info.height * info.frames
    if info.frames > MAX_FRAMES or pixels > MAX_PIXELS:
        rule = f"at most {MAX_FRAMES:,} frames and {MAX_PIXELS / 1e6:,.0f} million pixels in all can be continued"
        raise RequestError(
            "video", f"{info.frames:,} frames of {info.width}x{info.height}", f"{rule}; cut or reduce it"
        )
    sampling = model(fields["model"]).sampling if fields["model"] in offered else None
    if sampling is not None and max(info.width, info.height) <= max(map(max, sampling.sizes)):
        fields.setdefault("upscale", 1)  # it would be reduced again
    uploads["input_reference"] = [io.BytesIO(last_picture(path))]
    return source


def with_clip(submission: Submission, folder: Path) -> Submission:
    """The request for a continuation, with the video that it goes on from among its files."""
    path = folder / f"{CLIP}.mp4"
    files = {**submission.files, CLIP: path}
    return replace(submission, files=files, digest=f"{submission.digest} {file_sha256(path)}")


def check_video(fields: Fields, uploads: Uploads, verb: str) -> None:
    """Raise RequestError unless exactly one video was sent or named."""
    if len(uploads.get("video", [])) != 1:
        rule = f'say which video to {verb}: one upload, or {{"id": "video_..."}} of one that was made here'
        raise RequestError("video", fields.get("video"), rule)


def _first(server: Server, tasks: Iterable[Task], does: str) -> str:
    """The first model on offer that has one of these tasks."""
    for name in server.settings.models:
        if set(tasks) & model(name).tasks:
            return name
    raise RequestError("model", None, f"this server has {', '.join(server.settings.models)}; none of them {does}")

"""The one description of a job: what the command line, a server, a manifest and a replay all speak.

A `Request` is complete: whatever was not asked for is filled in from the checkpoint's row in `spec.MODELS`, so that
what is recorded is what was used. Nothing is clamped or swapped; what breaks a rule is refused with the nearest valid
value. It opens no file and loads no torch.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lichtspiel.errors import RequestError
from lichtspiel.spec import MODELS, Fit, Model, SolverName, Task, model

__all__ = ["Request", "extent"]

MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
MAX_REFERENCES = 8
MAX_LORAS = 8
MAX_PROMPT = 8000
"""Characters of a prompt that are accepted at all; what the text encoder reads is limited by its tokens."""


def _size(value: object) -> object:
    """Accept "832x480" beside a pair of numbers."""
    if isinstance(value, str):
        width, cross, height = value.lower().replace("*", "x").partition("x")
        if not (cross and width.strip().isdigit() and height.strip().isdigit()):
            raise RequestError("size", value, "a size is WIDTHxHEIGHT in pixels, for example 832x480")
        return int(width), int(height)
    return value


def _adapter(value: object) -> object:
    """Accept "FILE" and "FILE:0.8" beside an object; a colon that no number follows belongs to the name."""
    if not isinstance(value, str | Path):
        return value
    path, _, number = str(value).rpartition(":")
    try:
        return {"path": path, "strength": float(number)} if path else {"path": value}
    except ValueError:
        return {"path": value}


class _Adapter(BaseModel):
    """A LoRA file and how strongly it counts: 1 as it was trained, less, more, or negative to steer away."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    strength: float = Field(default=1.0, allow_inf_nan=False)


Adapter = Annotated[_Adapter, BeforeValidator(_adapter)]


class Request(BaseModel):
    """One video to make. Create it with `Request.of`, which raises `RequestError` with one readable line.

    Which files are given decides the task: `image` and `last_image` are the first and the last picture; `video`, `mask`
    (white is made anew) and `references` are for VACE. A video or mask is an MP4, a picture or a folder of pictures.
    `size` is (width, height) in pixels, `frames` is 4n+1 and may be given as `seconds` instead; `inputs.ask` takes both
    from the given files where they are left open. `device` and `dtype` may be "auto" until weights are loaded; "int8"
    computes linear layers of the DiT in eight bits, on a processor.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(max_length=MAX_PROMPT, description="What the video shows.")
    model: str = Field(default="nano", description="Name of the checkpoint; `lichtspiel models` lists them.")
    image: Path | None = Field(default=None, description="Picture that the video starts with.")
    last_image: Path | None = Field(default=None, description="Picture that the video ends with; needs image.")
    video: Path | None = Field(default=None, description="Video to edit, control or go on from; VACE only.")
    mask: Path | None = Field(default=None, description="Where the video is made anew: white; needs video.")
    references: tuple[Path, ...] = Field(
        default=(), max_length=MAX_REFERENCES, description="Pictures of what the video shows, in order; VACE only."
    )
    context_scale: float = Field(default=1.0, ge=0, le=10, description="Weight of video, mask and references.")
    fit: Fit = Field(default="crop", description="How a picture or video meets the size: crop, pad or stretch.")
    size: Annotated[tuple[int, int], BeforeValidator(_size)] = Field(description="Width and height in pixels.")
    frames: int = Field(description="Number of frames, 4n+1.")
    fps: int = Field(description="Frames a second; fixed by the checkpoint.")
    steps: int = Field(ge=1, le=MAX_STEPS, description="Solver steps.")
    guidance: float = Field(ge=0, le=100, description="Classifier-free guidance; 1 is none.")
    shift: float = Field(gt=0, le=1000, description="Shift of the time grid toward noise.")
    solver: SolverName = Field(description="unipc, dpm++ or euler.")
    negative: str = Field(max_length=MAX_PROMPT, description="What guidance steers away from.")
    seed: int = Field(ge=0, le=MAX_SEED, description="Seed of the starting noise, drawn on the CPU.")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="Where to compute.")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(default="auto", description="Precision.")
    lora: tuple[Adapter, ...] = Field(
        default=(), max_length=MAX_LORAS, description="LoRA files with their strengths, as FILE or FILE:STRENGTH."
    )
    lora_partial: bool = Field(default=False, description="Use a LoRA even if some of its layers match no layer.")
    upscale: Literal[1, 2, 4] = Field(default=1, description="How much larger frames become after decoding; 1 is none.")

    @property
    def pixels(self) -> int:
        """Pixels of all frames together."""
        return self.size[0] * self.size[1] * self.frames

    @property
    def task(self) -> Task:
        """Which conditions are present."""
        if self.video is not None or self.mask is not None or self.references:
            return "edit"
        if self.image is None:
            return "text"
        return "image" if self.last_image is None else "first-last"

    @classmethod
    def of(cls, *, seconds: float | None = None, **fields: Any) -> Request:
        """Build a request from whatever was given; None stands for the checkpoint's default.

        Raises RequestError, naming the field, its value, the rule and the nearest valid value.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        if seconds is not None:
            if "frames" in given:
                raise RequestError("seconds", seconds, "give either frames or seconds, not both")
            given["frames"] = _frames_of(seconds, model(given.get("model", "nano")))
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise _first(error) from None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        sampling = model(given.get("model", "nano")).sampling
        defaults = {
            name: getattr(sampling, name)
            for name in ("frames", "steps", "guidance", "shift", "solver", "negative", "fps")
        }
        return {**defaults, "size": sampling.sizes[0], "seed": secrets.randbelow(2**31), **given}

    @model_validator(mode="after")
    def _check(self) -> Request:
        row = model(self.model)
        if not self.prompt.strip():
            raise RequestError("prompt", self.prompt, "say what the video shows, in at least one word")
        _check_given(self)
        _check_task(self.task, row)
        if self.context_scale != 1 and not row.dit.vace_layers:
            raise RequestError("context_scale", self.context_scale, f"{row.name} has no VACE context to weigh", 1.0)
        _check_size(self.size, row)
        _check_frames(self.frames, row, row.vae.stride[0] + 1 if self.task == "first-last" else 1)
        if self.fps != row.sampling.fps:
            raise RequestError("fps", self.fps, f"{row.name} was trained at its own rate", row.sampling.fps)
        return self


def extent(row: Model, size: str | None, frames: int | None) -> tuple[tuple[int, int], int]:
    """Size and number of frames as a request of this checkpoint would have them; raises RequestError as that would."""
    chosen = row.sampling.sizes[0] if size is None else cast("tuple[int, int]", _size(size))
    _check_size(chosen, row)
    count = row.sampling.frames if frames is None else frames
    _check_frames(count, row, 1)
    return chosen, count


def _frames_of(seconds: float, row: Model) -> int:
    """The valid number of frames whose duration is `seconds`, to the frame."""
    frames = round(seconds * row.sampling.fps)
    nearest = row.nearest_frames(frames)
    if abs(nearest - frames) > row.vae.stride[0] // 2:
        limit = f"{row.name} makes up to {row.sampling.max_frames / row.sampling.fps:g} seconds"
        raise RequestError("seconds", seconds, limit, round(nearest / row.sampling.fps, 3))
    return nearest


def _check_frames(frames: int, row: Model, least: int) -> None:
    nearest = row.nearest_frames(frames, least)
    if frames != nearest:
        rule = f"{row.name} makes {row.frame_rule} frames, from {least} to {row.sampling.max_frames}"
        raise RequestError("frames", frames, rule, nearest)


def _check_size(size: tuple[int, int], row: Model) -> None:
    sampling, grid, (width, height) = row.sampling, row.grid, size
    shown = f"{width}x{height}"
    listed = ", ".join(f"{w}x{h}" for w, h in sampling.sizes)
    if not sampling.free_size:
        if size not in sampling.sizes:
            nearest = min(sampling.sizes, key=lambda s: abs(s[0] - width) + abs(s[1] - height))
            raise RequestError("size", shown, f"{row.name} makes {listed}", f"{nearest[0]}x{nearest[1]}")
        return
    largest = max(w * h for w, h in sampling.sizes)
    if width % grid or height % grid or min(size) < grid:
        near = tuple(max(round(side / grid) * grid, grid) for side in size)
        if near[0] * near[1] > largest:
            near = tuple(max(side // grid * grid, grid) for side in size)
        if near[0] * near[1] <= largest:
            raise RequestError("size", shown, f"width and height are multiples of {grid}", f"{near[0]}x{near[1]}")
    if width * height > largest:
        near = min(sampling.sizes, key=lambda s: abs(s[0] / s[1] - width / height))
        rule = f"{row.name} makes at most {largest} pixels a frame (made for {listed})"
        raise RequestError("size", shown, rule, f"{near[0]}x{near[1]}")


_NEEDS: dict[Task, str] = {
    "text": "no image",
    "image": "one image",
    "first-last": "a first and a last image",
    "edit": "a video, mask or reference",
}


def _check_given(request: Request) -> None:
    """Whether the files that are given go together."""
    if request.last_image is not None and request.image is None:
        raise RequestError("last_image", str(request.last_image), "a last image needs a first one: add image")
    if request.task == "edit" and request.image is not None:
        rule = "a request has either images or a video, mask and references; VACE takes a first frame as part of video"
        raise RequestError("image", str(request.image), rule)
    if request.mask is not None and request.video is None:
        rule = "a mask says which part of a video is made anew: add video, or leave the mask out to make all of it"
        raise RequestError("mask", str(request.mask), rule)
    if request.lora_partial and not request.lora:
        raise RequestError("lora_partial", True, "it says what may happen with a LoRA, and none is given", False)
    if request.fit != "crop" and request.image is None and request.video is None:
        rule = "it says how a given image or video meets the size, and none is given"
        raise RequestError("fit", request.fit, rule, "crop")


def _check_task(task: Task, row: Model) -> None:
    if task not in row.tasks:
        wants = " or ".join(_NEEDS[known] for known in sorted(row.tasks))
        others = [other for other in MODELS.values() if task in other.tasks]
        nearest = min(others, key=lambda other: (other.embedded, other.dit.width != row.dit.width))
        rule = f"it takes {wants}, and this request has {_NEEDS[task]}"
        raise RequestError("model", row.name, rule, nearest.name)


def _first(error: ValidationError) -> RequestError:
    """The first problem that pydantic found, as one of our errors."""
    problem = error.errors()[0]
    inner = problem.get("ctx", {}).get("error")
    if isinstance(inner, RequestError):
        return inner
    field = ".".join(str(part) for part in problem["loc"]) or "request"
    if problem["type"] == "extra_forbidden":
        return RequestError(field, problem["input"], f"no such field; fields are {', '.join(Request.model_fields)}")
    if problem["type"] == "missing":
        return RequestError(field, None, "this field is required")
    context = problem.get("ctx", {})
    nearest = next((context[key] for key in ("ge", "le") if key in context), None)
    return RequestError(field, problem["input"], problem["msg"].removeprefix("Input should be ").lower(), nearest)

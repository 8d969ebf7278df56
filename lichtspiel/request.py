"""The description of a job that the command line, the server, manifests and replays share.

A `Request` is complete: fields that were not set are filled in from the checkpoint's row in `spec.MODELS`, so that what
is recorded is what was used. Nothing is clamped or swapped: an invalid value is refused, and the error names the
nearest valid one. The fields are also the only list of options: the flags of the command line, the bodies that the
server accepts and the choices on its page are generated from `OPTIONS`. This module opens no files and does not import
torch.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo

from lichtspiel import distilled
from lichtspiel.errors import RequestError
from lichtspiel.limits import (
    check_frames,
    check_size,
    check_task,
    check_window,
    frames_of,
    open_windows,
)
from lichtspiel.options import COMPUTING, FILES, GUIDING, SAMPLING, SHAPE, Hint, closest, values_of
from lichtspiel.spec import FitMode, Model, SolverName, Task, model
from lichtspiel.values import Adapter, GuidanceKind, Pace, Precision, Size, number, numbers, several

__all__ = [
    "OPTIONS",
    "Request",
    "default_of",
    "extent",
    "hint_of",
    "rule_of",
    "schema_of",
    "value_of",
]

MAX_SEED = 2**63 - 1
MAX_STEPS, MAX_TIMES = 1000, 100
MAX_REFERENCES = 8
MAX_LORAS = 8
MAX_PROMPT = 8000
"""The longest accepted prompt, in characters. How much of it the text encoder reads is limited in tokens."""


class Request(BaseModel):
    """A request for one video. Create it with `Request.of`, which raises `RequestError` with a one-line message.

    The files determine the task: `image` and `last_image` are the first and the last picture; `video`, `mask` (white is
    generated anew) and `references` are for VACE. A video or mask is an MP4, a picture or a folder of pictures. `pace`
    says which frames of the video are taken: "whole" spreads them over all of it, as the official code does, "real"
    takes them at the video's own speed, and "each" one after another. `size`
    is (width, height) in pixels; `frames` is 4n+1, and `Request.of` accepts `seconds` instead. If they are not set,
    `inputs.resolve_request` takes both from the files. `device` and `dtype` may be "auto" until weights are loaded;
    "int8" computes the linear layers of the DiT in int8, on a CPU.

    Field descriptions appear in the help of the command line and in the server's schema. They refer to other fields as
    `<frames>`, which each interface replaces by its own name for the field (`errors.name_fields`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[str, Hint("", metavar="PROMPT")] = Field(
        max_length=MAX_PROMPT, description="What the video shows."
    )
    model: Annotated[str, Hint(COMPUTING, metavar="NAME")] = Field(
        default="nano", description="Checkpoint to generate with."
    )
    image: Annotated[Path | None, Hint(FILES, metavar="FILE")] = Field(
        default=None, description="Picture that the video starts with."
    )
    last_image: Annotated[Path | None, Hint(FILES, metavar="FILE")] = Field(
        default=None, description="Picture that the video ends with; needs <image>."
    )
    video: Annotated[Path | None, Hint(FILES, metavar="PATH")] = Field(
        default=None,
        description="Video to edit, follow or continue with VACE models, or, with <strength>, to start from: an MP4, "
        "a picture or a folder of pictures.",
    )
    mask: Annotated[Path | None, Hint(FILES, metavar="PATH")] = Field(
        default=None,
        description="What to replace in <video>, in white: a video of its size and length, or one picture.",
    )
    references: Annotated[
        tuple[Path, ...], BeforeValidator(several), Hint(FILES, flag="reference", metavar="FILE")
    ] = Field(
        default=(), max_length=MAX_REFERENCES, description="Picture of a person or thing to show. VACE models only."
    )  # fmt: skip
    pace: Annotated[Pace, Hint(FILES)] = Field(
        default="whole",
        description="Which frames of <video> to take: spread over the whole of it, at its real speed, or each one.",
    )
    video_start: Annotated[float, Hint(FILES)] = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Seconds of <video> to leave out at its start."
    )
    sound: Annotated[bool, Hint(FILES)] = Field(
        default=False, description="Keep the sound of <video>; needs <pace> real."
    )
    strength: Annotated[float, Hint(FILES)] = Field(
        default=1.0, gt=0, le=1,
        description="How much of <video> text models make anew; below 1, they start from the video, partly noised.",
    )  # fmt: skip
    context_scale: Annotated[float, Hint(FILES)] = Field(
        default=1.0, ge=0, le=10, description="How strongly <video>, <mask> and <references> count."
    )
    fit: Annotated[FitMode, Hint(FILES)] = Field(
        default="crop", description="How a picture or video is fitted to the size."
    )
    lora: Annotated[tuple[Adapter, ...], BeforeValidator(several), Hint(FILES, metavar="FILE[:STRENGTH]")] = Field(
        default=(), max_length=MAX_LORAS, description="LoRA to apply, with its strength, 1 if left out."
    )
    lora_partial: Annotated[bool, Hint(FILES)] = Field(
        default=False, description="Apply a LoRA even if some of its layers match nothing in the model."
    )
    size: Annotated[Size, Hint(SHAPE, metavar="WIDTHxHEIGHT", rule="WIDTHxHEIGHT in pixels, such as 832x480")] = Field(
        description="Width and height in pixels; taken from a picture or video if left out."
    )
    frames: Annotated[int, Hint(SHAPE, metavar="NUMBER", rule="a whole number of the form 4n+1, such as 17 or 81")] = (
        Field(description="Number of frames, 4n+1.")
    )
    window: Annotated[int, Hint(SHAPE)] = Field(
        default=0, ge=0, description="Frames that the model sees at once, 4n+1; 0: all, or what it was trained on."
    )
    window_overlap: Annotated[int, Hint(SHAPE)] = Field(
        default=0, ge=0, description="Frames that one <window> shares with the next; 0: 16, or half of a short one."
    )
    riflex: Annotated[bool, Hint(SHAPE)] = Field(
        default=False, description="Keep videos longer than the model was trained on from repeating (RIFLEx)."
    )
    fps: Annotated[int, Hint(SHAPE)] = Field(description="Frames per second; fixed by the checkpoint.")
    upscale: Annotated[Literal[1, 2, 4], BeforeValidator(number), Hint(SHAPE)] = Field(
        description="How many times wider and higher to make the frames after decoding."
    )
    steps: Annotated[int, Hint(SAMPLING)] = Field(
        ge=1, le=MAX_STEPS, description="Solver steps; more are finer and slower."
    )
    guidance: Annotated[float, Hint(SAMPLING)] = Field(
        ge=0, le=100, description="Scale of classifier-free guidance; 1 turns it off."
    )
    shift: Annotated[float, Hint(SAMPLING)] = Field(gt=0, le=1000, description="Shift of the time grid toward noise.")
    solver: Annotated[SolverName, Hint(SAMPLING)] = Field(
        description="Solver of the sampling steps; lcm is for models distilled to few."
    )
    times: Annotated[
        tuple[float, ...], BeforeValidator(numbers), Hint(SAMPLING, flag="time", rule="from 1000 (noise) to 0, falling")
    ] = Field(
        default=(), max_length=MAX_TIMES, description="Timestep to evaluate, instead of <steps> and <shift>."
    )  # fmt: skip
    negative: Annotated[str, Hint(SAMPLING, metavar="TEXT")] = Field(
        max_length=MAX_PROMPT, description="Negative prompt: what guidance steers away from."
    )
    seed: Annotated[
        int, Hint(SAMPLING, rule=f"a whole number from 0 to {MAX_SEED}; leave it out for a random one")
    ] = Field(ge=0, le=MAX_SEED, description="Seed of the starting noise, which is drawn on the CPU.")  # fmt: skip
    guidance_kind: Annotated[GuidanceKind, Hint(GUIDING)] = Field(
        default="cfg", description="How guidance combines its two branches."
    )
    guidance_interval: Annotated[
        str, Hint(GUIDING, metavar="FROM-TO", rule="FROM-TO, two shares of the steps, such as 0.1-0.8")
    ] = Field(
        default="0-1", pattern=r"^(0|0?\.\d+)-(1|1\.0|0?\.\d+)$",
        description="Part of the steps in which guidance acts; a step outside takes one evaluation.",
    )  # fmt: skip
    guidance_gate: Annotated[float, Hint(GUIDING)] = Field(
        default=1.0, gt=0, le=1, description="Share of the steps after which guidance keeps its last correction."
    )
    skip_layers: Annotated[
        tuple[int, ...], BeforeValidator(numbers), Hint(GUIDING, flag="skip-layer", rule="the number of a block")
    ] = Field(default=(), max_length=8, description="Block to leave out for skip-layer guidance, counted from 0.")
    skip_scale: Annotated[float, Hint(GUIDING)] = Field(
        default=2.8, ge=0, le=20, description="Scale of skip-layer guidance."
    )
    nag: Annotated[float, Hint(GUIDING)] = Field(
        default=0.0, ge=0, le=50,
        description="Scale of normalized attention guidance: the negative prompt at <guidance> 1. 0 turns it off.",
    )  # fmt: skip
    magcache: Annotated[
        str, Hint(GUIDING, metavar="SETTING", rule="off, auto or THRESHOLD[:LONGEST[:KEEP]], such as 0.12:4:0.2")
    ] = Field(
        default="off", pattern=r"^(off|auto|\d*\.?\d+(:[1-9]\d?(:(0?\.\d+|[01]))?)?)$",
        description="Reuse what the blocks added in earlier steps: by the checkpoint's own setting, or THRESHOLD.",
    )  # fmt: skip
    device: Annotated[str, Hint(COMPUTING, metavar="NAME", rule="auto, cpu, mps, cuda or cuda:N, such as cuda:1")] = (
        Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="Where to compute.")
    )
    dtype: Annotated[Precision, Hint(COMPUTING)] = Field(
        default="auto", description="Precision to compute in; int8 is for processors, fp8 for NVIDIA GPUs."
    )
    vae_dtype: Annotated[Literal["float32", "bfloat16"], Hint(COMPUTING)] = Field(
        default="float32", description="Precision of the VAE; in bfloat16 it is faster and off by a level or two."
    )
    attention: Annotated[Literal["auto", "sdpa", "flash3", "sage"], Hint(COMPUTING)] = Field(
        default="auto", description="Kernel of the self-attention; sage is faster and not exact."
    )
    compile: Annotated[Literal["auto", "off"], Hint(COMPUTING)] = Field(
        default="auto", description="Whether the blocks of the DiT are compiled, on CUDA."
    )

    @property
    def pixels(self) -> int:
        """The total number of pixels in all frames."""
        return self.size[0] * self.size[1] * self.frames

    @property
    def seen(self) -> int:
        """The number of frames that the model sees at once."""
        return min(self.window or self.frames, self.frames)

    @property
    def interval(self) -> tuple[float, float]:
        """The shares of the steps between which guidance acts."""
        start, end = map(float, self.guidance_interval.split("-"))
        return start, end

    @property
    def steps_taken(self) -> int:
        """The solver steps that are computed: with <strength> below 1, only the last part of the grid."""
        return int(self.steps * self.strength + 1e-9)

    @property
    def task(self) -> Task:
        """The task, which follows from the conditions that are present."""
        if self.strength < 1:
            return "text"
        if self.video is not None or self.mask is not None or self.references:
            return "edit"
        if self.image is None:
            return "text"
        return "image" if self.last_image is None else "first-last"

    @classmethod
    def of(cls, *, seconds: float | str | None = None, **fields: Any) -> Request:
        """Build a request from some of its fields; None means the checkpoint's default.

        Values may be strings, as forms and command lines send them. Raises a RequestError that names the field, its
        value, the rule and the nearest valid value.
        """
        options = {name: value for name, value in fields.items() if value is not None}
        for name, value in options.items():
            if isinstance(value, bool) and name in OPTIONS and schema_of(name).get("type") != "boolean":
                raise RequestError(name, value, f"it is {rule_of(name)}")
        try:
            if seconds is not None:
                if "frames" in options:
                    raise RequestError("seconds", seconds, "set either <frames> or <seconds>, not both")
                windowed = str(options.get("window", 0)) != "0"
                options["frames"] = frames_of(value_of("seconds", seconds), _row(options), windowed=windowed)
            return cls.model_validate(options)
        except ValidationError as error:
            raise _first(error) from None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        sampling = _row(options).sampling
        open_fields = [name for name in cls.model_fields if hasattr(sampling, name)]
        defaults = {name: getattr(sampling, name) for name in open_fields}
        adapters = options.get("lora") or ()
        if names := [str(getattr(one, "path", one)) for one in several(adapters)]:
            defaults |= distilled.defaults(names, [*options])
        if times := [*numbers(options.get("times") or ())]:
            defaults["steps"] = len(times)
            for name in ("steps", "shift"):
                if name in options and str(options[name]) not in {str(defaults[name]), f"{defaults[name]:g}"}:
                    raise RequestError(name, options[name], "<times> already say when; leave it out")
        filled = open_windows(options, _row(options))
        return {**defaults, "size": sampling.sizes[0], "seed": secrets.randbelow(2**31), **options, **filled}

    @model_validator(mode="after")
    def _check(self) -> Request:
        row = model(self.model)
        if not html.unescape(html.unescape(self.prompt)).strip():  # the tokenizer resolves entities, too
            raise RequestError("prompt", self.prompt, "say what the video shows, in at least one word")
        _check_files(self)
        check_task(self.task, row)
        _check_guidance(self, row)
        if self.context_scale != 1 and not row.dit.vace_layers:
            raise RequestError("context_scale", self.context_scale, f"{row.name} has no VACE context to weigh", 1.0)
        check_size(self.size, row)
        least = row.vae.stride[0] + 1 if self.task == "first-last" else 1
        check_frames(self.frames, row, least, windowed=bool(self.window))
        check_window(self.window, self.window_overlap, self.frames, row)
        _check_length(self, row)
        if self.fps != row.sampling.fps:
            raise RequestError("fps", self.fps, f"{row.name} was trained at its own rate", row.sampling.fps)
        return self


def _check_length(request: Request, row: Model) -> None:
    """Refuse options about long videos where they have no effect, or no place."""
    if request.riflex and request.seen <= row.sampling.frames:
        rule = f"{row.name} sees no more than the {row.sampling.frames} frames that it was trained on"
        raise RequestError("riflex", True, rule, False)
    if request.window and request.magcache != "off":
        raise RequestError(
            "magcache", request.magcache, "it does not go with <window>, which moves in each step", "off"
        )


def _check_guidance(request: Request, row: Model) -> None:
    """Refuse what would have no effect."""
    start, end = request.interval
    if start >= end:
        raise RequestError("guidance_interval", request.guidance_interval, rule_of("guidance_interval"), "0-1")
    if request.guidance == 1:
        for name in ("guidance_kind", "guidance_interval", "guidance_gate"):
            value, default = getattr(request, name), default_of(name)
            if value != default:
                raise RequestError(name, value, "without guidance (<guidance> 1), it has no effect")
    elif request.nag:
        raise RequestError("nag", request.nag, "it replaces classifier-free guidance; set <guidance> to 1", 0)
    falling = [1000.0, *request.times, 0.0]
    if (request.times and any(later >= before for before, later in pairwise(falling[1:]))) or max(falling) > 1000:
        raise RequestError("times", " ".join(f"{time:g}" for time in request.times), f"they go {rule_of('times')}")
    if request.guidance_gate <= start:
        raise RequestError("guidance_gate", request.guidance_gate, f"guidance begins at {start:g} of the steps")
    if request.nag and request.nag <= 1:
        raise RequestError("nag", request.nag, "scales up to 1 steer nowhere; choose one above 1, such as 11", 0)
    if request.skip_scale != default_of("skip_scale") and not request.skip_layers:
        raise RequestError("skip_scale", request.skip_scale, "it needs <skip_layers>")
    for layer in request.skip_layers:
        if not 0 <= layer < row.dit.layers:
            raise RequestError("skip_layers", layer, f"{row.name} has blocks 0 to {row.dit.layers - 1}")


class _Duration(BaseModel):
    """The only option that is not a field of a request: it is converted to `frames`."""

    seconds: Annotated[float, Hint(SHAPE), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})] = Field(
        gt=0, allow_inf_nan=False, description="Duration, instead of <frames>."
    )


def _options() -> dict[str, FieldInfo]:
    options = {name: field for name, field in Request.model_fields.items() if name != "fps"}
    index = [*options].index("frames") + 1
    items = [*options.items()]
    return dict([*items[:index], *_Duration.model_fields.items(), *items[index:]])


OPTIONS: dict[str, FieldInfo] = _options()
"""All options by name: the fields of a request, except the frame rate, which every checkpoint fixes, plus `seconds`."""


def hint_of(name: str) -> Hint:
    """How the command line shows an option."""
    (hint,) = (item for item in OPTIONS[name].metadata if isinstance(item, Hint))
    return hint


def default_of(name: str) -> Any:
    """The default of an option; None if it depends on the checkpoint or is random."""
    field = (Request.model_fields | _Duration.model_fields)[name]
    return None if field.is_required() else field.default


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    properties = Request.model_json_schema()["properties"] | _Duration.model_json_schema()["properties"]
    return {name: {key: properties[name][key] for key in properties[name] if key != "title"} for name in OPTIONS}


def schema_of(name: str) -> dict[str, Any]:
    """The JSON schema of an option: type, bounds, choices, default and description."""
    return dict(_schemas()[name])


def rule_of(name: str) -> str:
    """The valid values of an option, in words."""
    return (hint_of(name).rule or values_of(schema_of(name))) if name in OPTIONS else "something else"


@cache
def _type(name: str) -> TypeAdapter[Any]:
    field = OPTIONS[name]
    kind: Any = Annotated[(field.annotation, *field.metadata)]
    return TypeAdapter(kind)


def value_of(name: str, value: object) -> Any:
    """Validate the value of an option, which may be a string; raises RequestError as a request would."""
    try:
        return _type(name).validate_python(value)
    except ValidationError as error:
        raise _first(error, name) from None


def extent(
    row: Model, size: object = None, frames: object = None, seconds: object = None
) -> tuple[tuple[int, int], int]:
    """The size and number of frames that a request for this checkpoint would have; raises RequestError likewise."""
    if seconds is not None:
        if frames is not None:
            raise RequestError("seconds", seconds, "set either <frames> or <seconds>, not both")
        frames = frames_of(value_of("seconds", seconds), row)
    chosen: tuple[int, int] = row.sampling.sizes[0] if size is None else value_of("size", size)
    check_size(chosen, row)
    count: int = row.sampling.frames if frames is None else value_of("frames", frames)
    check_frames(count, row, 1)
    return chosen, count


def _row(options: Mapping[str, Any]) -> Model:
    return model(options.get("model", default_of("model")))


def _check_files(request: Request) -> None:
    """Check that the files go together, and that options about files have their files. Raises RequestError."""
    if request.last_image is not None and request.image is None:
        raise RequestError("last_image", str(request.last_image), "a last picture needs a first one: add <image>")
    if request.image is not None and (request.video is not None or request.mask is not None or request.references):
        rule = (
            "pictures do not go with <video>, <mask> and <references>; VACE takes a first frame as part of <video>, so "
            "use one or the other"
        )
        raise RequestError("image", str(request.image), rule)
    if request.mask is not None and request.video is None:
        rule = "a mask says which part of a video to replace: add <video>, or drop the mask to generate all of it"
        raise RequestError("mask", str(request.mask), rule)
    if request.video is None:
        for name, default in (("pace", "whole"), ("video_start", 0.0), ("sound", False), ("strength", 1.0)):
            if getattr(request, name) != default:
                rule = "there is no video that it could be about: add <video> or drop it"
                raise RequestError(name, getattr(request, name), rule, default)
    if request.strength < 1:
        _check_strength(request)
    if request.sound and request.pace != "real":
        raise RequestError("pace", request.pace, "sound keeps its speed, so the pictures must, too", "real")
    if request.lora_partial and not request.lora:
        raise RequestError(
            "lora_partial", True, "there is no LoRA that it could be about: add <lora> or drop it", False
        )
    if request.fit != "crop" and request.image is None and request.video is None:
        rule = "there is no picture or video to fit: add <image> or <video>, or drop it"
        raise RequestError("fit", request.fit, rule, "crop")


def _check_strength(request: Request) -> None:
    """Check that a video can be started from. Raises RequestError."""
    row = model(request.model)
    if request.mask is not None or request.references or row.dit.vace_layers:
        rule = "VACE models take <video>, <mask> and <references> as they are; it is for text models and <video> alone"
        raise RequestError("strength", request.strength, rule, 1.0)
    if not request.steps_taken:
        least = f"{-(-10000 // request.steps) / 10000:g}"
        rule = f"of {request.steps} steps, none would be left; at least one is computed from {least} on"
        raise RequestError("strength", request.strength, rule, float(least))


def _first(error: ValidationError, name: str = "request") -> RequestError:
    """Turn the first problem that pydantic reports into a RequestError."""
    problem = error.errors()[0]
    context = problem.get("ctx", {})
    if isinstance(inner := context.get("error"), RequestError):
        return inner
    field = str(next(iter(problem["loc"]), name)) if name == "request" else name
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        return RequestError(
            field,
            value,
            f"no such field; fields are {', '.join(Request.model_fields)}",
            closest(field, [*Request.model_fields]),
        )
    if problem["type"] == "missing":
        return RequestError(field, None, "this field is required")
    nearest = next((context[key] for key in ("ge", "le") if key in context), None)
    if str(value).strip().lower() in {"nan", "inf", "-inf", "infinity"}:
        nearest = None
    if problem["type"] == "literal_error":
        nearest = closest(value, schema_of(field)["enum"])
    return RequestError(field, value, f"it is {rule_of(field)}", nearest)

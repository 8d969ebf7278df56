"""From a request to a sealed video or picture, so that no finished work is lost.

Output path, disk, signing identity and policy are checked before weights load; latents are on disk before decoding
starts, and `decode` finishes from them. It parses no command line and draws nothing; progress goes to a callback.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lichtspiel import __version__
from lichtspiel.errors import Cancelled, Interrupted, LichtspielError, OutOfMemory, OutputError, Refused, RequestError
from lichtspiel.host import peak_memory
from lichtspiel.inference.pipeline import Conditions, Files, Pipeline, Step, load
from lichtspiel.media.picture import pictures
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.models.upscaler import Upscaler
from lichtspiel.request import Request
from lichtspiel.seal import Input, Provenance, Sealed, check_output, seal, seal_picture
from lichtspiel.spec import dit_parameters, model
from lichtspiel.workflows.admission import admit
from lichtspiel.workflows.latents import keep, read_latents
from lichtspiel.workflows.terms import Inspection, Terms

__all__ = ["Job", "Progress", "Result", "decode", "generate"]

Progress = Callable[[str, float], None]
"""Called with the stage's name and how much of the whole work is done, 0 to 1."""

Watch = Callable[[Step], None]
"""Called after every solver step, with its latents."""

Say = Callable[[str], None]
"""Called with what a person should know before the long part begins; it stands in the result, too."""

Frames = Iterator[NDArray[np.uint8]]


@dataclass(frozen=True)
class Result:
    """What was made, how, and how long it took: everything in effective values."""

    request: Request
    sealed: Sealed
    policy: dict[str, Any]
    latents: Path
    device: str
    dtype: str
    peak: int
    timings: dict[str, float]
    unknown_words: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """One flat object with the effective request, as `generate --json` prints it."""
        request = self.request.model_dump(mode="json")
        request |= {"size": list(self.request.size), "device": self.device, "dtype": self.dtype}
        return {
            "id": self.sealed.id,
            "path": str(self.sealed.path),
            "latents": str(self.latents),
            **request,
            "timings": {stage: round(seconds, 3) for stage, seconds in self.timings.items()},
            "peak_bytes": self.peak,
            "unknown_words": self.unknown_words,
            "notes": self.notes,
            "policy": self.policy,
            "seal": self.sealed.to_json(),
        }


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def finish(self) -> dict[str, float]:
        """All stages and the total."""
        stages = dict.fromkeys(("load", "encode", "denoise", "decode", "seal"), 0.0)
        return {**stages, **self.seconds, "total": time.perf_counter() - self.started}


@dataclass
class Job:
    """One video on its way: what was asked, where it goes, under which terms, and who wants to know how far it is.

    `open` adds what that takes: the verdict on the request, the networks, and what is said of the video. Then come
    `denoise` and `finish`, with the latents on disk between them: in `folder`, or among the data of this computer.
    `watch` sees every solver step, and may raise Cancelled, as `progress` may.
    """

    request: Request
    out: Path
    sheet: Path | None
    terms: Terms
    progress: Progress
    say: Say
    watch: Watch = lambda step: None
    folder: Path | None = None
    clock: Clock = field(default_factory=Clock)
    share: float = 0.0
    inspection: Inspection = field(init=False)
    pipeline: Pipeline = field(init=False)
    provenance: Provenance = field(init=False)
    notes: list[str] = field(init=False)

    def open(self, weights: Files, pipeline: Pipeline | None) -> Pipeline:
        """Check everything that can be refused, in the order of its price; the networks are found, not loaded."""
        _check_out(self.out, self.request)
        check_sheet(self.sheet)
        self.inspection, notes = admit(self.request, self.terms)
        self.pipeline = pipeline or load(self.request, weights)
        self.notes = notes + self.pipeline.notes
        for note in self.notes:
            self.say(note)
        self.provenance = provenance_of(self.request, self.pipeline, self.terms)
        return self.pipeline

    def denoise(self) -> Path:
        """From the request to latents on disk."""
        request, pipeline, clock = self.request, self.pipeline, self.clock
        self.share = denoising_share(request)
        self.progress("reading the prompt", 0.0)
        with _within_memory("encoding"):
            with clock.stage("load"):
                pipeline.load_encoders(request)
            with clock.stage("encode"):
                conditions = pipeline.encode(request)
        pipeline.release("umt5", "clip", *_unless_roomy(pipeline, "vae"))
        with _within_memory("denoising"):
            with clock.stage("load"):
                _ = pipeline.dit
            with clock.stage("denoise"):
                latents = _denoise(self, conditions)
        pipeline.release(*_unless_roomy(pipeline, "dit"))
        return keep(latents, request, self.provenance.id, self.folder)

    def finish(self, kept: Path) -> Result:
        """Decode and seal latents that were kept. An interruption says where they are."""
        clock = self.clock
        with clock.stage("load"):
            _ = self.pipeline.vae
        try:
            with clock.stage("seal"):
                sealed, seen = _leave(self, read_latents(kept)[0])
        except (Refused, Cancelled):
            raise
        except KeyboardInterrupt:
            raise Interrupted(f"stopped while decoding{self._remedy(kept)}") from None
        except (LichtspielError, RuntimeError, MemoryError, OSError) as error:  # RuntimeError: torch is out of memory
            raise LichtspielError(f"decoding failed: {error}{self._remedy(kept)}") from error
        clock.seconds["seal"] -= clock.seconds["decode"] + clock.seconds.get("upscale", 0.0)
        self.inspection.remember(sealed, self.provenance)
        if self.sheet is not None:
            contact_sheet(seen, path=self.sheet)
        pipeline = self.pipeline
        return Result(
            request=self.request, sealed=sealed, policy=self.inspection.verdicts(), latents=kept,
            device=str(pipeline.device), dtype=pipeline.precision, peak=peak_memory(str(pipeline.device)),
            timings=clock.finish(), unknown_words=pipeline.tokenizer.unknown_words(self.request.prompt),
            notes=self.notes,
        )  # fmt: skip

    def _remedy(self, kept: Path) -> str:
        """How to go on from latents that stay; a folder that was given is its owner's business."""
        if self.folder is not None:
            return ""
        return f"; nothing is lost: lichtspiel decode '{kept}' -o '{self.out}' finishes the video"


def generate(
    request: Request,
    out: Path,
    *,
    weights: Files = None,
    sheet: Path | None = None,
    terms: Terms | None = None,
    progress: Progress = lambda stage, done: None,
    say: Say = lambda note: None,
    pipeline: Pipeline | None = None,
) -> Result:
    """Make the video of a request at `out`; a request of one frame also makes a picture, where `out` ends in .png.

    `weights` is the file or folder of a checkpoint that does not ship with the package, `sheet` a picture of frames to
    write beside it, `terms` the marks and what the policy needs to know; without them the defaults hold. `pipeline` is
    one that serves the request (`Pipeline.serves`) and may have weights loaded still. Raises a LichtspielError with one
    readable line; whatever finished until then is kept and named.
    """
    job = Job(request, out, sheet, terms or Terms(), progress, say)
    job.open(weights, pipeline)
    return job.finish(job.denoise())


def _unless_roomy(pipeline: Pipeline, part: str) -> list[str]:
    """What has to make room for the next stage."""
    return [] if pipeline.plan.keep_dit_resident else [part]


@contextmanager
def _within_memory(stage: str) -> Iterator[None]:
    """Tell a lack of memory, which torch reports in three ways, from all other errors."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "allocate memory")
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in words):
            raise
        remedy = "take a smaller size, fewer frames or a smaller model; `lichtspiel plan` says what fits"
        raise OutOfMemory(f"{stage} needs more memory than there is; {remedy}") from error


def _check_out(out: Path, request: Request) -> None:
    """A name that ends in .png is a picture's, of which a request makes one frame."""
    pixels = request.pixels * request.upscale**2
    if out.suffix.lower() == ".png":
        if request.frames != 1:
            raise RequestError("frames", request.frames, f"{out} is a picture, which is one frame", 1)
        check_output(out, pixels=pixels, suffix=".png")
        return
    if model(request.model).sampling.max_frames == 1:
        raise OutputError(f"{out}: {request.model} makes pictures; nearest valid name: {out.with_suffix('.png')}")
    check_output(out, pixels=pixels)


def check_sheet(sheet: Path | None) -> None:
    """A contact sheet's path is checked before the work, as the video's is."""
    if sheet is None:
        return
    if sheet.suffix.lower() != ".png":
        raise OutputError(
            f"{sheet}: contact sheets are written as PNG; nearest valid name: {sheet.with_suffix('.png')}"
        )
    if not sheet.parent.is_dir() or not os.access(sheet.parent, os.W_OK):
        raise OutputError(f"{sheet}: the folder {sheet.parent} does not exist or cannot be written; choose another")


def _denoise(job: Job, conditions: Conditions) -> Tensor:
    """All steps; returns the last one's latents."""
    try:
        for step in job.pipeline.denoise(conditions, job.request):
            job.watch(step)
            job.progress(f"denoising, step {step.index} of {step.total}", job.share * step.index / step.total)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped while denoising {job.request.prompt!r}; no file was written") from None
    return step.latents


def decode(
    latents: Path,
    out: Path,
    *,
    weights: Files = None,
    sheet: Path | None = None,
    terms: Terms | None = None,
    progress: Progress = lambda stage, done: None,
    say: Say = lambda note: None,
) -> Result:
    """Finish a video from a latents file that `generate` kept; raises MediaError when the file is not one."""
    job = Job(read_latents(latents)[1], out, sheet, terms or Terms(), progress, say)
    job.open(weights, None)
    return job.finish(latents)


def _leave(job: Job, latents: Tensor) -> tuple[Sealed, list[NDArray[np.uint8]]]:
    """Frames as they are decoded through the door: a picture where its name says so, else a video. Also returns the
    frames where somebody wants a contact sheet of them."""
    total = job.pipeline.model.vae.frames(latents.shape[2])
    seen: list[NDArray[np.uint8]] = []

    def frames() -> Frames:
        source = job.pipeline.decode(latents)
        factor = job.request.upscale
        enlarge = Upscaler(factor, job.pipeline.device) if factor > 1 else None
        for index in range(total):
            with job.clock.stage("decode"):
                frame = next(source)
            if enlarge is not None:
                with job.clock.stage("upscale"):
                    frame = enlarge(frame)
            left = (total - 1 - index) / total
            job.progress(f"decoding, frame {index + 1} of {total}", 1 - (1 - job.share) * left)
            if job.sheet is not None:
                seen.append(frame)
            yield frame

    terms, fps = job.inspection.terms, job.pipeline.model.sampling.fps
    watched = job.inspection.watch(frames(), fps)
    if job.out.suffix.lower() != ".png":
        return seal(watched, job.provenance, job.out, fps=fps, marks=terms.marks, timestamp=terms.timestamp), seen
    (frame,) = watched
    return seal_picture(frame, job.provenance, job.out, marks=terms.marks, timestamp=terms.timestamp), seen


def denoising_share(request: Request) -> float:
    """How much of the computing time denoising takes, roughly, from counting multiplications.

    A DiT step costs two operations per parameter, token and branch of guidance; decoding a pixel costs about 500 per
    squared base width of the VAE (counted from its layers).
    """
    row = model(request.model)
    tokens = row.dit.tokens(row.latent_shape(request.frames, request.size))
    branches = 1 if request.guidance == 1 else 2
    denoising = 2.0 * dit_parameters(row.dit) * tokens * branches * request.steps
    decoding = 500.0 * row.vae.width**2 * request.pixels
    return denoising / (denoising + decoding)


def provenance_of(request: Request, pipeline: Pipeline, terms: Terms) -> Provenance:
    """What the seal says about this video: the effective request, and the given files as inputs.

    A video whose mask keeps a part of it stays the result's parent and makes it a composite.
    """
    files = ("image", "last_image", "video", "mask", "references", "lora")
    parameters = request.model_dump(mode="json", exclude={"prompt", "negative", *files})
    parameters |= {"size": list(request.size), "device": str(pipeline.device), "dtype": pipeline.precision}
    parameters["lora"] = [adapter.strength for adapter in request.lora]
    roles = {"first-frame": request.image, "last-frame": request.last_image, "video": request.video}
    roles |= {"mask": request.mask}
    roles |= {f"reference-{number}": path for number, path in enumerate(request.references, start=1)}
    roles |= {f"lora-{number}": adapter.path for number, adapter in enumerate(request.lora, start=1)}
    return Provenance(
        model=request.model,
        version=__version__,
        source_type="trainedAlgorithmicMedia" if request.mask is None else "compositeWithTrainedAlgorithmicMedia",
        prompt=request.prompt,
        negative=request.negative,
        parameters=parameters,
        inputs=tuple(input_of(path, role) for role, path in roles.items() if path is not None),
        embed_prompt=terms.embed_prompt,
    )


def input_of(path: Path, role: str) -> Input:
    """An input of the record; a folder of pictures goes by the digest of its pictures' digests, in their order."""
    if not path.is_dir():
        return Input.of(path, role, parent=role == "video")
    digests = [Input.of(picture, role).sha256 for picture in pictures(path)]
    return Input(role, path, hashlib.sha256("".join(digests).encode()).hexdigest(), parent=role == "video")

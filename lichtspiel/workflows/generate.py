"""From a request to a sealed video or picture, so that no finished work is lost.

Output path, disk, signing identity and policy are checked before weights load; latents are on disk before decoding
starts, and `decode` finishes from them. It parses no command line and draws nothing; progress goes to a callback.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lichtspiel import __version__
from lichtspiel.errors import Cancelled, Interrupted, LichtspielError, OutOfMemory, OutputError, Refused, RequestError
from lichtspiel.host import peak_memory
from lichtspiel.inference.clock import Clock
from lichtspiel.inference.inputs import Inputs
from lichtspiel.inference.pipeline import Files, Pipeline, Step, load
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.models.upscaler import Upscaler
from lichtspiel.request import Request
from lichtspiel.seal import Input, Provenance, Sealed, check_output, seal, seal_picture
from lichtspiel.spec import dit_parameters, model
from lichtspiel.workflows.admission import Admission, admit
from lichtspiel.workflows.latents import keep, read_latents
from lichtspiel.workflows.terms import Inspection, Terms

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = [
    "Generation",
    "Observer",
    "Progress",
    "Result",
    "check_outputs",
    "compute_latents",
    "decode",
    "finish",
    "generate",
    "prepare",
]

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the share of the whole work that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Who follows a generation: `progress` hears how far it is, `note` what a person should know before the long part
    begins, `step` sees the latents after each solver step; each may raise Cancelled. `clock` times the stages; one that
    was started earlier counts what came before as loading."""

    progress: Progress = lambda stage, share: None
    note: Callable[[str], None] = lambda text: None
    step: Callable[[Step], None] = lambda step: None
    clock: Clock = field(default_factory=Clock)


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


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request that may be made, the pipeline that serves it, where its result goes, and who follows it.

    `folder` is where latents are kept, the data folder if it is None. `notes` are for the requester.
    """

    admission: Admission
    pipeline: Pipeline
    provenance: Provenance
    notes: list[str]
    out: Path
    sheet: Path | None
    folder: Path | None
    observer: Observer

    @property
    def request(self) -> Request:
        """What is made."""
        return self.admission.request

    @property
    def inspection(self) -> Inspection:
        """What the policy says, before and after."""
        return self.admission.inspection


def generate(
    request: Request | str,
    out: Path | str,
    *,
    weights: Files = None,
    sheet: Path | str | None = None,
    terms: Terms | None = None,
    inputs: Inputs | None = None,
    pipeline: Pipeline | None = None,
    observer: Observer | None = None,
) -> Result:
    """Make the video of a request, or of a prompt, at `out`; where `out` ends in .png, a picture of one frame.

    `weights` is the file or folder of a checkpoint that does not ship with the package, `sheet` a picture of frames to
    write beside it, `terms` the marks and what the policy needs to know; without them the defaults hold. `inputs` are
    the request's files if they were read already, `pipeline` is one that serves the request (`Pipeline.serves`) and may
    have networks loaded already. Raises a LichtspielError with one readable line; whatever was finished until then is
    kept and named.
    """
    out, sheet = Path(out), Path(sheet) if sheet is not None else None
    if isinstance(request, str):
        request = Request.of(prompt=request, frames=1 if out.suffix.lower() == ".png" else None)
    check_outputs(request, out, sheet)
    admission = admit(request, terms or Terms(), inputs)
    generation = prepare(admission, out, weights=pipeline or weights, sheet=sheet, observer=observer)
    return finish(generation, compute_latents(generation))


def prepare(
    admission: Admission,
    out: Path,
    *,
    weights: Files | Pipeline = None,
    sheet: Path | None = None,
    folder: Path | None = None,
    observer: Observer | None = None,
) -> Generation:
    """Bring an admitted request and its pipeline together. `weights` are files, or a pipeline that serves the request;
    no network is loaded yet, but every file is checked."""
    observer = observer or Observer()
    pipeline = weights if isinstance(weights, Pipeline) else load(admission.request, weights)
    pipeline.clock = observer.clock
    notes = [*admission.notes, *pipeline.notes]
    for note in notes:
        observer.note(note)
    return Generation(
        admission=admission, pipeline=pipeline, provenance=provenance_of(admission, pipeline), notes=notes,
        out=out, sheet=sheet, folder=folder, observer=observer,
    )  # fmt: skip


def compute_latents(generation: Generation) -> Path:
    """Go from the request to latents on disk: encode and denoise."""
    request, pipeline, observer = generation.request, generation.pipeline, generation.observer
    share = denoising_share(request)
    observer.progress("reading the prompt", 0.0)
    try:
        conditions = pipeline.encode(request, generation.admission.inputs)
        with observer.clock.stage("denoise"):
            for step in pipeline.denoise(conditions, request):
                observer.step(step)
                observer.progress(f"denoising, step {step.index} of {step.total}", share * step.index / step.total)
            return keep(step.latents, request, generation.provenance.id, generation.folder)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped while denoising {request.prompt!r}; no file was written") from None


def finish(generation: Generation, latents: Path) -> Result:
    """Decode and seal latents on disk, and enter the result into the record. A failure names the latents."""
    pipeline, clock = generation.pipeline, generation.observer.clock
    with clock.stage("seal"):
        try:
            sealed, frames = _seal(generation, read_latents(latents)[0])
        except (Refused, Cancelled):
            raise
        except KeyboardInterrupt:
            raise Interrupted(f"stopped while decoding{_remedy(generation, latents)}") from None
        except OutOfMemory as error:
            raise OutOfMemory(f"{error}{_remedy(generation, latents)}") from error
        except (LichtspielError, RuntimeError, MemoryError, OSError) as error:
            raise LichtspielError(f"decoding failed: {error}{_remedy(generation, latents)}") from error
        generation.inspection.remember(sealed, generation.provenance)
        if generation.sheet is not None:
            contact_sheet(frames, path=generation.sheet)
        return Result(
            request=generation.request, sealed=sealed, policy=generation.inspection.verdicts(), latents=latents,
            device=str(pipeline.device), dtype=pipeline.precision, peak=peak_memory(str(pipeline.device)),
            unknown_words=pipeline.tokenizer.unknown_words(generation.request.prompt), notes=generation.notes,
            timings=clock.timings(),
        )  # fmt: skip


def decode(
    latents: Path | str,
    out: Path | str,
    *,
    weights: Files = None,
    sheet: Path | str | None = None,
    terms: Terms | None = None,
    observer: Observer | None = None,
) -> Result:
    """Finish a video from a latents file that `generate` kept; raises MediaError when the file is not one."""
    latents, out, sheet = Path(latents), Path(out), Path(sheet) if sheet is not None else None
    request = read_latents(latents)[1]
    check_outputs(request, out, sheet)
    admission = admit(request, terms or Terms())
    return finish(prepare(admission, out, weights=weights, sheet=sheet, observer=observer), latents)


def _remedy(generation: Generation, latents: Path) -> str:
    """How to go on from latents that stay; those in a folder of the caller's are the caller's business."""
    if generation.folder is not None:
        return ""
    return f"; nothing is lost: lichtspiel decode '{latents}' -o '{generation.out}' finishes the video"


def check_outputs(request: Request, out: Path, sheet: Path | None) -> None:
    """Whether the results can be written where they are wanted. A name that ends in .png is a picture's, which is one
    frame."""
    check_sheet(sheet)
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


def _seal(generation: Generation, latents: Tensor) -> tuple[Sealed, list[Frame]]:
    """Let frames leave as they are decoded: as a picture where the output's name says so, else as a video. Also returns
    the frames where a contact sheet of them is wanted."""
    request, pipeline, observer = generation.request, generation.pipeline, generation.observer
    total = pipeline.model.vae.frames(latents.shape[2])
    share = denoising_share(request)
    for_sheet: list[Frame] = []

    def frames() -> Iterator[Frame]:
        with observer.clock.stage("load"):
            upscaler = Upscaler(request.upscale, pipeline.device) if request.upscale > 1 else None
        for index, frame in enumerate(pipeline.decode(latents)):
            if upscaler is not None:
                with observer.clock.stage("upscale"):
                    frame = upscaler(frame)  # noqa: PLW2901
            left = (total - 1 - index) / total
            observer.progress(f"decoding, frame {index + 1} of {total}", 1 - (1 - share) * left)
            if generation.sheet is not None:
                for_sheet.append(frame)
            yield frame

    terms, fps = generation.inspection.terms, pipeline.model.sampling.fps
    watched = generation.inspection.watch(frames(), fps)
    out, provenance = generation.out, generation.provenance
    if out.suffix.lower() != ".png":
        return seal(watched, provenance, out, fps=fps, marks=terms.marks, timestamp=terms.timestamp), for_sheet
    (frame,) = watched
    return seal_picture(frame, provenance, out, marks=terms.marks, timestamp=terms.timestamp), for_sheet


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


def provenance_of(admission: Admission, pipeline: Pipeline) -> Provenance:
    """What the seal says about this video: the effective request, and the given files as inputs.

    A video whose mask keeps a part of it stays the result's parent and makes it a composite.
    """
    request, inputs = admission.request, admission.inputs
    files = ("image", "last_image", "video", "mask", "references", "lora")
    parameters = request.model_dump(mode="json", exclude={"prompt", "negative", *files})
    parameters |= {"size": list(request.size), "device": str(pipeline.device), "dtype": pipeline.precision}
    parameters["lora"] = [adapter.strength for adapter in request.lora]
    given = [Input(role, media.path, media.sha256, parent=role == "video") for role, media in inputs.by_role.items()]
    given += [Input.of(adapter.path, f"lora-{number}") for number, adapter in enumerate(request.lora, start=1)]
    return Provenance(
        model=request.model,
        version=__version__,
        source_type="trainedAlgorithmicMedia" if request.mask is None else "compositeWithTrainedAlgorithmicMedia",
        prompt=request.prompt,
        negative=request.negative,
        parameters=parameters,
        inputs=tuple(given),
        embed_prompt=admission.inspection.terms.embed_prompt,
    )

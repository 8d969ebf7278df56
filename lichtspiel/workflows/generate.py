"""Generate a sealed video or picture from a request without ever losing finished work.

The output path, disk space, signing identity and policy are checked before weights are loaded. Latents are saved to
disk before they are decoded, and `decode` can resume from them. This module parses no command line and draws no
progress bar; progress goes to a callback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from torch import Tensor

from lichtspiel import __version__
from lichtspiel.errors import Cancelled, Interrupted, LichtspielError, OutOfMemory, Refused
from lichtspiel.host import peak_memory
from lichtspiel.inference.clock import Clock
from lichtspiel.inference.inputs import Inputs
from lichtspiel.inference.pipeline import Files, Pipeline, Step, load
from lichtspiel.inference.plan import DECODING
from lichtspiel.inference.upscale import Upscaler
from lichtspiel.media.media import read_frames
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.request import Request
from lichtspiel.seal import ANIMATIONS, Input, Provenance, Sealed, Sound, seal, seal_animation, seal_picture
from lichtspiel.spec import dit_parameters, model
from lichtspiel.toybox import knowledge
from lichtspiel.workflows.admission import Admission, admit
from lichtspiel.workflows.latents import check_folder, latents_sha256, mark_decoded, read_latents, save_latents
from lichtspiel.workflows.outputs import check_distinct, check_outputs
from lichtspiel.workflows.terms import Inspection, Terms

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = [
    "Generation",
    "Observer",
    "Progress",
    "Result",
    "compute_latents",
    "decode",
    "finish",
    "generate",
    "keep_latents",
    "prepare",
]

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the fraction of the total work that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Callbacks that follow a generation; each may raise Cancelled.

    `progress` receives the progress, `note` receives what the user should know before the long part begins, and `step`
    receives the latents after each solver step. `clock` times the stages; if it was started earlier, the time before
    counts as loading.
    """

    progress: Progress = lambda stage, share: None
    note: Callable[[str], None] = lambda text: None
    step: Callable[[Step], None] = lambda step: None
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True)
class Result:
    """What was generated, how, and how long it took, with all values as they took effect."""

    request: Request
    sealed: Sealed
    policy: dict[str, Any]
    latents: Path | None
    device: str
    dtype: str
    peak: int
    timings: dict[str, float]
    unknown_words: list[str]
    notes: list[str]
    parameters: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One flat object that includes the effective request, as printed by `generate --json`."""
        request = self.request.model_dump(mode="json")
        request |= {"size": list(self.request.size), "device": self.device, "dtype": self.dtype}
        return {
            "id": self.sealed.id,
            "path": str(self.sealed.path),
            "latents": None if self.latents is None else str(self.latents),
            **request,
            "timings": {stage: round(seconds, 3) for stage, seconds in self.timings.items()},
            "peak_bytes": self.peak,
            "unknown_words": self.unknown_words,
            "notes": self.notes,
            "policy": self.policy,
            "seal": self.sealed.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What new frames become part of: `around` makes the whole from them, which has its own frame rate and sound."""

    around: Callable[[list[Frame]], list[Frame]]
    fps: Fraction
    sound: Sound | None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """An admitted request, the pipeline that serves it, where its result goes, and who observes it.

    `whole` is set where the result is more than the new frames. `folder` is where latents are saved; None means the
    data folder. `name` is what the record calls the result if it will not stay at `out`. `notes` are for the
    requester.
    """

    admission: Admission
    pipeline: Pipeline
    provenance: Provenance
    notes: list[str]
    out: Path
    sheet: Path | None
    folder: Path | None
    observer: Observer
    name: str | None = None
    whole: Whole | None = None

    @property
    def request(self) -> Request:
        """The request to generate."""
        return self.admission.request

    @property
    def inspection(self) -> Inspection:
        """The policy's verdicts before and after generation."""
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
    """Generate the video for a request, or for a prompt, at `out`. If `out` ends in .png, generate one picture;
    .gif and .webp are animations.

    `weights` is the file or folder of a checkpoint that does not ship with the package. `sheet` is the path for a
    contact sheet of the result. `terms` are the marks and what the policy needs to know, with defaults. `inputs` are
    the request's files, if they have already been read. `pipeline` is one that serves the request (`Pipeline.serves`)
    and may already have networks loaded. Raises a LichtspielError with a one-line message. Finished work is kept and
    named in it.
    """
    out, sheet = Path(out), Path(sheet) if sheet is not None else None
    if isinstance(request, str):
        request = Request.of(prompt=request, frames=1 if out.suffix.lower() == ".png" else None)
    check_outputs(request, out, sheet)
    check_folder(request)
    admission = admit(request, terms or Terms(), inputs)
    generation = prepare(admission, out, weights=pipeline or weights, sheet=sheet, observer=observer)
    latents = compute_latents(generation)
    return finish(generation, latents, keep_latents(generation, latents))


def prepare(
    admission: Admission,
    out: Path,
    *,
    weights: Files | Pipeline = None,
    sheet: Path | None = None,
    folder: Path | None = None,
    observer: Observer | None = None,
    name: str | None = None,
) -> Generation:
    """Combine an admitted request with its pipeline. `weights` are files, or a pipeline that serves the request. `name`
    is what the record calls the result. Loads no network yet, but checks every file."""
    observer = observer or Observer()
    pipeline = weights if isinstance(weights, Pipeline) else load(admission.request, weights)
    pipeline.clock = observer.clock
    notes = [*admission.notes, *pipeline.notes, *_prompt_notes(admission.request, pipeline)]
    for note in notes:
        observer.note(note)
    return Generation(
        admission=admission, pipeline=pipeline, provenance=provenance_of(admission, pipeline), notes=notes,
        out=out, sheet=sheet, folder=folder, observer=observer, name=name,
    )  # fmt: skip


def compute_latents(generation: Generation) -> Tensor:
    """Compute the latents of a request: encode and denoise."""
    request, pipeline, observer = generation.request, generation.pipeline, generation.observer
    share = denoising_share(request)
    observer.progress("reading the prompt", 0.0)
    try:
        conditions = pipeline.encode(request, generation.admission.inputs)
        # Closed at once if the observer stops it: other processes may be waiting for the next step.
        with observer.clock.stage("denoise"), closing(pipeline.denoise(conditions, request)) as steps:
            for step in steps:
                observer.step(step)
                observer.progress(f"denoising, step {step.index} of {step.total}", share * step.index / step.total)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped while denoising {request.prompt!r}; no file was written") from None
    made, full = pipeline.evaluations
    if made < full:
        generation.notes.append(f"{full - made} of {full} evaluations of the DiT were spared")
        observer.note(generation.notes[-1])
    return step.latents


def keep_latents(generation: Generation, latents: Tensor) -> Path | None:
    """Save latents to disk before they are decoded. If the data folder is full by now, return None, and decoding goes
    on without saved latents; if the caller's own folder is full, that is an error."""
    terms, provenance, folder = generation.inspection.terms, generation.provenance, generation.folder
    with generation.observer.clock.stage("denoise"):
        try:
            return save_latents(latents, generation.request, provenance.id, folder, with_texts=terms.record_prompt)
        except (OSError, SafetensorError) as error:
            if folder is not None:
                raise OSError(f"latents cannot be written: {error}") from error
            generation.notes.append(f"the latents could not be kept: {error}")
            generation.observer.note(generation.notes[-1])
            return None


def finish(generation: Generation, latents: Tensor, path: Path | None) -> Result:
    """Decode and seal latents, and add the result to the record. Errors name the file that contains the latents."""
    pipeline, clock, inspection = generation.pipeline, generation.observer.clock, generation.inspection
    parameters = {**generation.provenance.parameters, "latents": latents_sha256(latents)}
    provenance = replace(generation.provenance, parameters=parameters)
    with clock.stage("seal"):
        with _naming_latents(generation, path):
            sealed = _seal(generation, provenance, latents)
        inspection.remember(sealed, provenance, generation.name)
        if path is not None:
            mark_decoded(path)
        if generation.sheet is not None:
            _write_sheet(sealed, provenance, generation.sheet, inspection.terms)
        return Result(
            request=generation.request, sealed=sealed, policy=inspection.verdicts(), latents=path,
            device=str(pipeline.device), dtype=pipeline.precision, peak=peak_memory(str(pipeline.device)),
            unknown_words=pipeline.tokenizer.unknown_words(generation.request.prompt), notes=generation.notes,
            parameters=parameters, timings=clock.timings(),
        )  # fmt: skip


def decode(
    latents: Path | str,
    out: Path | str,
    *,
    prompt: str | None = None,
    negative: str | None = None,
    weights: Files = None,
    sheet: Path | str | None = None,
    terms: Terms | None = None,
    observer: Observer | None = None,
) -> Result:
    """Finish a video from latents that `generate` saved. If they were saved without their texts, pass the texts.
    Raises MediaError when the file contains no latents, or latents that do not fit its request."""
    latents, out, sheet = Path(latents), Path(out), Path(sheet) if sheet is not None else None
    tensor, request = read_latents(latents, prompt=prompt, negative=negative)
    check_distinct({"--out": out, "--sheet": sheet}, [("the latents", latents)])
    check_outputs(request, out, sheet)
    admission = admit(request, terms or Terms())
    return finish(prepare(admission, out, weights=weights, sheet=sheet, observer=observer), tensor, latents)


@contextmanager
def _naming_latents(generation: Generation, path: Path | None) -> Iterator[None]:
    """Add to every error how to resume from the latents, unless they are in a folder that the caller manages."""
    command = f"lichtspiel decode '{path}' -o '{generation.out}'"
    remedy = "" if path is None or generation.folder else f"; nothing is lost: {command} finishes the video"
    try:
        yield
    except Refused as error:
        if not remedy:
            raise
        after = generation.inspection.after
        if after is not None and after.decision == "needs consent":
            raise Refused(f'{error}; the latents are kept: add --consent "..." to {command}') from error
        raise
    except Cancelled:
        raise
    except KeyboardInterrupt:
        raise Interrupted(f"stopped while decoding{remedy}") from None
    except OutOfMemory as error:
        raise OutOfMemory(f"{error}{remedy}") from error
    except (LichtspielError, RuntimeError, MemoryError, OSError) as error:
        raise LichtspielError(f"decoding failed: {error}{remedy}") from error


def _write_sheet(sealed: Sealed, provenance: Provenance, path: Path, terms: Terms) -> None:
    """Write a contact sheet of frames from the sealed result, which carry its marks; the sheet is sealed as well."""
    sheet = contact_sheet(read_frames(sealed.path)).convert("RGB")
    seal_picture(np.asarray(sheet), provenance, path, marks=terms.marks)


def _seal(generation: Generation, provenance: Provenance, latents: Tensor) -> Sealed:
    """Seal frames as they are decoded: as a picture if the output's name ends in .png, otherwise as a video."""
    request, pipeline, observer = generation.request, generation.pipeline, generation.observer
    share = denoising_share(request)

    def frames() -> Iterator[Frame]:
        with observer.clock.stage("load"):
            upscaler = Upscaler(request.upscale, pipeline.device) if request.upscale > 1 else None
        for number, frame in enumerate(pipeline.decode(latents), start=1):
            if upscaler is not None:
                with observer.clock.stage("upscale"):
                    frame = upscaler(frame)  # noqa: PLW2901
            done = 1 - (1 - share) * (request.frames - number) / request.frames
            observer.progress(f"decoding, frame {number} of {request.frames}", done)
            yield frame

    terms, fps, out = generation.inspection.terms, pipeline.model.sampling.fps, generation.out
    if (whole := generation.whole) is not None:
        watched = generation.inspection.watch(iter(whole.around(list(frames()))), float(whole.fps))
        marks, timestamp = terms.marks, terms.timestamp
        return seal(watched, provenance, out, fps=whole.fps, marks=marks, timestamp=timestamp, sound=whole.sound)
    watched = generation.inspection.watch(frames(), fps)
    if out.suffix.lower() in ANIMATIONS:
        return seal_animation(watched, provenance, out, fps=fps, marks=terms.marks, timestamp=terms.timestamp)
    if out.suffix.lower() != ".png":
        sound = _sound(request, generation.admission.inputs)
        return seal(watched, provenance, out, fps=fps, marks=terms.marks, timestamp=terms.timestamp, sound=sound)
    (frame,) = watched
    return seal_picture(frame, provenance, out, marks=terms.marks, timestamp=terms.timestamp)


def _sound(request: Request, inputs: Inputs) -> Sound | None:
    """The part of the video's sound that belongs to its frames, if it is to be kept."""
    if not request.sound or inputs.video is None:
        return None
    start = inputs.video.timeline.starts[0] + request.video_start
    return Sound(inputs.video.path, start, request.frames / request.fps)


def _prompt_notes(request: Request, pipeline: Pipeline) -> list[str]:
    """Notes on a prompt that names nothing the model in the package has learned (other weights may know other things),
    and on texts that are too long for the text encoder, which ignores the rest."""
    model = pipeline.model
    own = model.embedded and bool(pipeline.checkpoint.digests)
    unknown = knowledge.note(request.prompt, knowledge.LEARNED[model.name], model.name) if own else None
    notes = [unknown] if unknown else []
    texts = {"prompt": request.prompt} | ({} if request.guidance == 1 else {"negative prompt": request.negative})
    for name, text in texts.items():
        if words := pipeline.tokenizer.unread_words(text):
            start = " ".join(words[:8]) + (" ..." if len(words) > 8 else "")
            limit = f"{request.model} reads {pipeline.model.dit.text_length} tokens"
            notes.append(f"the end of the {name} is not read, from {start!r} on: {limit}; shorten it")
    return notes


def denoising_share(request: Request) -> float:
    """Estimate the fraction of the computing time that denoising takes, by counting multiplications.

    A DiT step costs two operations per parameter, token and guidance branch. Decoding a pixel costs about `DECODING`
    times the square of the VAE's base width.
    """
    row = model(request.model)
    tokens = row.dit.tokens(row.latent_shape(request.frames, request.size))
    branches = 1 if request.guidance == 1 else 2
    denoising = 2.0 * dit_parameters(row.dit) * tokens * branches * request.steps_taken
    decoding = DECODING * row.vae.width**2 * request.pixels
    return denoising / (denoising + decoding)


def provenance_of(admission: Admission, pipeline: Pipeline) -> Provenance:
    """The provenance of a video for its seal: the effective request, and the user's files as inputs.

    A video becomes the result's parent. Where a mask or `strength` keeps a part of it, or its sound is kept, the result
    is a composite.
    """
    request, inputs = admission.request, admission.inputs
    kept = request.mask is not None or request.sound or request.strength < 1
    files = ("image", "last_image", "video", "mask", "references", "lora")
    parameters = request.model_dump(mode="json", exclude={"prompt", "negative", *files})
    parameters |= {"size": list(request.size), "device": str(pipeline.device), "dtype": pipeline.precision}
    parameters["lora"] = [adapter.strength for adapter in request.lora]
    parameters["weights"] = dict(pipeline.checkpoint.fingerprints())
    parameters["computed"] = {
        "attention": pipeline.attention, "compiled": pipeline.compiled,
        "magcache": str(pipeline.curve(request) or "off"),
    }  # fmt: skip
    sources = [Input(role, media.path, media.sha256, parent=role == "video") for role, media in inputs.by_role.items()]
    sources += [Input.of(adapter.path, f"lora-{number}") for number, adapter in enumerate(request.lora, start=1)]
    return Provenance(
        model=request.model,
        version=__version__,
        source_type="compositeWithTrainedAlgorithmicMedia" if kept else "trainedAlgorithmicMedia",
        prompt=request.prompt,
        negative=request.negative,
        parameters=parameters,
        inputs=tuple(sources),
        embed_prompt=admission.inspection.terms.embed_prompt,
    )

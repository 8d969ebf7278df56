"""Change a part of a clip with a VACE model: cut the region out with its surroundings, make it anew at the model's size
and rate in overlapping windows, and lay it back into the clip.

What is outside the region stays as it is, bit for bit before encoding, and so do frame rate, length and sound. The clip
is the result's parent, and the seal names the region.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from lichtspiel.errors import Interrupted, OutOfMemory, RequestError
from lichtspiel.inference.pipeline import Files, Pipeline
from lichtspiel.media.media import Media, keep_frames, media_sha256
from lichtspiel.request import Request
from lichtspiel.seal import Change, Input, Provenance, check_output, seal, seal_picture
from lichtspiel.spec import model
from lichtspiel.workflows.admission import Admission
from lichtspiel.workflows.clips import Clip, even, plain_marks, provenance_of_clip, read_clip, sound_of
from lichtspiel.workflows.edit_plan import Lengths, Plan, plan_edit
from lichtspiel.workflows.edits import Edit, region_of
from lichtspiel.workflows.generate import Generation, Observer, compute_latents, prepare
from lichtspiel.workflows.latents import latents_of, latents_path, mark_decoded, save_latents
from lichtspiel.workflows.outputs import check_distinct, check_picture_name
from lichtspiel.workflows.terms import Inspection, Terms

if TYPE_CHECKING:
    from torch import Tensor

    from lichtspiel.frames import Frame

__all__ = ["EditJob", "Maker", "begin", "edit", "edited", "preview_edits"]

DEFAULT_MODEL = "vace-1.3b"


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """The edits to make, in their order, and where the result goes.

    `options` are fields of a request about the model; size, length and files follow from the clip. `window` and
    `overlap` are those of `Lengths.of`.
    """

    edits: Sequence[Edit]
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Files = None
    window: int | None = None
    overlap: int | None = None
    terms: Terms = field(default_factory=Terms)
    observer: Observer = field(default_factory=Observer)


@dataclass
class Maker:
    """Makes the frames of windows; the networks stay loaded from one to the next.

    `options` are those of the job with checkpoint and seed, `references` the decoded files of all edits.
    """

    job: EditJob
    clip: Clip
    inspection: Inspection
    lengths: Lengths
    options: dict[str, Any]
    references: dict[Path, Media]
    pipeline: Pipeline | None = None
    made: int = 0
    notes: list[str] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    windows: list[Path] = field(default_factory=list)

    def plan(self, edit: Edit, frames: Sequence[Frame]) -> Plan:
        """Find the region of an edit, and say what the model gets of the clip."""
        job, clip = self.job, self.clip
        row = model(self.options["model"])
        region, feather = region_of(edit, clip, frames, lambda share: job.observer.progress("tracking", 0.0))
        plan = plan_edit(edit, clip, frames, region, feather, row, self.lengths)
        self.plans.append(plan)
        fps, own = float(clip.fps), row.sampling.fps
        if plan.picks[-1] - plan.picks[0] > len(plan.picks):
            self.note(f"{clip.media.path} has {fps:g} frames per second, the model makes {own}: new parts are brought "
                      f"from {own} to {fps:g}, and frames between two of them are mixed")  # fmt: skip
        elif round(fps) < own:
            self.note(f"{clip.media.path} has {fps:g} frames per second, the model makes {own}: it takes each of them "
                      "as one of its own, so it sees them in fast motion")  # fmt: skip
        crop = next(crop for crop in plan.crops if crop is not None)
        larger = crop.width / plan.size[0]
        if larger > 1.1:
            self.note(f"the new part is made at {plan.size[0]}x{plan.size[1]} and enlarged {larger:.2g} times")
        return plan

    def note(self, text: str) -> None:
        """Tell the user something once."""
        if text not in self.notes:
            self.notes.append(text)
            self.job.observer.note(text)

    def apply(self, plan: Plan) -> Iterator[Frame]:
        """All frames of the clip with one edit, in order: each as soon as no later window needs it, so that only the
        overlap of two windows is held at the clip's size."""
        first, last = plan.picks[0], plan.picks[-1]
        for number in range(first):
            yield plan.base(number)
        finished: dict[int, Frame] = {}
        for index in range(len(plan.windows)):
            follows = index + 1 < len(plan.windows)
            done = plan.picks[plan.windows[index + 1][0]] if follows else last + 1
            kept: dict[int, Frame] = {}
            for number, frame in self._window(plan, index, finished):
                if number < done:
                    yield frame
                else:
                    kept[number] = frame
            finished = kept
        for number in range(last + 1, len(plan.frames)):
            yield plan.base(number)

    def _window(self, plan: Plan, index: int, finished: Mapping[int, Frame]) -> Iterator[tuple[int, Frame]]:
        """The clip's frames of one window with what was made. Those that the window before finished fade over."""
        from lichtspiel.footage.stitch import laid, shown_at, weights

        start, end = plan.windows[index]
        picks, crop = plan.picks[start:end], plan.crops[index]
        numbers = range(picks[0], picks[-1] + 1)
        new = [] if crop is None else self._make(plan, index, finished)
        fading = sum(number in finished for number in numbers)
        for place, number in enumerate(numbers):
            under = finished.get(number)
            frame = plan.base(number) if under is None else under
            if crop is None:
                yield number, frame
                continue
            weight = weights(plan.region.mask(number), plan.feather)
            if under is not None:
                weight *= (place + 0.5) / fading
            yield number, laid(frame, shown_at(new, picks, number), crop, weight)

    def _make(self, plan: Plan, index: int, finished: Mapping[int, Frame]) -> list[Frame]:
        """The new frames of one window, at the model's size."""
        # Each window has another seed, in a row: with one, they would begin alike.
        options = {**self.options, "seed": (self.options["seed"] + self.made) % 2**63}
        references = [self.references[path] for path in plan.edit.references]
        request, inputs = plan.request(index, self.clip, finished, options, references)
        admission = Admission(request, inputs, self.inspection, inputs.check(request))
        fits = self.pipeline is not None and self.pipeline.serves(request)
        observer = self._observer(index, len(plan.windows))
        made = prepare(admission, self.job.out, weights=self.pipeline if fits else self.job.weights, observer=observer)
        self.pipeline = made.pipeline
        try:
            frames = list(made.pipeline.decode(self._latents(made)))
        except (Interrupted, KeyboardInterrupt) as error:
            said = str(error) or "stopped while decoding"
            raise Interrupted(f"{said}{self._kept()}") from None
        except OutOfMemory as error:
            raise OutOfMemory(f"{error}{self._kept()}") from error
        self.made += 1
        return frames

    def _latents(self, made: Generation) -> Tensor:
        """The latents of a window: those that an interrupted run kept, or new ones, which are kept as well."""
        path = latents_path(_key(made))
        if path.is_file():
            self.note("windows that an earlier run finished are taken from it")
            latents = latents_of(made.request, path)
        else:
            latents = compute_latents(made)
            try:
                save_latents(latents, made.request, path.stem, with_texts=self.job.terms.record_prompt)
            except (OSError, SafetensorError) as error:
                self.note(f"the latents of a window could not be kept: {error}")
        self.windows.append(path)
        return latents

    def _kept(self) -> str:
        if not self.windows:
            return ""
        seed = self.options["seed"]
        return f"; finished windows are kept: the same command with --seed {seed} goes on from them"

    def _observer(self, index: int, count: int) -> Observer:
        """The job's observer for one window of several: each note once, and progress over all of them."""
        watching = self.job.observer

        def progress(stage: str, share: float) -> None:
            watching.progress(f"window {index + 1} of {count}, {stage}", (index + share) / count)

        return replace(watching, note=self.note, progress=progress if count > 1 else watching.progress)


def edit(file: Path, job: EditJob) -> dict[str, Any]:
    """Make the edits of a job in a clip, one after another, and seal the result. Returns what `--json` prints.

    Raises MediaError and RequestError for files, boxes and options that do not fit, LichtspielError where a tracked
    object was lost, and Refused.
    """
    check_distinct({"--out": job.out}, _files(file, job))
    check_output(job.out)
    maker = begin(file, job)
    clip = maker.clip
    produced = edited(maker)
    last = maker.plans[-1]
    width, height = (side // 2 * 2 for side in last.region.size)
    check_output(job.out, pixels=width * height * len(clip.frames))
    provenance, sound = _provenance(maker), sound_of(clip)
    sealed = seal(
        maker.inspection.watch(even(produced), float(clip.fps)), provenance, job.out, fps=clip.fps,
        marks=job.terms.marks, timestamp=job.terms.timestamp, sound=sound,
    )  # fmt: skip
    maker.inspection.remember(sealed, provenance)
    for path in maker.windows:
        if path.is_file():
            mark_decoded(path)
    return {
        "path": str(sealed.path), "frames": sealed.frames, "fps": float(clip.fps), "size": [width, height],
        "sound": sound is not None, "seed": maker.options["seed"], "edits": [_described(plan) for plan in maker.plans],
        "notes": maker.notes, "seal": sealed.to_json(),
    }  # fmt: skip


def edited(maker: Maker) -> Iterator[Frame]:
    """The frames of a clip with all edits of the job, before they are encoded. All but the last edit are made now."""
    frames: Sequence[Frame] = maker.clip.frames
    for number, change in enumerate(maker.job.edits, start=1):
        made = maker.apply(maker.plan(change, frames))
        if number < len(maker.job.edits):
            frames = keep_frames(made)
    return made


def _key(made: Generation) -> str:
    """The digest of all that the latents of a window follow from."""
    request, inputs = made.request, made.admission.inputs
    told = request.model_dump(mode="json", exclude={"video", "mask", "references", "lora"})
    told["lora"] = [(Input.of(adapter.path, "lora").sha256, adapter.strength) for adapter in request.lora]
    told["weights"] = dict(made.pipeline.checkpoint.fingerprints())
    told["computed"] = [made.pipeline.precision, str(made.pipeline.device)]
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for media in inputs.by_role.values():
        for frame in media.frames:
            found.update(frame.tobytes())
    return f"window-{found.hexdigest()[:32]}"


def preview_edits(file: Path, job: EditJob, path: Path) -> dict[str, Any]:
    """Write a sheet of what the model gets in the first window of each edit: the region and the crop in the clip, what
    is kept, what the model sees in its place, the mask, and the references. Loads no weights; later edits are shown on
    the clip as it is. The sheet is sealed, and names the clip."""
    from lichtspiel.footage.stitch import outlined
    from lichtspiel.inference.preprocess import SHOWN, shown_numbers, vace_rows
    from lichtspiel.media.sheet import contact_sheet

    check_picture_name(path)
    check_distinct({"--preview": path}, _files(file, job))
    maker = begin(file, job)
    shown: list[Frame] = []
    for change in job.edits:
        plan = maker.plan(change, maker.clip.frames)
        index, crop = next((index, crop) for index, crop in enumerate(plan.crops) if crop is not None)
        start, end = plan.windows[index]
        references = [maker.references[reference] for reference in change.references]
        request, inputs = plan.request(index, maker.clip, {}, maker.options, references)
        inputs.check(request)
        columns = min(request.frames, SHOWN)
        for place in shown_numbers(end - start):
            number = plan.picks[start + place]
            shown.append(outlined(plan.base(number), plan.region.mask(number), crop))
        rows = vace_rows(request, inputs)
        shown += rows + [np.full_like(rows[0], 255)] * (-len(rows) % columns)
    sheet = contact_sheet(shown, columns=columns, most=len(shown)).convert("RGB")
    provenance = provenance_of_clip(
        maker.clip, job.terms, model="preview", source_type="algorithmicMedia", prompt="",
        parameters={"edits": [_described(plan) for plan in maker.plans]},
    )  # fmt: skip
    sealed = seal_picture(np.asarray(sheet), provenance, path, marks=plain_marks(job.terms.marks))
    maker.inspection.remember(sealed, provenance)
    return {
        "preview": str(path), "edits": [_described(plan) for plan in maker.plans], "notes": maker.notes,
        "seal": sealed.to_json(),
    }  # fmt: skip


def _check_model(name: str) -> None:
    """Raise RequestError for a model that knows no masks, with what it can do with a clip instead."""
    row = model(name)
    if "edit" in row.tasks:
        return
    ways = {
        "image": "`lichtspiel extend` lets a clip go on with it",
        "first-last": "`lichtspiel bridge` and `lichtspiel loop` make frames between two with it",
        "text": "`lichtspiel generate --video CLIP --strength 0.6` starts from a clip with it",
    }
    can = [way for task, way in ways.items() if task in row.tasks]
    rule = "; ".join(["it takes no mask, so it cannot make a part of a clip anew as models of VACE do", *can])
    raise RequestError("model", name, rule, DEFAULT_MODEL)


def begin(file: Path, job: EditJob) -> Maker:
    """Check the request, read the clip and the references, and let the policy judge them with all prompts."""
    options = {**job.options, "model": job.options.get("model") or DEFAULT_MODEL}
    _check_model(str(options["model"]))
    lengths = Lengths.of(model(options["model"]), job.window, job.overlap)
    requests = [
        Request.of(prompt=change.prompt, **{**options, "video": file, "references": change.references})
        for change in job.edits
    ]
    guidance, negative = requests[0].guidance, requests[0].negative
    clip = read_clip(file)
    references = {path: Media.read_picture(path) for change in job.edits for path in change.references}
    texts = [change.prompt for change in job.edits] + ([] if guidance >= 1 else [negative])
    inspection = clip.judge(
        "\n".join(texts), job.terms, more=[media.frames[0] for media in references.values()],
        negative=negative if guidance >= 1 else "",
    )  # fmt: skip
    return Maker(job, clip, inspection, lengths, {**options, "seed": requests[0].seed}, references)


def _files(file: Path, job: EditJob) -> list[tuple[str, Path]]:
    return [("CLIP", file), *(each for change in job.edits for each in change.files)]


def _provenance(maker: Maker) -> Provenance:
    job, plans = maker.job, maker.plans
    request = Request.of(prompt="an edit", **{**maker.options, "video": maker.clip.media.path})
    parameters = request.model_dump(
        mode="json",
        include={"model", "seed", "steps", "guidance", "shift", "solver", "dtype", "context_scale"},
    )
    described = [_described(plan) for plan in plans]
    provenance = provenance_of_clip(
        maker.clip, job.terms, model=request.model, source_type="compositeWithTrainedAlgorithmicMedia",
        prompt="\n".join(change.prompt for change in job.edits),
        parameters={**parameters, "edit": [plan.edit.kind for plan in plans], "region": described},
    )  # fmt: skip
    more: dict[str, Input] = {}
    for path, media in maker.references.items():
        more[f"reference-{len(more) + 1}"] = Input(f"reference-{len(more) + 1}", path, media.sha256)
    masks = [change.where for change in job.edits if isinstance(change.where, Path)]
    inputs = [*more.values()]
    for number, mask in enumerate(dict.fromkeys(masks), start=1):
        inputs.append(Input("mask" if number == 1 else f"mask-{number}", mask, media_sha256(mask)))
    for number, adapter in enumerate(request.lora, start=1):
        inputs.append(Input.of(adapter.path, f"lora-{number}"))
    changes = tuple(_change(plan) for plan in plans)
    return replace(provenance, inputs=(*provenance.inputs, *inputs), negative=request.negative, changes=changes)


def _change(plan: Plan) -> Change:
    from lichtspiel.footage.stitch import union

    frames = plan.picks[0], plan.picks[-1]
    return Change(description=plan.edit.kind, frames=frames, box=union(plan.region.boxes))


def _described(plan: Plan) -> dict[str, Any]:
    """What is said of an edit: where it is, and how it is made."""
    from lichtspiel.footage.stitch import union

    first, last = plan.picks[0], plan.picks[-1]
    crop = next(crop for crop in plan.crops if crop is not None)
    return {
        "kind": plan.edit.kind, "frames": [first, last], "box": list(union(plan.region.boxes) or ()),
        "windows": sum(crop is not None for crop in plan.crops), "seen": [crop.width, crop.height],
        "made_at": list(plan.size), "seam": plan.feather,
    }  # fmt: skip

"""Let clips go on: extend one, bridge two, or close one to a loop, with a model that takes first and last pictures, or
with VACE, which takes several frames of each side.

The clip's own frames stay as they are; only new ones are generated, at the model's size and rate, and brought to the
clip's. What is printed says how visible the seams are and how far colors drifted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import InvalidInput, RequestError
from lichtspiel.inference.inputs import Inputs, picture_size
from lichtspiel.inference.pipeline import Files, Pipeline
from lichtspiel.inference.upscale import Upscaler
from lichtspiel.media.media import Media
from lichtspiel.request import Request
from lichtspiel.seal import Change, Input, Sealed, check_output, seal
from lichtspiel.spec import Model, model
from lichtspiel.workflows.admission import admit
from lichtspiel.workflows.clips import Clip, even, film_of, provenance_of_clip, read_clip, sound_of
from lichtspiel.workflows.generate import Generation, Observer, Whole, compute_latents, prepare
from lichtspiel.workflows.outputs import check_distinct
from lichtspiel.workflows.terms import Terms

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = ["Job", "Joint", "behind", "bridge", "extend", "loop"]

KNOWN = 9
"""How many frames VACE is given of each side. People who do it by hand take about ten."""

_LEAST = 5  # frames that a model makes from a given picture on, so that at least one is new
_LONGEST = 60.0


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How new frames meet the clip's: over how many frames details fade, and whether colors are matched."""

    blend: int = 4
    match_color: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the new frames show, how many seconds they last, and where the result goes.

    `options` are fields of a request about the model; its size, length and pictures follow from the clip.
    """

    prompt: str
    out: Path
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Files = None
    terms: Terms = field(default_factory=Terms)
    joint: Joint = field(default_factory=Joint)
    observer: Observer = field(default_factory=Observer)

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= _LONGEST:
            rule = f"the new part lasts more than 0 and at most {_LONGEST:g} seconds"
            raise RequestError("seconds", self.seconds, rule, 1.0 if self.seconds < 1 else _LONGEST)


@dataclass
class _Maker:
    """Makes frames between given pictures; the networks stay loaded from one round to the next."""

    job: Job
    pipeline: Pipeline | None = None
    enlarge: Upscaler | None = None
    requests: list[Request] = field(default_factory=list)

    @property
    def row(self) -> Model:
        """The checkpoint's row in the registry."""
        return model(str(self.job.options.get("model") or "nano"))

    def frames(self, clip: Clip, before: Sequence[Frame], after: Sequence[Frame], seconds: float) -> list[Frame]:
        """Frames at the clip's size and rate that start with the last one of `before` and, unless `after` is empty, end
        with its first one, both included. Models that take pictures see just these two, VACE several of each."""
        from lichtspiel.footage.seams import join, match_color

        row, first, last = self.row, before[-1], after[0] if after else None
        given = self._film(clip, before, after, seconds) if "edit" in row.tasks else self._pictures(clip, first, last)
        count = row.nearest_frames(max(round(seconds * row.sampling.fps) + 1, _LEAST))
        fields: dict[str, Any] = {**self.job.options, "frames": count, "fit": "stretch", **given.fields}
        if row.sampling.free_size:
            width, height = row.sampling.sizes[0]
            fields["size"] = picture_size(width * height, *clip.size, row.grid)
        request = Request.of(prompt=self.job.prompt, **fields)
        if self.requests:  # another seed in each round, from the first one's
            request = request.model_copy(update={"seed": (self.requests[0].seed + len(self.requests)) % 2**63})
        admission = admit(request, self.job.terms, given.inputs)
        made = prepare(admission, self.job.out, weights=self.pipeline or self.job.weights, observer=self.job.observer)
        self.pipeline = made.pipeline
        self.requests.append(request)
        new = list(made.pipeline.decode(compute_latents(made)))[given.begin : given.end]
        if request.upscale > 1 and max(clip.size) > max(request.size):
            self.enlarge = self.enlarge or Upscaler(request.upscale, made.pipeline.device)
            new = [*map(self.enlarge, new)]
        new = _like(clip, new, row.sampling.fps)
        if self.job.joint.match_color:
            new = match_color(new, first)
        return join(new, first, last, self.job.joint.blend) if self.job.joint.blend else new

    def _pictures(self, clip: Clip, first: Frame, last: Frame | None) -> _Given:
        """The first and the last picture, as models from image to video take them."""
        fields = {"image": clip.media.path} | ({} if last is None else {"last_image": clip.media.path})
        return _Given(fields, Inputs(_picture(clip, first), None if last is None else _picture(clip, last)))

    def _film(self, clip: Clip, before: Sequence[Frame], after: Sequence[Frame], seconds: float) -> _Given:
        """A film with up to `KNOWN` frames of each side at the model's rate, and gray between them for VACE to make."""
        import numpy as np

        from lichtspiel.footage.seams import resampled
        from lichtspiel.footage.stitch import GRAY

        row, rate = self.row, float(clip.fps)
        near = int(KNOWN * rate / row.sampling.fps) + 2
        known = [
            resampled(frames, rate, row.sampling.fps) if len(frames) > 1 else list(frames)
            for frames in (before[-near:], after[:near])
        ]
        begun, ended = known[0][-KNOWN:], known[1][:KNOWN]
        wanted = len(begun) + len(ended) + max(round(seconds * row.sampling.fps) - bool(ended), 1)
        stride = row.vae.stride[0]
        count = min(-(-(wanted - 1) // stride) * stride + 1, row.sampling.max_frames)
        unknown = np.full_like(before[-1], GRAY)
        frames = [*begun, *[unknown] * (count - len(begun) - len(ended)), *ended]
        masks = [np.zeros_like(unknown)] * count
        masks[len(begun) : count - len(ended)] = [np.full_like(unknown, 255)] * (count - len(begun) - len(ended))
        film, mask = film_of(clip, frames, row.sampling.fps), film_of(clip, masks, row.sampling.fps)
        fields = {"video": clip.media.path, "mask": clip.media.path, "frames": count, "pace": "each"}
        end = count - len(ended) + 1 if ended else count
        return _Given(fields, Inputs(video=film, mask=mask), len(begun) - 1, end)

    def round_seconds(self, sides: int = 1) -> float:
        """How long the model's new frames last at most, between known frames on one side or two."""
        row = self.row
        frames = row.sampling.max_frames if row.embedded else row.sampling.frames
        known = min(KNOWN, (frames - 1) // 4) * sides if "edit" in row.tasks else 1
        return (frames - known) / row.sampling.fps


@dataclass(frozen=True)
class _Given:
    """What a model gets: fields of the request, the decoded files, and which of the frames that it makes are used."""

    fields: dict[str, Any]
    inputs: Inputs
    begin: int = 0
    end: int | None = None


def _like(clip: Clip, new: list[Frame], fps: float) -> list[Frame]:
    """New frames at the size and rate of a clip."""
    from lichtspiel.footage.seams import resampled, resized

    return resized(resampled(new, fps, float(clip.fps)) if len(new) > 1 else new, *clip.size)


def behind(path: Path, work: Generation) -> Generation:
    """A generation that starts with the last frame of a clip, with the clip in front of it: the result is both, at the
    clip's size and rate and with its sound. Raises MediaError for a clip that is too long to be read at once."""
    from lichtspiel.footage.seams import join

    clip, fps = read_clip(path), work.pipeline.model.sampling.fps

    def around(new: list[Frame]) -> list[Frame]:
        joined = join(_like(clip, new, fps), clip.frames[-1], None, Joint().blend)
        return list(even([*clip.frames, *joined[1:]]))

    own, begin = work.provenance, len(clip.frames)
    parameters = {**own.parameters, "edit": "extend", "region": {"first_frame": begin}}
    inputs = (Input("video", clip.media.path, clip.media.sha256, parent=True), *own.inputs)
    provenance = replace(
        own, source_type="compositeWithTrainedAlgorithmicMedia", parameters=parameters, inputs=inputs
    )  # fmt: skip
    sound = sound_of(clip)
    return replace(work, provenance=provenance, whole=Whole(around=around, fps=clip.fps, sound=sound))


def _picture(clip: Clip, frame: Frame) -> Media:
    return replace(clip.media, frames=[frame], picks=[0], still=True)


def extend(file: Path, job: Job) -> dict[str, Any]:
    """Let a clip go on from its last frame, in as many rounds as the model needs. Returns what `--json` prints."""
    clip, maker = _begin(file, job)
    wanted = max(round(job.seconds * clip.fps), 1)
    new: list[Frame] = []
    while len(new) < wanted:
        left = (wanted - len(new)) / float(clip.fps)
        new += maker.frames(clip, [*clip.frames, *new], [], min(left, maker.round_seconds()))[1:]
    new = new[:wanted]
    return _finish(maker, "extend", [clip], [*clip.frames, *new], new)


def bridge(file: Path, second: Path, job: Job) -> dict[str, Any]:
    """Join two clips of one size by frames between the last one of the first and the first one of the second."""
    from lichtspiel.footage.seams import resampled

    check_distinct({"--out": job.out}, [("the second clip", second)])
    clip, maker = _begin(file, job)
    other = read_clip(second)
    if clip.size != other.size:
        sizes = f"{clip.size[0]}x{clip.size[1]} and {other.size[0]}x{other.size[1]}"
        raise InvalidInput(f"the clips are {sizes}; a bridge joins clips of one size: scale one of them first")
    after = resampled(other.frames, float(other.fps), float(clip.fps)) if len(other.frames) > 1 else other.frames
    new = maker.frames(clip, clip.frames, after, min(job.seconds, maker.round_seconds(2)))[1:-1]
    return _finish(maker, "bridge", [clip, other], [*clip.frames, *new, *after], new)


def loop(file: Path, job: Job) -> dict[str, Any]:
    """Add frames that lead from a clip's end back to its beginning, so that it can be played in a circle."""
    clip, maker = _begin(file, job)
    new = maker.frames(clip, clip.frames, clip.frames, min(job.seconds, maker.round_seconds(2)))[1:-1]
    return _finish(maker, "loop", [clip], [*clip.frames, *new], new)


def _begin(file: Path, job: Job) -> tuple[Clip, _Maker]:
    """Read the clip, and check that the result can be written."""
    check_distinct({"--out": job.out}, [("CLIP", file)])
    clip = read_clip(file)
    check_output(job.out, pixels=clip.size[0] * clip.size[1] * (len(clip.frames) + round(job.seconds * clip.fps)))
    return clip, _Maker(job)


def _finish(
    maker: _Maker, kind: Literal["extend", "bridge", "loop"], clips: Sequence[Clip], frames: list[Frame],
    new: list[Frame],
) -> dict[str, Any]:  # fmt: skip
    """Seal the whole, and measure its seams."""
    clip, request, job = clips[0], maker.requests[0], maker.job
    begin, end = len(clip.frames), len(clip.frames) + len(new)
    inspection = clip.judge(job.prompt, job.terms)
    parameters = request.model_dump(
        mode="json",
        include={"model", "seed", "steps", "guidance", "shift", "solver", "dtype"},
    )
    provenance = provenance_of_clip(
        clip, job.terms, model=request.model, source_type="compositeWithTrainedAlgorithmicMedia", prompt=job.prompt,
        parameters={**parameters, "edit": kind, "region": {"frames": [begin, end - 1]}, "rounds": len(maker.requests)},
    )  # fmt: skip
    more = tuple(Input(f"video-{number}", it.media.path, it.media.sha256) for number, it in enumerate(clips[1:], 2))
    change = Change(description=kind, frames=(begin, end - 1))
    provenance = replace(provenance, inputs=(*provenance.inputs, *more), changes=(change,))
    sound = None if kind == "bridge" else sound_of(clip)
    sealed: Sealed = seal(
        inspection.watch(even(frames), float(clip.fps)), provenance, job.out, fps=clip.fps, marks=job.terms.marks,
        timestamp=job.terms.timestamp, sound=sound,
    )  # fmt: skip
    inspection.remember(sealed, provenance)
    measured = _measured(maker, kind, clip, frames, new)
    return measured | {
        "path": str(sealed.path), "sound": sound is not None, "seal": sealed.to_json(),
    }  # fmt: skip


def _measured(maker: _Maker, kind: str, clip: Clip, frames: list[Frame], new: list[Frame]) -> dict[str, Any]:
    """How visible the seams are, against the clip's own motion, and how far colors drifted."""
    from lichtspiel.footage.seams import color_drift, difference, motion_of

    begin, end = len(clip.frames), len(clip.frames) + len(new)
    own = motion_of(clip.frames)
    seams = [difference(frames[begin - 1], frames[begin])]
    if kind == "bridge":
        seams.append(difference(frames[end - 1], frames[end]))
    if kind == "loop":
        seams.append(difference(frames[-1], frames[0]))
    return {
        "frames": len(frames), "new_frames": [begin, end - 1], "fps": float(clip.fps), "clip_motion": round(own, 3),
        "seams": [round(seam, 3) for seam in seams], "seam": round(max(seams) / own, 3) if own else None,
        "drift": round(color_drift(clip.frames, new), 2), "seed": maker.requests[0].seed,
        "rounds": len(maker.requests),
    }  # fmt: skip

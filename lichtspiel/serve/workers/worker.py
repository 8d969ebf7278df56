"""A worker: claims one job after another from the queue and runs it to its end.

It keeps the last pipeline loaded, encodes the prompts of waiting jobs together, reports its progress, and stops within
one step if a job is cancelled or lost. It stores latents in the shared files before it decodes them, so that another
worker can finish what this one started. It knows nothing of HTTP.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import Cancelled, InvalidInput, LichtspielError, NonFinite, OutOfMemory, Refused
from lichtspiel.inference.inputs import read_inputs
from lichtspiel.inference.pipeline import Pipeline, Step, load
from lichtspiel.media.picture import load_image
from lichtspiel.media.video import sample_video
from lichtspiel.policy import Verdict
from lichtspiel.request import Request
from lichtspiel.seal import Marks, Provenance, seal_picture
from lichtspiel.serve.api.form import CLIP, in_fields, restore
from lichtspiel.serve.api.translation_form import DRAFT, KINDS, available, without_flags
from lichtspiel.serve.errors import DatabaseError, GroupEnded, Lost, MachineFault, NotFound, StoreError
from lichtspiel.serve.queue.jobs import MODERATION, Job, Jobs
from lichtspiel.serve.queue.leases import new_name
from lichtspiel.serve.queue.record import record_of
from lichtspiel.serve.queue.scratch import scratch, sweep
from lichtspiel.serve.queue.storage import Files
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.tracing import Tracing
from lichtspiel.serve.workers import translation
from lichtspiel.serve.workers.faults import fault_of, probe
from lichtspiel.serve.workers.moderation import judged
from lichtspiel.spec import model as find
from lichtspiel.workflows.admission import admit
from lichtspiel.workflows.generate import Generation, Observer, Result, compute_latents, finish, keep_latents, prepare
from lichtspiel.workflows.go_on import behind
from lichtspiel.workflows.latents import latents_of

if TYPE_CHECKING:
    from lichtspiel.frames import Frame
    from lichtspiel.serve.workers.group import Group

__all__ = ["Worker", "code_of"]

LEASE = 30.0
"""Seconds for which a worker holds a job without sending a heartbeat."""

BEAT = 0.5
"""Seconds between two heartbeats."""

PREVIEW = 3.0
"""Seconds between two previews."""

TOGETHER = 16
"""How many waiting jobs have their prompts encoded together with the current one."""

PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the first probe after a machine fault, and the longest time between two probes."""

UNCOUNTED = 20
"""How many attempts a job may lose to machine faults uncounted. After that they count: the job may cause the faults."""

SHEET = "sheet.png"
"""The name of the contact sheet in the folder of a job."""

GONE = "a process of its group is gone"

FAULT = "fault: "
"""Prefix of the state of a worker that cannot work."""

CODES: tuple[tuple[type[Exception], str], ...] = (
    (NotFound, "failed"),  # a file of the job is missing, which is not its owner's fault
    (Refused, "refused_by_policy"),
    (OutOfMemory, "out_of_memory"),
    (NonFinite, "non_finite"),
    (InvalidInput, "invalid_request"),
)

log = logging.getLogger("lichtspiel.serve")


def code_of(error: Exception) -> str:
    """The code that clients get for an error."""
    return next((code for kind, code in CODES if isinstance(error, kind)), "failed")


class Worker:
    """The worker of one device, or of the devices of its `group`. It calls `say` with its state: "loading", "ready",
    "working" or "fault: ...". Its `name` stands with the jobs that it holds."""

    def __init__(
        self,
        settings: Settings,
        device: str,
        jobs: Jobs,
        files: Files,
        say: Callable[[str], None] = lambda state: None,
        name: str | None = None,
    ) -> None:
        self.settings, self.device, self.jobs, self.files, self.say = settings, device, jobs, files, say
        self.name = name or new_name(device)
        self.record = record_of(jobs.database)
        self.offers = (*settings.models, MODERATION, *(KINDS if available() else ()))
        self.pipeline: Pipeline | None = None
        self.group: Group | None = None
        self.held: Job | None = None
        self.pause = PAUSE
        self.tracing = Tracing(settings.traces, "lichtspiel-worker")

    def run(self, stop: threading.Event, *, idle: float = 0.3) -> None:
        """Work until `stop` is set. Raises OutOfMemory after a job ran out of memory; a new process gets it back. Also
        raises GroupEnded when a process of the group is gone."""
        self._await_machine(probe(self.settings, self.files, self.device, self.record), stop)
        sweep(self.jobs)
        self.say("ready")
        while not stop.is_set():
            try:
                worked = self.once(stop)
            except (MachineFault, StoreError) as error:
                log.error("this machine cannot work: %s", error, exc_info=error.__cause__ or error)
                self._await_machine(fault_of(error) or str(error), stop)
                worked = False
            if not worked:
                self.say("ready")
                stop.wait(idle)

    def once(self, stop: threading.Event | None = None) -> bool:
        """Claim one job and run it to its end; returns whether there was one.

        Raises MachineFault if the machine failed rather than the job. The job then returns to the queue, and the
        attempt does not count.
        """
        if self.group is not None:
            self.group.check()
        job = self.jobs.claim(self.name, self.offers, LEASE)
        if job is None:
            return False
        about, began = {"job": job.id, "model": job.model, "worker": self.name}, time.monotonic()
        log.info("job started", extra=about)
        end = "given back"
        with self.tracing.span("job", job.request.get("traceparent"), **about, attempt=job.attempt) as traced:
            try:
                end = self._bring_to_an_end(job, stop or threading.Event(), traced)
                self.pause = PAUSE
            except Lost:
                end = "lost"
            except OutOfMemory:
                end = "out_of_memory"
                raise
            except GroupEnded:
                end = "given back"
                raise
            finally:
                traced.update({"code": end} if end in {"completed", "cancelled"} else {"code": end, "error.type": end})
                log.info("job ended", extra={**about, "seconds": round(time.monotonic() - began, 3), "code": end})
        return True

    def _await_machine(self, fault: str | None, stop: threading.Event) -> None:
        """Claim nothing until a fault is over. Probe after a second, then after twice as long each time, up to 60 s.

        A fault that no probe finds but that recurs with the next job also makes the pauses longer.
        """
        confirmed = False
        while fault is not None and not stop.is_set():
            self.say(f"{FAULT}{fault}")
            stop.wait(self.pause)
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
            fault = probe(self.settings, self.files, self.device, self.record)
            confirmed = confirmed or fault is not None
        if confirmed:
            self.pause = PAUSE

    def _bring_to_an_end(self, job: Job, stop: threading.Event, traced: dict[str, Any]) -> str:
        with self._beating(job, stop) as heartbeat:
            try:
                with scratch(self.jobs, job) as folder:
                    heartbeat.folder = folder
                    if job.kind == "moderation":
                        self._judge(job, folder, heartbeat, stop)
                        return "completed"
                    if job.model in KINDS:
                        timings = self._translate(job, folder, heartbeat, stop)
                    else:
                        result, video = self._make(job, folder, heartbeat)
                        self._hand_over(job, result, video, heartbeat, stop)
                        timings = result.timings
                traced.update({f"seconds.{stage}": spent for stage, spent in timings.items()})
                return "completed"
            except Lost:
                raise
            except Cancelled:
                end = self.jobs.give_back if heartbeat.stopping else self.jobs.end_cancelled
                self._persist(lambda: end(job), stop)
                return "given back" if heartbeat.stopping else "cancelled"
            except Exception as error:
                code = self._fail(job, error, stop, heartbeat.folder)
                if isinstance(error, OutOfMemory):
                    raise
                return code

    def _fail(self, job: Job, error: Exception, stop: threading.Event, folder: Path) -> str:
        """Fail a job; returns the error code.

        The owner sees only errors that they can fix, with the names of fields instead of files in `folder`. Others go
        to the log, because they may name files of this machine. If the machine is at fault, this gives the job back and
        raises MachineFault.
        """
        if self.group is not None and self.group.caused(error) and job.uncounted_attempts < UNCOUNTED:
            self._persist(lambda: self.jobs.give_back(job), stop)
            raise GroupEnded(GONE) from error
        fault = fault_of(error, loras=bool(job.request.get("lora")))
        if fault is not None and job.uncounted_attempts < UNCOUNTED:
            self._persist(lambda: self.jobs.give_back(job), stop)
            raise MachineFault(fault) from error
        code, message = code_of(error), in_fields(str(error), str(folder))
        if job.model in KINDS:
            message = without_flags(message)
        if self.settings.loras is not None:
            message = message.replace(f"{self.settings.loras}/", "")
        if code == "failed":
            log.error("%s failed", job.id, exc_info=error)
            message = f"an error of the server: {type(error.__cause__ or error).__name__}"
        self._persist(lambda: self.jobs.fail(job, code, message), stop)
        return code

    def abandon(self) -> None:
        """Give the job that is held back from another thread, because this one will not go on."""
        job = self.held
        if job is not None and job.uncounted_attempts < UNCOUNTED:
            self.jobs.give_back(job)

    def _persist(self, write: Callable[[], None], stop: threading.Event) -> None:
        """Write how a job ended, retrying for as long as the database is unavailable; the job stays held meanwhile."""
        pause = PAUSE
        while True:
            try:
                return write()
            except DatabaseError as error:
                log.error("the end of a job could not be written: %s", error)
                self.say(f"{FAULT}{error.public}")
                if stop.wait(pause):
                    raise
                pause = min(2 * pause, LONGEST_PAUSE)

    def _tidy(self, job: Job, keep: Collection[str | None]) -> None:
        """Remove what earlier attempts at a finished job left in storage, such as latents, which contain the prompt."""
        try:
            for kind in ("latents", "previews", "sheets", "videos"):
                self.files.remove([name for name in self.files.named(f"{kind}/{job.id}_") if name not in keep])
        except StoreError as error:  # deleting the job removes them too
            log.warning("files of %s stay until it is deleted: %s", job.id, error)

    def _judge(self, job: Job, folder: Path, heartbeat: Heartbeat, stop: threading.Event) -> None:
        """Judge the video of a moderation, and complete the job with the verdict and the sheet of evidence."""
        (path,) = self._fetch_inputs(job, folder, heartbeat).values()
        self.say("working")
        result, drawn = judged(path, folder, self.settings, heartbeat.progress)
        sheet = f"sheets/{job.id}_{job.attempt}.png" if drawn else None
        if drawn is not None and sheet is not None:
            self.files.put(drawn, sheet)
            result["bytes"] = drawn.stat().st_size
        self._complete(job, result, stop, video=None, thumbnail=sheet)

    def _make(self, job: Job, folder: Path, heartbeat: Heartbeat) -> tuple[Result, Path]:
        files = self._fetch_inputs(job, folder, heartbeat)
        request, consent = restore(job.request, files, self.settings)
        request = request.model_copy(update={"device": self.device})
        out = folder / ("made.png" if find(request.model).sampling.max_frames == 1 else "made.mp4")
        terms = dataclasses.replace(self.settings.terms, consent=consent, store=self.record)
        observer = Observer(progress=heartbeat.progress, step=heartbeat.watch)
        inputs = read_inputs(request)
        verdict = job.request.get("verdict")
        if verdict is not None and job.request.get("judged") != inputs.digests:
            log.warning("files of %s are not those that the policy judged; it judges them anew", job.id)
            verdict = None
        admission = admit(request, terms, inputs=inputs, verdict=verdict and Verdict(**verdict))
        sheet = folder / SHEET if out.suffix == ".mp4" else None
        pipeline = self._pipeline(request)
        name = _video_name(job, out)
        work = prepare(admission, out, weights=pipeline, sheet=sheet, folder=folder, observer=observer, name=name)
        if CLIP in files:
            work = behind(files[CLIP], work)
        heartbeat.work = work
        path: Path | None = folder / "latents.safetensors"
        assert path is not None
        if self._fetch_latents(job, path):
            latents = latents_of(request, path)
        else:
            self._encode_with_others(job, request, work.pipeline)
            latents = compute_latents(work)
            path = keep_latents(work, latents)
            assert path is not None, "it lies in our own folder"
            name = f"latents/{job.id}_{job.attempt}.safetensors"
            self.files.put(path, name)
            self.jobs.keep_latents(job, name)
        return finish(work, latents, path), out

    def _fetch_inputs(self, job: Job, folder: Path, heartbeat: Heartbeat) -> dict[str, Path]:
        """Copy the files that a client sent into the scratch folder; returns them by field."""
        files, heartbeat.folder = dict[str, Path](), folder
        for field, name in job.inputs.items():
            files[field] = folder / f"{field.replace('/', '-')}{Path(name).suffix}"
            self.files.fetch(name, files[field])
        return files

    def _translate(
        self, job: Job, folder: Path, heartbeat: Heartbeat, stop: threading.Event
    ) -> dict[str, float]:  # fmt: skip
        """Bring a job of translation to its end: words for a draft, otherwise a video."""
        self.say("working")
        out, files = folder / "made.mp4", self._fetch_inputs(job, folder, heartbeat)
        terms, name = dataclasses.replace(self.settings.terms, store=self.record), _video_name(job, out)
        if job.request.get("written"):
            self.pipeline = None  # release it, so that it and the model of the picture are never in memory at once
        result = translation.make(
            job, files, out, self.settings, terms, name=name, device=self.device, progress=heartbeat.progress
        )
        video = thumbnail = None
        if job.model != DRAFT:
            video = name
            self.files.put(out, name)
            heartbeat.sealing = translation.still(out), terms.marks.of_edits()
            thumbnail = heartbeat.picture(lambda: middle(out), "made")
        self._complete(job, result, stop, video=video, thumbnail=thumbnail)
        timings: dict[str, float] = result["timings"]
        return timings

    def _fetch_latents(self, job: Job, path: Path) -> bool:
        """Fetch the latents of an earlier attempt into `kept`; returns whether there are any."""
        if job.latents is None:
            return False
        try:
            self.files.fetch(job.latents, path)
        except NotFound:
            log.warning("%s is made from the start: its latents are gone", job.id)
            return False
        return True

    def _pipeline(self, request: Request) -> Pipeline:
        """The pipeline of the last job if it serves this request too, otherwise a new one that replaces it."""
        if self.pipeline is None or not self.pipeline.serves(request):
            self.pipeline = None  # release it first, so that two are never in memory at once
            self.say("loading")
            self.pipeline = load(request, self.settings.weights or None, swappable=self.settings.loras is not None)
        self.pipeline.swap(request)
        self.say("working")
        return self.pipeline

    def _encode_with_others(self, job: Job, request: Request, pipeline: Pipeline) -> None:
        """If the text encoder has to be loaded anyway, encode the prompts of waiting jobs as well."""
        if not pipeline.uncached_prompts([request]):
            return
        requests = []
        for waiting in self.jobs.waiting([job.model], TOGETHER):
            if not waiting.inputs:
                with suppress(LichtspielError):  # its error is reported when its turn comes
                    requests.append(restore(waiting.request, {}, self.settings)[0])
        pipeline.encode_prompts([request, *requests])

    def _hand_over(self, job: Job, result: Result, video: Path, heartbeat: Heartbeat, stop: threading.Event) -> None:
        name = _video_name(job, video)
        self.files.put(video, name)
        thumbnail = heartbeat.picture(lambda: middle(video), "made")
        sheet = f"sheets/{job.id}_{job.attempt}.png" if (made := video.with_name(SHEET)).exists() else None
        if sheet is not None:
            self.files.put(made, sheet)
        public = result.to_json() | {"bytes": video.stat().st_size, "spritesheet": sheet}
        for private in ("path", "latents", "prompt", "negative", "image", "last_image", "video", "mask", "references"):
            public.pop(private, None)
        public["lora"] = [one["strength"] for one in public["lora"]]
        public["seal"].pop("path", None)
        self._complete(job, public, stop, video=name, thumbnail=thumbnail)

    def _complete(
        self, job: Job, result: dict[str, Any], stop: threading.Event, *, video: str | None, thumbnail: str | None
    ) -> None:
        """Write down that a job is completed, and remove what it no longer needs, or what it made in vain."""
        made = (video, thumbnail, result.get("spritesheet"))
        try:
            self._persist(lambda: self.jobs.complete(job, video=video, preview=thumbnail, result=result), stop)
            self._tidy(job, made)
        except Lost:
            self.files.remove([each for each in made if each is not None])
            raise

    @contextmanager
    def _beating(self, job: Job, stop: threading.Event) -> Iterator[Heartbeat]:
        heartbeat, self.held = Heartbeat(self, job, stop), job
        heartbeat.thread.start()
        try:
            yield heartbeat
        finally:
            self.held = None
            heartbeat.end()


class Heartbeat:
    """Reports a running job to the database, which answers whether to go on, to cancel, or that the job is lost."""

    def __init__(self, worker: Worker, job: Job, stop: threading.Event) -> None:
        self.worker, self.job, self.stop = worker, job, stop
        self.answer: Literal["go on", "cancel", "lost"] = "go on"
        self.stage, self.done, self.step = "loading", 0.0, 0
        self.steps = int(job.request.get("steps", 0))
        self.began = time.monotonic()
        self.previewed: float | None = None
        self.preview: str | None = None
        self.work: Generation | None = None
        self.sealing: tuple[Provenance, Marks] | None = None
        self.folder = Path()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether the worker is stopping, rather than the job."""
        return self.stop.is_set() and self.answer == "go on"

    def end(self) -> None:
        """Send no more heartbeats. The end of the job is reported elsewhere."""
        self.over.set()
        if self.thread.is_alive() and threading.current_thread() is not self.thread:
            self.thread.join()

    def progress(self, stage: str, done: float) -> None:
        """Take note of the progress; raises Lost or Cancelled if the work must not go on."""
        self.stage, self.done = stage, done
        if self.answer == "lost":
            raise Lost(self.job.id, self.job.attempt)
        if self.answer == "cancel" or self.stop.is_set():
            raise Cancelled("cancelled")

    def watch(self, step: Step) -> None:
        """Take note of a finished step; every `PREVIEW` seconds, store a preview of it."""
        self.step = step.index
        self.previewed = self.previewed or time.monotonic()
        due = time.monotonic() - self.previewed >= PREVIEW
        if due and self.work is not None and (frame := self.work.pipeline.preview(step.latents)) is not None:
            self.picture(lambda: frame, str(step.index))
            self.previewed = time.monotonic()

    def picture(self, draw: Callable[[], Frame], name: str) -> str | None:
        """Store a picture of the work in place of the last one, sealed like all output; returns its name.

        If that fails, returns the name of the last picture, or None: the video matters more than a picture of it.
        """
        if self.work is not None:
            self.sealing = self.work.provenance, self.work.inspection.terms.marks
        assert self.sealing is not None
        provenance, marks = self.sealing
        name = f"previews/{self.job.id}_{self.job.attempt}_{name}.png"
        try:
            path = self.folder / "preview.png"
            seal_picture(draw(), provenance, path, marks=marks)
            self.worker.files.put(path, name)
        except Exception:
            log.exception("no picture of %s", self.job.id)
            return self.preview
        before, self.preview = self.preview, name
        if before is not None:
            self.worker.files.remove([before])
        return name

    def _renew(self) -> None:
        while not self.over.is_set():
            spent = time.monotonic() - self.began
            eta = spent / self.done - spent if self.done > 0.02 else None
            try:
                self.answer = self.worker.jobs.beat(
                    self.job, LEASE, stage=self.stage, progress=self.done, step=self.step, steps=self.steps, eta=eta,
                    preview=self.preview,
                )  # fmt: skip
            except Exception:  # the database is briefly unavailable; the lease lasts longer than that
                log.exception("the store could not be told of %s", self.job.id)
            self.over.wait(BEAT)


def _video_name(job: Job, out: Path) -> str:
    """What the finished video is called in storage, and in the record."""
    return f"videos/{job.id}_{job.attempt}{out.suffix}"


def middle(path: Path) -> Frame:
    """The middle frame of a video; a picture itself."""
    if path.suffix == ".png":
        return load_image(path)
    frames = list(sample_video(path, 3))
    return frames[len(frames) // 2]

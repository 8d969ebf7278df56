"""What the endpoints share: settings, jobs, files and keys, and how a request becomes a job.

All that it knows of HTTP is how to find out who sent a request.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from lichtspiel.errors import LichtspielError
from lichtspiel.serve.api.detector import Detector
from lichtspiel.serve.api.form import Submission, stored
from lichtspiel.serve.api.metrics import Metrics
from lichtspiel.serve.api.objects import translation_object, video_object
from lichtspiel.serve.api.tracker import Tracker
from lichtspiel.serve.api.translation_form import DRAFT
from lichtspiel.serve.errors import Busy, InvalidKey
from lichtspiel.serve.queue import scratch
from lichtspiel.serve.queue.api_keys import Keys
from lichtspiel.serve.queue.jobs import ENDED, Job, Jobs, Takes
from lichtspiel.serve.queue.storage import Files
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.tracing import Tracing, traceparent
from lichtspiel.workflows.admission import admit

__all__ = ["OwnerDep", "ProberDep", "ReviewerDep", "SecretDep", "Server", "ServerDep"]


@dataclass
class Server:
    """What the endpoints share; `workers` maps the number of each worker to its state."""

    settings: Settings
    jobs: Jobs
    files: Files
    keys: Keys
    workers: dict[int, str] = field(default_factory=dict)
    detector: Detector = field(default_factory=Detector)
    tracker: Tracker = field(default_factory=Tracker)
    metrics: Metrics = field(init=False)
    tracing: Tracing = field(init=False)

    def __post_init__(self) -> None:
        self.tracing = Tracing(self.settings.traces, "lichtspiel-api")
        self.metrics = Metrics(self.jobs, self.workers)

    def owner(self, secret: str | None) -> str:
        """The owner of a request: the id of its key, or empty where no key is needed. Raises InvalidKey."""
        key = self.keys.find(secret.strip()) if secret else None
        if key is not None:
            return key.id
        if self.settings.require_key:
            raise InvalidKey("a key of this server is needed: Authorization: Bearer ls_…")
        return ""

    def reviewer(self, secret: str | None) -> str | None:
        """The id of the key of somebody who may decide what needs review, or empty where no key is needed and none was
        sent; None for anybody else. Raises InvalidKey."""
        key = self.keys.find(secret.strip()) if secret else None
        if key is not None:
            return key.id if key.reviews else None
        return self.owner(secret)  # whoever can reach a server without keys runs it

    def create(
        self, submission: Submission, owner: str, idempotency: str | None, remixed_from: str | None = None
    ) -> Job:
        """Judge a request, store its files and add it to the queue."""
        terms = replace(self.settings.terms, consent=submission.consent)
        verdict = admit(submission.request, terms, submission.inputs).inspection.before
        return self.add(
            submission.files, owner=owner, model=submission.request.model,
            request={**stored(submission, verdict), "traceparent": traceparent()},
            digest=submission.digest, seconds=submission.request.frames / submission.request.fps,
            idempotency=idempotency, remixed_from=remixed_from,
        )  # fmt: skip

    def add(
        self,
        files: Mapping[str, Path],
        *,
        owner: str,
        model: str,
        request: Mapping[str, Any],
        digest: str,
        seconds: float,
        idempotency: str | None = None,
        remixed_from: str | None = None,
    ) -> Job:
        """Store the files of a request and add it to the queue; `seconds` are those of its video, for quotas."""
        prefix = f"inputs/{uuid.uuid4().hex}"
        inputs = {
            name: f"{prefix}/{name.replace('/', '-').replace('_', '-')}{path.suffix}" for name, path in files.items()
        }
        for name, path in files.items():
            self.files.put(path, inputs[name])
        takes = Takes(seconds=seconds, bytes=sum(path.stat().st_size for path in files.values()))
        try:
            job, new = self.jobs.add(
                owner=owner, model=model, inputs=inputs, request=request, remixed_from=remixed_from,
                idempotency=idempotency, digest=digest, takes=takes,
            )  # fmt: skip
        except LichtspielError:
            self.files.remove([*inputs.values()])
            raise
        if not new:
            self.files.remove([*inputs.values()])
        return job

    def delete(self, id: str, owner: str | None) -> None:
        """Delete a job, files first: if its files cannot be removed now, the job can still be deleted later.

        Raises NotFound, Busy for one in progress, or StorageError.
        """
        job = self.jobs.get(id, owner)
        if job.state == "queued":
            job = self.jobs.cancel(id, owner)  # so that no worker claims it without its files
        if job.state not in ENDED:
            raise Busy(f"{id} is being made; cancel it first, and delete it when it has ended")
        self.remove(job)
        self.jobs.delete(id, owner)

    def remove(self, job: Job) -> None:
        """Remove all files of a job, including those that killed workers left behind."""
        left = [self.files.named(f"{kind}/{job.id}_") for kind in ("latents", "previews", "sheets", "videos")]
        self.files.remove({*job.files, *(name for names in left for name in names)})
        scratch.remove(self.jobs, job.id)

    def shown(self, job: Job) -> dict[str, Any]:
        """A job as clients see it."""
        described = translation_object if job.model == DRAFT else video_object
        return described(job, self.jobs.positions().get(job.id) if job.state == "queued" else None)


# Dependencies run on the event loop, because a thread would cost more than they do; only a key needs the database.
async def _server(request: Request) -> Server:
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


ServerDep = Annotated[Server, Depends(_server)]
"""The `Server` of this application."""


async def _secret(
    credentials: Annotated[
        HTTPAuthorizationCredentials | None,
        Depends(HTTPBearer(auto_error=False, scheme_name="key", description="A key, where the server asks for one.")),
    ],
) -> str | None:
    return credentials.credentials if credentials else None


SecretDep = Annotated[str | None, Depends(_secret)]
"""The secret that was sent with a request, if any."""


async def _who(server: ServerDep, secret: SecretDep) -> str:
    return await run_in_threadpool(server.owner, secret) if secret else server.owner(None)


OwnerDep = Annotated[str, Depends(_who)]
"""The owner of a request; see `Server.owner`."""


async def _reviews(server: ServerDep, secret: SecretDep) -> str | None:
    return await run_in_threadpool(server.reviewer, secret) if secret else server.reviewer(None)


ReviewerDep = Annotated[str | None, Depends(_reviews)]
"""Who may review; see `Server.reviewer`."""


async def _prober(server: ServerDep, secret: SecretDep) -> None:
    if not server.settings.open_probes:
        await _who(server, secret)


ProberDep = Annotated[None, Depends(_prober)]
"""Access to the state of the server: owners of keys or, with `open_probes`, anybody."""

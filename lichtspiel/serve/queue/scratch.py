"""Scratch folders for jobs: one per attempt, in the data folder of the machine that works on it.

    $LICHTSPIEL_HOME/serve/scratch/DATABASE/JOB_ATTEMPT/    mode 0700

They hold files that clients sent, so a folder that a killed worker left behind has to be removed. Each is named after
its job and attempt, and `sweep` removes those whose attempt is over. The hash of the database's name keeps servers
apart that share a data folder.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lichtspiel.serve.errors import NotFound
from lichtspiel.serve.queue.jobs import PREFIXES, Job, Jobs
from lichtspiel.storage import home

__all__ = ["remove", "scratch", "sweep"]


def _parent(jobs: Jobs) -> Path:
    return home() / "serve" / "scratch" / hashlib.sha256(jobs.database.name.encode()).hexdigest()[:12]


@contextmanager
def scratch(jobs: Jobs, job: Job) -> Iterator[Path]:
    """Create an empty folder for this attempt, and remove it with all its files in the end."""
    folder = _parent(jobs) / f"{job.id}_{job.attempt}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(jobs: Jobs, id: str) -> None:
    """Remove the scratch folders of a job on this machine."""
    for folder in _parent(jobs).glob(f"{id}_*"):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(jobs: Jobs) -> int:
    """Remove the folders of finished attempts on this machine; returns how many."""
    count = 0
    for folder in sorted(folder for prefix in PREFIXES.values() for folder in _parent(jobs).glob(f"{prefix}*_*")):
        id, _, attempt = folder.name.rpartition("_")
        if not _runs(jobs, id, attempt):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count


def _runs(jobs: Jobs, id: str, attempt: str) -> bool:
    try:
        job = jobs.get(id, None)
    except NotFound:
        return False
    return job.state == "in_progress" and str(job.attempt) == attempt

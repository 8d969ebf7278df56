"""Look at all files of a folder and put them into an index: in this process, in several, or on a Ray cluster.

Results are the same whatever makes them. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lichtspiel.cluster import join
from lichtspiel.errors import Interrupted, InvalidInput, LichtspielError
from lichtspiel.media.media import media_files, media_sha256
from lichtspiel.understand.analysis import EXTRACTORS, Analysis, Settings, analyze, captions_of, wanted
from lichtspiel.understand.shots import Shots
from lichtspiel.understand.store import Index

__all__ = ["Work", "build", "files_of"]

Progress = Callable[[str, float], None]


@dataclass
class Work:
    """What a run did: how many files it looked at, found known, copied and could not read, what was used and missed."""

    looked: int = 0
    known: int = 0
    copies: int = 0
    removed: int = 0
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary; `seconds` is how much video was looked at."""
        return dict(vars(self))


@dataclass(frozen=True)
class Task:
    """One file to look at, in the state in which it was found."""

    path: str
    size: int
    mtime: int
    caption: str
    names: tuple[str, ...]
    """The extractors that are to look: those that are asked for, and those that did before."""


def build(
    places: list[Path], index: Index, settings: Settings, *, workers: int = 1, ray: str | None = None,
    progress: Progress = lambda stage, done: None,
) -> Work:  # fmt: skip
    """Bring the index up to date with files and folders.

    Files whose size and time are known are not read again. Those that could not be read are tried again: the cause may
    have been a network drive or a permission, which leave no trace in size and time. `workers` are processes of this
    machine; with `ray`, files go to the cluster at that address ("auto" for the one that is running, "local" for a new
    one with as many workers), whose machines must see the same paths. Raises InvalidInput when there is nothing to
    index, or nothing that finds shots, MediaError for a list of captions that is no JSON, and Interrupted when it is
    stopped.
    """
    if (remedy := Shots(settings.detector).missing()) is not None:
        raise InvalidInput(f"shots cannot be found: {remedy}")
    work = Work()
    files = files_of(places)
    by_folder = {folder: captions_of(folder) for folder in {path.parent for path in files}}
    captions = {str(path): text for path in files if (text := by_folder[path.parent].get(path.name))}
    needed = wanted(settings)
    todo: list[Task] = []
    for path in files:
        status = path.stat()
        names = tuple(name for name in EXTRACTORS if name in settings.names or name in index.names(path))
        task = Task(str(path), status.st_size, status.st_mtime_ns, captions.get(str(path), ""), names)
        if index.known(path, task.size, task.mtime, captions, needed):
            work.known += 1
        elif (digest := _digest(path)) and index.complete(digest, path, captions, needed):
            index.add_copy(path, digest, task.size, task.mtime)
            work.copies += 1
        else:
            todo.append(task)
    for folder in (place for place in places if place.is_dir()):
        work.removed += index.remove_missing(folder.absolute(), files)
    done = work.known + work.copies
    try:
        for task, result in _results(todo, settings, workers, ray):
            done += 1
            progress(f"indexing {Path(task.path).name}", done / len(files))
            _note(index, task, result, work)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {done} of {len(files)} files are done, and the same command goes on") from None
    return work


def _note(index: Index, task: Task, result: Analysis | str, work: Work) -> None:
    """Write what was found in a file into the index, or why it cannot be read."""
    if isinstance(result, str):
        index.add_failure(Path(task.path), task.size, task.mtime, result)
        work.failures[task.path] = result
        return
    index.add(result, task.size, task.mtime)
    work.looked += 1
    work.seconds += result.duration
    work.used |= result.used
    work.missed |= result.missed


def files_of(places: list[Path]) -> list[Path]:
    """The videos and pictures in files and folders, each once. Raises InvalidInput for a place that is not there."""
    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise InvalidInput(f"{place}: is not there; name a video, a picture or a folder of them")
        absolute = place.absolute()
        files += media_files(absolute) if place.is_dir() else [absolute]
    return list(dict.fromkeys(files))


def _digest(path: Path) -> str:
    """The digest of a file, or nothing where it cannot be read: whoever looks at it says why."""
    try:
        return media_sha256(path)
    except (LichtspielError, OSError):
        return ""


def look(task: Task, settings: Settings) -> Analysis | str:
    """Look at one file; returns the reason when it cannot be read."""
    try:
        return analyze(Path(task.path), replace(settings, names=task.names), task.caption)
    except (LichtspielError, OSError) as error:
        return str(error)


def _results(
    tasks: list[Task], settings: Settings, workers: int, ray: str | None
) -> Iterator[tuple[Task, Analysis | str]]:
    if ray is not None:
        yield from _on_ray(tasks, settings, workers, ray)
    elif workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, look(task, settings)
    else:
        context = multiprocessing.get_context("spawn")  # a fork would copy threads of torch that do not run there
        with ProcessPoolExecutor(min(workers, len(tasks)), context, _single_threaded) as pool:
            running: dict[Future[Analysis | str], Task] = {pool.submit(look, task, settings): task for task in tasks}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _single_threaded() -> None:
    import torch

    torch.set_num_threads(1)


def _on_ray(tasks: list[Task], settings: Settings, workers: int, address: str) -> Iterator[tuple[Task, Analysis | str]]:
    """The same by Ray Data, on any number of machines: one file is one block, so results come as they are done, and
    files wait while all processors are busy."""
    if not tasks:
        return
    started = join(address, cores=max(workers, 1))
    import ray

    try:
        from ray import data
    except ImportError as error:
        raise InvalidInput("--ray needs Ray Data: pip install 'lichtspiel[cluster]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns of bars that are turned off, and of busy machines
    data.DataContext.get_current().enable_progress_bars = False
    # Python objects travel as bytes: Arrow has no type for them.
    rows = [{"number": number, "task": pickle.dumps((task, settings))} for number, task in enumerate(tasks)]
    try:
        looked: Any = data.from_items(rows, override_num_blocks=len(rows)).map(_look_at_row, num_cpus=1)
        for row in looked.iter_rows():
            yield tasks[row["number"]], pickle.loads(row["result"])
    finally:
        if started:
            ray.shutdown()


def _look_at_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "result": pickle.dumps(look(*pickle.loads(row["task"])))}

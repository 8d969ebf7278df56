"""Commands in processes of their own, which begin as copies of one that has loaded PyTorch: a process that has to load
it anew spends more time on that than most commands take."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from lichtspiel.cli import app, errors, main

__all__ = ["PATIENCE", "Done", "begin", "command", "in_this_process"]

LOADED = ["tests.commands", "torch", "lichtspiel.workflows.generate", "lichtspiel.seal.verify", "tests.ready"]
"""Modules that the copied process has loaded."""

PATIENCE = 900
"""Seconds after which a command hangs, even on a busy machine."""


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    code: int | None
    stdout: str
    stderr: str


def begin(*words: str | Path, cwd: Path, printed: tuple[Path, Path]) -> BaseProcess:
    """Start `lichtspiel` with these words in a folder, with this process's environment; it writes to two files or
    terminals."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        context: multiprocessing.context.BaseContext = multiprocessing.get_context("spawn")
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LOADED)
    process: BaseProcess = context.Process(  # type: ignore[attr-defined]
        target=_be_command, args=([*map(str, words)], cwd, dict(os.environ), printed)
    )
    process.start()
    return process


def command(*words: str | Path, cwd: Path) -> Done:
    """Run `lichtspiel` with these words in a folder, with this process's environment."""
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder, "out"), Path(folder, "err")
        process = begin(*words, cwd=cwd, printed=printed)
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"still running after {PATIENCE} s: {words}")
        return Done(process.exitcode, *(path.read_text(encoding="utf-8") for path in printed))


def in_this_process(*words: str | Path, cwd: Path) -> Done:
    """Run `lichtspiel` with these words in a folder, without a process of its own, which has to start first."""
    out, err, typed = io.StringIO(), io.StringIO(), [*map(str, words)]
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = errors.run(lambda: app(typed, prog_name="lichtspiel", standalone_mode=False))
    return Done(code, out.getvalue(), err.getvalue())


def _be_command(words: list[str], folder: Path, environment: Mapping[str, str], printed: tuple[Path, Path]) -> None:
    """The rest of this process's life, as `python -m lichtspiel`."""
    for stream, path in zip((sys.stdout, sys.stderr), printed, strict=True):
        target = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(target, stream.fileno())
        os.close(target)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["lichtspiel", *words]
    main()

"""Faults of the machine: how to tell them from errors of a job, and probes that detect when a fault is over.

A full disk, a damaged record, an unreadable key, missing weights or a broken device would make every job fail. A
worker that runs into one gives its job back, claims nothing and probes until the machine works again. Clients and
`/ready` see the sentences below; paths and details go to the log.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lichtspiel.errors import (
    Cancelled,
    InvalidInput,
    LichtspielError,
    NonFinite,
    OutOfMemory,
    OutputError,
    Refused,
    RequestError,
    WeightsError,
)
from lichtspiel.inference.device import choose_device
from lichtspiel.seal.identity import load_identity
from lichtspiel.seal.record import Store
from lichtspiel.serve.errors import NotFound, StoreError
from lichtspiel.serve.queue.storage import Files
from lichtspiel.serve.settings import Settings
from lichtspiel.spec import model
from lichtspiel.storage import home
from lichtspiel.weights.checkpoint import checkpoint

__all__ = ["check_groups", "check_models", "fault_of", "probe"]

LOW_DISK = 64_000_000
"""Free bytes below which the disk of the data folder counts as full; about the size of a video with its latents."""

FULL = "the disk is full"
DISK = "the disk cannot be read or written"
RECORD = "the record of sealed videos or the signing key cannot be used"
WEIGHTS = "the weights of the model cannot be loaded"
DEVICE = "the device of the worker does not work"
LIBRARY = "a library cannot be loaded"

OWN: tuple[type[Exception], ...] = (Refused, NonFinite, OutOfMemory, Cancelled, NotFound)
"""Errors that always belong to the job, whatever caused them."""

log = logging.getLogger("lichtspiel.serve")


def fault_of(error: BaseException, *, loras: bool = False) -> str | None:
    """The machine fault that caused an error, as a sentence for clients; None if the job caused it or nobody knows.

    The innermost cause that is a known fault decides. If the job uses LoRAs, weights that fail to load do not count as
    a machine fault, because a LoRA may be to blame.
    """
    if isinstance(error, OWN):
        return None
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for one in reversed(chain):
        reason = _fault(one, loras)
        if reason is not None:
            return reason
    return None


def _fault(error: BaseException, loras: bool) -> str | None:
    if isinstance(error, StoreError):
        return error.public
    if isinstance(error, WeightsError):
        return None if loras else WEIGHTS
    if isinstance(error, RequestError):
        return DEVICE if error.field == "device" else None
    if isinstance(error, OutputError):
        return DISK
    if isinstance(error, InvalidInput):
        return None
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space left" in str(error)
        return FULL if full else DISK
    if isinstance(error, sqlite3.Error):
        return RECORD
    if isinstance(error, ImportError):
        return LIBRARY
    if type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error):
        return DEVICE
    # Seal and record raise a plain LichtspielError if this installation's key or record cannot be used.
    return RECORD if type(error) is LichtspielError and error.__cause__ is None else None


def probe(settings: Settings, files: Files, device: str, store: Store) -> str | None:
    """Check data folder, storage, key, record and weights; returns the first fault, or None if there is none."""
    looks: Sequence[Callable[[], object]] = (
        _data_folder,
        files.probe,
        load_identity,
        store.check,
        lambda: check_models(settings, device),
    )
    for check in looks:
        try:
            check()
        except Exception as error:
            log.warning("the machine is not fit to work: %s", error)
            return fault_of(error) or DISK
    return None


def check_models(settings: Settings, device: str) -> None:
    """Raise WeightsError or RequestError if one of the offered models could not be loaded on this device.

    Reads only the headers of the files.
    """
    choose_device(device)
    for name in settings.models:
        checkpoint(model(name), settings.weights or None)


def check_groups(settings: Settings) -> None:
    """Raise InvalidInput if this machine has not as many GPUs as its workers are to have."""
    each, workers = settings.gpus_per_job, len(settings.devices)
    if each == 1 or {*settings.devices} == {"cpu"}:
        return
    here = torch.cuda.device_count()
    if here < each * workers:
        nearest = max(here // workers, 1)
        count = "1 worker" if workers == 1 else f"{workers} workers"
        raise InvalidInput(
            f"--gpus-per-job {each} with {count} needs {each * workers} GPUs, and this machine has {here}; "
            f"nearest valid value: {nearest}"
        )


def _data_folder() -> None:
    """Write to the data folder, as sealing does; raises OSError if that fails or little space is left."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
        file.write(bytes(1 << 16))
        file.flush()
        os.fsync(file.fileno())
    if shutil.disk_usage(folder).free < LOW_DISK:
        raise OSError(errno.ENOSPC, f"fewer than {LOW_DISK:,} bytes are free in {Path(folder)}")

"""The settings of a server. They are passed to worker processes, so they hold only plain values."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.spec import model
from lichtspiel.storage import home
from lichtspiel.understand.moderation import Thresholds
from lichtspiel.workflows.terms import Terms

__all__ = ["Settings"]

LIMIT_BODY = 256_000_000
"""The largest request, in bytes; most of a large request is a video."""


DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one server.

    `database` is an SQLAlchemy URL and `storage` a folder or an fsspec URL. `models` are the checkpoints on offer,
    `weights` are their files if they are not where `pull` puts them, and `loras` is a folder whose files requests may
    name. `devices` has one entry per worker: the first `min_workers` always run, the others only while jobs wait.
    `cores` is what each worker requests from a cluster, and `gpus_per_job` how many processes, each with a GPU of its
    own, make a worker. `open_probes` lets anybody read `/ready` and `/metrics`.
    `traces` is the address of an OpenTelemetry collector. `transcriber`, `translator` and `voices`, one for each
    speaker, are what translates videos, as `lichtspiel translate` names them; None and () mean its defaults.
    `lips` is what makes lips follow a new voice, if anything does.
    `thresholds` are those of moderations.
    Raises InvalidInput for invalid values, and if others could reach the server without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    database: str = field(default_factory=lambda: f"sqlite:///{home() / 'serve' / 'jobs.sqlite'}")
    storage: str = field(default_factory=lambda: str(home() / "serve" / "files"))
    models: tuple[str, ...] = ("nano",)
    weights: tuple[Path, ...] = ()
    loras: Path | None = None
    devices: tuple[str, ...] = ("auto",)
    min_workers: int = 1
    cores: int = 1
    gpus_per_job: int = 1
    require_key: bool = False
    open_probes: bool = False
    log_json: bool = False
    traces: str | None = None
    queue_limit: int = 100
    keep_days: float = 30.0
    body_limit: int = LIMIT_BODY
    transcriber: str | None = None
    translator: str | None = None
    voices: tuple[str, ...] = ()
    lips: str | None = None
    terms: Terms = field(default_factory=Terms)
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if not 0 < self.keep_days <= 36500:
            raise InvalidInput(f"--keep-days {self.keep_days:g} is not valid; use more than 0 and at most 36500 days")
        for name in self.models:
            model(name)
        for device in self.devices:
            if not DEVICE.fullmatch(device):
                raise InvalidInput(f"--device {device} is not a device; use auto, cpu, mps, cuda or cuda:N")
        self._check_group()
        if self.loras is not None and not self.loras.is_dir():
            raise InvalidInput(f"--loras {self.loras} is not a folder")
        if not self.loopback and not self.require_key:
            raise InvalidInput(
                f"{self.host} can be reached by others, so every request needs a key: add --require-key, and make keys "
                "with `lichtspiel serve key create NAME`"
            )

    def _check_group(self) -> None:
        """Raise InvalidInput if a group of this size could not share a model's work, or would not know its GPUs."""
        count = self.gpus_per_job
        for name in self.models if count > 1 else ():
            heads = model(name).dit.heads
            if heads % count:
                fitting = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
                raise InvalidInput(
                    f"--gpus-per-job {count} is not valid: {name} has {heads} attention heads, which have to be shared "
                    f"evenly; use one of {fitting}"
                )
        for device in self.devices if count > 1 else ():
            if device not in {"auto", "cpu", "cuda"}:
                raise InvalidInput(
                    f"--device {device} is one device, and --gpus-per-job asks for {count}; use --device cuda, and "
                    "CUDA_VISIBLE_DEVICES for which"
                )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

"""How this process joins a Ray cluster, and leaves it. Knows nothing of what runs there."""

from __future__ import annotations

import logging
import os
from typing import Any

from lichtspiel.errors import InvalidInput

# Ray sends usage statistics to its developers by default; this package sends nothing to anybody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__all__ = ["join"]


def join(address: str, *, cores: int | None = None, show_logs: bool = False) -> bool:
    """Join the cluster at `address`: "auto" for the one of this machine, ray://HOST:10001 for another one, or "local"
    for a new one with so many `cores` (None: all of this machine). Returns whether this process has to leave it again
    with `ray.shutdown`: False if it was in one before, which is then used as it is.

    Raises InvalidInput without Ray, and if there is no such cluster.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InvalidInput("--ray needs Ray: pip install 'lichtspiel[cluster]'") from error
    if ray.is_initialized():
        return False
    more: dict[str, Any] = {}
    if address == "local":  # whose workers would run at niceness 15, which gets nothing on a busy machine
        more = {"num_cpus": cores, "include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    try:
        ray.init(address, logging_level=logging.WARNING, log_to_driver=show_logs, **more)
    except (ConnectionError, ValueError) as error:
        raise InvalidInput(
            f"no Ray cluster at {address} ({error}); start one with `ray start --head`, or give --ray local"
        ) from error
    return True

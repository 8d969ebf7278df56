"""Numbers for Prometheus: how long the queue is, how jobs end, how long stages take, how fast the API answers.

Everything about jobs is read from the store, so that it counts jobs of all workers on all machines.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator

from fastapi import Request
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.responses import Response

from lichtspiel.serve.jobs import Jobs

__all__ = ["Metrics"]


class Metrics:
    """The numbers of one server."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.registry = CollectorRegistry()
        self.answers = Histogram(
            "lichtspiel_api_seconds", "Seconds until an answer begins", ["method", "route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What the store says now."""
        depth = GaugeMetricFamily("lichtspiel_jobs", "Jobs by state", labels=["state"])
        for state, count in self.jobs.counts().items():
            depth.add_metric([state], count)
        yield depth
        failures, stages = self.jobs.totals()
        failed = CounterMetricFamily("lichtspiel_failures", "Jobs that failed, by code", labels=["code"])
        for code, count in failures.items():
            failed.add_metric([code], count)
        yield failed
        seconds = CounterMetricFamily("lichtspiel_stage_seconds", "Seconds spent in finished jobs", labels=["stage"])
        for stage, spent in stages.items():
            seconds.add_metric([stage], spent)
        yield seconds

    async def timed(self, request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        """Middleware that takes the time of every answer."""
        began = time.perf_counter()
        response = await call(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "none")
        self.answers.labels(request.method, path, str(response.status_code)).observe(time.perf_counter() - began)
        return response

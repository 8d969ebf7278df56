"""Numbers for Prometheus: how long the queue is, how jobs end, how long stages take, how fast the API answers.

Everything about jobs is read from the store, so that it counts jobs of all workers on all machines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lichtspiel.serve.queue.jobs import Jobs

__all__ = ["Metrics", "TimingMiddleware"]


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that are told apart; clients can make up others without end."""


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


class TimingMiddleware:
    """ASGI middleware that takes the time until every answer begins.

    As a decorator of Starlette's it would start a task and a queue for each request, which take longer than most
    answers here.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.answers = app, metrics.answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "none")
                spent = time.perf_counter() - began
                method = scope["method"] if scope["method"] in METHODS else "other"
                self.answers.labels(method, path, str(message["status"])).observe(spent)
            await send(message)

        await self.app(scope, receive, watched)

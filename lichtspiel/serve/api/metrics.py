"""Prometheus metrics: the length of the queue, how jobs end, how long stages take and how fast the API responds.

Everything about jobs comes from the database, so it covers all workers on all machines.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
import uuid
from collections.abc import Iterator, Mapping

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lichtspiel import __version__
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.tracing import Tracing

__all__ = ["Metrics", "TimingMiddleware"]


QUIET = frozenset({"/health", "/ready", "/metrics", "/page", "/v1/videos/{id}"})
"""Routes that are requested too often to log every response."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that get a label of their own. Clients can make up any number of others, which share one label."""


BUCKETS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of the buckets of the job histograms, in seconds."""

log = logging.getLogger("lichtspiel.serve")


class Metrics:
    """The metrics of one server."""

    def __init__(self, jobs: Jobs, workers: Mapping[int, str]) -> None:
        self.jobs, self.workers = jobs, workers
        self.registry = CollectorRegistry()
        self.answers = Histogram(
            "lichtspiel_api_seconds", "Seconds until an answer begins", ["method", "route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.refusals = Counter(
            "lichtspiel_refusals", "Requests that the policy did not let in, by rule", ["rule"], registry=self.registry
        )
        Info("lichtspiel_build", "This server", registry=self.registry).info({"version": __version__})
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The current metrics, most of them read from the database."""
        depth = GaugeMetricFamily("lichtspiel_jobs", "Jobs by state", labels=["state"])
        for state, count in self.jobs.counts().items():
            depth.add_metric([state], count)
        yield depth
        waiting = GaugeMetricFamily("lichtspiel_waiting_jobs", "Jobs that wait, by model", labels=["model"])
        oldest = GaugeMetricFamily(
            "lichtspiel_oldest_job_seconds", "Age of the oldest job that waits", labels=["model"]
        )
        for model, (count, age) in self.jobs.waiting_by_model().items():
            waiting.add_metric([model], count)
            oldest.add_metric([model], age)
        yield from (waiting, oldest)
        busy = GaugeMetricFamily("lichtspiel_workers", "Workers of this server, by state", labels=["state"])
        for does, number in collections.Counter(each.partition(":")[0] for each in [*self.workers.values()]).items():
            busy.add_metric([does], number)
        yield busy
        yield from self._memory()
        yield from self._histograms()
        failures, stages = self.jobs.totals()
        failed = CounterMetricFamily("lichtspiel_failures", "Jobs that failed, by code", labels=["code"])
        for code, count in failures.items():
            failed.add_metric([code], count)
        yield failed
        seconds = CounterMetricFamily("lichtspiel_stage_seconds", "Seconds spent in finished jobs", labels=["stage"])
        for stage, spent in stages.items():
            seconds.add_metric([stage], spent)
        yield seconds

    def _memory(self) -> Iterator[Metric]:
        resident = GaugeMetricFamily("lichtspiel_memory_bytes", "Resident memory here, by process", labels=["process"])
        server = psutil.Process()
        resident.add_metric(["server"], server.memory_info().rss)
        total = 0
        for child in server.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                total += child.memory_info().rss
        resident.add_metric(["workers"], total)
        yield resident
        about = (
            "Peak memory of a worker while it made a completed job: of its GPU where it has one, else of its process"
        )
        peak = GaugeMetricFamily("lichtspiel_job_peak_memory_bytes", about, labels=["model"])
        for model, most in self.jobs.peaks().items():
            peak.add_metric([model], most)
        yield peak

    def _histograms(self) -> Iterator[Metric]:
        about = (
            ("lichtspiel_job_wait_seconds", "From asking to start"),
            ("lichtspiel_job_seconds", "From start to end"),
        )
        counts = self.jobs.histograms(BUCKETS)
        for number, (name, text) in enumerate(about):
            family = HistogramMetricFamily(name, f"{text}, of completed jobs that are still kept", labels=["model"])
            for model, both in counts.items():
                below, total = both[number]
                bounds = [*map(str, BUCKETS), "+Inf"]
                family.add_metric([model], list(zip(bounds, below, strict=True)), total)
            yield family


class TimingMiddleware:
    """ASGI middleware that measures the time until each response starts.

    Starlette's `BaseHTTPMiddleware` would start a task and a queue for each request, which take longer than most
    responses here.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self.app, self.answers, self.tracing = app, metrics.answers, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, time its response and trace it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, id = time.perf_counter(), uuid.uuid4().hex
        method = scope["method"] if scope["method"] in METHODS else "other"
        parent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
        with self.tracing.span(method, parent, **{"http.request.method": method, "request": id}) as traced:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-request-id", id.encode())]
                    path, status = getattr(scope.get("route"), "path", "none"), message["status"]
                    spent = time.perf_counter() - began
                    self.answers.labels(method, path, str(status)).observe(spent)
                    traced.update({"name": f"{method} {path}", "http.route": path, "http.response.status_code": status})
                    if status >= 500:
                        traced["error.type"] = str(status)
                    if path not in QUIET:
                        more = {"request": id, "method": method, "path": path, "status": status}
                        log.info("answered", extra={**more, "seconds": round(spent, 4)})
                await send(message)

            await self.app(scope, receive, watched)

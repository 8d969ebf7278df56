"""Traces for OpenTelemetry: one span for each answer of the API and one for each attempt at a job, sent over OTLP.

The span of a job belongs to the trace of the request that asked for it, on whatever machine it runs: the request's
`traceparent` (https://www.w3.org/TR/trace-context/) is stored with the job. Spans hold ids, codes and seconds, and
neither prompts nor keys. Without an address nothing is imported or sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lichtspiel import __version__
from lichtspiel.errors import InvalidInput

__all__ = ["Tracing", "traceparent"]

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def traceparent() -> str | None:
    """The span around the current work, as a `traceparent`; None without one."""
    return _current.get()


class Tracing:
    """Sends spans to the collector at `address`, such as http://collector:4318, under the name of `service`.

    Raises InvalidInput if the package is not installed. With None as address its methods do nothing.
    """

    def __init__(self, address: str | None, service: str) -> None:
        self._provider: Any = None
        if address is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"{error.name} is not installed; --traces needs: pip install 'lichtspiel[tracing]'"
            ) from None
        about = Resource.create({"service.name": service, "service.version": __version__})
        self._provider = TracerProvider(resource=about)
        exporter = OTLPSpanExporter(endpoint=f"{address.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lichtspiel", __version__)

    @contextmanager
    def span(self, name: str, parent: str | None = None, **attributes: Any) -> Iterator[dict[str, Any]]:
        """A span around the work inside; `parent` is a `traceparent`. What is put into the result becomes attributes.

        `name` there renames the span, and `error.type` marks it as failed.
        """
        late: dict[str, Any] = {}
        if self._provider is None:
            yield late
            return
        from opentelemetry.trace import StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = TraceContextTextMapPropagator()
        context = carrier.extract({"traceparent": parent}) if parent else None
        with self._tracer.start_as_current_span(name, context=context, attributes=attributes) as span:
            held: dict[str, str] = {}
            carrier.inject(held)
            token = _current.set(held.get("traceparent"))
            try:
                yield late
            finally:
                _current.reset(token)
                span.update_name(late.pop("name", name))
                span.set_attributes(late)
                if "error.type" in late:
                    span.set_status(StatusCode.ERROR)

    def close(self) -> None:
        """Send what is still held."""
        if self._provider is not None:
            self._provider.shutdown()

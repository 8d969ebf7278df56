"""Traces: what a collector gets, over the wire, when a video is asked for and made."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is in the extra tracing")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lichtspiel.serve.tracing import Tracing, traceparent
from tests.serve.live import HTTP, PROMPT, SMALL, live, settings, warm


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    spans: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in sent.resource_spans:
                (service,) = (
                    one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
                )
                spans.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    server.server_close()
    thread.join()


def values(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_job_belongs_to_the_trace_of_its_request(
    collector: tuple[str, list[Any]], random_nano: Path, tmp_path: Path
) -> None:
    address, spans = collector
    trace = "0af7651916cd43dd8448eb211c80319c"
    with live(settings(tmp_path, random_nano, traces=address)) as (server, there):
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        made = HTTP.post(f"{there}/v1/videos", json={"prompt": PROMPT, **SMALL}, headers=headers).json()
        assert "traceparent" not in made["parameters"]
        busy = warm(server)
        assert busy.once()
        assert HTTP.get(f"{there}/v1/videos/none").status_code == 404
    # A span ends after its answer has been sent, so only a server that has stopped has ended all of them.
    server.tracing.close()
    busy.tracing.close()
    named = {span.name: (service, span) for service, span in spans}
    service, asked = named["POST /v1/videos"]
    assert (service, asked.trace_id.hex(), asked.parent_span_id.hex()) == ("lichtspiel-api", trace, "b7ad6b7169203331")
    assert values(asked)["http.response.status_code"] == 200
    service, job = named["job"]
    assert (service, job.trace_id, job.parent_span_id) == ("lichtspiel-worker", asked.trace_id, asked.span_id)
    said = values(job)
    assert (said["job"], said["model"], said["code"], said["attempt"]) == (made["id"], "nano", "completed", 1)
    assert said["seconds.denoise"] > 0
    assert values(named["GET /v1/videos/{id}"][1])["http.response.status_code"] == 404
    assert PROMPT not in str(spans)


def test_without_a_collector_nothing_is_traced() -> None:
    tracing = Tracing(None, "x")
    with tracing.span("work", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        assert traceparent() is None
    tracing.close()

"""The published OpenAPI document, and that nothing which it allows makes the server fail."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck
from schemathesis import Case

from lichtspiel.serve.api.app import create_app
from lichtspiel.serve.server import open_server
from tests.serve.live import settings


@pytest.fixture(scope="module")
def app(random_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    server = open_server(settings(tmp_path_factory.mktemp("schema"), random_nano, queue_limit=10_000))
    server.workers[0] = "ready"
    return create_app(server)


def test_no_request_makes_the_server_fail(app: FastAPI) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/events"):  # it ends with its job, and nobody works here
            continue
        tried.add(operation.path)
        examples = 25 if operation.definition.raw.get("requestBody") else 10  # an id and a few words vary less

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(max_examples=examples, deadline=None, database=None, suppress_health_check=[*HealthCheck])
        def check(case: Case) -> None:
            answer = case.call(headers={"Host": "localhost"})
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        check()
    assert {"/v1/videos", "/v1/videos/{id}/content", "/v1/verify", "/metrics"} <= tried


def test_the_document_says_what_answers_hold(app: FastAPI) -> None:
    document = app.openapi()
    create = document["paths"]["/v1/videos"]["post"]
    schema = create["responses"]["200"]["content"]["application/json"]["schema"]
    assert create["security"] == [{"key": []}]
    assert create["responses"]["default"]["content"]["application/json"]["schema"]["required"] == ["error"]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "security" not in document["paths"]["/health"]["get"]
    with TestClient(app, base_url="http://localhost") as client:
        video = client.post("/v1/videos", json={"prompt": "a turtle"}).json()
        model = client.get("/v1/models/nano").json()
    jsonschema_rs.validator_for(schema).validate(video)
    assert set(video) == set(schema["properties"])
    answer = document["paths"]["/v1/models/{name}"]["get"]["responses"]["200"]
    of_model = answer["content"]["application/json"]["schema"]
    jsonschema_rs.validator_for(of_model).validate(model)
    assert set(model) == set(of_model["properties"])

"""One list of options: the flags, the server's schema and the page say of each what `Request` says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

pytest.importorskip("fastapi", reason="fastapi is in the extra test-serve")
pytest.importorskip("psycopg", reason="psycopg is in the extra test-serve")

import typer.main
from fastapi import FastAPI
from pydantic.fields import FieldInfo

from lichtspiel.cli import app
from lichtspiel.cli.flags import flag_of
from lichtspiel.errors import RequestError, name_fields
from lichtspiel.request import OPTIONS, Request, hint_of, rule_of, value_of
from lichtspiel.serve.api.app import create_app
from lichtspiel.serve.api.form import FIELDS, FILES, client_name
from lichtspiel.serve.server import open_server
from lichtspiel.serve.settings import Settings

GENERATE: Any = typer.main.get_command(app).commands["generate"]  # type: ignore[attr-defined]
CHOICES = {name for name, field in OPTIONS.items() if get_origin(field.annotation) is Literal}
PAGE = Path(__file__).parent.parent / "lichtspiel" / "serve" / "page"


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("server")
    server = open_server(Settings(database=f"sqlite:///{folder / 'jobs'}", storage=str(folder)))
    try:
        api: FastAPI = create_app(server)
        body = api.openapi()["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
        return {kind: found["schema"]["properties"] for kind, found in body.items()}
    finally:
        server.jobs.close()


def bounds(field: FieldInfo) -> dict[str, Any]:
    """The limits of a field as pydantic holds them, in the words of JSON schemas."""
    names = {
        "ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum",
        "max_length": "maxItems" if str(field.annotation).startswith("tuple") else "maxLength",
    }  # fmt: skip
    return {
        names[name]: value
        for item in field.metadata
        for name in names
        if (value := getattr(item, name, None)) is not None
    }


def test_every_field_is_a_flag_and_a_property(bodies: dict[str, dict[str, Any]]) -> None:
    assert {"solver", "fit", "dtype", "upscale"} <= CHOICES
    flags = {name for parameter in GENERATE.params for name in parameter.opts}
    assert {flag_of(name) for name in OPTIONS if name != "prompt"} < flags
    assert {*OPTIONS} == {*Request.model_fields} - {"fps"} | {"seconds"}
    json, form = bodies["application/json"], bodies["multipart/form-data"]
    assert {*json} == {*FIELDS}
    assert {*form} == {*FIELDS, *FILES}
    assert {*OPTIONS} - {*FIELDS} == {*FILES.values(), "device"}


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "prompt"])
def test_a_flag_says_what_the_field_says(name: str) -> None:
    field = OPTIONS[name]
    (parameter,) = (one for one in GENERATE.params if flag_of(name) in one.opts)
    assert name_fields(field.description or "", flag_of) in parameter.help
    for limit in (value for key, value in bounds(field).items() if key in {"minimum", "exclusiveMinimum", "maximum"}):
        assert f"{limit:g}" in parameter.help or hint_of(name).rule
    if isinstance(field.default, str | int | float) and field.default is not False:
        assert re.search(rf"default: {re.escape(f'{field.default}'.removesuffix('.0'))}\]", parameter.help)
    if name in CHOICES:
        assert parameter.metavar == "|".join(map(str, get_args(field.annotation)))
    assert parameter.rich_help_panel == hint_of(name).group


@pytest.mark.parametrize("name", FIELDS)
def test_the_schema_of_the_server_says_what_the_field_says(name: str, bodies: dict[str, dict[str, Any]]) -> None:
    said = bodies["application/json"][name]
    assert bodies["multipart/form-data"][name] == said
    if name in {"consent", "metadata"}:  # of the terms and of the client, not of the request
        return
    field = OPTIONS[name]
    if name not in {"model", "lora"}:
        assert said["description"] == name_fields(field.description or "", client_name)
    if name not in {"seconds", "lora"}:
        limits = {key: value for key, value in said.items() if key.startswith(("m", "exclusive"))}
        assert limits == bounds(field)
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if (kind := kinds.get(field.annotation)) and name != "seconds":  # type: ignore[call-overload]
        assert said["type"] == kind
    if name in CHOICES:
        assert said["enum"] == [*get_args(field.annotation)]
    if name != "model":
        assert said.get("default", "none") == (
            "none" if field.is_required() or name == "seconds" else field.get_default() or said["default"]
        )


@pytest.mark.parametrize("name", FIELDS)
def test_bounds_that_are_published_are_the_ones_that_hold(name: str, bodies: dict[str, dict[str, Any]]) -> None:
    said = bodies["application/json"][name]
    wrong: list[Any] = [said["minimum"] - 1] if "minimum" in said else []
    wrong += [said["exclusiveMinimum"]] if "exclusiveMinimum" in said else []
    wrong += [said["maximum"] + 1] if "maximum" in said else []
    wrong += ["x" * (said["maxLength"] + 1)] if "maxLength" in said and name != "consent" else []
    wrong += ["nonsense", 3] if "enum" in said else []
    for value in wrong:
        for sent in (value, str(value)):
            with pytest.raises(RequestError, match=rf"^{name}: .* is not valid: it is {re.escape(rule_of(name))}"):
                value_of(name, sent)
    right = [said[key] for key in ("minimum", "maximum") if key in said] + said.get("enum", [])
    assert [value_of(name, str(value)) for value in right] == right


def test_the_page_writes_no_choices_and_no_bounds_itself() -> None:
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    for name in {*FIELDS} - {"frames"}:  # its bounds are the model's
        for element in re.findall(rf'<(?:input|select|textarea)[^>]* id="{name}"[^>]*>(?:<option.*?</select>)?', text):
            assert not re.search(r"<option|maxlength|step=|min=|max=", element), name

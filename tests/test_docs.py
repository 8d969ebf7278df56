"""Texts that are written by a program are what the program writes, README's Python runs, and manifests are valid."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml", reason="yaml is in the extra test-serve")
pytest.importorskip("fastapi", reason="fastapi is in the extra test-serve")

import yaml
from prometheus_client import generate_latest

from lichtspiel.cli import app
from lichtspiel.serve.api.app import create_app
from lichtspiel.serve.server import open_server
from lichtspiel.serve.settings import Settings
from tests.inference.tiny import brief

ROOT = Path(__file__).parent.parent


def test_the_page_of_the_command_line_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "make_cli_page.py"))["page"]
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page()


def test_the_table_of_what_fits_is_up_to_date() -> None:
    table = runpy.run_path(str(ROOT / "scripts" / "make_memory_table.py"))["table"]
    assert table() in (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")


def test_the_python_in_the_readme_runs(tmp_path: Path, random_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brief(monkeypatch, random_nano)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "whale.mp4").is_file()


def containers() -> list[dict[str, Any]]:
    documents = list(yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text(encoding="utf-8")))
    found: list[dict[str, Any]] = []
    for one in documents:
        if one["kind"] in {"StatefulSet", "Job"}:
            pod = one["spec"]["template"]["spec"]
            found += [*pod.get("initContainers", ()), *pod["containers"]]
    return found


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_what_the_pods_run_is_a_command_of_this_program(container: dict[str, Any]) -> None:
    command, words = app.made, list(container["args"])
    while words and words[0] in getattr(command, "commands", ()):
        command = command.commands[words.pop(0)]
    command.make_context(container["name"], words)  # refuses unknown options and wrong values


def test_every_pod_says_what_it_needs_and_workers_are_apart_from_the_api() -> None:
    serving = {one["name"]: one for one in containers() if one["args"][0] == "serve"}
    assert set(serving) == {"api", "worker"}
    for container in serving.values():
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "--workers=0" in serving["api"]["args"]
    assert "nvidia.com/gpu" not in serving["api"]["resources"]["limits"]
    documents = list(yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text(encoding="utf-8")))
    selected = [one["spec"]["selector"] for one in documents if one["kind"] in {"PodDisruptionBudget", "Service"}]
    labels = [one.get("matchLabels", one) for one in selected]
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in documents if one["kind"] == "StatefulSet"]
    assert labels == [*pods, pods[0]]


def test_the_cluster_asks_what_the_server_answers(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.yaml").read_text(encoding="utf-8")
    server = open_server(Settings(database=f"sqlite:///{tmp_path / 'jobs'}", storage=str(tmp_path)))
    try:
        paths = set(create_app(server).openapi()["paths"])
        for container in containers():
            assert {container[name]["httpGet"]["path"] for name in container if "Probe" in name} <= paths
        (metric,) = set(re.findall(r"lichtspiel_\w+", text))
        assert f'{metric}{{state="queued"}}' in generate_latest(server.metrics.registry).decode()
    finally:
        server.jobs.close()

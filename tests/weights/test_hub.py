"""Getting published weights, against a server that speaks as the hub does, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lichtspiel.errors import LichtspielError, OutputError, RequestError, WeightsError
from lichtspiel.spec import MODELS, model
from lichtspiel.storage import pulled
from lichtspiel.weights.checkpoint import checkpoint
from lichtspiel.weights.hub import pull
from lichtspiel.weights.inspect import inspect
from tests.weights import layouts
from tests.weights.layouts import TINY

T2V, VACE = MODELS["t2v-1.3b"], MODELS["vace-1.3b"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = {
    "diffusion_pytorch_model.safetensors": b"dit" * 70_000,
    "Wan2.1_VAE.pth": b"vae" * 8_000_000,
    "models_t5_umt5-xxl-enc-bf16.pth": b"umt5" * 100_000,
    "README.md": b"not wanted",
}


class Hub(BaseHTTPRequestHandler):
    """`GET /api/models/REPOSITORY` with files and digests, and `/REPOSITORY/resolve/COMMIT/FILE` with ranges."""

    fetched: list[tuple[str, str | None]] = []
    damaged: set[str] = set()
    cut: set[str] = set()
    absent: set[str] = set()
    hostile: tuple[str, ...] = ()

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        if not self.path.startswith("/api/models/"):
            self._file(body=True)
            return
        files = [
            {"rfilename": name, "size": len(data), "blobId": "0" * 40,
             "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
            for name, data in CONTENT.items() if name not in self.absent
        ]  # fmt: skip
        lfs = {"sha256": "0" * 64, "size": 4, "pointerSize": 130}
        files += [{"rfilename": name, "size": 4, "blobId": "0" * 40, "lfs": lfs} for name in self.hostile]
        body = json.dumps({"id": "Wan-AI/x", "sha": COMMIT, "siblings": files}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, *, body: bool) -> None:
        name = self.path.rpartition("/")[2].partition("?")[0]
        whole = CONTENT[name]
        digest = hashlib.sha256(whole).hexdigest()
        served = bytes(len(whole)) if name in self.damaged else whole
        asked = self.headers.get("Range")
        begin = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        part = served[begin:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(whole)))
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(served) - 1}/{len(served)}")
        self.end_headers()
        if body:
            self.fetched.append((name, asked))
            if name in self.cut:
                self.cut.discard(name)
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.fetched, Hub.damaged, Hub.cut, Hub.absent, Hub.hostile = [], set(), set(), set(), ()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_all_parts_come_and_only_those(hub: str) -> None:
    paths = pull(T2V, endpoint=hub)
    assert {path.name: path.read_bytes() for path in paths} == {
        name: data for name, data in CONTENT.items() if name != "README.md"
    }
    assert pulled(T2V.repository) == paths[0].parent
    Hub.fetched.clear()
    said: list[str] = []
    assert pull(T2V, endpoint=hub, say=said.append) == paths
    assert Hub.fetched == []
    assert all(line.endswith("already here") for line in said)


def test_what_another_checkpoint_has_is_not_fetched_again(hub: str) -> None:
    pull(T2V, endpoint=hub)
    Hub.fetched.clear()
    paths = pull(VACE, endpoint=hub)
    assert Hub.fetched == []
    assert [path.read_bytes() for path in paths] == [CONTENT[path.name] for path in paths]


def test_a_broken_download_goes_on_where_it_stopped(hub: str) -> None:
    Hub.cut = {"Wan2.1_VAE.pth"}
    pull(T2V, endpoint=hub)  # the hub's own library tries again
    resumed = [asked for name, asked in Hub.fetched if name == "Wan2.1_VAE.pth" and asked]
    assert resumed
    assert int(resumed[-1].removeprefix("bytes=").partition("-")[0]) > 0
    assert (pulled(T2V.repository) / "Wan2.1_VAE.pth").read_bytes() == CONTENT["Wan2.1_VAE.pth"]


def test_a_file_with_another_digest_is_removed(hub: str) -> None:
    Hub.damaged = {"Wan2.1_VAE.pth"}
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth came with the digest"):
        pull(T2V, endpoint=hub)
    assert not (pulled(T2V.repository) / "Wan2.1_VAE.pth").exists()


def test_without_a_network_it_says_what_to_copy_where(tmp_path: Path) -> None:
    with pytest.raises(LichtspielError, match=r"copy these files into .*diffusion_pytorch_model\*\.safetensors"):
        pull(T2V, tmp_path / "here", endpoint="http://127.0.0.1:9")


def test_what_cannot_be_pulled(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="ships with this package"):
        pull(MODELS["nano"], endpoint=hub)
    Hub.absent = {"Wan2.1_VAE.pth"}
    with pytest.raises(WeightsError, match=r"has no Wan2\.1_VAE\.pth"):
        pull(T2V, tmp_path / "a", endpoint=hub)
    Hub.absent = set()
    monkeypatch.setattr("lichtspiel.weights.hub.MARGIN", 10**18)
    with pytest.raises(OutputError, match="GB are free"):
        pull(T2V, tmp_path / "b", endpoint=hub)


def test_generate_looks_where_pull_puts(hub: str) -> None:
    with pytest.raises(WeightsError, match="lichtspiel pull t2v-1"):
        checkpoint(T2V)
    pull(T2V, endpoint=hub)
    with pytest.raises(WeightsError, match=str(pulled(T2V.repository))):  # found, and these are no tensors
        checkpoint(T2V)


def test_names_from_a_mirror_lead_nowhere_else(hub: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim.safetensors"
    victim.write_bytes(b"mine")
    Hub.hostile = (
        f"diffusion_pytorch_model/../../{'../' * 20}{victim}",
        "diffusion_pytorch_model/deeper/x.safetensors",
        "diffusion_pytorch_model..\\..\\x.safetensors",
        "diffusion_pytorch_model:x.safetensors",
    )
    paths = pull(T2V, tmp_path / "here", endpoint=hub)
    assert {path.name for path in paths} == CONTENT.keys() - {"README.md"}
    assert victim.read_bytes() == b"mine"


def test_the_environment_names_a_mirror(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)  # what HF_ENDPOINT sets, when it is imported
    template = hub + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert len(pull(T2V)) == 3


def test_an_installation_that_is_offline_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LichtspielError, match="try again, without HF_HUB_OFFLINE, name a mirror"):
        pull(T2V, tmp_path / "here", endpoint="http://127.0.0.1:9")


def test_a_failed_pull_leaves_the_hint_to_pull(tmp_path: Path) -> None:
    with pytest.raises(LichtspielError, match="copy these files"):
        pull(T2V, endpoint="http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="get it with `lichtspiel pull t2v-1"):
        checkpoint(T2V)


@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_the_cache_of_other_programs_is_used(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # what HF_HOME sets
    ending = "-Diffusers" if layout == "diffusers" else ""
    folder = tmp_path / f"models--{TINY.repository.replace('/', '--')}{ending}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    (folder / "snapshots").mkdir()
    write = layouts.diffusers if layout == "diffusers" else layouts.official
    write(folder / "snapshots" / COMMIT)
    assert checkpoint(TINY).parts["dit"].paths[0].is_relative_to(folder)
    assert inspect(tmp_path).parts, "the whole cache can be looked through, too"


def test_folders_are_searched_as_deep_as_comfyui_nests_them(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path / "models")
    nested = folder / "diffusion_models/WanVideo/2.1"
    nested.mkdir(parents=True)
    (folder / "diffusion_models/a.safetensors").rename(nested / "a.safetensors")
    assert checkpoint(TINY, tmp_path).parts["dit"].paths == [nested / "a.safetensors"]


@pytest.mark.parametrize(
    "name", ["Wan-AI/Wan2.1-T2V-1.3B", "wan-ai/wan2.1-t2v-1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]
)
def test_a_repository_as_a_model_names_its_model(name: str) -> None:
    with pytest.raises(RequestError, match=r"nearest valid value: t2v-1\.3b"):
        model(name)


def test_a_token_does_not_go_over_plain_http(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="clear text"):
        pull(T2V, tmp_path, endpoint="http://mirror.example", token="hf_secret")
    assert not any(tmp_path.iterdir())

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import c2pa
import pytest
from PIL import Image

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.seal import (
    Input,
    Provenance,
    Sealed,
    credentials,
    digest,
    identity,
    manifest,
    new_identity,
    seal,
    verify,
)
from tests.seal.conftest import NEGATIVE, PROMPT, frames, provenance


def plainly_read(path: Path) -> tuple[str, dict[str, Any]]:
    """What a reader that knows nothing of Lichtspiel sees: the validation state and the active manifest."""
    with c2pa.Reader(str(path)) as reader:
        store = json.loads(reader.json())
    return store["validation_state"], store["manifests"][store["active_manifest"]]


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    Image.new("RGB", (64, 48), colour).save(path)
    return path


def signed_picture(folder: Path, *, altered: bool = False) -> Path:
    """A picture with credentials of its own, by a stranger."""
    stranger = new_identity()
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, stranger.chain.encode(), stranger.key.encode(), None)
    action = {"action": "c2pa.created", "digitalSourceType": credentials.SOURCE_TYPES + "digitalCapture"}
    manifest = {
        "claim_generator_info": [{"name": "Camera", "version": "1"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    plain, signed = picture(folder / "plain.png"), folder / "signed.png"
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    with context, c2pa.Builder(manifest, context) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign_file(str(plain), str(signed), signer)
    if altered:
        content = bytearray(signed.read_bytes())
        content[content.rindex(b"IDAT") + 20] ^= 1
        signed.write_bytes(content)
    return signed


def test_any_reader_validates_it(sealed: Sealed) -> None:
    state, manifest = plainly_read(sealed.path)
    assert state == "Valid"
    assert manifest["label"] == sealed.manifest
    assert manifest["claim_generator_info"][0]["name"] == "Lichtspiel"
    assert manifest["signature_info"]["common_name"] == sealed.signer
    action, bound = manifest["assertions"][0]["data"]["actions"]
    assert bound["action"] == "c2pa.watermarked.bound"
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"] == {"name": "nano", "version": "0.1.0"}
    assert "thumbnail" not in json.dumps(manifest)


def test_the_record_is_the_effective_request(tmp_path: Path) -> None:
    created = datetime(2026, 8, 2, 12, 30, tzinfo=UTC)
    parameters = {
        "seed": 2**63 + 5, "size": [64, 48], "guidance": 3.0, "shift": 0.1, "list": [1.0, 2.5], "none": None,
        "lora": [{"name": "snow", "scale": 0.5}], "empty": [], "text": "日落", "negative scale": -1,
    }  # fmt: skip
    said = provenance(parameters=parameters, created=created, source_type="algorithmicMedia")
    seal(frames(1), said, tmp_path / "fox.mp4", fps=8)
    report = verify(tmp_path / "fox.mp4")
    assert report.credentials.generation is not None
    assert report.credentials.generation["parameters"] == parameters
    assert report.credentials.generation["software"] == {"name": "Lichtspiel", "version": "0.1.0"}
    assert (report.credentials.id, report.credentials.model, report.credentials.software) == (
        said.id,
        "nano",
        "Lichtspiel 0.1.0",
    )
    assert (report.credentials.created, report.credentials.source_type) == ("2026-08-02T12:30:00Z", "algorithmicMedia")


def test_the_texts_are_not_published_unless_asked(sealed: Sealed, tmp_path: Path) -> None:
    content = sealed.path.read_bytes()
    assert PROMPT.encode() not in content
    assert NEGATIVE.encode() not in content
    open_one = seal(frames(1), provenance(embed_prompt=True), tmp_path / "open.mp4", fps=8)
    assert PROMPT.encode() in open_one.path.read_bytes()
    for path, text in ((sealed.path, None), (open_one.path, PROMPT)):
        report = verify(path)
        assert report.credentials.generation is not None
        assert report.credentials.id is not None
        assert report.credentials.generation["prompt"].get("text") == text
        assert report.credentials.generation["prompt"]["digest"] == digest(report.credentials.id, PROMPT)
        assert report.credentials.generation["negative"]["digest"] == digest(report.credentials.id, NEGATIVE)


def test_equal_prompts_do_not_show(sealed: Sealed) -> None:
    assert digest("one", PROMPT) != digest("other", PROMPT)
    assert PROMPT not in repr(provenance())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"prompt": "x"}}, r"belongs in Provenance\.prompt"),
        ({"parameters": {"shift": float("nan")}}, "cannot be recorded"),
        ({"parameters": {"path": Path("x")}}, "cannot be recorded"),
        ({"parameters": {"long": "x" * 70_000}}, "at most 65536"),
        ({"prompt": "half a letter: \ud83d"}, "no Unicode text"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_the_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        provenance(**changes)


def with_inputs(folder: Path, *inputs: Input) -> Provenance:
    said = provenance(inputs=inputs)
    seal(frames(1), said, folder / "fox.mp4", fps=8)
    return said


def test_inputs_are_named_by_role_and_digest(tmp_path: Path) -> None:
    first = Input.of(picture(tmp_path / "holiday at home.png"), "first-frame")
    last = Input.of(signed_picture(tmp_path), "last-frame")
    said = with_inputs(tmp_path, first, last)
    report = verify(tmp_path / "fox.mp4")
    assert [(it.role, it.relationship, it.state) for it in report.credentials.ingredients] == [
        ("first-frame", "inputTo", "none"),
        ("last-frame", "inputTo", "intact"),
    ]
    assert report.credentials.generation is not None
    assert report.credentials.generation["inputs"][0] == {
        "role": "first-frame",
        "digest": digest(said.id, first.sha256),
    }
    assert b"holiday" not in (tmp_path / "fox.mp4").read_bytes()
    state, manifest = plainly_read(tmp_path / "fox.mp4")
    assert state == "Valid"
    assert len(manifest["assertions"][0]["data"]["actions"][0]["parameters"]["ingredients"]) == 2


def test_a_tampered_input_is_shown(tmp_path: Path) -> None:
    with_inputs(tmp_path, Input.of(signed_picture(tmp_path, altered=True), "first-frame"))
    report = verify(tmp_path / "fox.mp4")
    assert report.credentials.state == "trusted"
    assert report.credentials.ingredients[0].state == "tampered"
    assert "changed after it was signed: first-frame" in report.verdict


def test_a_video_can_be_an_input(sealed: Sealed, tmp_path: Path) -> None:
    with_inputs(tmp_path, Input.of(sealed.path, "video"))
    assert [(it.role, it.state) for it in verify(tmp_path / "fox.mp4").credentials.ingredients] == [("video", "intact")]


def test_an_input_that_is_lost_or_changed_does_not_cost_the_result(tmp_path: Path) -> None:
    gone, changed = (Input.of(picture(tmp_path / f"{name}.png"), name) for name in ("gone", "changed"))
    gone.path.unlink()
    picture(changed.path, (0, 0, 0))
    said = with_inputs(tmp_path, gone, changed)
    report = verify(tmp_path / "fox.mp4")
    assert report.credentials.state == "trusted"
    assert [(it.role, it.state) for it in report.credentials.ingredients] == [("gone", "none"), ("changed", "none")]
    assert report.credentials.generation is not None
    assert report.credentials.generation["inputs"][1]["digest"] == digest(said.id, changed.sha256)


def test_an_input_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.png: cannot be read: No such file"):
        Input.of(tmp_path / "nowhere.png", "first-frame")
    with pytest.raises(MediaError, match="is not a file"):
        Input.of(tmp_path, "first-frame")


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """A web address on this computer and the list of requests that it got."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/manifest.c2pa", asked
        server.shutdown()
        thread.join()


def test_nothing_is_fetched(address: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = address
    info = c2pa.C2paSignerInfo(
        c2pa.C2paSigningAlg.ES256, (stranger := new_identity()).chain.encode(), stranger.key.encode(), None
    )
    action = {"action": "c2pa.created", "digitalSourceType": credentials.SOURCE_TYPES + "digitalCapture"}
    manifest = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}
    plain, remote = picture(tmp_path / "plain.png"), tmp_path / "remote.png"
    with c2pa.Builder(manifest) as builder, c2pa.Signer.from_info(info) as signer:
        builder.set_no_embed()
        builder.set_remote_url(url)
        builder.sign_file(str(plain), str(remote), signer)
    with pytest.raises(c2pa.C2paError):  # the library's default does ask, which shows that the picture is a fair test
        c2pa.Reader(str(remote))
    assert asked
    asked.clear()
    with_inputs(tmp_path, Input.of(remote, "first-frame"))
    assert verify(tmp_path / "fox.mp4").credentials.state == "trusted"
    assert asked == []


def test_judging_needs_positive_evidence(sealed: Sealed) -> None:
    def store(*, success: list[str], failure: list[str], state: str = "Trusted") -> dict[str, Any]:
        active = {"success": [{"code": code} for code in success], "failure": [{"code": code} for code in failure]}
        return {
            "validation_state": state,
            "validation_results": {"activeManifest": active, "trustListUri": "user_anchors"},
        }

    good = ["claimSignature.validated", "assertion.bmffHash.match"]
    assert manifest._judge(store(success=good, failure=[])).ours
    assert manifest._judge(store(success=good[:1], failure=[])).state == "tampered"
    assert manifest._judge(store(success=good[1:], failure=[])).state == "tampered"
    assert manifest._judge(store(success=good, failure=["assertion.missing"])).state == "tampered"
    assert manifest._judge({}).state == "tampered"
    expired = manifest._judge(store(success=good, failure=["signingCredential.expired"], state="Invalid"))
    assert (expired.state, expired.ours) == ("intact", False)


def test_ingredients_of_older_claims_are_understood() -> None:
    signed = {"active_manifest": "urn:x"}
    assert manifest.ingredient_state(signed) == "intact"
    assert manifest.ingredient_state({**signed, "validation_status": [{"code": "signingCredential.untrusted"}]}) == (
        "intact"
    )
    assert manifest.ingredient_state({**signed, "validation_status": [{"code": "assertion.dataHash.mismatch"}]}) == (
        "tampered"
    )


def test_a_record_that_cannot_be_parsed_is_shown_as_it_is() -> None:
    entry = {"label": credentials.GENERATION, "data": {"id": "x", "parameters": "[" * 100_000}}
    assert manifest.record({"assertions": [{"label": "other"}, entry]}) == entry["data"]
    assert manifest.record({}) is None


def test_a_picture_other_than_png_has_no_credentials_that_are_read(tmp_path: Path) -> None:
    assert manifest.read(picture(tmp_path / "plain.png"), identity.anchors()).state == "none"
    with pytest.raises(MediaError, match="is no MP4 or MOV video, PNG, GIF or WebP"):
        manifest.read(picture(tmp_path / "plain.bmp"), identity.anchors())

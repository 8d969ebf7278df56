"""What a client sends becomes the same request as JSON, as a form and from the command line's words."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import Image

from lichtspiel.errors import LichtspielError, MediaError, RequestError
from lichtspiel.request import OPTIONS
from lichtspiel.serve.api.body import PROPERTIES, folder
from lichtspiel.serve.api.form import FIELDS, FILES, Submission, read_form
from lichtspiel.serve.settings import Settings
from lichtspiel.spec import MODELS
from tests.lora.files import keys, linear_layers, pairs, save
from tests.tune.clips import write_clip

VALUES: dict[str, Any] = {
    "model": "nano", "size": "128x128", "frames": 9, "seconds": 1.0, "steps": 3, "guidance": 2.5, "shift": 4.0,
    "solver": "unipc", "negative": "rain", "seed": 2**60, "dtype": "float32", "lora": ["style:0.5"],
    "lora_partial": True, "upscale": 2, "fit": "pad", "context_scale": 0.5, "consent": "Ada agreed", "prompt": "a bee",
    "metadata": {"order": "7"}, "pace": "real", "video_start": 0.5, "sound": True,
    "guidance_kind": "apg", "guidance_interval": "0.1-0.8", "guidance_gate": 0.5, "skip_layers": [1], "skip_scale": 2.0,
    "nag": 11.0, "magcache": "0.1", "vae_dtype": "bfloat16", "attention": "sdpa", "compile": "off",
    "times": [900.0, 500.0], "strength": 0.5, "window": 9, "window_overlap": 8, "riflex": True,
}  # fmt: skip


@pytest.fixture
def offered(tmp_path: Path) -> Settings:
    spec = MODELS["nano"].dit
    (tmp_path / "loras").mkdir()
    save(tmp_path / "loras" / "style.safetensors", keys("comfy", pairs(spec, linear_layers(spec))))
    return Settings(
        database=f"sqlite:///{tmp_path / 'jobs'}", storage=str(tmp_path), models=("nano", "vace-1.3b"),
        loras=tmp_path / "loras",
    )  # fmt: skip


def picture() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (32, 32), "orange").save(held, "png")
    return held.getvalue()


def asked(fields: Mapping[str, Any], settings: Settings, **files: Sequence[bytes]) -> Submission:
    uploads: dict[str, list[BinaryIO]] = {name: [io.BytesIO(one) for one in sent] for name, sent in files.items()}
    with folder() as place:
        found = read_form(fields, uploads, place, settings)
        found.inputs.check(found.request)
        return found


def text(value: Any) -> Any:
    """A value as a form sends it."""
    if isinstance(value, dict):
        return json.dumps(value)
    return (
        " ".join(map(text, value))
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def test_every_field_is_tried() -> None:
    assert {*VALUES} == {*FIELDS} == {*PROPERTIES}
    assert {*FIELDS} | {*FILES.values(), "device"} == {*OPTIONS, "consent", "metadata"}


@pytest.mark.parametrize("name", VALUES)
def test_a_field_means_the_same_as_json_and_as_a_form(name: str, offered: Settings, tmp_path: Path) -> None:
    fields = {"prompt": "a bee", "seed": 1, name: VALUES[name]}
    files = {"input_reference": [picture()]} if name == "fit" else {}
    if name == "context_scale":
        fields |= {"model": "vace-1.3b"}
        files = {"references": [picture()]}
    if name in {"pace", "video_start", "sound"}:
        fields |= {"model": "vace-1.3b", "size": "480x480", "frames": 5}
        fields |= {"pace": "real"} if name == "sound" else {}
        files = {"video": [write_clip(tmp_path / "clip.mp4").read_bytes()]}
    if name == "lora_partial":
        fields["lora"] = ["style"]
    if name == "strength":
        fields |= {"frames": 5, "steps": 8}
        files = {"video": [write_clip(tmp_path / "clip.mp4").read_bytes()]}
    fields |= {
        "skip_scale": {"skip_layers": [1]}, "nag": {"guidance": 1.0}, "window": {"frames": 17},
        "window_overlap": {"frames": 17, "window": 13}, "riflex": {"model": "vace-1.3b", "frames": 161},
    }.get(name, {})  # fmt: skip
    form = {field: text(value) for field, value in fields.items()}
    plain, sent = asked(fields, offered, **files), asked(form, offered, **files)
    files_apart = {"image", "references", "video"}
    assert plain.request.model_dump(exclude=files_apart) == sent.request.model_dump(exclude=files_apart)
    assert (plain.consent, plain.metadata) == (sent.consent, sent.metadata)
    if name in plain.request.model_dump() and name not in {"model", "size", "dtype", "fit"}:
        others = {field: value for field, value in fields.items() if field != name} | {"prompt": "x"}
        without = asked(others, offered, **({} if name == "strength" else files))  # nano takes a video for it alone
        assert getattr(sent.request, name) != getattr(without.request, name)


@pytest.mark.parametrize("name", ["image", "last_image", "video", "mask", "references"])
@pytest.mark.parametrize("value", ["/etc/passwd", 5, {}, ["/etc/passwd"]], ids=str)
def test_files_of_the_server_cannot_be_named(name: str, value: Any, offered: Settings) -> None:
    field = next(field for field, known in FILES.items() if known == name)
    with pytest.raises(RequestError, match=f"^{field}: .* send it as an upload, in the field {field}$"):
        asked({"prompt": "a bee", "model": "vace-1.3b", name: value}, offered)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "cuda"}, "^device: .*the server chooses it"),
        ({"fps": 8}, "^fps: .*the model decides it"),
        ({"sise": "64x64"}, "^sise: .*fields are prompt, .*input_reference.*; nearest valid value: size$"),
        ({"seconds": float("nan")}, "^seconds: nan .*a number above 0$"),
        ({"seconds": "soon"}, "^seconds: 'soon' .*a number above 0$"),
        ({"consent": ["Ada"]}, "^consent: .*text of at most"),
        ({"consent": "x" * 2001}, "^consent: .*text of at most"),
        ({"metadata": "order 7"}, "^metadata: .*an object of at most 16 texts"),
        ({"metadata": {"order": 7}}, "^metadata: .*an object of at most 16 texts"),
        ({"metadata": {"order": "7" * 513}}, "^metadata: .*texts up to 512"),
        ({"metadata": {str(number): "" for number in range(17)}}, "^metadata: .*at most 16"),
        ({"upscale": "3"}, "^upscale: 3 .*1, 2 or 4$"),
        ({"lora": "style:0.5:1"}, "^lora: .*this server has style"),
        ({"lora": [{"path": "style", "scale": 1}]}, "^lora: "),
        ({"lora": "../style"}, "^lora: .*this server has style"),
    ],
    ids=str,
)
def test_what_is_wrong_names_the_field(fields: dict[str, Any], message: str, offered: Settings) -> None:
    with pytest.raises(RequestError, match=message):
        asked({"prompt": "a bee", **fields}, offered)


def test_errors_about_files_name_the_clients_fields(offered: Settings) -> None:
    first = {"image_url": "data:image/png;base64," + base64.b64encode(picture()).decode()}
    assert asked({"prompt": "a bee", "input_reference": first, "last_reference": first}, offered).files.keys() == {
        "image", "last_image",
    }  # fmt: skip
    for sent, message in [
        ({"last_reference": [picture()]}, r"^last_reference: 'last_reference' .*add input_reference$"),
        ({"input_reference": [b"no picture"]}, r"^input_reference: is no picture"),
        ({"input_reference": [picture(), picture()]}, r"^input_reference: .*send one file$"),
    ]:
        with pytest.raises(LichtspielError, match=message) as caught:
            asked({"prompt": "a bee"}, offered, **sent)
        assert "lichtspiel-" not in str(caught.value)
        assert isinstance(caught.value, RequestError | MediaError)


def test_a_message_in_its_own_words_names_the_clients_fields() -> None:
    def fail() -> None:
        with folder() as place:
            text = f"{place / 'last_image.png'} is small. Pass <image> instead."
            raise RequestError("last_image", place / "last_image.png", "it is small", message=text)

    with pytest.raises(RequestError) as caught:
        fail()
    assert str(caught.value) == "last_reference is small. Pass input_reference instead."
    assert (caught.value.field, caught.value.value) == ("last_reference", "last_reference")


def test_files_in_other_fields_make_another_request(offered: Settings) -> None:
    other = picture()[:-1] + b"x"
    digests = {
        asked({"prompt": "a bee"}, offered, input_reference=[first], last_reference=[last]).digest
        for first, last in ((picture(), other), (other, picture()))
    }
    assert len(digests) == 2

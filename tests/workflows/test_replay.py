"""A video made again from what its seal, the record and given files say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lichtspiel.errors import InvalidInput, OutputError, RequestError
from lichtspiel.request import Request
from lichtspiel.seal import Marks
from lichtspiel.spec import MODELS
from lichtspiel.workflows import replay
from lichtspiel.workflows.generate import Observer, generate
from lichtspiel.workflows.latents import read_latents
from lichtspiel.workflows.replay import original_of
from lichtspiel.workflows.terms import Terms
from tests.lora.files import keys, linear_layers, pairs, save


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    spec = MODELS["nano"].dit
    return save(tmp_path / "style.safetensors", keys("comfy", pairs(spec, linear_layers(spec))))


SMALLEST = {"frames": 1, "steps": 1, "guidance": 1}


def request(**fields: object) -> Request:
    return Request.of(**{"prompt": "a turtle", "negative": "night", "seed": 3, "steps": 2, "frames": 5, **fields})


def request_of(video: Path, **more: Any) -> Request:
    return original_of(video, **more).request


def effective(asked: Request) -> dict[str, object]:
    return asked.model_dump(exclude={"device", "dtype"})


def test_the_same_again(random_nano: Path, tmp_path: Path, picture: Path, lora: Path) -> None:
    asked = request(image=picture, lora=[f"{lora}:0.5"], shift=2.0, solver="unipc", dtype="float32")
    first = generate(asked, tmp_path / "a.mp4", weights=random_nano)
    again = request_of(tmp_path / "a.mp4", inputs=[lora, picture])
    assert effective(again) == effective(asked)
    assert (again.device, again.dtype) == ("cpu", "float32")
    second = generate(again, tmp_path / "b.mp4", weights=random_nano)
    assert torch.equal(read_latents(first.latents)[0], read_latents(second.latents)[0])


@pytest.mark.parametrize(("fastest", "other"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_it_is_made_in_the_precision_that_the_file_names(
    random_nano: Path, tmp_path: Path, processor: Callable[[str], None], fastest: str, other: str
) -> None:
    out = tmp_path / "a.mp4"
    processor(fastest)
    first = generate(request(**SMALLEST), out, weights=random_nano)
    processor(other)
    assert [request_of(out, device=device).dtype for device in (None, "cpu", "auto")] == [fastest] * 3
    assert request_of(out, dtype="auto").dtype == "auto"
    second = generate(request_of(out), tmp_path / "b.mp4", weights=random_nano)
    assert torch.equal(read_latents(first.latents)[0], read_latents(second.latents)[0])
    with pytest.raises(RequestError, match="dtype"):
        request_of(out, dtype="float8")


def test_what_this_machine_cannot_do_is_said_with_the_remedy(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.mp4"
    generate(request(**SMALLEST, device="cpu", dtype="int8"), out, weights=random_nano)
    assert request_of(out).dtype == "int8"
    with pytest.raises(InvalidInput, match=r"a\.mp4.* in int8 on cuda:9.*this machine has.*add --device "):
        request_of(out, device="cuda:9")
    monkeypatch.setattr(replay, "choose_device", torch.device)
    with pytest.raises(InvalidInput, match=r"in int8 on cuda.*on processors only.*add --dtype bfloat16"):
        request_of(out, device="cuda")
    assert request_of(out, device="cuda", dtype="bfloat16").dtype == "bfloat16"


def test_what_is_missing_is_asked_for(random_nano: Path, tmp_path: Path, picture: Path) -> None:
    out = tmp_path / "a.mp4"
    generate(request(image=picture, **SMALLEST), out, weights=random_nano, terms=Terms(record_prompt=False))
    with pytest.raises(InvalidInput, match=r"its prompt is not known here.*--prompt"):
        request_of(out, inputs=[picture])
    with pytest.raises(InvalidInput, match="exact words"):
        request_of(out, prompt="a taxi", inputs=[picture])
    with pytest.raises(InvalidInput, match=r"first-frame.*--input"):
        request_of(out, prompt="a turtle", negative="night")
    assert request_of(out, prompt="a turtle", negative="night", inputs=[picture], device="cpu").seed == 3


def test_a_file_that_is_not_ours_cannot_be_replayed(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(InvalidInput, match="neither a seal nor this machine's record"):
        request_of(picture)


def test_the_record_alone_suffices(random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A re-encoded copy has lost its credentials; a large picture still carries the watermark.
    from lichtspiel.seal import verify

    out = tmp_path / "a.mp4"
    generate(request(**SMALLEST), out, weights=random_nano)
    report = verify(out)
    bare = type(report)(**{**report.__dict__, "credentials": type(report.credentials)(state="none")})
    monkeypatch.setattr(replay, "verify", lambda path: bare)
    assert effective(request_of(out)) == effective(request(**SMALLEST))


def test_a_video_without_marks_is_known_to_the_record_alone(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.mp4"
    generate(request(**SMALLEST), out, weights=random_nano, terms=Terms(marks=Marks.none("a test")))
    assert effective(request_of(out)) == effective(request(**SMALLEST))
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "another"))
    with pytest.raises(InvalidInput, match="neither a seal"):
        request_of(out)


def test_a_replay_says_whether_it_is_the_same(random_nano: Path, tmp_path: Path) -> None:
    asked = request(**SMALLEST, dtype="float32")
    generate(asked, tmp_path / "a.mp4", weights=random_nano)
    original = original_of(tmp_path / "a.mp4")
    assert replay.replay(original, tmp_path / "b.mp4", weights=random_nano)[1].same is True
    tuned = tmp_path / "tuned"
    shutil.copytree(random_nano, tuned)
    weights = load_file(tuned / "dit.safetensors")
    save_file({name: value * 1.7 for name, value in weights.items()}, tuned / "dit.safetensors")
    notes: list[str] = []
    _, compared = replay.replay(original, tmp_path / "c.mp4", weights=tuned, observer=Observer(note=notes.append))
    assert compared.same is False
    assert "other weights (diffusion transformer)" in compared.text
    assert any("made with other weights (diffusion transformer)" in note for note in notes)
    with pytest.raises(OutputError, match="is the video to replay"):
        replay.replay(original, tmp_path / "a.mp4", weights=random_nano)

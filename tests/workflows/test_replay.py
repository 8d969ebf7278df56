"""A video made again from what its seal, the record and given files say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lichtspiel.errors import InvalidInput
from lichtspiel.request import Request
from lichtspiel.seal import Marks
from lichtspiel.spec import MODELS
from lichtspiel.workflows.generate import generate
from lichtspiel.workflows.latents import read_latents
from lichtspiel.workflows.replay import request_of
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


def request(**fields: object) -> Request:
    return Request.of(**{"prompt": "a turtle", "negative": "night", "seed": 3, "steps": 2, "frames": 5, **fields})


def effective(asked: Request) -> dict[str, object]:
    return asked.model_dump(exclude={"device", "dtype"})


def test_the_same_again(random_nano: Path, tmp_path: Path, picture: Path, lora: Path) -> None:
    asked = request(image=picture, lora=[f"{lora}:0.5"], shift=2.0, solver="unipc")
    first = generate(asked, tmp_path / "a.mp4", weights=random_nano)
    again = request_of(tmp_path / "a.mp4", inputs=[lora, picture])
    assert effective(again) == effective(asked)
    assert (again.device, again.dtype) == ("cpu", "float32")
    second = generate(again, tmp_path / "b.mp4", weights=random_nano)
    assert torch.equal(read_latents(first.latents)[0], read_latents(second.latents)[0])


def test_what_is_missing_is_asked_for(random_nano: Path, tmp_path: Path, picture: Path) -> None:
    out = tmp_path / "a.mp4"
    generate(request(image=picture), out, weights=random_nano, terms=Terms(record_prompt=False))
    with pytest.raises(InvalidInput, match=r"its prompt is not known here.*--prompt"):
        request_of(out, inputs=[picture])
    with pytest.raises(InvalidInput, match="not the one"):
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
    from lichtspiel.workflows import replay

    out = tmp_path / "a.mp4"
    generate(request(), out, weights=random_nano)
    report = verify(out)
    bare = type(report)(**{**report.__dict__, "credentials": type(report.credentials)(state="none")})
    monkeypatch.setattr(replay, "verify", lambda path: bare)
    assert effective(request_of(out)) == effective(request())


def test_a_video_without_marks_has_nothing_to_go_by(random_nano: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    generate(request(), out, weights=random_nano, terms=Terms(marks=Marks.none("a test")))
    with pytest.raises(InvalidInput, match="neither a seal"):
        request_of(out)

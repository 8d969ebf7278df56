"""`tune lora` and `tune full` as they are typed: from a folder of clips to a file that `generate` takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lichtspiel.cli import app
from lichtspiel.errors import InvalidInput
from lichtspiel.lora import read_lora
from lichtspiel.spec import MODELS
from lichtspiel.toybox.knowledge import LEARNED
from lichtspiel.tune.dataset import Bucket
from lichtspiel.tune.placement import placed
from lichtspiel.tune.settings import RunOptions
from lichtspiel.weights.checkpoint import checkpoint
from lichtspiel.workflows.toybox_clips import export_clips
from tests.tune.caches import SHORT

NANO = MODELS["nano"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    export_clips(
        folder, count=2, seed=5, size="64x64", frames=5, progress=lambda stage, done: None,
        world=replace(LEARNED["nano"], subjects=("ladybug",)),
    )  # fmt: skip
    return folder


def typed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    app([*map(str, words), "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def test_clips_become_a_lora_and_whole_weights(
    clips: Path, shortened: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "samples.txt").write_text("a ladybug", encoding="utf-8")
    (tmp_path / "keep.txt").write_text("a turtle", encoding="utf-8")
    shared = ("--weights", shortened, "--frames", "5", "--steps", "2", "--dtype", "float32", "--consent", "drawings")
    words = ("--rank", "2", "--trigger", "Tropo", "--hold-out", "1", "--keep", tmp_path / "keep.txt",
             "--samples", tmp_path / "samples.txt", "--sample-every", "2")  # fmt: skip
    said = typed(capsys, "tune", "lora", clips, "-o", tmp_path / "lora", *shared, *words)
    assert said["steps"] == 2
    assert said["validation"] is not None
    lora = read_lora(Path(said["files"][0]))
    assert lora.fits() == ("nano",)
    assert lora.metadata["trigger_words"] == "Tropo"
    assert (tmp_path / "lora" / "samples" / "step-000002-01.mp4").is_file()
    more = typed(capsys, "tune", "lora", clips, "-o", tmp_path / "more", *shared, "--trigger", "Tropo", "--rank", "2",
                 "--learning-rate", "1e-12", "--from", said["files"][0])  # fmt: skip
    again = read_lora(Path(more["files"][0]))
    assert json.loads(again.metadata["lichtspiel.options"])["start"]
    for name, delta in lora.layers.items():
        up, begun = delta.up, again.layers[name].up
        assert up is not None
        assert begun is not None
        assert float(up.abs().max()) > 0
        assert torch.allclose(up, begun, atol=1e-9)
    said = typed(capsys, "tune", "full", clips, "-o", tmp_path / "full", *shared, "--to", "diffusers")
    assert json.loads((tmp_path / "full" / "weights" / "config.json").read_text())["num_layers"] == SHORT.dit.layers
    assert checkpoint(SHORT, tmp_path / "full" / "weights").model.dit == SHORT.dit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--keep-weight", "2"), "--keep-weight would have no effect without --keep"),
        (("--samples", "x.txt"), "--samples needs --sample-every"),
        (("--sample-every", "5"), "--sample-every needs --samples"),
        (("--optimizer", "sgd"), "--optimizer sgd is not valid"),
        (("--times", "cosine"), "--times cosine is not valid"),
        (("--to", "peft"), "--to peft is not valid"),
        (("--layers", "*.attn.q"), "matches no linear layer"),
        (("--steps", "0"), "--steps 0 is not valid"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    words: tuple[str, ...], message: str, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        app(["tune", "lora", str(clips), "-o", str(tmp_path / "run"), *words], standalone_mode=False)
    assert not (tmp_path / "run").exists()


def test_the_form_of_the_model_follows_from_the_memory() -> None:
    bucket, options = Bucket(width=128, height=128, frames=5), RunOptions()
    found = placed(NANO, [bucket], options, 400_000_000_000, automatic=True)
    assert (found.base, found.checkpointing, found.refusal) == ("resident", False, None)
    refused = placed(NANO, [bucket], options, 10_000_000, automatic=True)
    assert refused.refusal is not None
    assert "128x128x5" in refused.refusal
    small = placed(NANO, [bucket], replace(options, base="streamed"), found.peak, automatic=False)
    assert (small.base, small.refusal) == ("streamed", None)
    assert small.peak < found.peak

"""The recipe from nothing to files that generation loads, and on from those files; on a small variant of its own."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from lichtspiel.errors import InvalidInput
from lichtspiel.models.dit import DiT
from lichtspiel.train.data import Shape
from lichtspiel.train.nano import clips, export, judge, score, stages
from lichtspiel.train.nano.export import load_exported
from lichtspiel.train.nano.stages import captions_of
from lichtspiel.train.nano.variants import LARGE, STANDARD, VARIANTS, Variant, variant_of
from lichtspiel.train.speed import Speed, ceiling
from lichtspiel.train.text import vocabulary
from lichtspiel.weights.checkpoint import checkpoint

RECIPE = Path(__file__).parents[3] / "recipes" / "nano.py"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Variant:
    """An variant that trains in seconds."""
    monkeypatch.setattr(clips, "SHARE", 80)
    monkeypatch.setattr(stages, "CAPTION_SEEDS", range(40))
    monkeypatch.setattr(stages, "HELD_OUT_CLIPS", range(10_000_000, 10_000_004))
    monkeypatch.setattr(export, "FILE_BYTES", 60_000)
    monkeypatch.setattr(score, "TRAINING_SEEDS", range(30_000_000, 30_000_008))
    monkeypatch.setattr(score, "TEST_SEEDS", range(29_000_000, 29_000_006))
    monkeypatch.setattr(score, "RELIABLE", 0.0)
    monkeypatch.setattr(judge, "RELIABLE", 0.0)
    world = replace(STANDARD.world, subjects=("taxi", "turtle"), places=("road", "meadow"))
    dit = replace(STANDARD.model.dit, width=64, ffn_width=128, heads=2, layers=2, text_width=32)
    umt5 = replace(
        STANDARD.model.umt5, vocabulary=len(vocabulary(captions_of(world, short=True))), width=32, attention_width=32,
        ffn_width=64, heads=2, layers=1,
    )  # fmt: skip
    sampling = replace(STANDARD.model.sampling, steps=2, guidance=1.0, sizes=((32, 32),))
    model = replace(
        STANDARD.model,
        sampling=sampling,
        dit=dit,
        umt5=umt5,
        vae=replace(STANDARD.model.vae, width=4),
        digests={},
        repository="t",
    )
    made = replace(
        STANDARD, name="tiny", model=model, world=world, shape=Shape(width=32, height=32, frames=9), clips=80, crop=16,
        vae_frames=(5,), batch=2, teacher=replace(STANDARD.teacher, steps=4), short=0.5,
        text_steps=0,
    )  # fmt: skip
    monkeypatch.setitem(VARIANTS, "tiny", made)
    return made


def run_recipe(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["nano.py", *words])
    runpy.run_path(str(RECIPE), run_name="__main__")


def test_from_nothing_to_weights_and_on_from_them(
    tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("av", "c2pa", "cryptography", "gguf", "pydantic", "typer", "rich", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)  # a bare machine has none of them
    first, second = tmp_path / "first", tmp_path / "second"
    run_recipe(monkeypatch, "--run", str(first), "--variant", "tiny", "--steps", "2", "--count", "2")
    printed = capsys.readouterr().out
    assert "weights/dit-00001-of-" in printed
    assert all(f"| {row}" in printed for row in ("subject", "all right", "motion", "first frame"))
    assert (first / "quality.md").read_text() in printed
    assert cv2.imread(str(first / "quality.png")) is not None
    assert variant_of(first) is tiny
    loaded = checkpoint(replace(tiny.model, files=STANDARD.model.files), first / "weights")
    dit = loaded.dit(torch.float32, torch.device("cpu"))
    assert isinstance(dit, DiT)
    averages = torch.load(first / "distil" / "checkpoint.pt", weights_only=True)["averages"]["dit"]
    assert all(torch.equal(value.float(), averages[name].half().float()) for name, value in dit.state_dict().items())
    said = [json.loads(line) for line in (first / "dit" / "log.jsonl").read_text().splitlines()]
    assert said[0]["samples/s"] > 0
    assert 0 < said[0]["of ceiling"] < 2

    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compiled.append(type(block).__name__))
    start = ("--start", str(first / "weights"))
    run_recipe(
        monkeypatch, "--run", str(second), "--variant", "tiny", "--steps", "1", "--count", "0", "--compile", *start
    )
    assert compiled == ["Block"] * tiny.model.dit.layers
    begun = torch.load(second / "vae" / "checkpoint.pt", weights_only=True)["averages"]["vae"]
    before = load_exported(first / "weights", "vae")["vae"]
    apart = {name: float((begun[name] - value).abs().max()) for name, value in before.items()}
    assert max(apart.values()) < 0.05  # one small step from there, where random weights would be far away
    # Its budget is spent, so nothing is trained; now the teacher's weights are written
    run_recipe(monkeypatch, "--run", str(first), "--steps", "2", "--count", "1", "--teacher")
    taught = torch.load(first / "dit" / "checkpoint.pt", weights_only=True)
    assert taught["step"] == 2
    for name, value in load_exported(first / "weights", "dit")["dit"].items():
        assert torch.equal(value, taught["averages"]["dit"][name].half().float())


def test_a_run_keeps_its_variant(tiny: Variant, tmp_path: Path) -> None:
    assert variant_of(tmp_path / "absent") is STANDARD
    assert not (tmp_path / "absent").exists()
    assert variant_of(tmp_path, "tiny") is tiny
    assert variant_of(tmp_path) is tiny
    with pytest.raises(InvalidInput, match="of the tiny variant, not the large"):
        variant_of(tmp_path, "large")
    (tmp_path / "other").mkdir()
    with pytest.raises(InvalidInput, match="choose standard or large"):
        variant_of(tmp_path / "other", "huge")


def test_weights_of_another_variant_are_refused(tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = Path(stages.__file__).parents[2] / "nano"
    words = ("--run", str(tmp_path / "run"), "--variant", "tiny", "--steps", "1", "--start")
    with pytest.raises(InvalidInput, match="another variant"):
        run_recipe(monkeypatch, *words, str(embedded))
    with pytest.raises(InvalidInput, match="holds no vae"):
        run_recipe(monkeypatch, *words, str(tmp_path))


@pytest.mark.parametrize("variant", [STANDARD, LARGE], ids=lambda variant: variant.name)
def test_variants_fit_their_worlds(variant: Variant) -> None:
    assert len(vocabulary(captions_of(variant.world, short=variant.short > 0))) == variant.model.umt5.vocabulary
    assert variant.model.dit.text_width == variant.model.umt5.width
    assert (variant.shape.width, variant.shape.height) in variant.model.sampling.sizes
    assert variant.vae_frames[-1] == variant.shape.frames


def test_speed_counts_since_the_last_reading() -> None:
    speed = Speed(1_000_000, "cpu")
    speed.ceiling = 1e12
    speed.began -= 2  # two seconds ago
    speed.add(8, 500)
    said = speed.read()
    assert said["samples/s"] == pytest.approx(4, rel=0.2)
    assert said["Gop/s"] == pytest.approx(1.5, rel=0.2)
    assert said["of ceiling"] == pytest.approx(1.5e-3, rel=0.2)
    assert speed.read()["samples/s"] == 0
    assert ceiling("cpu", side=64, repeats=2) > 0

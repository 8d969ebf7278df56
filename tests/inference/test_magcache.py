"""MagCache: the skips of the published code on its curves, bits when nothing is skipped, and how a curve is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lichtspiel.errors import RequestError
from lichtspiel.inference import magcache
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.magcache import Curve, MagCache, Recorder, curve_for, parse, reusing
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.models.dit import Context, DiT, Stream
from lichtspiel.request import Request
from lichtspiel.workflows.calibrate import calibrate


def official_skips(curve: Curve, steps: int) -> list[bool]:
    """Which evaluations `magcache_forward` of the official code skips, written as it is there: one list for both
    branches, counters by parity."""
    both = [ratio for pair in zip(*curve.ratios(steps), strict=True) for ratio in pair]
    ratio, error, reused, skips = [1.0, 1.0], [0.0, 0.0], [0, 0], []
    for count in range(2 * steps):
        skip, branch = False, count % 2
        if count >= int(2 * steps * curve.keep):
            ratio[branch] *= both[count]
            reused[branch] += 1
            error[branch] += abs(1 - ratio[branch])
            if error[branch] < curve.threshold and reused[branch] <= curve.longest:
                skip = True
            else:
                ratio[branch], reused[branch], error[branch] = 1.0, 0, 0.0
        skips.append(skip)
    return skips


@pytest.mark.parametrize("name", ["t2v-1.3b", "t2v-14b", "i2v-14b-480p", "i2v-14b-720p", "vace-1.3b", "vace-14b"])
@pytest.mark.parametrize("steps", [20, 50])
def test_the_published_settings_skip_what_the_official_code_skips(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = parse("auto", name, "")
    assert curve is not None
    monkeypatch.setattr(magcache, "run_blocks", lambda dit, stream: None)
    cache, skips = MagCache(curve, steps), []
    contexts = [Context(torch.zeros(1, 2, 4), 1, None) for _ in range(2)]
    for step in range(steps):
        cache.step = step
        for context in contexts:
            before = cache.spared
            cache(None, Stream(torch.zeros(1, 2, 4), torch.zeros(1), context, torch.zeros(1), None, 1.0))  # type: ignore[arg-type]
            skips.append(cache.spared > before)
    assert skips == official_skips(curve, steps)
    assert any(skips)


@pytest.fixture
def pipeline(random_nano: Path) -> Pipeline:
    return load(asked(), random_nano)


def asked(**options: object) -> Request:
    chosen = {"frames": 5, "steps": 6, "seed": 3, "device": "cpu", "dtype": "float32", "negative": "beach"}
    return Request.of(prompt="a turtle walks at night", **chosen | options)  # type: ignore[arg-type]


def latents(pipeline: Pipeline, request: Request, recorder: Recorder | None = None) -> Tensor:
    *_, last = pipeline.denoise(pipeline.encode(request), request, recorder=recorder)
    return last.latents


def test_a_measured_curve_spares_evaluations_and_threshold_zero_none(pipeline: Pipeline, random_nano: Path) -> None:
    with pytest.raises(RequestError, match="lichtspiel calibrate"):
        latents(pipeline, asked(magcache="auto"))
    path, curve = calibrate(asked(), weights=random_nano)
    assert len(curve.conditional) == len(curve.unconditional) == 6
    assert json.loads(path.read_text())["weights"] == pipeline.checkpoint.fingerprints()["dit"]
    exact, recorder = latents(pipeline, asked()), Recorder()
    latents(pipeline, asked(), recorder)
    assert recorder.curve("", 0.1, 2, 0.2).conditional == pytest.approx(curve.conditional, rel=1e-4)
    assert torch.equal(latents(pipeline, asked(magcache="0:4:0")), exact)
    assert pipeline.evaluations == (12, 12)
    reused = latents(pipeline, asked(magcache="0.5:2:0.2"))
    assert pipeline.evaluations[0] < pipeline.evaluations[1] == 12
    assert not torch.equal(reused, exact)
    assert torch.equal(latents(pipeline, asked()), exact)  # nothing stays attached


def test_a_curve_of_other_weights_is_not_taken(random_nano: Path) -> None:
    _, curve = calibrate(asked(), weights=random_nano)
    assert curve_for("nano", curve.weights) == curve_for("nano", curve.weights)
    assert curve_for("nano", curve.weights) is not None
    assert curve_for("nano", "0" * 32) is None


def test_models_with_the_same_weights_have_the_same_curve() -> None:
    assert curve_for("t2i-14b", "") == curve_for("t2v-14b", "")
    for name in ("t2v-1.3b", "t2v-14b", "i2v-14b-480p", "i2v-14b-720p", "vace-1.3b", "vace-14b"):
        assert curve_for(name, "") is not None
    assert curve_for("flf2v-14b", "") is None  # nobody has published one
    assert curve_for("nano", "") is None


def test_what_is_reused_is_what_the_blocks_added(random_nano: Path) -> None:
    pipeline = load(asked(), random_nano)
    dit: DiT = pipeline._dit()
    curve = Curve(1e9, 9, 0.0, (1.0, 1.0), (1.0, 1.0))
    cache = MagCache(curve, 2)
    generator = torch.Generator().manual_seed(0)
    video = torch.randn((1, dit.spec.in_channels, 2, 8, 8), generator=generator)
    text = torch.randn((1, 4, dit.spec.text_width), generator=generator)
    with torch.inference_mode(), kv_cache(dit), reusing(dit, cache):
        first = dit(video, torch.tensor([900.0]), text)
        cache.step = 1
        again = dit(video, torch.tensor([900.0]), text)
    assert cache.spared == 1
    torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-5)

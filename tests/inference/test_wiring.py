"""LoRAs, streaming, int8, remembered texts and the plan, as a request meets them on the whole road."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lichtspiel import flow
from lichtspiel.errors import OutOfMemory, RequestError, WeightsError
from lichtspiel.inference import estimate as room
from lichtspiel.inference.estimate import estimate
from lichtspiel.inference.fp8 import FP8Linear
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.request import Request
from lichtspiel.seal import verify
from lichtspiel.spec import MODELS
from lichtspiel.weights.checkpoint import Checkpoint
from lichtspiel.workflows.generate import Observer, generate
from tests.golden import relative_error
from tests.lora.files import keys, linear_layers, pairs, save


def request(**fields: object) -> Request:
    small = {"prompt": "a turtle", "seed": 3, "steps": 2, "frames": 5, "device": "cpu", "dtype": "float32"}
    return Request.of(**small | fields)


def latents(pipeline: Pipeline, asked: Request) -> torch.Tensor:
    *_, last = pipeline.denoise(pipeline.encode(asked), asked)
    return last.latents


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    spec = MODELS["nano"].dit
    return save(tmp_path / "style.safetensors", keys("kohya", pairs(spec, linear_layers(spec), alphas=(2.0,))))


@pytest.fixture
def plain(random_nano: Path) -> torch.Tensor:
    return latents(load(request(), random_nano), request())


def little(monkeypatch: pytest.MonkeyPatch, megabytes: float) -> None:
    monkeypatch.setattr(room, "free_memory", lambda device: int(megabytes * 1e6))


def test_a_lora_counts_as_strongly_as_asked(random_nano: Path, lora: Path, plain: torch.Tensor) -> None:
    made = {
        strength: latents(load(asked, random_nano), asked)
        for strength in (0, 0.5, 1)
        if (asked := request(lora=[f"{lora}:{strength}"]))
    }
    assert relative_error(made[0], plain) < 1e-5
    assert 1e-3 < relative_error(made[0.5], plain) < relative_error(made[1], plain)


def test_a_lora_unmerged_equals_a_merged_one(random_nano: Path, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(lora=[f"{lora}:0.8", str(lora)])
    merged = latents(load(asked, random_nano), asked)
    little(monkeypatch, 14)
    streamed = load(asked, random_nano)
    assert streamed.plan.stage("dit").streamed
    assert relative_error(latents(streamed, asked), merged) < 1e-4


def test_a_lora_of_another_size_is_refused_before_anything_loads(
    random_nano: Path, tmp_path: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = MODELS["t2v-1.3b"].dit
    layers = ["blocks.0.self_attn.q", "blocks.0.self_attn.k"]
    large = save(tmp_path / "large.safetensors", keys("comfy", pairs(spec, layers)))
    monkeypatch.setattr(Checkpoint, "dit", None)
    with pytest.raises(WeightsError, match=r"large\.safetensors: matched 0/2 layers.*t2v-1\.3b"):
        load(request(lora=[str(lora), str(large)]), random_nano)
    with pytest.raises(RequestError, match="lora_partial"):
        request(lora_partial=True)


def test_a_partial_lora_is_used_only_if_allowed(random_nano: Path, tmp_path: Path, plain: torch.Tensor) -> None:
    spec = MODELS["nano"].dit
    tensors = keys("comfy", pairs(spec, ["blocks.0.self_attn.q"]))
    tensors |= {"diffusion_model.blocks.77.self_attn.q.lora_down.weight": torch.ones(4, 192)}
    tensors |= {"diffusion_model.blocks.77.self_attn.q.lora_up.weight": torch.ones(192, 4)}
    path = save(tmp_path / "half.safetensors", tensors)
    with pytest.raises(WeightsError, match="pass --lora-partial"):
        load(request(lora=[str(path)]), random_nano)
    asked = request(lora=[str(path)], lora_partial=True)
    pipeline = load(asked, random_nano)
    assert any("matched 1/2 layers" in note for note in pipeline.notes)
    assert relative_error(latents(pipeline, asked), plain) > 1e-4


@pytest.mark.parametrize(("dtype", "megabytes"), [("float32", 14), ("bfloat16", 11)])
def test_streamed_blocks_give_the_same_bits(
    random_nano: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, megabytes: int
) -> None:
    asked = request(dtype=dtype, frames=1, steps=1)
    plain = latents(load(asked, random_nano), asked)
    little(monkeypatch, megabytes)
    pipeline = load(asked, random_nano)
    assert 0 < pipeline.plan.stage("dit").streamed <= 8
    assert any("read from their file in every step" in note for note in pipeline.notes)
    assert torch.equal(latents(pipeline, asked), plain)


def test_streamed_blocks_are_in_fp8_as_those_in_memory(random_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lichtspiel.inference.device.check_fp8", lambda device: None)  # emulated on a processor
    asked = request(dtype="fp8", frames=1, steps=1)
    whole = load(asked, random_nano)
    plain = latents(whole, asked)
    little(monkeypatch, 11)
    pipeline = load(asked, random_nano)
    assert 0 < pipeline.plan.stage("dit").streamed < 8
    assert torch.equal(latents(pipeline, asked), plain)
    for one in (whole, pipeline):
        assert len(fp8_of(one._dit())) == 8 * 10  # blocks in memory and streamed ones
        assert not any("self_attn" in name or ".attn" in name for name in fp8_of(one._umt5()))
        assert fp8_of(one._umt5())
    assert plain.isfinite().all()


def fp8_of(network: nn.Module) -> list[str]:
    return [name for name, layer in network.named_modules() if isinstance(layer, FP8Linear)]


def test_int8_is_near_and_named(random_nano: Path, plain: torch.Tensor, tmp_path: Path) -> None:
    asked = request(dtype="int8")
    assert 1e-5 < relative_error(latents(load(asked, random_nano), asked), plain) < 0.1
    assert generate(asked, tmp_path / "v.mp4", weights=random_nano).to_json()["dtype"] == "int8"


def test_what_certainly_does_not_fit_is_refused(random_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little(monkeypatch, 1)
    with pytest.raises(OutOfMemory, match="smaller size"):
        load(request(), random_nano)


def test_a_text_is_encoded_once(random_nano: Path, plain: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(request(), random_nano).uncached_prompts([request(), request(prompt="a taxi")]) == ["a taxi"]
    monkeypatch.setattr(Checkpoint, "umt5", None)  # whoever calls it fails
    assert torch.equal(latents(load(request(), random_nano), request()), plain)


def test_only_what_is_needed_is_in_memory(random_nano: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded: list[set[str]] = []

    def watched(whole: Any) -> Any:
        def stage(self: Pipeline, *given: Any) -> Iterator[object]:
            for number, item in enumerate(whole(self, *given)):
                if number == 0:
                    loaded.append({*self.loaded})
                yield item

        return stage

    monkeypatch.setattr(Pipeline, "decode", watched(Pipeline.decode))
    monkeypatch.setattr(Pipeline, "denoise", watched(Pipeline.denoise))
    little(monkeypatch, 30)
    assert not load(request(), random_nano).plan.keep_dit_resident
    generate(request(), tmp_path / "tight.mp4", weights=random_nano)
    assert loaded == [{"dit"}, {"vae"}]
    little(monkeypatch, 1000)
    generate(request(seed=4), tmp_path / "roomy.mp4", weights=random_nano)
    assert loaded[2:] == [{"dit"}, {"dit", "vae"}]


def test_the_road_works_without_a_file(random_nano: Path) -> None:
    asked = request()
    pipeline = load(asked, random_nano)
    conditions = pipeline.encode(asked)
    *_, last = pipeline.denoise(conditions, asked)
    frames = list(pipeline.decode(last.latents))
    assert [frame.shape for frame in frames] == [(128, 128, 3)] * 5
    timings = pipeline.clock.timings()
    assert all(timings[stage] > 0 for stage in ("load", "encode", "denoise", "decode"))
    assert sum(timings.values()) == pytest.approx(2 * timings["total"])


def test_a_pipeline_serves_requests_like_its_own(random_nano: Path, lora: Path) -> None:
    pipeline = load(request(), random_nano)
    assert pipeline.serves(request(prompt="a taxi", seed=9, steps=7))
    assert not pipeline.serves(request(frames=17))
    assert not pipeline.serves(request(dtype="int8"))
    assert not pipeline.serves(request(lora=[str(lora)]))


def test_a_lora_is_in_the_seal_by_digest_and_strength(random_nano: Path, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.mp4"
    notes: list[str] = []
    result = generate(request(lora=[f"{lora}:0.5"]), out, weights=random_nano, observer=Observer(note=notes.append))
    assert notes == result.notes
    assert any(note.startswith("style.safetensors: matched 80/80 layers") for note in notes), notes
    said = verify(out).credentials
    assert said.generation is not None
    assert said.generation["parameters"]["lora"] == [0.5]
    assert [given["role"] for given in said.generation["inputs"]] == ["lora-1"]
    assert "style" not in str(said.generation)


def test_a_lack_of_memory_while_working_names_the_remedy(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(flow, "sample", full)
    with pytest.raises(OutOfMemory, match=r"denoising needs more memory.*lichtspiel plan"):
        generate(request(), tmp_path / "v.mp4", weights=random_nano)


@pytest.mark.parametrize("dtype", ["auto", "int8", "bfloat16"])
def test_a_plan_for_less_memory_streams_more(dtype: str) -> None:
    rows = [
        estimate(MODELS["t2v-14b"], (832, 480), 81, device="cpu", dtype=dtype, gigabytes=gigabytes, weights=None).stage(
            "dit"
        )
        for gigabytes in (12, 24, 80)
    ]
    assert rows[0].streamed > rows[1].streamed >= rows[2].streamed == 0
    assert all(row.peak < gigabytes * 1e9 for row, gigabytes in zip(rows, (12, 24, 80), strict=True))
    assert rows[0].seconds is not None


THIRTY = """
import sys
from pathlib import Path
from lichtspiel import Request, generate

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096

for number in range(1, 31):
    request = Request.of(prompt="a turtle", seed=number, steps=1, frames=1, guidance=1, upscale=1)
    generate(request, Path(sys.argv[2]), weights=Path(sys.argv[1]))
    if number in (5, 30):
        print(resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's account of memory")
def test_thirty_generations_take_no_more_memory_than_five(random_nano: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THIRTY, str(random_nano), str(tmp_path / "v.mp4")],
        capture_output=True,
        text=True,
        check=True,
    )
    early, late = map(int, done.stdout.split())
    assert late < 1.02 * early, f"{early / 1e6:.0f} MB after the fifth, {late / 1e6:.0f} MB after the last"

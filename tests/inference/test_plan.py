"""The plan against what the published models are known to need, and against memory that networks really took."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lichtspiel import host
from lichtspiel.errors import RequestError
from lichtspiel.host import computing_dtype, free_memory, measure_rate, peak_memory
from lichtspiel.inference.cards import card
from lichtspiel.inference.estimate import estimate
from lichtspiel.inference.plan import Plan, plan
from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS

GB = 10**9


def planned(name: str, free: int | None, dtype: torch.dtype = torch.float32, **changes: object) -> Plan:
    given = {"size": (832, 480), "frames": 81, "device": "cpu", "dtype": dtype, "free_bytes": free} | changes
    return plan(MODELS[name], **given)  # type: ignore[arg-type]


def test_small_machine_streams_the_large_model() -> None:
    small = planned("t2v-14b", 16 * GB)
    dit = small.stage("dit")
    assert (dit.blocks, dit.resident) == (40, dit.resident)
    assert 0 <= dit.resident < 10
    assert small.refusal is None
    assert any("read from their file" in warning for warning in small.warnings)
    assert planned("t2v-14b", 200 * GB).stage("dit").streamed == 0


def test_streamed_and_resident_blocks_fit_into_what_is_free() -> None:
    for free in range(8, 80, 8):
        stage = planned("t2v-14b", free * GB).stage("dit")
        assert stage.resident == 0 or stage.peak <= free * GB


def test_the_text_encoder_of_the_published_models_takes_two_blocks() -> None:
    stage = planned("t2v-1.3b", 200 * GB).stage("umt5")
    assert (stage.resident, stage.streamed) == (0, 24)
    assert stage.peak < 2 * GB
    assert stage.file_bytes == 2 * 5_680_910_336
    assert planned("nano", 200 * GB, size=(64, 64), frames=17).stage("umt5").streamed == 0


def test_a_card_that_is_not_here() -> None:
    asked: dict[str, Any] = {"device": "auto", "dtype": "auto"}
    made = estimate(MODELS["t2v-1.3b"], (832, 480), 81, **asked, card=card("NVIDIA GeForce RTX4090"))
    dit, decoding = made.stage("dit"), made.stages[-1]
    assert (made.device, dit.dtype, dit.streamed, made.refusal) == ("RTX 4090", "bfloat16", 0, None)
    assert 24e9 < (made.free_bytes or 0) < 25.8e9
    # The figures that were measured on an H100: 1.098 s a step, 1.75 s for 33 frames.
    there = estimate(MODELS["t2v-1.3b"], (832, 480), 81, **asked, card=card("h100"))
    assert there.stage("dit").seconds == pytest.approx(1.098, rel=0.1)
    assert there.stages[-1].seconds == pytest.approx(1.75 * 81 / 33, rel=0.1)
    assert (dit.seconds or 0) > 5 * (there.stage("dit").seconds or 0)
    assert (decoding.seconds or 0) < (there.stages[-1].seconds or 0)  # float32, in which it is faster
    assert estimate(MODELS["t2v-14b"], (832, 480), 81, **asked, card=card("L4"), gigabytes=12).free_bytes == 12 * GB
    with pytest.raises(RequestError, match=r"gpu: 'RTX 9000'.*RTX 3060, .*H200; for others give --memory"):
        card("RTX 9000")


def test_eight_bits_are_planned_for_cards_that_have_units_for_them() -> None:
    def made(name: str, dtype: str, gigabytes: float | None = None) -> Plan:
        row = MODELS["t2v-14b"]
        return estimate(row, (832, 480), 81, device="auto", dtype=dtype, card=card(name), gigabytes=gigabytes)

    for name in ("RTX 3060", "rtx 3090", "RTX A6000", "A100 80GB"):
        with pytest.raises(RequestError, match=r"dtype: .*has no units for it; nearest valid value: bfloat16"):
            made(name, "fp8")
    with pytest.raises(RequestError, match="int8 layers run on processors only"):
        made("H100", "int8")
    eight, wide = made("RTX 4090", "fp8", 12).stage("dit"), made("RTX 4090", "bfloat16", 12).stage("dit")
    assert eight.streamed < wide.streamed
    assert eight.streamed_block_bytes == wide.streamed_block_bytes / 2  # streamed blocks are in eight bits, too
    assert 0.5 < (eight.seconds or 0) / (wide.seconds or 0) < 0.9  # attention stays in 16 bit
    if not torch.cuda.is_available():
        absent = estimate(MODELS["t2v-14b"], (832, 480), 81, device="cuda", dtype="fp8", gigabytes=24)
        assert absent.stage("dit").dtype == "float8_e4m3fn"


def test_only_what_is_certain_refuses() -> None:
    tight = planned("t2v-1.3b", 3 * GB)
    assert tight.refusal is None
    assert any("may need" in warning for warning in tight.warnings)
    refused = planned("t2v-14b", GB // 4)
    assert refused.refusal is not None
    assert "one block" in refused.refusal
    assert refused.refusal in refused.table()


def test_stages_follow_from_the_model() -> None:
    assert [stage.name for stage in planned("t2v-1.3b", None).stages] == ["text", "denoise", "decode"]
    assert [stage.name for stage in planned("i2v-14b-480p", None).stages] == [
        "text", "image", "picture", "denoise", "decode",
    ]  # fmt: skip
    assert [stage.name for stage in planned("vace-1.3b", None).stages] == ["text", "picture", "denoise", "decode"]
    assert planned("vace-1.3b", None).stage("dit").blocks == 45


def test_bigger_videos_need_more_but_longer_ones_decode_in_the_same() -> None:
    short, long = planned("t2v-1.3b", None, frames=17), planned("t2v-1.3b", None, frames=81)
    assert short.stage("dit").activation_bytes < long.stage("dit").activation_bytes
    assert short.stages[-1].activation_bytes == long.stages[-1].activation_bytes
    assert planned("t2v-1.3b", None, size=(256, 256)).stages[-1].peak < short.stages[-1].peak


def test_where_memory_is_short_the_vae_takes_one_frame_at_a_time() -> None:
    large, short = planned("t2v-1.3b", 16 * GB), planned("t2v-1.3b", 6 * GB)
    assert (large.chunk_frames, short.chunk_frames) == (4, 1)
    assert short.stages[-1].peak < 6 * GB < large.stages[-1].peak
    assert "1 at a time" in short.table()
    assert json.loads(json.dumps(short.to_json()))["vae_frames"] == 1


def test_unknown_memory_is_planned_carefully_and_refuses_nothing() -> None:
    unknown, small = planned("t2v-14b", None), planned("t2v-14b", 4 * GB)
    assert unknown.refusal is None
    assert (unknown.stage("dit").streamed, unknown.chunk_frames) == (40, 1)
    assert unknown.stages == small.stages
    assert not unknown.keep_dit_resident
    assert "free memory of cpu is not known; planned for 4 GB" in unknown.table()
    assert planned("nano", None, size=(64, 64), frames=17).stage("dit").streamed == 0


def test_table_and_json_agree_and_files_and_rates_are_used() -> None:
    made = planned("t2v-1.3b", 20 * GB, rates=(1e11, 1e10), files_bytes={"dit": 12345 * 10**6})
    table, plain = made.table(), json.loads(json.dumps(made.to_json()))
    assert "12.35" in table or "12.34" in table
    assert plain["stages"][1]["file_bytes"] == 12345 * 10**6
    assert plain["stages"][1]["seconds"] == pytest.approx(made.stage("dit").flops / 1e11)
    assert "a step" in table
    assert plain["peak_bytes"] == made.peak
    assert "not known" in planned("t2v-1.3b", 20 * GB).table()
    whole = replace(made, steps=50)
    seconds = [(stage.seconds or 0) * (50 if stage.part == "dit" else 1) for stage in made.stages]
    assert whole.seconds == pytest.approx(sum(seconds))
    assert replace(whole, guided=False).seconds == pytest.approx(
        whole.seconds - 25 * made.stage("dit").seconds  # type: ignore[operator]
    )
    assert re.search(r"in all: about \d+ h \d+ min for 50 steps", whole.table())


def test_a_gpu_that_is_not_here_is_planned_for_with_its_memory() -> None:
    asked: dict[str, Any] = {"dtype": "auto", "weights": None}
    absent = "mps" if not torch.backends.mps.is_available() else "cuda:7"
    made = estimate(MODELS["t2v-14b"], (832, 480), 81, device=absent, gigabytes=80, **asked)
    assert (made.stage("dit").dtype, made.stage("dit").streamed, made.seconds) == ("bfloat16", 0, None)
    with pytest.raises(RequestError, match="this machine has"):
        estimate(MODELS["t2v-14b"], (832, 480), 81, device=absent, gigabytes=None, **asked)


def test_operations_are_those_of_the_table() -> None:
    """17 frames of 256x256: 1280 tokens; the products of 1.3B's blocks are 3.6e12 operations a velocity."""
    step = planned("t2v-1.3b", None, size=(256, 256), frames=17).stage("dit")
    assert step.flops == pytest.approx(2 * 3.7e12, rel=0.1)


@pytest.mark.parametrize(
    ("machine", "line", "expected"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512_bf16", torch.bfloat16),
        ("x86_64", "flags\t\t: fpu avx2 amx_bf16", torch.bfloat16),
        ("x86_64", "flags\t\t: fpu avx2 bf16", torch.float32),
        ("aarch64", "Features\t: fp asimd bf16", torch.bfloat16),
        ("aarch64", "Features\t: fp asimd", torch.float32),
        ("x86_64", "nothing", torch.float32),
    ],
)
def test_a_processor_computes_in_what_it_has_units_for(
    machine: str, line: str, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert host._has_bfloat16(tmp_path / "cpuinfo") == (expected == torch.bfloat16)
    assert not host._has_bfloat16(tmp_path / "none")
    monkeypatch.setattr(host, "PROCESSOR", tmp_path / "cpuinfo")
    assert computing_dtype("cpu") == expected
    assert computing_dtype("cuda") == torch.bfloat16


def test_free_memory_knows_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8_192_000))
    assert free_memory("cpu", tmp_path) == 8_192_000
    for limit, expected in (("max", 8_192_000), ("5000", 2000), ("100", 0), ("90000000", 8_192_000)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("3000\n")
        assert free_memory("cpu", tmp_path) == expected
    (tmp_path / "memory.max").write_text("5000")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1500\nactive_file 9\n")
    assert free_memory("cpu", tmp_path) == 3500, "the cache of files gives way"


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_memory_is_known_off_linux(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5 * GB))
    assert free_memory("mps", tmp_path) == free_memory("cpu", tmp_path) == 5 * GB
    peak = {"peak_wset": 7 * GB} if system == "win32" else {}
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=3 * GB, **peak))
    monkeypatch.setattr("psutil.Process", lambda: process)
    monkeypatch.setattr(sys, "platform", system)
    assert peak_memory("mps") == (7 if system == "win32" else 3) * GB


def test_what_the_system_does_not_say_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise RuntimeError

    monkeypatch.setattr("psutil.virtual_memory", refuses)
    assert free_memory("cpu", tmp_path) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this machine's own numbers")
def test_this_machine_knows_its_memory() -> None:
    assert free_memory("cpu") is not None
    assert peak_memory("cpu") > 10_000_000


def test_a_rate_is_measured() -> None:
    assert measure_rate("cpu", torch.float32, 0.01) > 1e8


def test_weights_are_counted_as_they_are() -> None:
    with torch.device("meta"):
        count = sum(value.numel() for value in DiT(MODELS["nano"].dit).parameters())
    stage = planned("nano", None, size=(64, 64), frames=17).stage("dit")
    assert stage.parameters == count
    assert stage.peak - stage.activation_bytes == pytest.approx(4 * count, rel=0.01)

"""The benchmark for GPUs runs on a processor with small networks, so that no rented GPU is spent on its faults."""

from __future__ import annotations

import re

import pytest

from benchmarks.gpu import main


def test_every_row_says_a_number_or_why_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    parts, model = "ceilings,steps,memory,magcache,vae", "i2v-14b-480p"
    words = ["--device", "cpu", "--tiny", "--size", "32x32", "--frames", "5", "--runs", "1"]
    main([*words, "--models", model, "--only", parts])
    rows = dict(re.findall(r"^\| ([^|]+) \| (.+)$", capsys.readouterr().out, re.MULTILINE))
    assert "TFLOP/s" in rows["a product of 256x256, float32"]
    assert "needs an NVIDIA GPU" in rows["a product of 256x256, fp8"]
    assert rows[f"{model}, a step, exact"].endswith("| 0.0e+00 |")
    assert difference(rows[f"{model}, a step, exact, compiled"]) < 1e-6
    assert 1e-4 < difference(rows[f"{model}, a step, fp8, compiled"]) < 0.1
    assert "flash_attn_interface" in rows[f"{model}, a step, flash3, compiled"]
    assert "1 of 3 blocks in memory" in rows["i2v-14b-480p, a step within 12 GB"]
    fp8 = difference(rows[f"{model}, a step, fp8, compiled"])
    for gigabytes in (24, 12):
        assert float(rows[f"{model}, a step within {gigabytes} GB"].split("|")[2].split(",")[0]) < 1e-6
        streamed = rows[f"{model}, a step within {gigabytes} GB, fp8"]
        assert difference(streamed) == fp8  # blocks in memory and streamed ones compute the same
        assert "1 of 3 blocks in memory" in streamed
    assert "evaluations spared" in next(row for title, row in rows.items() if "MagCache" in title)
    assert 1e-4 < difference(rows["VAE, decode 5 frames, bfloat16"]) < 0.2
    assert "fused on CUDA only" in rows["VAE, decode 5 frames, float32, fused norms"]
    assert rows["a norm and SiLU with their gradients, plain"].endswith("| 0.0e+00 |")
    assert "fused on CUDA only" in rows["a norm and SiLU with their gradients, fused"]


def test_what_would_begin_too_late_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--device", "cpu", "--tiny", "--seconds", "0", "--only", "ceilings"])
    assert capsys.readouterr().out.count("left out, the time is over") == 3


def difference(row: str) -> float:
    _, _, shown, _ = row.split("|")
    return float(shown.split(",")[0])

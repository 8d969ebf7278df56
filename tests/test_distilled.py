"""Distilled weights: known by the names people have, sampled as they were made, and told when something contradicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lichtspiel.distilled import defaults, notes, recognized
from lichtspiel.errors import RequestError
from lichtspiel.request import Request

NAMES = [
    ("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", "LightX2V"),
    ("Wan2.1-T2V-14B-StepDistill-CfgDistill/distill_model.safetensors", "LightX2V"),
    ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", "CausVid"),
    ("FastWan2.1-T2V-1.3B-Diffusers/transformer/model.safetensors", "FastWan"),
    ("FastWan2.1_T2V_480p.safetensors", "FastWan"),
    ("checkpoints/self_forcing_dmd.pt", "Self-Forcing"),
    ("rCM_Wan2.1_T2V_1.3B_480p.pt", "rCM"),
    ("TurboWan2.1-T2V-1.3B-480P.pth", "TurboDiffusion"),
    ("Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors", ""),
    ("arcm_style.safetensors", ""),
]


@pytest.mark.parametrize(("name", "family"), NAMES)
def test_files_are_known_by_name(name: str, family: str) -> None:
    known = recognized([f"/home/ada/{name}"])
    assert (known.name if known else "").startswith(family)
    assert bool(known) == bool(family)


@pytest.mark.parametrize(
    ("tensors", "metadata", "family"),
    [
        ({"blocks.0.attn1.to_q.weight": (8, 8), "blocks.0.to_gate_compress.weight": (8, 8)}, {}, "FastWan"),
        ({"blocks.0.self_attn.attn_op.local_attn.proj_l.weight": (8, 8)}, {}, "TurboDiffusion"),
        ({"net.patch_embedding.weight": (8, 64)}, {}, "rCM"),
        ({"net.patch_embedding.weight": (8, 16, 1, 2, 2)}, {}, ""),
        ({"blocks.0.self_attn.q.lora_down.weight": (4, 8)}, {"ss_output_name": "wan_causvid_14b"}, "CausVid"),
        ({"blocks.0.self_attn.q.lora_down.weight": (4, 8)}, {"modelspec.title": "Self-Forcing DMD"}, "Self-Forcing"),
        ({"blocks.0.self_attn.q.lora_down.weight": (4, 8)}, {"comment": "not for causvid"}, ""),
    ],
)
def test_files_with_other_names_are_known_by_what_is_in_them(
    tensors: dict[str, tuple[int, ...]], metadata: dict[str, str], family: str, tmp_path: Path
) -> None:
    (tmp_path / "transformer").mkdir()
    path = tmp_path / "transformer" / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path, metadata)
    for named in (path, tmp_path):
        known = recognized([str(named)])
        assert (known.name if known else "") == family
    if metadata:
        return
    pickle = tmp_path / "model.pth"
    torch.save({name: torch.zeros(1) for name in tensors}, pickle)
    known = recognized([str(pickle)])
    assert (known.name if known else "") == (family or "rCM")  # a pickle tells no shapes before it is run


def test_what_cannot_be_read_is_left_to_whoever_loads_it(tmp_path: Path) -> None:
    for name, content in (
        ("a.safetensors", b"\xff" * 40),
        ("b.safetensors", b""),
        ("c.pth", b"PK\x03\x04"),
        ("d.pt", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert recognized([str(tmp_path / name)]) is None
    assert recognized(["/no/such/file.safetensors", "x" * 5000]) is None


def asked(**options: Any) -> Request:
    return Request.of(prompt="a cat", model="t2v-14b", **options)


def test_a_lora_brings_its_sampling() -> None:
    plain, lightx2v = asked(), asked(lora="lightx2v_T2V_14B_lora.safetensors")
    assert (plain.solver, plain.steps, plain.guidance) == ("unipc", 50, 5.0)
    assert (lightx2v.solver, lightx2v.steps, lightx2v.shift, lightx2v.guidance) == ("euler", 4, 5.0, 1.0)
    causvid = asked(lora=["Wan21_CausVid_14B_lora.safetensors:0.5"])
    assert (causvid.times[:2], causvid.steps) == ((1000, 934), 9)
    assert asked(lora="Wan21_CausVid.safetensors", steps=6).times == ()


def test_what_contradicts_is_told() -> None:
    told = notes(dict(asked(lora="lightx2v.safetensors", guidance=5.0, steps=20)), ["lightx2v.safetensors"])
    assert told[0].startswith("this is LightX2V's step and guidance distillation, sampled with solver euler, steps 4")
    assert [note.partition(" is ")[0] for note in told[1:]] == ["steps", "guidance"]
    assert len(notes(dict(asked(lora="lightx2v.safetensors")), ["lightx2v.safetensors"])) == 1
    assert notes(dict(asked()), ["diffusion_pytorch_model.safetensors"]) == []
    assert "sparse attention" in " ".join(notes(dict(asked()), ["FastWan2.1_T2V_480p.safetensors"]))
    assert defaults(["self_forcing_dmd.pt"])["solver"] == "lcm"


def test_times_are_a_falling_list_and_stand_alone() -> None:
    request = asked(times="1000, 757 522", solver="lcm")
    assert (request.times, request.steps) == ((1000, 757, 522), 3)
    assert Request.of(**request.model_dump()) == request  # as records and saved latents give it back
    for wrong in ("500 600", "1001", "500 500", "10 0", "-1"):
        with pytest.raises(RequestError, match=r"^times.*falling"):
            asked(times=wrong)
    for name, value in (("steps", 5), ("shift", 3.0)):
        with pytest.raises(RequestError, match=f"^{name}.*times already say when"):
            asked(times=[1000, 500], **{name: value})

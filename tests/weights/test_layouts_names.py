"""The tables of names against every true-size specification, and against the libraries whose names they hold."""

from __future__ import annotations

import gguf
import pytest
import torch

from lichtspiel.models import Spec, shapes
from lichtspiel.spec import MODELS, Part
from lichtspiel.weights.layouts import DIALECTS, PREFIXES, Dialect, dialect, looks_like_lora, recognize
from lichtspiel.weights.match import spec_of

COUNTS = {
    "t2v-1.3b": 825, "t2v-14b": 1095, "t2i-14b": 1095, "i2v-14b-480p": 1303, "i2v-14b-720p": 1303, "flf2v-14b": 1304,
    "vace-1.3b": 1264, "vace-14b": 1331,
}  # fmt: skip
"""Tensors of each published diffusion transformer (facts: D1)."""


def names_of(model: str, part: Part) -> dict[str, torch.Size]:
    spec: Spec | None = spec_of(MODELS[model], part)
    assert spec is not None
    return dict(shapes(spec))


def test_the_specifications_have_the_published_tensors() -> None:
    assert {name: len(names_of(name, "dit")) for name in COUNTS} == COUNTS
    assert len(names_of("t2v-1.3b", "umt5")) == 242
    assert len(names_of("t2v-1.3b", "vae")) == 194


@pytest.mark.parametrize("table", DIALECTS, ids=lambda table: f"{table.part}, {table.name}")
def test_every_table_is_invertible_for_every_model(table: Dialect) -> None:
    for model, row in MODELS.items():
        if spec_of(row, table.part) is None or (model == "nano" and table.name == "diffusers" and table.part == "vae"):
            continue
        names = names_of(model, table.part)
        theirs = {name: table.names(name) for name in names}
        flat = [one for several in theirs.values() for one in several]
        assert len(set(flat)) == len(flat)
        for name, several in theirs.items():
            slots = [table.slot(one) for one in several]
            assert [(slot and slot.name, slot and slot.index) for slot in slots] == [
                (name, index) for index in range(len(several))
            ]
        assert recognize(flat) == table or set(flat) == set(names)


def test_names_of_another_model_have_no_place() -> None:
    table = dialect("dit", "diffusers")
    assert table.slot("transformer_blocks.0.attn.to_q.weight") is None
    assert recognize(["transformer_blocks.0.attn.to_q.weight", "a"]) is None
    assert recognize([]) is None
    with pytest.raises(KeyError):
        table.names("blocks.0.self_attn.nonsense.weight")


def test_the_longer_of_two_prefixes_comes_first() -> None:
    for number, prefix in enumerate(PREFIXES):
        assert not any(later.startswith(prefix) for later in PREFIXES[number + 1 :])


def test_the_names_of_llama_are_those_of_its_package() -> None:
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 24)
    theirs, llama = dialect("umt5", "transformers"), dialect("umt5", "llama.cpp")
    for name in names_of("t2v-14b", "umt5"):
        (transformers,), (packed,) = theirs.names(name), llama.names(name)
        assert known.get_name(transformers.removesuffix(".weight")) == packed.removesuffix(".weight")


@pytest.mark.parametrize("model", ["t2v-1.3b", "i2v-14b-480p", "flf2v-14b", "vace-14b"])
def test_the_names_of_diffusers_are_those_of_its_classes(model: str) -> None:
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel

    spec = MODELS[model].dit
    options = {
        "num_attention_heads": spec.heads, "attention_head_dim": 128, "in_channels": spec.in_channels,
        "ffn_dim": spec.ffn_width, "num_layers": spec.layers,
    }  # fmt: skip
    with torch.device("meta"):
        if spec.vace_layers:
            theirs = WanVACETransformer3DModel(**options, vace_layers=list(spec.vace_layers), vace_in_channels=96)
        elif spec.image_tokens:
            positions = spec.image_tokens if spec.image_tokens > 257 else None
            theirs = WanTransformer3DModel(
                **options, image_dim=1280, added_kv_proj_dim=spec.width, pos_embed_seq_len=positions
            )
        else:
            theirs = WanTransformer3DModel(**options)
    table = dialect("dit", "diffusers")
    ours = {table.names(name)[0]: shape for name, shape in names_of(model, "dit").items()}
    assert ours == {name: value.shape for name, value in theirs.state_dict().items()}


def test_the_names_of_the_true_vae_are_those_of_diffusers() -> None:
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        theirs = AutoencoderKLWan()
    table = dialect("vae", "diffusers")
    ours = {table.names(name)[0]: shape for name, shape in names_of("t2v-14b", "vae").items()}
    assert ours == {name: value.shape for name, value in theirs.state_dict().items()}


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
        "transformer.blocks.0.attn1.to_q.lora_B.weight",
        "lora_unet_blocks_0_self_attn_q.lora_down.weight",
        "lora_unet_blocks_0_self_attn_q.alpha",
        "blocks.0.self_attn.q.lora_A.default.weight",
        "diffusion_model.blocks.0.norm3.diff_b",
    ],
)
def test_adapters_are_told_from_checkpoints(name: str) -> None:
    assert looks_like_lora([name])
    assert not looks_like_lora(list(names_of("i2v-14b-480p", "dit")))

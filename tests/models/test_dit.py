"""The diffusion transformer against the official code, against Diffusers and against the registry."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lichtspiel.models.dit import DiT, keys_values
from lichtspiel.spec import MODELS, DiTSpec
from lichtspiel.weights.shards import diffusers_config
from tests.golden import golden, relative_error

TINY = DiTSpec(
    patch=(1, 2, 2),
    width=64, ffn_width=96, heads=2, layers=3, in_channels=16, out_channels=16, time_width=32, text_width=24,
    text_length=12, image_tokens=0, image_width=40, vace_layers=(), vace_channels=96, eps=1e-6,
)  # fmt: skip
# Diffusers tells image from text tokens by counting 512 of text from the end.
IMAGE = replace(TINY, in_channels=36, image_tokens=257, text_length=512)
FIRST_LAST = replace(IMAGE, image_tokens=514)
VACE = replace(TINY, vace_layers=(0, 2))


def official(config: dict[str, Any]) -> DiTSpec:
    """Our specification for a configuration of the official model."""
    return DiTSpec(
        patch=(1, 2, 2),
        width=config["dim"], ffn_width=config["ffn_dim"], heads=config["num_heads"], layers=config["num_layers"],
        in_channels=config["in_dim"], out_channels=config["out_dim"], time_width=config["freq_dim"],
        text_width=config["text_dim"], text_length=config["text_len"],
        image_tokens={"i2v": 257, "flf2v": 514}.get(config["model_type"], 0), image_width=1280,
        vace_layers=tuple(config.get("vace_layers", ())), vace_channels=config.get("vace_in_dim", 0), eps=config["eps"],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["dit_t2v", "dit_i2v", "dit_flf2v", "dit_vace_scale1.0", "dit_vace_scale0.6"])
def test_agrees_with_the_official_model(name: str) -> None:
    reference = golden(name)
    model = DiT(official(reference.config))
    model.load_state_dict(reference.weights, strict=True)
    inputs = reference.inputs
    with torch.inference_mode():
        velocity = model(
            torch.cat([inputs[key] for key in ("latents", "condition") if key in inputs], dim=1),
            inputs["timestep"],
            inputs["text_states"],
            image=inputs.get("clip_features"),
            vace=inputs.get("vace_context"),
            vace_scale=reference.config.get("vace_context_scale", 1.0),
        )
    assert velocity.dtype == torch.float32
    assert relative_error(velocity, reference.outputs["velocity"]) < 1e-5


def build(spec: DiTSpec) -> DiT:
    """A model in which every parameter is drawn, those that usually start as zeros or ones too."""
    torch.manual_seed(0)
    model = DiT(spec)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def inputs(spec: DiTSpec, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    drawn = {
        "latents": draw(batch, spec.in_channels, 3, 4, 6),
        "timestep": torch.tensor([437.0, 12.0])[:batch],
        "text": draw(batch, spec.text_length, spec.text_width),
    }
    if spec.image_tokens:
        drawn["image"] = draw(batch * spec.image_tokens // 257, 257, spec.image_width)
    if spec.vace_layers:
        drawn["vace"] = draw(batch, spec.vace_channels, 3, 4, 6)
    return drawn


# Our keys (the official ones) to those of Diffusers (`scripts/convert_wan_to_diffusers.py`), first match wins.
TO_DIFFUSERS = [
    (r"^text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"^text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"^time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"^time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"^time_projection\.1", "condition_embedder.time_proj"),
    (r"^img_emb\.proj\.0", "condition_embedder.image_embedder.norm1"),
    (r"^img_emb\.proj\.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"^img_emb\.proj\.3", "condition_embedder.image_embedder.ff.net.2"),
    (r"^img_emb\.proj\.4", "condition_embedder.image_embedder.norm2"),
    (r"^img_emb\.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    (r"^head\.modulation", "scale_shift_table"),
    (r"^head\.head", "proj_out"),
    (r"\.modulation", ".scale_shift_table"),
    (r"\.ffn\.0", ".ffn.net.0.proj"),
    (r"\.ffn\.2", ".ffn.net.2"),
    (r"\.norm3", ".norm2"),
    (r"\.before_proj", ".proj_in"),
    (r"\.after_proj", ".proj_out"),
    (r"_attn\.([qkv])\.", r"_attn.to_\1."),
    (r"_attn\.o\.", "_attn.to_out.0."),
    (r"_attn\.([kv])_img", r"_attn.add_\1_proj"),
    (r"_attn\.norm_k_img", "_attn.norm_added_k"),
]


def to_diffusers(key: str) -> str:
    for pattern, replacement in TO_DIFFUSERS:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            key = renamed
            break
    return key.replace("self_attn", "attn1").replace("cross_attn", "attn2")


@pytest.mark.parametrize("spec", [TINY, IMAGE, FIRST_LAST, VACE], ids=["text", "image", "first-last", "vace"])
def test_agrees_with_diffusers(spec: DiTSpec) -> None:
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel

    reference = (WanVACETransformer3DModel if spec.vace_layers else WanTransformer3DModel)(
        **diffusers_config(spec)
    ).eval()
    ours, given = build(spec), inputs(spec)
    reference.load_state_dict({to_diffusers(key): value for key, value in ours.state_dict().items()}, strict=True)
    conditions: dict[str, Any] = {"encoder_hidden_states_image": given.get("image")}
    if spec.vace_layers:
        conditions |= {"control_hidden_states": given["vace"], "control_hidden_states_scale": torch.tensor([0.6, 0.6])}
    with torch.inference_mode():
        expected = reference(given["latents"], given["timestep"], given["text"], **conditions, return_dict=False)[0]
        velocity = ours(**given, vace_scale=0.6)
    assert relative_error(velocity, expected) < 1e-5


TENSORS = {
    "nano": 231, "t2v-1.3b": 825, "t2v-14b": 1095, "t2i-14b": 1095, "i2v-14b-480p": 1303, "i2v-14b-720p": 1303,
    "flf2v-14b": 1304, "vace-1.3b": 1264, "vace-14b": 1331,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_has_the_published_number_of_tensors_and_parameters(name: str) -> None:
    with torch.device("meta"):
        state = DiT(MODELS[name].dit).state_dict()
    assert len(state) == TENSORS[name]
    assert sum(tensor.numel() for tensor in state.values()) == MODELS[name].parameters


def test_padding_is_zeros_and_is_attended_to() -> None:
    model, given = build(TINY), inputs(TINY)
    short = given["text"][:, :5]
    with torch.inference_mode():
        padded = model(**given | {"text": torch.cat([short, torch.zeros(2, 7, 24)], dim=1)})
        assert relative_error(model(**given | {"text": short}), padded) < 1e-6
        assert relative_error(model.bfloat16()(**given | {"text": short}), padded) < 3e-2
        model.float()
        model.spec = replace(TINY, text_length=5)
        assert relative_error(model(**given | {"text": short}), padded) > 1e-3


def test_videos_of_a_batch_do_not_see_each_other() -> None:
    model, given = build(FIRST_LAST), inputs(FIRST_LAST)
    with torch.inference_mode():
        both = model(**given)
        first = {key: value[: len(value) // 2] for key, value in given.items()}
        torch.testing.assert_close(model(**first), both[:1], atol=1e-5, rtol=1e-5)


def test_vace_without_context_is_the_text_model() -> None:
    model, given = build(VACE), inputs(VACE)
    text_model = DiT(TINY)
    text_model.load_state_dict({key: value for key, value in model.state_dict().items() if "vace" not in key})
    context = {"vace": given.pop("vace")}
    with torch.inference_mode():
        expected = text_model(**given)
        assert torch.equal(model(**given), expected)
        assert torch.equal(model(**given, **context, vace_scale=0.0), expected)
        assert relative_error(model(**given, **context), expected) > 1e-3


@pytest.mark.parametrize("spec", [TINY, FIRST_LAST, VACE], ids=["text", "first-last", "vace"])
def test_starts_at_zero_velocity(spec: DiTSpec) -> None:
    torch.manual_seed(0)
    model = DiT(spec)
    model.initialize()
    assert not model(**inputs(spec)).any()
    assert not any(value.any() for key, value in model.state_dict().items() if re.search("(before|after)_proj", key))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", [FIRST_LAST, VACE], ids=["first-last", "vace"])
def test_sixteen_bit_weights_give_float32_close_to_the_exact_one(spec: DiTSpec, dtype: torch.dtype) -> None:
    model, given = build(spec), inputs(spec)
    with torch.inference_mode():
        exact = model(**given)
        velocity = model.to(dtype)(**given)
    assert velocity.dtype == torch.float32
    assert relative_error(velocity, exact) < (3e-2 if dtype == torch.bfloat16 else 5e-3)


@pytest.mark.parametrize("spec", [FIRST_LAST, VACE], ids=["first-last", "vace"])
def test_every_parameter_learns_under_autocast_too(spec: DiTSpec) -> None:
    model, given = build(spec), inputs(spec)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(**given)
    assert velocity.dtype == torch.float32
    velocity.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_few_tokens_at_a_time_go_through_a_feed_forward_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = build(TINY), inputs(TINY)
    whole = model(**given)
    seen: list[int] = []
    for block in model.blocks:
        block.ffn[0].register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    monkeypatch.setattr("lichtspiel.models.dit.FeedForward.chunk_tokens", 5)
    model(**given)  # what is trained goes through at once: gradients need the hidden layer anyway
    tokens = seen[0]
    assert seen == [tokens] * TINY.layers
    assert tokens % 5
    seen.clear()
    with torch.inference_mode():
        assert relative_error(model(**given), whole) < 1e-6
    assert seen == [*[5] * (tokens // 5), tokens % 5] * TINY.layers


def test_attention_and_keys_can_be_replaced_from_outside() -> None:
    model, given = build(TINY), inputs(TINY)
    with torch.inference_mode():
        before = model(**given)
        for block in model.blocks:
            block.self_attn.attention_fn = lambda q, k, v, bias=None: torch.zeros_like(q)
            block.cross_attn.keys_values_fn = lambda layer, context: keys_values(
                layer, replace(context, text=context.text * 0)
            )
        assert relative_error(model(**given), before) > 1e-3


@pytest.mark.parametrize(
    ("spec", "change"),
    [
        (IMAGE, {"image": None}),
        (TINY, {"image": torch.zeros(2, 257, 40)}),
        (TINY, {"text": torch.zeros(2, TINY.text_length + 1, 24)}),
        (TINY, {"latents": torch.zeros(2, 16, 3, 5, 6)}),
    ],
    ids=["no image", "image for a text model", "text too long", "odd height"],
)
def test_wrong_calls_are_noticed(spec: DiTSpec, change: dict[str, Tensor | None]) -> None:
    with pytest.raises(AssertionError):
        build(spec)(**inputs(spec) | change)

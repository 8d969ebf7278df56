"""The vision tower and its preprocessing against the official code and against transformers."""

from __future__ import annotations

import pytest
import torch

from lichtspiel.models.clip import CLIPVision, preprocess
from lichtspiel.spec import MODELS, CLIPSpec
from tests.golden import golden, relative_error

TINY = CLIPSpec(image_size=56, patch=14, width=64, mlp_ratio=4, heads=4, layers=4, used_layers=3, eps=1e-5)
SPEC = MODELS["i2v-14b-480p"].clip
assert SPEC is not None


def tiny() -> CLIPVision:
    torch.manual_seed(0)
    return CLIPVision(TINY).eval()


@torch.no_grad()
def test_against_reference() -> None:
    reference = golden("clip_vision")
    model = tiny()
    names = model.state_dict()  # the golden has the last block and the head as well, which are not built here
    model.load_state_dict({key: value for key, value in reference.weights.items() if key in names})
    features = model(reference.inputs["pixels"])
    assert relative_error(features, reference.outputs["features"]) < 1e-5


def test_preprocess_against_reference() -> None:
    reference = golden("clip_preprocess")
    image = reference.inputs["image"].clone()
    pixels = preprocess(image, 224)
    assert relative_error(pixels, reference.outputs["pixels"]) < 1e-5
    assert torch.equal(image, reference.inputs["image"])  # the official code writes into its input


@torch.no_grad()
def test_against_transformers() -> None:
    pytest.importorskip("transformers", reason="transformers is in the extra test-peers")
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=TINY.width, intermediate_size=TINY.mlp_ratio * TINY.width, num_hidden_layers=TINY.layers,
        num_attention_heads=TINY.heads, image_size=TINY.image_size, patch_size=TINY.patch, hidden_act="gelu",
        layer_norm_eps=TINY.eps,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = CLIPVisionModel(config).eval()
    for weight in reference.parameters():
        weight.add_(torch.randn_like(weight), alpha=0.1)
    theirs = {key.removeprefix("vision_model."): value for key, value in reference.state_dict().items()}
    ours = {
        "cls_embedding": theirs["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embedding": theirs["embeddings.position_embedding.weight"][None],
        "patch_embedding.weight": theirs["embeddings.patch_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"pre_norm.{kind}"] = theirs[f"pre_layrnorm.{kind}"]
        for n in range(TINY.used_layers):
            layer = f"encoder.layers.{n}"
            parts = [theirs[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            ours[f"transformer.{n}.attn.to_qkv.{kind}"] = torch.cat(parts)
            for our_name, their_name in (
                ("attn.proj", "self_attn.out_proj"),
                ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"),
                ("mlp.0", "mlp.fc1"),
                ("mlp.2", "mlp.fc2"),
            ):
                ours[f"transformer.{n}.{our_name}.{kind}"] = theirs[f"{layer}.{their_name}.{kind}"]
    model = tiny()
    model.load_state_dict(ours)
    pixels = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    states = reference(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert relative_error(model(pixels), states[-2]) < 1e-5


def test_published_shape() -> None:
    with torch.device("meta"):
        model = CLIPVision(SPEC)
        tokens = model(torch.empty(2, 3, SPEC.image_size, SPEC.image_size))
    assert tokens.shape == (2, 257, 1280)
    weights = model.state_dict()
    assert len(weights) == 5 + 31 * 12
    width = 1280
    block = 12 * width**2 + 13 * width  # qkv 3, projection 1, perceptron 8; biases 3 + 1 + 4 + 1 and two norms
    embeddings = 3 * 14 * 14 * width + width + 257 * width + 2 * width
    assert sum(weight.numel() for weight in weights.values()) == 31 * block + embeddings


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_stays_near_single(dtype: torch.dtype) -> None:
    pixels = torch.randn(1, 3, TINY.image_size, TINY.image_size, generator=torch.Generator().manual_seed(0))
    single = tiny()(pixels)
    half = tiny().to(dtype)(pixels)
    assert half.dtype == dtype
    assert relative_error(half, single) < 0.05


def test_preprocess_squashes_and_does_not_clip() -> None:
    image = torch.ones(1, 3, 10, 40)
    image[..., 20:] = -1
    pixels = preprocess(image, 28)
    assert pixels.shape == (1, 3, 28, 28)
    white = (1 - 0.48145466) / 0.26862954
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(white, rel=1e-5)
    assert float(pixels[0, 0].max()) > white * 1.01  # overshoot of the bicubic edge

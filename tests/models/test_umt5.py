"""The text encoder against the official code, against transformers, and a batch against single prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lichtspiel.models.umt5 import UMT5, clamp_half, relative_buckets
from lichtspiel.spec import MODELS, UMT5Spec
from tests.golden import golden, relative_error

TINY = UMT5Spec(
    vocabulary=64, width=24, attention_width=32, ffn_width=48, heads=4, layers=2, buckets=32, max_distance=128, eps=1e-6
)
FROM_TRANSFORMERS = {
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.0.SelfAttention": "attn",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
    "encoder.final_layer_norm": "norm",
    "encoder.block": "blocks",
    "shared": "token_embedding",
}


def randomised(module: nn.Module) -> nn.Module:
    """Move all weights away from where they start, so that no scale of one and no bias of zero hides a mistake."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return module.eval()


def tiny() -> UMT5:
    torch.manual_seed(0)
    return UMT5(TINY).eval()


def meta(spec: UMT5Spec) -> UMT5:
    with torch.device("meta"):
        return UMT5(spec)


def prompts() -> tuple[Tensor, Tensor]:
    """Three prompts of 5, 9 and 1 tokens in one batch, and its mask."""
    ids = torch.randint(4, TINY.vocabulary, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 5 + [0] * 4, [1] * 9, [1] + [0] * 8])
    return ids * mask, mask


@torch.no_grad()
def test_against_reference() -> None:
    reference = golden("umt5")
    model = tiny()
    model.load_state_dict(reference.weights)
    ids, mask = reference.inputs["ids"], reference.inputs["mask"]
    length = int(mask.sum())
    assert length < ids.shape[1], "the golden must have padding for this to prove anything"

    true_tokens = model(ids[:, :length])
    assert relative_error(true_tokens, reference.outputs["states"]) < 1e-5

    masked = model(ids, mask)[:, :length]
    assert relative_error(masked, reference.outputs["states"]) < 1e-5
    assert relative_error(masked, true_tokens) < 1e-6


@torch.no_grad()
def test_against_transformers() -> None:
    pytest.importorskip("transformers", reason="transformers is in the extra test-peers")
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=TINY.vocabulary, d_model=TINY.width, d_kv=TINY.attention_width // TINY.heads, d_ff=TINY.ffn_width,
        num_layers=TINY.layers, num_heads=TINY.heads, relative_attention_num_buckets=TINY.buckets,
        relative_attention_max_distance=TINY.max_distance, layer_norm_epsilon=TINY.eps,
    )  # fmt: skip
    reference = randomised(UMT5EncoderModel(config))
    weights = {}
    for key, value in reference.state_dict().items():
        name = key
        for theirs, ours in FROM_TRANSFORMERS.items():
            name = name.replace(theirs, ours)
        weights[name.removeprefix("encoder.")] = value
    weights.pop("embed_tokens.weight", None)  # the same table as `shared`
    model = tiny()
    model.load_state_dict(weights)

    ids = torch.randint(0, TINY.vocabulary, (2, 300), generator=torch.Generator().manual_seed(2))
    assert relative_error(model(ids), reference(input_ids=ids).last_hidden_state) < 1e-5

    ids, mask = prompts()
    theirs = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    assert relative_error(model(ids, mask) * mask[..., None], theirs * mask[..., None]) < 1e-5


def test_published_size() -> None:
    weights = meta(MODELS["t2v-1.3b"].umt5).state_dict()
    assert sum(weight.numel() for weight in weights.values()) == 5_680_910_336
    assert len(weights) == 242


@torch.no_grad()
def test_a_batch_encodes_each_prompt_as_alone() -> None:
    model = tiny()
    ids, mask = prompts()
    together = model(ids, mask)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        alone = model(ids[row : row + 1, :length])
        assert relative_error(together[row : row + 1, :length], alone) < 1e-6


def test_mask_and_its_boolean_agree() -> None:
    model = tiny()
    ids, mask = prompts()
    torch.testing.assert_close(model(ids, mask), model(ids, mask.bool()), rtol=0, atol=0)


def test_no_gradient_comes_from_padding() -> None:
    model = tiny()
    ids, mask = prompts()
    (model(ids, mask) * mask[..., None]).sum().backward()
    gradient = model.token_embedding.weight.grad
    assert gradient is not None
    assert gradient[0].abs().max() == 0  # only padding has the id 0
    assert gradient[ids[mask.bool()]].abs().amax(dim=1).min() > 0
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_prompt_without_tokens_is_finite() -> None:
    ids, mask = prompts()
    assert tiny()(ids, torch.zeros_like(mask)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_stays_near_single(dtype: torch.dtype) -> None:
    ids, mask = prompts()
    single = tiny()(ids, mask)
    half = tiny().to(dtype)(ids, mask)
    assert half.dtype == dtype
    assert relative_error(half, single) < 0.05


def test_infinities_are_clamped_in_float16_only() -> None:
    values = torch.tensor([torch.inf, -torch.inf, 65500.0, 1.0])
    limit = 65504.0 - 1000
    expected = torch.tensor([limit, -limit, limit, 1.0]).half()
    torch.testing.assert_close(clamp_half(values.half()), expected, rtol=0, atol=0)
    assert clamp_half(values) is values
    large = torch.tensor([65504.0, -65504.0]).half()
    torch.testing.assert_close(clamp_half(large), large, rtol=0, atol=0)


@torch.no_grad()
def test_float16_survives_an_overflow() -> None:
    model = tiny()
    model.blocks[0].ffn.fc2.weight.mul_(1e6).clamp_(-6e4, 6e4)
    assert model.half()(prompts()[0]).isfinite().all()


def test_buckets() -> None:
    row = relative_buckets(300, buckets=32, max_distance=128, device=torch.device("cpu"))
    assert row[0, :8].tolist() == [0, 17, 18, 19, 20, 21, 22, 23]  # ahead: one bucket per distance
    assert row[7, :8].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]  # behind
    assert [int(row[0, distance]) for distance in (8, 11, 12, 15, 16, 32, 64, 127, 128, 299)] == [
        24, 24, 25, 25, 26, 28, 30, 31, 31, 31,
    ]  # fmt: skip
    assert (row[1:, 1:] == row[:-1, :-1]).all()  # only the distance counts


@torch.no_grad()
def test_a_new_encoder_is_ready_to_be_trained() -> None:
    spec = MODELS["nano"].umt5
    torch.manual_seed(0)
    model = UMT5(spec)
    inner, width = spec.attention_width, spec.width
    block = model.blocks[0]
    for layer, std in (
        (model.token_embedding, 1.0),
        (block.attn.q, (width * inner / spec.heads) ** -0.5),
        (block.attn.k, width**-0.5),
        (block.attn.v, width**-0.5),
        (block.attn.o, inner**-0.5),
        (block.ffn.gate[0], width**-0.5),
        (block.ffn.fc1, width**-0.5),
        (block.ffn.fc2, spec.ffn_width**-0.5),
        (block.pos_embedding.embedding, width**-0.5),
    ):
        assert float(layer.weight.std()) == pytest.approx(std, rel=0.25 if layer.weight.numel() < 1000 else 0.02)
    ids = torch.randint(0, spec.vocabulary, (4, 48))
    assert 0.9 < float(model(ids).std()) < 1.1

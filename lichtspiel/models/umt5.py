"""The text encoder of the Wan2.1 family: the encoder half of UMT5. Knows nothing of prompts, tokenizers or files.

Attribute names are the keys of the published checkpoint (`models_t5_umt5-xxl-enc-bf16.pth`). Behaviour follows
`wan/modules/t5.py`; architecture: T5 1.1 (Raffel et al. 2020, arXiv:1910.10683) with a relative position bias of its
own in every layer (UMT5: Chung et al. 2023, arXiv:2304.09151).

Letters in reshapes: b batch, l tokens of a prompt, i querying token, j token looked at, h heads, d width of a head.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from lichtspiel.spec import UMT5Spec

__all__ = ["UMT5"]


def linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """Make a linear layer without bias whose weights are drawn from a normal distribution."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


def clamp_half(x: Tensor) -> Tensor:
    """Bring infinities of float16 back into its range, 1000 below the limit; other dtypes pass through.

    The limit is only lowered if there is an infinity, as in the official code, but without waiting for the device.
    """
    if x.dtype != torch.float16:
        return x
    largest = torch.finfo(x.dtype).max
    limit = torch.where(x.isinf().any(), largest - 1000, largest).to(x.dtype)
    return x.clamp(min=-limit, max=limit)


def relative_buckets(length: int, buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """Number the distances between tokens: entry [i, j] is the bucket of j - i, shape [length, length].

    Half of the buckets are for tokens behind, half for tokens ahead. In each half, half are for single distances and
    the others grow logarithmically up to `max_distance` (T5, section 2.1; `_relative_position_bucket`).
    """
    half = buckets // 2
    exact = half // 2
    position = torch.arange(length, device=device)
    offset = position[None, :] - position[:, None]
    distance = offset.abs()
    # The clamp changes no bucket; it keeps the logarithm of zero out of the conversion to an integer.
    steps = torch.log(distance.clamp(min=exact).float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + steps.long()).clamp(max=half - 1)
    return (offset > 0) * half + torch.where(distance < exact, distance, far)


class RMSNorm(nn.Module):
    """Root mean square norm with a learned scale; the mean is taken in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + self.eps)
        scaled: Tensor = self.weight * (x * scale).type_as(self.weight)
        return scaled


class RelativePosition(nn.Module):
    """A learned number per distance bucket and head that is added to the attention logits."""

    def __init__(self, spec: UMT5Spec) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.buckets, spec.heads)
        nn.init.normal_(self.embedding.weight, std=spec.width**-0.5)

    def forward(self, buckets: Tensor) -> Tensor:
        bias: Tensor = rearrange(self.embedding(buckets), "i j h -> h i j")
        return bias


class Attention(nn.Module):
    """Self-attention in which the logits are not divided by the square root of the head's width.

    The initialization of `q` makes up for that (`T5PreTrainedModel._init_weights` in transformers; the official
    `init_weights` takes the width of all heads for that of one).
    """

    def __init__(self, spec: UMT5Spec) -> None:
        super().__init__()
        assert spec.attention_width % spec.heads == 0
        width, inner = spec.width, spec.attention_width
        self.heads = spec.heads
        self.q = linear(width, inner, std=(width * inner / spec.heads) ** -0.5)
        self.k = linear(width, inner, std=width**-0.5)
        self.v = linear(width, inner, std=width**-0.5)
        self.o = linear(inner, width, std=inner**-0.5)

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        q, k, v = (rearrange(part(x), "b l (h d) -> b h l d", h=self.heads) for part in (self.q, self.k, self.v))
        logits = torch.einsum("bhid,bhjd->bhij", q, k) + bias
        if padding is not None:
            # Not minus infinity: a row without any token must not become NaN.
            logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
        weights = torch.softmax(logits.float(), dim=-1).type_as(logits)
        x = self.o(rearrange(torch.einsum("bhij,bhjd->bhid", weights, v), "b h l d -> b l (h d)"))
        return x


class FeedForward(nn.Module):
    """Two linear layers with a gate of tanh-approximated GELU between them."""

    def __init__(self, spec: UMT5Spec) -> None:
        super().__init__()
        self.gate = nn.Sequential(linear(spec.width, spec.ffn_width, std=spec.width**-0.5), nn.GELU("tanh"))
        self.fc1 = linear(spec.width, spec.ffn_width, std=spec.width**-0.5)
        self.fc2 = linear(spec.ffn_width, spec.width, std=spec.ffn_width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(self.fc1(x) * self.gate(x))
        return x


class Block(nn.Module):
    """One encoder layer: attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, spec: UMT5Spec) -> None:
        super().__init__()
        self.norm1 = RMSNorm(spec.width, spec.eps)
        self.attn = Attention(spec)
        self.norm2 = RMSNorm(spec.width, spec.eps)
        self.ffn = FeedForward(spec)
        self.pos_embedding = RelativePosition(spec)

    def forward(self, x: Tensor, buckets: Tensor, padding: Tensor | None) -> Tensor:
        x = clamp_half(x + self.attn(self.norm1(x), self.pos_embedding(buckets), padding))
        return clamp_half(x + self.ffn(self.norm2(x)))


class UMT5(nn.Module):
    """The encoder: token ids to one vector per token.

    A new one has T5's random weights, so that it can be trained as it is.
    """

    def __init__(self, spec: UMT5Spec) -> None:
        super().__init__()
        self.buckets, self.max_distance = spec.buckets, spec.max_distance
        self.token_embedding = nn.Embedding(spec.vocabulary, spec.width)  # drawn with a deviation of 1, as T5's is
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = RMSNorm(spec.width, spec.eps)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode prompts: ids [B, L] to states [B, L, width], in the dtype of the weights.

        A single prompt is passed without padding and needs no mask. For a batch of prompts of different lengths,
        `mask` [B, L] is non-zero where there is a token: no token then looks at padding, so that the states of true
        tokens are the same as without it. What stands at padded positions has no meaning.
        """
        buckets = relative_buckets(ids.shape[1], self.buckets, self.max_distance, ids.device)
        padding = None if mask is None else rearrange(mask == 0, "b j -> b 1 1 j")
        x: Tensor = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, buckets, padding)
        x = self.norm(x)
        return x

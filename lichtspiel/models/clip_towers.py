"""Both towers of CLIP ViT-H/14 with XLM-RoBERTa, to their ends, where pictures and texts in a hundred languages meet.

The checkpoint of image-to-video models holds both (`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`); video
models need only the tokens of the vision tower (`clip`). Attribute names are the published keys behind "visual." and
"textual."; behavior follows `wan/modules/clip.py` and `wan/modules/xlm_roberta.py`.

Letters in shapes: b batch, l tokens, h heads, d width of a head, w width of all heads, e width of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lichtspiel.models.clip import CLIPVision
from lichtspiel.spec import CLIPSpec

__all__ = ["PAD", "TEXT", "CLIPPicture", "CLIPText", "TextSpec"]

PAD = 1
"""The id that fills short texts (`pad_id` in `wan/modules/xlm_roberta.py`)."""


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """Shape of the text tower; `embedding` is the width of the space that it shares with pictures."""

    vocabulary: int
    positions: int
    width: int
    heads: int
    layers: int
    embedding: int
    eps: float


TEXT = TextSpec(vocabulary=250002, positions=514, width=1024, heads=16, layers=24, embedding=1024, eps=1e-5)
"""XLM-RoBERTa large as in the published checkpoint (`xlm_roberta_large` and `clip_xlm_roberta_vit_h_14`)."""


class CLIPPicture(CLIPVision):
    """The vision tower with its last block, norm and head: a picture to one vector."""

    def __init__(self, spec: CLIPSpec, embedding: int) -> None:
        assert spec.used_layers == spec.layers, "the head stands behind the last block"
        super().__init__(spec)
        self.post_norm = nn.LayerNorm(spec.width, eps=spec.eps)
        self.head = nn.Parameter(nn.init.normal_(torch.empty(spec.width, embedding), std=spec.width**-0.5))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels [b, 3, S, S] as `clip.preprocess` makes them to vectors [b, e], not normalized."""
        tokens = super().forward(pixels)
        x: Tensor = self.post_norm(tokens)[:, 0] @ self.head
        return x


class TextAttention(nn.Module):
    """Self-attention with a projection each for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """Attend within x [b, l, w] to the tokens that are `known` [b, 1, 1, l]."""
        q, k, v = (rearrange(layer(x), "b l (h d) -> b h l d", h=self.heads) for layer in (self.q, self.k, self.v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=known)
        y: Tensor = self.o(rearrange(x, "b h l d -> b l (h d)"))
        return y


class TextBlock(nn.Module):
    """One layer of XLM-RoBERTa, whose norms stand behind the sums."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.attn = TextAttention(spec.width, spec.heads)
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.ffn = nn.Sequential(
            nn.Linear(spec.width, 4 * spec.width), nn.GELU(), nn.Linear(4 * spec.width, spec.width)
        )
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.eps)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """Transform x [b, l, w]."""
        x = self.norm1(x + self.attn(x, known))
        x = self.norm2(x + self.ffn(x))
        return x


class CLIPText(nn.Module):
    """The text tower: token ids to one vector."""

    def __init__(self, spec: TextSpec = TEXT) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(spec.vocabulary, spec.width, padding_idx=PAD)
        self.type_embedding = nn.Embedding(1, spec.width)
        self.pos_embedding = nn.Embedding(spec.positions, spec.width, padding_idx=PAD)
        self.blocks = nn.ModuleList(TextBlock(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.width, eps=spec.eps)
        middle = (spec.width + spec.embedding) // 2
        self.head = nn.Sequential(
            nn.Linear(spec.width, middle, bias=False), nn.GELU(), nn.Linear(middle, spec.embedding, bias=False)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Encode ids [b, l], filled with `PAD`, to vectors [b, e] from the mean over tokens, not normalized."""
        known = ids != PAD
        places = PAD + known.long().cumsum(1) * known
        x = self.token_embedding(ids) + self.type_embedding.weight[0] + self.pos_embedding(places)
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, known[:, None, None])
        counted = known[..., None].to(x)
        vectors: Tensor = self.head((x * counted).sum(1) / counted.sum(1))
        return vectors

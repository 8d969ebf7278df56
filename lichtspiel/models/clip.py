"""The vision tower of CLIP ViT-H/14, which encodes the first image for image-to-video models.

Knows nothing of files or of how images are read. Attribute names are the keys of the published checkpoint
(`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`) behind "visual."; behavior follows `wan/modules/clip.py`.
Wan2.1 takes the tokens before the last block, so that block, the final norm and the head are not built.

Letters in reshapes: b batch, y and x patches down and across, l tokens, k query, key and value, h heads, d width of a
head, w width of all heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from lichtspiel.spec import CLIPSpec

__all__ = ["CLIPVision", "preprocess"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of red, green and blue in CLIP's training images (`_clip` in `wan/modules/clip.py`)."""

STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of red, green and blue in CLIP's training images (same place)."""


def preprocess(images: Tensor, size: int) -> Tensor:
    """Scale images [B, 3, H, W] in [-1, 1] to the pixels [B, 3, size, size] that CLIP takes.

    The image is squashed to a square by bicubic interpolation without antialiasing, and values that overshoot are
    kept: `CLIPModel.visual` in `wan/modules/clip.py`. Other software crops the center instead, which gives other
    features. Call it in float32, as the official code does.
    """
    pixels = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False) * 0.5 + 0.5
    mean, std = (rearrange(pixels.new_tensor(values), "c -> c 1 1") for values in (MEAN, STD))
    return (pixels - mean) / std


class Attention(nn.Module):
    """Self-attention with one projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(x), "b l (k h d) -> k b h l d", k=3, h=self.heads)
        x = self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)"))
        return x


class Block(nn.Module):
    """One transformer layer: attention and a GELU perceptron, each behind a norm and added to its input."""

    def __init__(self, spec: CLIPSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.attn = Attention(spec.width, spec.heads)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.mlp = nn.Sequential(
            nn.Linear(spec.width, spec.mlp_ratio * spec.width),
            nn.GELU(),
            nn.Linear(spec.mlp_ratio * spec.width, spec.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class CLIPVision(nn.Module):
    """The tower up to block `used_layers`: pixels to one vector for the image and one for each patch."""

    def __init__(self, spec: CLIPSpec) -> None:
        super().__init__()
        tokens = (spec.image_size // spec.patch) ** 2 + 1
        self.patch_embedding = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch, bias=False)
        self.cls_embedding = nn.Parameter(nn.init.normal_(torch.empty(1, 1, spec.width), std=spec.width**-0.5))
        self.pos_embedding = nn.Parameter(nn.init.normal_(torch.empty(1, tokens, spec.width), std=spec.width**-0.5))
        self.pre_norm = nn.LayerNorm(spec.width, eps=spec.eps)
        self.transformer = nn.Sequential(*(Block(spec) for _ in range(spec.used_layers)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, S, S] as `preprocess` makes them to tokens [B, 1 + (S / patch)², width].

        S is the specification's `image_size`. Pixels may be of any floating dtype; the tokens have that of the
        weights.
        """
        patches = rearrange(self.patch_embedding(pixels.type_as(self.pos_embedding)), "b w y x -> b (y x) w")
        image = repeat(self.cls_embedding, "1 1 w -> b 1 w", b=len(patches))
        x: Tensor = torch.cat([image, patches], dim=1) + self.pos_embedding
        x = self.transformer(self.pre_norm(x))
        return x

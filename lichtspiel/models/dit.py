"""The diffusion transformer of Wan2.1: noisy latents, a time and conditions in, a velocity out.

One model for every task: text alone, text with image features (image or first and last frame to video), and VACE's
context blocks. It does not know of solvers, guidance, files, devices, LoRA, streaming or process groups. Attribute
names are the keys of the published checkpoints; the source of every number is `wan/modules/model.py` and
`wan/modules/vace_model.py` of Wan-Video/Wan2.1.

Dtypes: the weights' dtype is that of the matrix products inside the blocks. The residual stream, norms, modulation,
time embedding and head are float32 whatever the weights are, as in the official code, and so is the velocity.

Letters: b batch, l tokens, n heads, d channels of a token or of one head, i images; t, h, w tokens in time, height and
width, each of p, q, r latent cells; c channels of a latent cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lichtspiel.models.attention import AttentionFn, attention, rotary_angles, rotate
from lichtspiel.spec import DiTSpec

__all__ = [
    "Context",
    "CrossAttention",
    "DiT",
    "FeedForward",
    "Pair",
    "Stream",
    "attend_context",
    "attend_text",
    "embed_context",
    "keys_values",
    "run_blocks",
    "through_blocks",
]

IMAGE_TOKENS = 257
"""Tokens of one image: CLIP's 16 x 16 patches and its class token."""

EPS_IMAGE = 1e-5
"""Of the two norms around the image projection, which the official code leaves at PyTorch's default."""


class LayerNorm(nn.LayerNorm):
    """Layer norm that computes and returns float32 for inputs and weights of any dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension of `x`."""
        weight, bias = (self.weight.float(), self.bias.float()) if self.elementwise_affine else (None, None)
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm that computes and returns float32; for queries and keys over all heads together."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension of `x`."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)


class Linear32(nn.Linear):
    """Linear layer that computes and returns float32 for weights of any dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension of `x`."""
        return F.linear(x.float(), self.weight.float(), self.bias.float())


@dataclass(frozen=True)
class Context:
    """What cross-attention sees: `text` [b, l, d], whose last token counts `padding` times, and `image` [b, l, d].

    Texts are padded with zeros to a fixed length, and padding is attended to. Its tokens are all equal, so they are
    computed once: n equal keys under a softmax are one key with log(n) added to its logit.
    """

    text: Tensor
    padding: int
    image: Tensor | None

    @property
    def bias(self) -> Tensor | None:
        """What is added to the logit of every token of the text, [l] in float32."""
        if self.padding == 1:
            return None
        bias = torch.zeros(self.text.shape[1], device=self.text.device)
        bias[-1] = math.log(self.padding)
        return bias

    def unfold(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Repeat the last token of parts [b, l, n, d] as often as it counts."""
        return tuple(torch.cat([part[:, :-1], part[:, -1:].expand(-1, self.padding, -1, -1)], 1) for part in parts)


Pair = tuple[Tensor, Tensor]
"""Keys and values, [b, l, n, d] each."""


class Attention(nn.Module):
    """The projections that self- and cross-attention have in common; `attention_fn` may be replaced from outside."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.q = nn.Linear(spec.width, spec.width)
        self.k = nn.Linear(spec.width, spec.width)
        self.v = nn.Linear(spec.width, spec.width)
        self.o = nn.Linear(spec.width, spec.width)
        self.norm_q = RMSNorm(spec.width, spec.eps)
        self.norm_k = RMSNorm(spec.width, spec.eps)
        self.attention_fn: AttentionFn = attention

    def split(self, x: Tensor) -> Tensor:
        """Split channels into heads."""
        return rearrange(x, "b l (n d) -> b l n d", n=self.heads)


class SelfAttention(Attention):
    """Every token of the video sees every other; positions enter as rotations of queries and keys.

    `rotate_fn` may be replaced from outside.
    """

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec)
        self.rotate_fn: Callable[[Tensor, Tensor], Tensor] = rotate

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """AttentionFn within `x` [b, l, d], whose positions are `angles` (see `rotary_angles`)."""
        v = self.split(self.v(x))
        q = self.rotate_fn(self.split(self.norm_q(self.q(x))), angles).type_as(v)
        k = self.rotate_fn(self.split(self.norm_k(self.k(x))), angles).type_as(v)
        x = self.o(rearrange(self.attention_fn(q, k, v), "b l n d -> b l (n d)"))
        return x


class CrossAttention(Attention):
    """Every token of the video sees the text and, in models with image tokens, the image; the two results add up.

    Three functions may be replaced from outside: `keys_values_fn` by one that keeps the keys and values between steps,
    `attend_text_fn` by one that also steers away from another text, and `attend_fn`, the only one that looks into the
    context, by one that is not compiled.
    """

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec)
        if spec.image_tokens:
            self.k_img = nn.Linear(spec.width, spec.width)
            self.v_img = nn.Linear(spec.width, spec.width)
            self.norm_k_img = RMSNorm(spec.width, spec.eps)
        self.keys_values_fn: Callable[[CrossAttention, Context], list[Pair]] = keys_values
        self.attend_text_fn: Callable[[CrossAttention, Tensor, Pair, Context], Tensor] = attend_text
        self.attend_fn: Callable[[CrossAttention, Tensor, Context], Tensor] = attend_context

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """AttentionFn from `x` [b, l, d] to text and image."""
        attended = self.attend_fn(self, self.split(self.norm_q(self.q(x))), context)
        x = self.o(rearrange(attended, "b l n d -> b l (n d)"))
        return x


def attend_context(attention: CrossAttention, q: Tensor, context: Context) -> Tensor:
    """Attention from queries [b, l, n, d] to the text and, in models with image tokens, to the image, added up."""
    text, *more = attention.keys_values_fn(attention, context)
    x = attention.attend_text_fn(attention, q, text, context)
    for k, v in more:
        x = x + attention.attention_fn(q.type_as(v), k, v)
    return x


def attend_text(attention: CrossAttention, q: Tensor, text: Pair, context: Context) -> Tensor:
    """Attention from queries [b, l, n, d] to the keys and values of the text.

    One key may stand for all padding. In 16 bit its logarithm would be too coarse, so there it is repeated.
    """
    k, v = text
    q = q.type_as(v)
    if v.dtype == torch.float32:
        return attention.attention_fn(q, k, v, context.bias)
    return attention.attention_fn(q, *context.unfold(k, v))


def keys_values(attention: CrossAttention, context: Context) -> list[Pair]:
    """Keys and values of the text, then of the image; the same in every step of a run."""
    v = attention.split(attention.v(context.text))
    pairs = [(attention.split(attention.norm_k(attention.k(context.text))).type_as(v), v)]
    if context.image is not None:
        v = attention.split(attention.v_img(context.image))
        pairs.append((attention.split(attention.norm_k_img(attention.k_img(context.image))).type_as(v), v))
    return pairs


class FeedForward(nn.Sequential):
    """Two linear layers with tanh-approximated GELU between them.

    Without gradients at most `chunk_tokens` tokens go through at once, because the hidden layer is the largest tensor
    of a block and tokens do not meet in it.
    """

    chunk_tokens = 4096

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(nn.Linear(spec.width, spec.ffn_width), nn.GELU("tanh"), nn.Linear(spec.ffn_width, spec.width))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [b, l, d] to the same shape."""
        size = x.shape[1] if torch.is_grad_enabled() else self.chunk_tokens
        into, activation, out = self
        outputs: list[Tensor] = [out(activation(into(chunk))) for chunk in torch.split(x, size, dim=1)]
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]


class Block(nn.Module):
    """Self-attention, cross-attention and a feed-forward network; the first and the last are modulated by the time."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        self.norm1 = LayerNorm(spec.width, spec.eps, elementwise_affine=False)
        self.self_attn = SelfAttention(spec)
        self.norm3 = LayerNorm(spec.width, spec.eps)
        self.cross_attn = CrossAttention(spec)
        self.norm2 = LayerNorm(spec.width, spec.eps, elementwise_affine=False)
        self.ffn = FeedForward(spec)
        self.modulation = nn.Parameter(nn.init.normal_(torch.empty(1, 6, spec.width), std=spec.width**-0.5))

    def forward(self, x: Tensor, time: Tensor, context: Context, angles: Tensor) -> Tensor:
        """Map the residual stream `x` [b, l, d]; `time` [b, 6, d] in float32, the text in the dtype of the products."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + time).chunk(6, dim=1)

        h = torch.addcmul(shift1, self.norm1(x), 1 + scale1).type_as(context.text)
        x = torch.addcmul(x, gate1, self.self_attn(h, angles).float())

        x = x + self.cross_attn(self.norm3(x).type_as(context.text), context)

        h = torch.addcmul(shift2, self.norm2(x), 1 + scale2).type_as(context.text)
        x = torch.addcmul(x, gate2, self.ffn(h).float())
        return x


class VACEBlock(Block):
    """A block of VACE's second stream, which runs beside the first and hands it hints; its first block joins them."""

    def __init__(self, spec: DiTSpec, first: bool) -> None:
        super().__init__(spec)
        self.before_proj = nn.Linear(spec.width, spec.width) if first else None
        self.after_proj = nn.Linear(spec.width, spec.width)

    def forward(  # type: ignore[override]  # two streams in and out
        self, control: Tensor, x: Tensor, time: Tensor, context: Context, angles: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map `control` [b, l, d], beside `x` [b, l, d] as it came from the patches, to itself and to a hint for x."""
        if self.before_proj is not None:
            control = self.before_proj(control) + x
        control = super().forward(control, time, context, angles)
        return control, self.after_proj(control.type_as(context.text))


class Head(nn.Module):
    """From tokens to the velocity of their latent cells; modulated by the time itself, not by its projection."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        p, q, r = spec.patch
        self.norm = LayerNorm(spec.width, spec.eps, elementwise_affine=False)
        self.head = Linear32(spec.width, p * q * r * spec.out_channels)
        self.modulation = nn.Parameter(nn.init.normal_(torch.empty(1, 2, spec.width), std=spec.width**-0.5))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map `x` [b, l, d] with `time` [b, d] to [b, l, (p q r c)]."""
        shift, scale = (self.modulation.float() + rearrange(time, "b d -> b 1 d")).chunk(2, dim=1)
        x = self.head(self.norm(x) * (1 + scale) + shift)
        return x


class ImageEmbedding(nn.Module):
    """From CLIP features to tokens; two images get a learned position each, so that first and last differ."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(spec.image_width, EPS_IMAGE),
            nn.Linear(spec.image_width, spec.image_width),
            nn.GELU(),
            nn.Linear(spec.image_width, spec.width),
            nn.LayerNorm(spec.width, EPS_IMAGE),
        )
        shape = (1, spec.image_tokens, spec.image_width)
        self.emb_pos = nn.Parameter(torch.zeros(shape)) if spec.image_tokens > IMAGE_TOKENS else None

    def forward(self, image: Tensor) -> Tensor:
        """Map `image` [b, image_tokens, image_width] to [b, image_tokens, d]."""
        if self.emb_pos is not None:
            image = image + self.emb_pos
        image = self.proj(image)
        return image


@dataclass
class Stream:
    """What goes through the blocks: the residual stream `x` [b, l, d] and VACE's second stream `vace` [b, l, d], if
    there is one, which the blocks replace; `time` [b, 6, d], `context` and `angles` as `Block` takes them, and the
    weight of VACE's hints. Nobody else holds the streams, so that only one of each is in memory."""

    x: Tensor
    time: Tensor
    context: Context
    angles: Tensor
    vace: Tensor | None
    vace_scale: float


class DiT(nn.Module):
    """A diffusion transformer of the shape of `spec`; `initialize` before training one from scratch.

    Four functions may be replaced from outside: `embed_context_fn` by one that keeps the context between steps,
    `blocks_fn` by one that leaves out blocks or reuses what they added in an earlier step, `run_fn` by one that
    computes only some of the tokens here, and `angles_fn` by one that places tokens differently.
    """

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.patch_embedding = nn.Conv3d(spec.in_channels, width, spec.patch, stride=spec.patch)
        self.text_embedding = nn.Sequential(nn.Linear(spec.text_width, width), nn.GELU("tanh"), nn.Linear(width, width))
        self.time_embedding = nn.Sequential(Linear32(spec.time_width, width), nn.SiLU(), Linear32(width, width))
        self.time_projection = nn.Sequential(nn.SiLU(), Linear32(width, 6 * width))
        self.blocks = nn.ModuleList([Block(spec) for _ in range(spec.layers)])
        self.head = Head(spec)
        self.embed_context_fn: Callable[[DiT, Tensor, Tensor | None], Context] = embed_context
        self.blocks_fn: Callable[[DiT, Stream], None] = run_blocks
        self.run_fn: Callable[[DiT, Stream], None] = through_blocks
        self.angles_fn: Callable[[tuple[int, int, int], int, torch.device], Tensor] = rotary_angles
        if spec.image_tokens:
            self.img_emb = ImageEmbedding(spec)
        if spec.vace_layers:
            assert spec.vace_layers[0] == 0, "the streams are joined before anything has happened to the first"
            assert spec.vace_layers == tuple(sorted(spec.vace_layers))
            self.vace_patch_embedding = nn.Conv3d(spec.vace_channels, width, spec.patch, stride=spec.patch)
            self.vace_blocks = nn.ModuleList([VACEBlock(spec, first=layer == 0) for layer in spec.vace_layers])

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        *,
        image: Tensor | None = None,
        vace: Tensor | None = None,
        vace_scale: float = 1.0,
    ) -> Tensor:
        """Predict the velocity [b, out_channels, t, height, width] of `latents` [b, in_channels, t, height, width].

        Height and width are even. `timestep` [b] runs from 0 (clean) to 1000 (noise); it may stay on the CPU, and has
        to if the device lacks float64. `text` [b, up to text_length, text_width] is padded with zeros to text_length
        and attended to in full, padding too, as the official model was trained; a caller pads shorter texts of a
        batch with zeros as well. `image` [b·i, 257, image_width] holds CLIP features of i images per video; models
        with image tokens need it and no others take it. `vace` [b, vace_channels, t, height, width] is VACE's
        context, whose hints are weighed by `vace_scale`; without it a VACE model is the text model it was made from.
        """
        spec = self.spec
        assert (image is None) == (spec.image_tokens == 0), "image features belong to models with image tokens"
        assert text.shape[1] <= spec.text_length
        dtype = self.patch_embedding.weight.dtype

        x: Tensor = self.patch_embedding(latents.to(dtype)).float()
        t, h, w = x.shape[2:]
        p, q, r = spec.patch
        assert latents.shape[2:] == (t * p, h * q, w * r)
        x = rearrange(x, "b d t h w -> b (t h w) d")
        angles = self.angles_fn((t, h, w), spec.width // spec.heads, x.device)

        moment = self.time_embedding(sinusoid(timestep, spec.time_width).to(x.device))
        time = rearrange(self.time_projection(moment), "b (six d) -> b six d", six=6)

        context = self.embed_context_fn(self, text, image)
        if vace is not None:
            vace = rearrange(self.vace_patch_embedding(vace.to(dtype)), "b d t h w -> b (t h w) d")

        stream = Stream(x, time, context, angles, vace, vace_scale)
        del x, vace
        self.run_fn(self, stream)
        x = self.head(stream.x, moment).float()
        return rearrange(x, "b (t h w) (p q r c) -> b c (t p) (h q) (w r)", t=t, h=h, w=w, p=p, q=q, r=r)

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw weights to train from, as `init_weights` of the official model does.

        The head starts at zero and so does the velocity; so do the projections of VACE and what they would add.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
            elif isinstance(module, Block | Head):
                nn.init.normal_(module.modulation, std=self.spec.width**-0.5)
        for layer in (*self.text_embedding, *self.time_embedding):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name == "head.head.weight" or name.endswith(("before_proj.weight", "after_proj.weight")):
                nn.init.zeros_(parameter)


def through_blocks(dit: DiT, stream: Stream) -> None:
    """Take the residual stream through the blocks, as `blocks_fn` has it."""
    dit.blocks_fn(dit, stream)


def run_blocks(dit: DiT, stream: Stream, skipped: Collection[int] = ()) -> None:
    """Take the residual stream through all blocks but those whose numbers are `skipped`."""
    layers, rest = dit.spec.vace_layers, (stream.time, stream.context, stream.angles)
    for number, block in enumerate(dit.blocks):
        hint: Tensor | None = None
        if stream.vace is not None and number in layers:
            stream.vace, hint = dit.vace_blocks[layers.index(number)](stream.vace, stream.x, *rest)
        if number not in skipped:
            stream.x = block(stream.x, *rest)
        if hint is not None:
            stream.x = stream.x + stream.vace_scale * hint


def embed_context(dit: DiT, text: Tensor, image: Tensor | None) -> Context:
    """Embed text and image features, shaped as `DiT.forward` takes them; the same in every step of a run."""
    dtype, missing = dit.patch_embedding.weight.dtype, dit.spec.text_length - text.shape[1]
    states = dit.text_embedding(F.pad(text.to(dtype), (0, 0, 0, min(missing, 1))))
    if image is not None:
        image = dit.img_emb(rearrange(image.to(dtype), "(b i) l d -> b (i l) d", b=len(text)))
    return Context(states, max(missing, 1), image)


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """Cosines, then sines of `timestep` [b] at falling frequencies, [b, width]; taken in float64, returned float32."""
    half = width // 2
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angles = torch.outer(timestep.double(), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()

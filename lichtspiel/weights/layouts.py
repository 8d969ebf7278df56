"""What the tensors of Wan2.1 are called in each published layout: one table of name pairs per part.

Our names are the official ones, so every table pairs an official name with another's. The tables are data; they are
read in both directions. Knows no file and no tensor.

In a name, `#` stands for the number of a layer and `*` for the last word (weight, bias, gamma).

Sources: Diffusers `scripts/convert_wan_to_diffusers.py` and the state dicts of its classes; `UMT5EncoderModel` and
`CLIPVisionModel` of transformers; `MODEL_ARCH.T5ENCODER` of the gguf package; ComfyUI loads official names for the
diffusion transformer and the VAE, and those of transformers for the two encoders, each behind one of `PREFIXES`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from lichtspiel.spec import Part

__all__ = [
    "DIALECTS",
    "PREFIXES",
    "Dialect",
    "Rule",
    "Slot",
    "dialect",
    "looks_like_lora",
    "quantizer",
    "recognize",
    "unprefixed",
]

PREFIXES = (
    "text_encoders.umt5xxl.transformer.",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "first_stage_model.",
    "vision_model.",
    "pipe.dit.",
    "module.",
    "visual.",
    "vae.",
    "model.",
    "net.",
)
"""What may stand before all names of one part, also several of them; the longer of two that fit comes first."""

WRAPPERS = re.compile(r"(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What torch's compiler, checkpointing and FSDP put into names anywhere."""

QUANTIZERS = {
    "quanto": re.compile(r"\._data$|\._scale$|\.weight_qtype$"),
    "bitsandbytes": re.compile(r"\.absmax$|\.quant_map$|\.quant_state\.|\.SCB$"),
    "Nunchaku": re.compile(r"\.qweight$|\.wscales$"),
}
"""Names by which files of quantizers are known that cannot be read here."""

LORA = re.compile(r"lora_(A|B|up|down|unet|te)|\.lora\.|lora_linear|\.alpha$|\.diff(_[bm])?$|\.hada_w|\.lokr_w")
"""Parts of names that occur in adapters of every dialect, and in no checkpoint."""

ENOUGH = 0.5
"""Part of the names of a file that a dialect must know to be taken for its own."""

REMEMBERED = 10_000
"""Names of which a dialect remembers where they belong: those of the files of several models."""


SPARSE = re.compile(r"\.to_gate_compress\.|\.proj_l\.(weight|bias)$")
"""Tensors of sparse attention that distilled models have besides those of Wan2.1: the gate of VSA (FastWan), and the
projection of the linear part of SLA (TurboDiffusion). Dense attention does without; `distilled` tells the user."""


@dataclass(frozen=True)
class Rule:
    """One official name and what another dialect has in its place.

    More than one of `theirs` are stacked along the first axis to make ours; `axes` counts leading axes of length 1
    that theirs lack.
    """

    ours: str
    theirs: tuple[str, ...]
    axes: int = 0


@dataclass(frozen=True)
class Slot:
    """Where a tensor of another dialect belongs: piece `index` of `pieces` of the official `name`."""

    name: str
    index: int
    pieces: int
    axes: int


@dataclass(frozen=True)
class Dialect:
    """The names of one part in one layout; `unused` are beginnings of further names that no video model needs."""

    part: Part
    name: str
    rules: tuple[Rule, ...]
    unused: tuple[str, ...] = ()

    @cached_property
    def _theirs(self) -> list[tuple[re.Pattern[str], Rule, int]]:
        return [(_pattern(text), rule, index) for rule in self.rules for index, text in enumerate(rule.theirs)]

    @cached_property
    def _ours(self) -> list[tuple[re.Pattern[str], Rule]]:
        return [(_pattern(rule.ours), rule) for rule in self.rules]

    @cached_property
    def _slots(self) -> dict[str, Slot | None]:
        return {}

    def slot(self, name: str) -> Slot | None:
        """Where the tensor that this dialect calls `name` belongs; None when the dialect has no such name.

        Found names are remembered, because each is asked for several times, and again for every file of its kind.
        """
        if name in (known := self._slots):
            return known[name]
        found = self._found(name)
        if len(known) < REMEMBERED:
            known[name] = found
        return found

    def _found(self, name: str) -> Slot | None:
        for pattern, rule, index in self._theirs:
            if match := pattern.fullmatch(name):
                return Slot(_filled(rule.ours, match.groups()), index, len(rule.theirs), rule.axes)
        return None

    def names(self, official: str) -> tuple[str, ...]:
        """What this dialect calls the `official` tensor: one name, or those of the pieces; raises KeyError."""
        for pattern, rule in self._ours:
            if match := pattern.fullmatch(official):
                return tuple(_filled(text, match.groups()) for text in rule.theirs)
        raise KeyError(official)

    def ignores(self, name: str) -> bool:
        """Whether the tensor is known and not needed."""
        return name.startswith(self.unused) or SPARSE.search(name) is not None


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)").replace(r"\*", r"([a-z]+)"))


def _filled(template: str, values: tuple[str, ...]) -> str:
    rest = iter(values)
    return re.sub(r"[#*]", lambda _: next(rest), template)


def _rules(pairs: dict[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(ours, (theirs,)) for ours, theirs in pairs.items())


def _same(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(rule.ours, (rule.ours,)) for rule in rules)


# ---- The diffusion transformer -------------------------------------------------------------------------------------

_BLOCK = {
    "modulation": "scale_shift_table",
    "norm3.*": "norm2.*",
    "ffn.0.*": "ffn.net.0.proj.*",
    "ffn.2.*": "ffn.net.2.*",
    **{
        f"{ours}_attn.{leaf}.*": f"{theirs}.{other}.*"
        for ours, theirs in (("self", "attn1"), ("cross", "attn2"))
        for leaf, other in {
            "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
        }.items()
    },
    "cross_attn.k_img.*": "attn2.add_k_proj.*",
    "cross_attn.v_img.*": "attn2.add_v_proj.*",
    "cross_attn.norm_k_img.*": "attn2.norm_added_k.*",
}  # fmt: skip

_DIT_DIFFUSERS = _rules(
    {
        "patch_embedding.*": "patch_embedding.*",
        "text_embedding.0.*": "condition_embedder.text_embedder.linear_1.*",
        "text_embedding.2.*": "condition_embedder.text_embedder.linear_2.*",
        "time_embedding.0.*": "condition_embedder.time_embedder.linear_1.*",
        "time_embedding.2.*": "condition_embedder.time_embedder.linear_2.*",
        "time_projection.1.*": "condition_embedder.time_proj.*",
        "head.head.*": "proj_out.*",
        "head.modulation": "scale_shift_table",
        "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
        "img_emb.proj.0.*": "condition_embedder.image_embedder.norm1.*",
        "img_emb.proj.1.*": "condition_embedder.image_embedder.ff.net.0.proj.*",
        "img_emb.proj.3.*": "condition_embedder.image_embedder.ff.net.2.*",
        "img_emb.proj.4.*": "condition_embedder.image_embedder.norm2.*",
        **{f"blocks.#.{ours}": f"blocks.#.{theirs}" for ours, theirs in _BLOCK.items()},
        **{f"vace_blocks.#.{ours}": f"vace_blocks.#.{theirs}" for ours, theirs in _BLOCK.items()},
        "vace_blocks.#.before_proj.*": "vace_blocks.#.proj_in.*",
        "vace_blocks.#.after_proj.*": "vace_blocks.#.proj_out.*",
        "vace_patch_embedding.*": "vace_patch_embedding.*",
    }
)

# ---- The VAE -------------------------------------------------------------------------------------------------------

_RESIDUAL = {
    "residual.0.gamma": "norm1.gamma",
    "residual.2.*": "conv1.*",
    "residual.3.gamma": "norm2.gamma",
    "residual.6.*": "conv2.*",
    "shortcut.*": "conv_shortcut.*",
}
_RESAMPLE = {"resample.1.*": "resample.1.*", "time_conv.*": "time_conv.*"}
_ATTENTION = {"norm.gamma": "norm.gamma", "to_qkv.*": "to_qkv.*", "proj.*": "proj.*"}
_ENDS = {"conv1.*": "conv_in.*", "head.0.gamma": "norm_out.gamma", "head.2.*": "conv_out.*"}


def _under(ours: str, theirs: str, pairs: dict[str, str]) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.{other}" for name, other in pairs.items()}


def _half(name: str) -> dict[str, str]:
    """The names that the encoder and the decoder have in common."""
    return {
        **_under(name, name, _ENDS),
        **_under(f"{name}.middle.0", f"{name}.mid_block.resnets.0", _RESIDUAL),
        **_under(f"{name}.middle.1", f"{name}.mid_block.attentions.0", _ATTENTION),
        **_under(f"{name}.middle.2", f"{name}.mid_block.resnets.1", _RESIDUAL),
    }


_VAE_SHARED = {
    "conv1.*": "quant_conv.*",
    "conv2.*": "post_quant_conv.*",
    **_half("encoder"),
    **_half("decoder"),
    **_under("encoder.downsamples.#", "encoder.down_blocks.#", _RESIDUAL | _RESAMPLE),
}
# The official decoder is one flat list; Diffusers has four stages of three residual blocks, all but the last of which
# end in an upsampling layer.
_VAE_DIFFUSERS = _rules(
    _VAE_SHARED
    | {
        ours: theirs
        for stage in range(4)
        for block in range(3)
        for ours, theirs in _under(
            f"decoder.upsamples.{4 * stage + block}", f"decoder.up_blocks.{stage}.resnets.{block}", _RESIDUAL
        ).items()
    }
    | {
        ours: theirs
        for stage in range(3)
        for ours, theirs in _under(
            f"decoder.upsamples.{4 * stage + 3}", f"decoder.up_blocks.{stage}.upsamplers.0", _RESAMPLE
        ).items()
    }
)
_VAE_OFFICIAL = _same(_rules(_VAE_SHARED | _under("decoder.upsamples.#", "decoder.upsamples.#", _RESIDUAL | _RESAMPLE)))

# ---- The text encoder ----------------------------------------------------------------------------------------------

_UMT5_TRANSFORMERS = _rules(
    {
        "token_embedding.weight": "shared.weight",
        "norm.weight": "encoder.final_layer_norm.weight",
        "blocks.#.norm1.weight": "encoder.block.#.layer.0.layer_norm.weight",
        "blocks.#.norm2.weight": "encoder.block.#.layer.1.layer_norm.weight",
        "blocks.#.pos_embedding.embedding.weight": (
            "encoder.block.#.layer.0.SelfAttention.relative_attention_bias.weight"
        ),
        **{
            f"blocks.#.attn.{leaf}.weight": f"encoder.block.#.layer.0.SelfAttention.{leaf}.weight"
            for leaf in ("q", "k", "v", "o")
        },
        "blocks.#.ffn.gate.0.weight": "encoder.block.#.layer.1.DenseReluDense.wi_0.weight",
        "blocks.#.ffn.fc1.weight": "encoder.block.#.layer.1.DenseReluDense.wi_1.weight",
        "blocks.#.ffn.fc2.weight": "encoder.block.#.layer.1.DenseReluDense.wo.weight",
    }
)
_UMT5_LLAMA = _rules(
    {
        "token_embedding.weight": "token_embd.weight",
        "norm.weight": "enc.output_norm.weight",
        "blocks.#.norm1.weight": "enc.blk.#.attn_norm.weight",
        "blocks.#.norm2.weight": "enc.blk.#.ffn_norm.weight",
        "blocks.#.pos_embedding.embedding.weight": "enc.blk.#.attn_rel_b.weight",
        **{f"blocks.#.attn.{leaf}.weight": f"enc.blk.#.attn_{leaf}.weight" for leaf in ("q", "k", "v", "o")},
        "blocks.#.ffn.gate.0.weight": "enc.blk.#.ffn_gate.weight",
        "blocks.#.ffn.fc1.weight": "enc.blk.#.ffn_up.weight",
        "blocks.#.ffn.fc2.weight": "enc.blk.#.ffn_down.weight",
    }
)

# ---- The image encoder ---------------------------------------------------------------------------------------------

_CLIP_TRANSFORMERS = (
    Rule("cls_embedding", ("embeddings.class_embedding",), axes=2),
    Rule("pos_embedding", ("embeddings.position_embedding.weight",), axes=1),
    *_rules(
        {
            "patch_embedding.weight": "embeddings.patch_embedding.weight",
            "pre_norm.*": "pre_layrnorm.*",
            "transformer.#.norm1.*": "encoder.layers.#.layer_norm1.*",
            "transformer.#.norm2.*": "encoder.layers.#.layer_norm2.*",
            "transformer.#.attn.proj.*": "encoder.layers.#.self_attn.out_proj.*",
            "transformer.#.mlp.0.*": "encoder.layers.#.mlp.fc1.*",
            "transformer.#.mlp.2.*": "encoder.layers.#.mlp.fc2.*",
        }
    ),
    Rule("transformer.#.attn.to_qkv.*", tuple(f"encoder.layers.#.self_attn.{leaf}_proj.*" for leaf in "qkv")),
)

DIALECTS: tuple[Dialect, ...] = (
    Dialect("dit", "official", _same(_DIT_DIFFUSERS)),
    Dialect("dit", "diffusers", _DIT_DIFFUSERS),
    Dialect("vae", "official", _VAE_OFFICIAL),
    Dialect("vae", "diffusers", _VAE_DIFFUSERS),
    Dialect("umt5", "official", _same(_UMT5_TRANSFORMERS)),
    # The embedding has two names, of which either or both are in a file; ComfyUI packs the tokenizer in as a tensor.
    Dialect("umt5", "transformers", _UMT5_TRANSFORMERS, ("spiece_model", "decoder.", "lm_head.")),
    Dialect("umt5", "llama.cpp", _UMT5_LLAMA),
    Dialect("clip", "official", _same(_CLIP_TRANSFORMERS), ("textual.", "log_scale", "post_norm.", "head")),
    Dialect(
        "clip",
        "transformers",
        _CLIP_TRANSFORMERS,
        ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "post_layernorm.",
         "embeddings.position_ids"),
    ),
)  # fmt: skip
"""Every table; the first part and dialect that knows the most names of a file is taken for the file's."""

ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}
"""Second names that one tensor has in the same dialect."""


def dialect(part: Part, name: str) -> Dialect:
    """The table of a part by its name; raises StopIteration for an unknown one."""
    return next(table for table in DIALECTS if (table.part, table.name) == (part, name))


def recognize(names: Collection[str]) -> Dialect | None:
    """The dialect that knows the most of `names`; None when none knows half of those that are not ignored."""
    best, most = None, 0.0
    for table in DIALECTS:
        needed = [name for name in names if not table.ignores(name)]
        recognized = sum(table.slot(name) is not None for name in needed)
        if needed and recognized > most and recognized >= ENOUGH * len(needed):
            best, most = table, recognized
    return best


def unprefixed(name: str) -> tuple[str, str]:
    """What stands before the name of a tensor, and the name without it and without wrappers."""
    rest, prefix = WRAPPERS.sub("", name), ""
    while match := next((prefix for prefix in PREFIXES if rest.startswith(prefix)), ""):
        rest, prefix = rest.removeprefix(match), prefix + match
    return prefix, rest


def quantizer(names: Collection[str]) -> str:
    """The quantizer whose names these are, if it is one that cannot be read here; else empty."""
    for title, pattern in QUANTIZERS.items():
        if any(pattern.search(name) for name in names):
            return title
    return ""


def looks_like_lora(names: Collection[str]) -> bool:
    """Whether most of the names are those of an adapter, whatever model it is for."""
    return sum(bool(LORA.search(name)) for name in names) > ENOUGH * len(names)

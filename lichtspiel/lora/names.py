"""The names of a DiT's layers: ours, which are the official checkpoints', and what others call the same layers.

A layer is whatever a low-rank pair or a difference belongs to: a module with a weight, or a parameter that stands on
its own. Diffusers has names of its own; kohya's trainers write dots as underscores, of ours or of Diffusers' names.
The tables are complete for every model of the registry, which a test holds them to; both ways back are unambiguous.
Sources: `wan/modules/model.py` of Wan-Video/Wan2.1, `transformer_wan.py` and `transformer_wan_vace.py` of
huggingface/diffusers.
"""

from __future__ import annotations

import re

__all__ = ["BARE", "official", "to_diffusers", "to_underscores"]

_SELF = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_CROSS = _SELF | {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}

_BLOCK: dict[str, str] = {
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _SELF.items()},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in _CROSS.items()},
    "norm3": "norm2",  # the affine norm before cross-attention; the other two norms of a block have no weights
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
    "before_proj": "proj_in",
    "after_proj": "proj_out",
}
"""Inside a block, of the first stream or of VACE's: our name to Diffusers'."""

_OUTSIDE: dict[str, str] = {
    "patch_embedding": "patch_embedding",
    "vace_patch_embedding": "vace_patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
"""Outside the blocks: our name to Diffusers'."""

BARE = ("modulation", "emb_pos")
"""Last words of the layers that are parameters of their own, without `.weight`."""

_DOTTED = re.compile(r"(vace_blocks|blocks)\.(\d+)\.(.+)")
_UNDERSCORED = re.compile(r"(vace_blocks|blocks)_(\d+)_(.+)")


def _back(table: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    dotted = {theirs: ours for ours, theirs in table.items()} | {ours: ours for ours in table}
    return dotted, {name.replace(".", "_"): ours for name, ours in dotted.items()}


_BLOCK_BACK, _BLOCK_BACK_UNDERSCORED = _back(_BLOCK)
_OUTSIDE_BACK, _OUTSIDE_BACK_UNDERSCORED = _back(_OUTSIDE)


def official(name: str, *, underscores: bool) -> str | None:
    """Our name of a layer that is called `name` by us or by Diffusers, with dots or with underscores for dots.

    None for a name that no model of the family has.
    """
    pattern = _UNDERSCORED if underscores else _DOTTED
    if found := pattern.fullmatch(name):
        stream, number, rest = found.groups()
        inside = (_BLOCK_BACK_UNDERSCORED if underscores else _BLOCK_BACK).get(rest)
        return None if inside is None else f"{stream}.{int(number)}.{inside}"
    return (_OUTSIDE_BACK_UNDERSCORED if underscores else _OUTSIDE_BACK).get(name)


def to_diffusers(name: str) -> str:
    """Diffusers' name of the layer that we call `name`."""
    if found := _DOTTED.fullmatch(name):
        stream, number, rest = found.groups()
        return f"{stream}.{number}.{_BLOCK[rest]}"
    return _OUTSIDE[name]


def to_underscores(name: str) -> str:
    """Kohya's name of the layer that we call `name`, without its prefix."""
    return name.replace(".", "_")

"""The names of a DiT's layers: ours, which are the official checkpoints', and what others call the same layers.

A layer is whatever a low-rank pair or a difference belongs to: a module with a weight, or a parameter that stands on
its own. Diffusers has names of its own (see `weights.names`); kohya's trainers write dots as underscores, of ours or of
Diffusers' names. Both can be reversed unambiguously, which a test checks for every model of the registry.
"""

from __future__ import annotations

import re

from lichtspiel.weights.layouts import dialect

__all__ = ["BARE", "official", "to_diffusers", "to_underscores"]

_DIFFUSERS = {
    rule.ours.removesuffix(".*"): theirs.removesuffix(".*")
    for rule in dialect("dit", "diffusers").rules
    for theirs in rule.theirs
}
_BLOCK = {ours.partition(".#.")[2]: theirs.partition(".#.")[2] for ours, theirs in _DIFFUSERS.items() if "#" in ours}
"""Inside a block, of the first stream or of VACE's: our name to Diffusers'."""

_OUTSIDE = {ours: theirs for ours, theirs in _DIFFUSERS.items() if "#" not in ours}
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
    if match := pattern.fullmatch(name):
        stream, number, rest = match.groups()
        inside = (_BLOCK_BACK_UNDERSCORED if underscores else _BLOCK_BACK).get(rest)
        return None if inside is None else f"{stream}.{int(number)}.{inside}"
    return (_OUTSIDE_BACK_UNDERSCORED if underscores else _OUTSIDE_BACK).get(name)


def to_diffusers(name: str) -> str:
    """Diffusers' name of the layer that we call `name`."""
    if match := _DOTTED.fullmatch(name):
        stream, number, rest = match.groups()
        return f"{stream}.{number}.{_BLOCK[rest]}"
    return _OUTSIDE[name]


def to_underscores(name: str) -> str:
    """Kohya's name of the layer that we call `name`, without its prefix."""
    return name.replace(".", "_")

"""What leaves a run: an adapter file in any dialect, or the whole weights, and a model card. Files appear by renaming.

The metadata of an adapter says what it was made from: the checkpoint and its fingerprint, the digest of the data, the
steps, the trigger words and, for pictures of people, the consent statement. Knows nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lichtspiel import __version__
from lichtspiel.lora import Delta, LoRA, carried, convert, write_lora
from lichtspiel.spec import Model, Part
from lichtspiel.storage import atomic_write
from lichtspiel.tune.cache import Facts
from lichtspiel.tune.settings import RunOptions
from lichtspiel.weights.shards import write_shards

__all__ = ["DIALECTS", "Made", "export_adapter", "export_weights", "write_card"]

DIALECTS = ("comfy", "diffusers", "kohya")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a result was made from: the checkpoint, the fingerprints of its files, the facts of the data, the options
    and the steps taken."""

    row: Model
    fingerprints: Mapping[Part, str]
    facts: Facts
    options: RunOptions
    steps: int

    def metadata(self) -> dict[str, str]:
        """Everything as the metadata of a safetensors file, beside the entries that other programs look for."""
        adapter = self.options.adapter
        triggers = ", ".join(self.facts.triggers)
        about = {
            "lichtspiel.version": __version__,
            "lichtspiel.base": self.row.name,
            "lichtspiel.base_digest": self.fingerprints["dit"],
            "lichtspiel.data_digest": self.facts.digest,
            "lichtspiel.steps": str(self.steps),
            "lichtspiel.options": json.dumps(self.options.to_json()),
            "lichtspiel.people": str(self.facts.people),
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"wan2.1/{self.row.name}" + ("/lora" if self.options.method == "lora" else ""),
            "modelspec.implementation": "https://github.com/Wan-Video/Wan2.1",
            "modelspec.date": datetime.now(UTC).date().isoformat(),
        }
        if self.options.method == "lora":
            about |= {"ss_network_dim": str(adapter.rank), "ss_network_alpha": f"{adapter.alpha:g}"}
        if triggers:
            about |= {"trigger_words": triggers, "modelspec.trigger_phrase": triggers}
        if self.facts.consent is not None:
            about["lichtspiel.consent"] = self.facts.consent
        return about


def export_adapter(path: Path, deltas: Mapping[str, Delta], made: Made, dialect: str) -> Path:
    """Write an adapter in one dialect; raises OutputError when it cannot be written.

    Its numbers are in the precision that the run computed in.
    """
    dtype = getattr(torch, made.options.dtype)
    layers = {name: _rounded(delta, dtype) for name, delta in deltas.items()}
    lora = LoRA(
        path=path, dialect="comfy", layers=layers, foreign=(), text_encoder=(), metadata=made.metadata()
    )  # fmt: skip
    write_lora(path, convert(lora, dialect), carried(lora, dialect))
    return path


def _rounded(delta: Delta, dtype: torch.dtype) -> Delta:
    assert delta.down is not None
    assert delta.up is not None
    return replace(delta, down=delta.down.to(dtype), up=delta.up.to(dtype))  # lengths stay in float32


def export_weights(folder: Path, tensors: Mapping[str, Tensor], made: Made, layout: str) -> list[Path]:
    """Write whole weights in one layout as one file, or as shards with an index; returns the files.

    Numbers are in the precision that the run computed in. Raises OutputError when they cannot be written.
    """
    dtype = getattr(torch, made.options.dtype)
    return write_shards(folder, tensors, made.row.dit, dtype, made.metadata(), layout=layout)


def write_card(path: Path, made: Made, results: Mapping[str, Any], use: str) -> Path:
    """Write a model card in Markdown: what was trained on what, how, with which result, and how it is used."""
    options, facts = made.options, made.facts
    adapter = options.adapter
    kind = "DoRA" if adapter.dora else "LoRA"
    what = f"{kind} of rank {adapter.rank}, alpha {adapter.alpha:g}" if options.method == "lora" else "all weights"
    rows = {
        "base model": f"{made.row.name} ({made.row.repository or 'in the package lichtspiel'})",
        "fingerprint of the base": made.fingerprints["dit"],
        "trained": what,
        "trigger words": ", ".join(facts.triggers) or "none",
        "digest of the data": facts.digest,
        "steps": f"{made.steps} of {options.batch * options.accumulate} samples",
        "optimizer": f"{options.optimizer}, learning rate {options.rate:g}",
        "license of the base": made.row.licence,
    }
    rows |= {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in results.items()}
    if facts.people:
        rows["people"] = f"{facts.people} items show people; consent: {facts.consent or 'none stated'}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    frontmatter = f"base_model: {made.row.repository}\n" if made.row.repository else ""
    text = (
        f"---\n{frontmatter}library_name: lichtspiel\npipeline_tag: text-to-video\n---\n\n"
        f"# {path.parent.name}\n\nMade with Lichtspiel {__version__}.\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Use it\n\n```\n{use}\n```\n"
    )
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path

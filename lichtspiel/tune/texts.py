"""Prompts beside the captions of a data set, encoded into its cache before the model that is trained loads."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lichtspiel.errors import InvalidInput
from lichtspiel.tune.cache import has_tensors, text_path, write_tensors
from lichtspiel.weights.checkpoint import Checkpoint

__all__ = ["encode_texts", "read_prompts"]


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one a line; empty lines and those that begin with # are left out.

    Raises InvalidInput for a file that cannot be read or that holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: the prompts cannot be read: {error}") from error
    prompts = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not prompts:
        raise InvalidInput(f"{path} holds no prompt; write one a line")
    return prompts


@torch.no_grad()
def encode_texts(folder: Path, prompts: Sequence[str], files: Checkpoint, device: torch.device) -> Tensor:
    """The states [n, l, d] of prompts, padded with zeros, from the cache in `folder` or from the text encoder, which
    is loaded only if one is missing, and leaves memory again."""
    made_by = {"umt5": files.fingerprints()["umt5"]}
    missing = [prompt for prompt in dict.fromkeys(prompts) if not has_tensors(_path(folder, prompt), made_by)]
    if missing:
        tokenizer, umt5 = files.tokenizer(), files.umt5(torch.float32, device)
        for prompt in missing:
            states = umt5(torch.tensor([tokenizer(prompt)], device=device))
            write_tensors(_path(folder, prompt), {"states": states}, made_by)
        del umt5
        gc.collect()
    states = [load_file(_path(folder, prompt))["states"].float() for prompt in prompts]
    longest = max(state.shape[1] for state in states)
    return torch.cat([F.pad(state, (0, 0, 0, longest - state.shape[1])) for state in states])


def _path(folder: Path, prompt: str) -> Path:
    return text_path(folder / "prompts", prompt)

"""A Whisper of two layers in the files of faster-whisper, which says one sentence to whatever it hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.translate.tiny_transformers import Filler

__all__ = ["LANGUAGE", "SAID", "write"]

SAID = ("Mein", "Bruder", "arbeitet", "hier.")
LANGUAGE = "de"
"""What it takes every sound for."""

_WIDTH, _HEADS, _MELS, _POSITIONS = 32, 2, 80, 448


def write(folder: Path, *, multilingual: bool = True) -> Path:
    """Write model.bin, config.json, the vocabulary and tokenizer.json."""
    import ctranslate2
    import tokenizers
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    folder.mkdir()
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġ{word}" for word in SAID]
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in _LANGUAGE_CODES), "<|translate|>",
               "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
    times = [f"<|{at * 0.02:.2f}|>" for at in range(1501)]
    plain = [*letters, *words, *([""] if multilingual else [])]  # by the empty word CTranslate2 knows the two apart
    tokens = [*plain, *special, *times]
    ids = {token: at for at, token in enumerate(tokens)}

    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={token: ids[token] for token in plain}, merges=[])
    )  # fmt: skip
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))

    spec = ctranslate2.specs.WhisperSpec(1, _HEADS, 1, _HEADS)
    start = [f"<|{LANGUAGE}|>", "<|transcribe|>"] if multilingual else []
    _fill(spec, len(tokens), [ids[token] for token in (*start, "<|0.00|>", *words, "<|2.00|>", "<|endoftext|>")])
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.config.lang_ids = [ids[f"<|{code}|>"] for code in _LANGUAGE_CODES]
    spec.config.alignment_heads = [[0, head] for head in range(_HEADS)]
    spec.register_vocabulary(tokens)
    spec.validate()
    spec.save(str(folder))
    return folder


def _fill(spec: Any, count: int, script: list[int]) -> None:
    """Random weights, small ones but for these: at each position, the decoder thinks of the next word of the script."""
    filler = Filler(5, _WIDTH, 0.02)
    filler.side(spec.encoder)
    filler.side(spec.decoder)
    spec.encoder.conv1.weight, spec.encoder.conv2.weight = filler.some(_WIDTH, _MELS, 3), filler.some(_WIDTH, _WIDTH, 3)
    spec.encoder.conv1.bias = spec.encoder.conv2.bias = np.zeros(_WIDTH, np.float32)
    spec.encoder.position_encodings.encodings = filler.some(1500, _WIDTH)
    embeddings, positions = filler.some(count, _WIDTH), filler.some(_POSITIONS, _WIDTH)
    for place, token in enumerate(script):
        embeddings[token] = 4 * np.eye(_WIDTH)[place]
        positions[place] = 20 * np.eye(_WIDTH)[place]
    positions[len(script) :] = 20 * np.eye(_WIDTH)[len(script) - 1]
    spec.decoder.embeddings.weight = embeddings
    spec.decoder.position_encodings.encodings = positions
    filler.linear(spec.decoder.projection, count, _WIDTH)
    spec.decoder.projection.weight = embeddings

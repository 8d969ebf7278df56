"""Transformers for CTranslate2 of one layer and random weights: an Argos package, and what fills its layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["WORDS", "Filler", "argos", "nllb", "opus"]

WORDS = "the house is red and the river runs to the sea while my brother works in a small town near the harbor"
_WIDTH = 16


class Filler:
    """Weights for the layers of a specification: random ones of this spread, norms of one and biases of zero."""

    def __init__(self, seed: int, width: int, spread: float) -> None:
        self.draw, self.width, self.spread = np.random.default_rng(seed), width, spread

    def some(self, *shape: int) -> Any:
        """Random weights of a shape."""
        return self.draw.normal(0, self.spread, shape).astype(np.float32)

    def linear(self, layer: Any, out: int, into: int) -> None:
        """Weights for a matrix and its bias."""
        layer.weight, layer.bias = self.some(out, into), np.zeros(out, np.float32)

    def norm(self, layer: Any) -> None:
        """A norm that only norms."""
        layer.gamma, layer.beta = np.ones(self.width, np.float32), np.zeros(self.width, np.float32)

    def side(self, side: Any) -> None:
        """The layers of an encoder or a decoder."""
        width = self.width
        self.norm(side.layer_norm)
        for layer in side.layer:
            self.norm(layer.self_attention.layer_norm)
            self.linear(layer.self_attention.linear[0], 3 * width, width)
            self.linear(layer.self_attention.linear[1], width, width)
            self.norm(layer.ffn.layer_norm)
            self.linear(layer.ffn.linear_0, 2 * width, width)
            self.linear(layer.ffn.linear_1, width, 2 * width)
            if hasattr(layer, "attention"):
                self.norm(layer.attention.layer_norm)
                for part, (out, into) in enumerate([(width, width), (2 * width, width), (width, width)]):
                    self.linear(layer.attention.linear[part], out, into)


def argos(folder: Path) -> Path:
    """Write an Argos package, en to de."""
    import sentencepiece

    folder.mkdir()
    lines = [" ".join(WORDS.split()[at:] + WORDS.split()[:at]) for at in range(len(WORDS.split()))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "sentencepiece"), vocab_size=40, minloglevel=2,
    )  # fmt: skip
    _model(folder / "model", folder / "sentencepiece.model")
    (folder / "metadata.json").write_text(json.dumps({"from_code": "en", "to_code": "de", "package_version": "1.0"}))
    return folder


def opus(folder: Path, package: Path) -> Path:
    """Write an OPUS-MT model with the pieces of an Argos package."""
    shutil.copytree(package / "model", folder)
    for name in ("source.spm", "target.spm"):
        shutil.copy(package / "sentencepiece.model", folder / name)
    return folder


def nllb(folder: Path, package: Path, *languages: str) -> Path:
    """Write an NLLB of these languages (deu_Latn) with the pieces of an Argos package."""
    _model(folder, package / "sentencepiece.model", *languages)
    shutil.copy(package / "sentencepiece.model", folder / "sentencepiece.bpe.model")
    return folder


def _model(folder: Path, pieces: Path, *more: str) -> None:
    import ctranslate2
    import sentencepiece

    known = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    tokens = [*(known.id_to_piece(at) for at in range(known.get_piece_size())), *more]
    spec: Any = ctranslate2.specs.TransformerSpec.from_config((1, 1), 2)
    filler = Filler(3, _WIDTH, 0.3)
    for side in (spec.encoder, spec.decoder):
        embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings
        embeddings.weight = filler.draw.normal(0, 1, (len(tokens), _WIDTH)).astype(np.float32)
        filler.side(side)
    filler.linear(spec.decoder.projection, len(tokens), _WIDTH)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    folder.mkdir()
    spec.save(str(folder))

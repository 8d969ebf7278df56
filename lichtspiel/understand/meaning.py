"""Pictures and texts as vectors of one space, by the CLIP checkpoint that image-to-video models bring.

The checkpoint's file has both towers; beside it stands its tokenizer (`xlm-roberta-large/tokenizer.json`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lichtspiel.errors import WeightsError
from lichtspiel.models.clip import preprocess
from lichtspiel.models.clip_towers import PAD, TEXT, CLIPPicture, CLIPText, TextSpec
from lichtspiel.spec import MODELS, CLIPSpec
from lichtspiel.tokenizer import Unigram, clean
from lichtspiel.weights.components import open_file
from lichtspiel.weights.tensor_files import TensorFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame

__all__ = ["Clip", "XLMTokenizer", "clip_of"]

_START, _END = 0, 2  # `<s>` and `</s>` of XLM-RoBERTa
_LENGTH = 77  # most tokens of a text (`max_text_len` of the tokenizer in `wan/modules/clip.py`)
_BATCH = 8


class XLMTokenizer:
    """Turns texts into ids of XLM-RoBERTa: `<s>`, the pieces, `</s>`.

    `pieces` and their log probabilities `scores` are in the order of the ids, as `tokenizer.json` lists them.
    """

    def __init__(self, pieces: Sequence[str], scores: Sequence[float]) -> None:
        self._unigram = Unigram(pieces, scores)

    @classmethod
    def read(cls, path: Path) -> XLMTokenizer:
        """Read a `tokenizer.json`. Raises WeightsError for a file that is none of XLM-RoBERTa."""
        try:
            model = json.loads(path.read_text(encoding="utf-8"))["model"]
            pieces, scores = zip(*model["vocab"], strict=True)
            if model["unk_id"] != 3 or pieces[:4] != ("<s>", "<pad>", "</s>", "<unk>"):
                raise ValueError("its first pieces are not those of XLM-RoBERTa")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path}: is no tokenizer of XLM-RoBERTa ({error}); download it again") from error
        return cls(pieces, scores)

    def __call__(self, text: str, length: int = _LENGTH) -> list[int]:
        """The ids of a text, at most `length`, after the official cleaning and SentencePiece's normalization."""
        words = " ".join(unicodedata.normalize("NFKC", clean(text)).split())
        pieces = self._unigram.segment(words) if words else []
        return [_START, *pieces[: length - 2], _END]


class Clip:
    """Both towers on the processor, in float32."""

    def __init__(self, picture: CLIPPicture, text: CLIPText, tokenizer: XLMTokenizer, size: int) -> None:
        self._picture, self._text = picture.eval(), text.eval()
        self._tokenizer, self._size = tokenizer, size

    @classmethod
    def read(
        cls, path: Path, vision: CLIPSpec | None = None, text: TextSpec = TEXT, tokenizer: Path | None = None
    ) -> Clip:
        """Read the published checkpoint, strictly. Raises WeightsError when a tensor or the tokenizer is missing."""
        found = MODELS["i2v-14b-480p"].clip if vision is None else vision
        assert found is not None
        spec = dataclasses.replace(found, used_layers=found.layers)
        with torch.device("meta"):
            picture, texts = CLIPPicture(spec, text.embedding), CLIPText(text)
        if not path.is_file():
            raise WeightsError(f"{path}: is not there; name the CLIP file of an image-to-video checkpoint")
        file = open_file(path)
        _fill(picture, file, "visual.")
        _fill(texts, file, "textual.")
        beside = tokenizer or path.parent / "xlm-roberta-large" / "tokenizer.json"
        return cls(picture, texts, XLMTokenizer.read(beside), spec.image_size)

    @torch.inference_mode()
    def pictures(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """Unit vectors [pictures, e]."""
        rows = []
        for frame in frames:  # one at a time: they may differ in size
            image = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            rows.append(nn.functional.normalize(self._picture(preprocess(image, self._size)), dim=1))
        return _array(rows)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [texts, e]."""
        rows = []
        for start in range(0, len(texts), _BATCH):
            ids = [self._tokenizer(text) for text in texts[start : start + _BATCH]]
            longest = max(map(len, ids))
            padded = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in ids])
            rows.append(nn.functional.normalize(self._text(padded), dim=1))
        return _array(rows)


def _array(rows: list[Tensor]) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = torch.cat(rows).numpy()
    return vectors


def _fill(network: nn.Module, file: TensorFile, prefix: str) -> None:
    """Put the tensors behind a prefix into a network on the meta device, each exactly once."""
    wanted = {f"{prefix}{name}": value.shape for name, value in network.state_dict().items()}
    there = {name for name in file.entries if name.startswith(prefix)}
    if missing := sorted(wanted.keys() - there):
        raise WeightsError(
            f"{file.path}: lacks {len(missing)} tensors of CLIP, such as {missing[0]}; name the file "
            "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth of an image-to-video checkpoint"
        )
    if foreign := sorted(there - wanted.keys()):
        raise WeightsError(f"{file.path}: holds {len(foreign)} tensors that are not CLIP's, such as {foreign[0]}")
    state = {}
    for name, shape in wanted.items():
        value = file.read(name).float()
        if value.shape != shape:
            raise WeightsError(f"{file.path}: {name} has shape {list(value.shape)}, and {list(shape)} is needed")
        state[name.removeprefix(prefix)] = value
    network.load_state_dict(state, assign=True)


@functools.lru_cache(maxsize=2)
def clip_of(path: str) -> Clip:
    """The towers of a checkpoint, read once per process."""
    return Clip.read(Path(path))

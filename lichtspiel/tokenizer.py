"""Turn a prompt into token ids: the official cleaning and the UMT5 tokenizer. Knows nothing of models or tensors.

UMT5 uses a SentencePiece unigram vocabulary: a word is cut into the pieces whose log probabilities add up to the
most (Kudo 2018, arXiv:1804.10959). The search is short enough to implement here, and loads its table five times
faster than the `tokenizers` library builds its own; a test checks that both agree.

`data/umt5_pieces.safetensors` is the vocabulary of google/umt5-xxl (Apache-2.0): all 256,300 pieces joined by line
feeds in the order of their ids (`pieces`, UTF-8), and their log probabilities (`scores`, float32, as in the source).
Its metadata holds the SHA-256 of the `tokenizer.json` that it was made from.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.resources import files

import ftfy
from safetensors.numpy import load

__all__ = ["Tokenizer", "Unigram", "clean", "umt5"]

END = 1
"""The id of `</s>`, which ends every prompt."""

UNKNOWN = 3
"""The id of `<unk>`, for characters that no piece covers."""

UNKNOWN_PENALTY = 10.0
"""How far below the rarest piece an unknown character scores (`kUnkPenalty` in SentencePiece)."""

SPACE = "▁"
"""How SentencePiece writes the space before a word."""

WORDS = 1 << 14
"""How many words are kept with their pieces; a data set has few words, and prompts share most of theirs."""

SPECIAL = re.compile(r"(<pad>|</s>|<s>|<unk>|<extra_id_(?:0|[1-9][0-9]?|[12][0-9]{2})>)")
"""Names that stand for a single id anywhere in a prompt (the added tokens of google/umt5-xxl)."""


def clean(prompt: str) -> str:
    """Clean up a prompt before it is split into tokens.

    Undoes mojibake, HTML entities (twice, because captions from the web are often escaped twice) and odd white space:
    the `whitespace` mode of `wan/modules/tokenizers.py`. Full-width letters and punctuation become ASCII on the way,
    as the checkpoints saw them in training.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


class Unigram:
    """A unigram vocabulary: `pieces` and their log probabilities `scores`, both in the order of the ids."""

    def __init__(self, pieces: Sequence[str], scores: Sequence[float]) -> None:
        assert pieces[UNKNOWN] == "<unk>"
        self._ids = dict(zip(pieces, range(len(pieces)), strict=True))
        self._scores = list(scores)
        self._scores[UNKNOWN] = min(scores) - UNKNOWN_PENALTY
        self._longest = max(map(len, pieces))
        self._word = lru_cache(WORDS)(self._split)

    def segment(self, text: str) -> list[int]:
        """Split a cleaned text into ids, without `</s>` at the end.

        Every word carries the space before it, and no piece spans two words. A special name starts a new word.
        """
        ids: list[int] = []
        for part in filter(None, SPECIAL.split(text)):
            if SPECIAL.fullmatch(part):
                ids.append(self._ids[part])
            else:
                spaced = SPACE + part.replace(" ", SPACE).removeprefix(SPACE)
                for word in re.findall(f"{SPACE}[^{SPACE}]*", spaced):
                    ids += self._word(word)
        return ids

    def _split(self, word: str) -> tuple[int, ...]:
        """Find the most probable split of a word (Viterbi); adjacent unknown characters become one `<unk>`."""
        score = [0.0] + [-math.inf] * len(word)  # of the best split up to here
        last = [(0, UNKNOWN)] * (len(word) + 1)  # its last piece: where it starts, and its id
        for start in range(len(word)):
            for end in range(start + 1, min(start + self._longest, len(word)) + 1):
                piece = self._ids.get(word[start:end], UNKNOWN)
                if piece == UNKNOWN and end > start + 1:
                    continue
                candidate = score[start] + self._scores[piece]
                if candidate > score[end]:
                    score[end], last[end] = candidate, (start, piece)
        ids: list[int] = []
        end = len(word)
        while end > 0:
            end, piece = last[end]
            if piece != UNKNOWN or ids[-1:] != [UNKNOWN]:
                ids.append(piece)
        return tuple(ids[::-1])


@cache
def umt5() -> Unigram:
    """Load the UMT5 vocabulary that ships with the package; takes about 0.2 s the first time and is cached."""
    table = load(files("lichtspiel").joinpath("data", "umt5_pieces.safetensors").read_bytes())
    return Unigram(table["pieces"].tobytes().decode().split("\n"), table["scores"].tolist())


class Tokenizer:
    """Turns a prompt into the ids, or the table rows, that a text encoder takes.

    `unigram` is called for the first prompt, so that creating a tokenizer costs nothing. `length` is the maximum number
    of ids, including `</s>`. `vocabulary` is for encoders with a smaller table: row n of the table is for the id
    `vocabulary[n]`, and ids that it lacks get the row of `<unk>`. None means that rows and ids are the same.
    """

    def __init__(self, unigram: Callable[[], Unigram], length: int, vocabulary: Sequence[int] | None = None) -> None:
        self._unigram, self._length = unigram, length
        self._rows: dict[int, int] | None = None
        if vocabulary is not None:
            self._rows = {piece: row for row, piece in enumerate(vocabulary)}
            assert len(self._rows) == len(vocabulary), "an id has two rows"
            assert END in self._rows, "the vocabulary lacks </s>"
            assert UNKNOWN in self._rows, "the vocabulary lacks <unk>"

    @classmethod
    def umt5(cls, length: int, vocabulary: Sequence[int] | None = None) -> Tokenizer:
        """Create a tokenizer with the published UMT5 vocabulary; the official `length` is 512."""
        return cls(umt5, length, vocabulary)

    def __call__(self, prompt: str) -> list[int]:
        """Clean a prompt and return its ids or rows: at most `length`, the last of which is always `</s>`."""
        ids = [*self._unigram().segment(clean(prompt))[: self._length - 1], END]
        if self._rows is None:
            return ids
        return [self._rows.get(piece, self._rows[UNKNOWN]) for piece in ids]

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the encoder cannot read in full, in order and each only once.

        A word is what stands between spaces after cleaning. It is unknown if one of its pieces is `<unk>` or has no
        row in `vocabulary`.
        """
        words = dict.fromkeys(clean(prompt).split(" "))
        return [word for word in words if not all(map(self._knows, self._unigram().segment(word)))]

    def unread_words(self, prompt: str) -> list[str]:
        """The words at the end of a prompt that do not fit into `length`, from the first that is not read in full."""
        words, pieces = clean(prompt).split(" "), 0
        for number, word in enumerate(words):
            pieces += len(self._unigram().segment(word))
            if pieces > self._length - 1:
                return words[number:]
        return []

    def _knows(self, piece: int) -> bool:
        return piece != UNKNOWN and (self._rows is None or piece in self._rows)

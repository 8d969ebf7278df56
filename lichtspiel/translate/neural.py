"""Translators whose files the user has: Argos packages, OPUS-MT and NLLB, all run by CTranslate2 (MIT).

Each sentence is translated by itself: these models read no context. Files are read from their place; nothing is
downloaded.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.translate import engines, tongues

__all__ = ["MAKERS", "Argos", "Nllb", "Opus"]

_MOST_BYTES = 4 << 30
_ARGOS, _ARGOS_FILES = "an .argosmodel file, or the folder in it", ("metadata.json", "model", "sentencepiece.model")

_FLORES_SCRIPTS = {
    "ar": "Arab", "fa": "Arab", "ur": "Arab", "ps": "Arab", "ug": "Arab", "sd": "Arab", "he": "Hebr", "yi": "Hebr",
    "ru": "Cyrl", "uk": "Cyrl", "be": "Cyrl", "bg": "Cyrl", "sr": "Cyrl", "mk": "Cyrl", "kk": "Cyrl", "ky": "Cyrl",
    "tg": "Cyrl", "tt": "Cyrl", "ba": "Cyrl", "mn": "Cyrl", "zh": "Hans", "yue": "Hant", "ja": "Jpan", "ko": "Hang",
    "hi": "Deva", "mr": "Deva", "ne": "Deva", "bn": "Beng", "as": "Beng", "gu": "Gujr", "pa": "Guru", "or": "Orya",
    "ta": "Taml", "te": "Telu", "kn": "Knda", "ml": "Mlym", "si": "Sinh", "th": "Thai", "lo": "Laoo", "km": "Khmr",
    "my": "Mymr", "ka": "Geor", "hy": "Armn", "el": "Grek", "am": "Ethi", "ti": "Ethi",
}  # fmt: skip
_FLORES_CODES = {
    "ar": "arb", "fa": "pes", "ps": "pbt", "lv": "lvs", "et": "est", "ms": "zsm", "sw": "swh", "uz": "uzn", "az": "azj",
    "mn": "khk", "ne": "npi", "or": "ory", "sq": "als", "yi": "ydd", "ku": "kmr", "om": "gaz", "qu": "quy",
}  # fmt: skip


class _Model:
    """A CTranslate2 model with SentencePiece, one or two of them."""

    def __init__(self, named: engines.Named, folder: Path, pieces: tuple[Path, Path]) -> None:
        for package in ("ctranslate2", "sentencepiece"):
            engines.needs(named, package, engines.MODELS)
        import ctranslate2
        import sentencepiece

        self.name = str(named)
        try:
            self._model = ctranslate2.Translator(str(folder), device="cpu", compute_type="auto", intra_threads=0)
            self._source, self._target = (sentencepiece.SentencePieceProcessor(model_file=str(one)) for one in pieces)
        except (RuntimeError, ValueError, OSError) as error:
            raise engines.unreadable(named, error, "convert or download it again") from None

    def _run(
        self, texts: Sequence[str], before: Sequence[str] = (), after: Sequence[str] = (), start: str | None = None
    ) -> list[str]:
        """Translations of texts; `before` and `after` are tokens around each, `start` the first token of the result."""
        tokens = [[*before, *self._source.encode(text, out_type=str), *after] for text in texts]
        prefix = [[start]] * len(tokens) if start else None
        try:
            found = self._model.translate_batch(
                tokens, target_prefix=prefix, beam_size=4, max_batch_size=16, max_decoding_length=256,
                repetition_penalty=1.1,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise LichtspielError(f"{self.name} failed: {error}") from error
        said = [[token for token in one.hypotheses[0] if token != start] for one in found]
        return [str(self._target.decode(pieces)).strip() for pieces in said]

    def shorten(self, text: str, language: str, share: float) -> str | None:
        """See Translator: such a model does not shorten."""
        return None


class Argos(_Model):
    """A package of Argos Translate: one file .argosmodel, or the folder that it unpacks to, for one pair."""

    def __init__(self, named: engines.Named) -> None:
        engines.undivided(named)
        path = engines.existing(named, _ARGOS)
        if path.is_dir():
            self._load(named, engines.existing(named, _ARGOS, names=_ARGOS_FILES))
            return
        with tempfile.TemporaryDirectory(prefix="lichtspiel-argos-") as unpacked:  # the model is in memory after that
            self._load(named, _unpack(named, path, Path(unpacked)))

    def _load(self, named: engines.Named, folder: Path) -> None:
        try:
            said = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
            self._pair = (str(said["from_code"]), str(said["to_code"]))
        except (ValueError, LookupError, TypeError, OSError) as error:
            rule = 'it says "from_code" and "to_code"; unpack it again'
            raise InvalidInput(f"--translator {named}: its metadata.json cannot be read ({error}); {rule}") from None
        pieces = folder / "sentencepiece.model"
        super().__init__(named, folder / "model", (pieces, pieces))

    def check(self, source: str, target: str) -> None:
        """See Translator."""
        if (source, target) != self._pair:
            one, other = self._pair
            raise _other_pair(self.name, one, other, source, target)

    def translate(self, texts: Sequence[str], source: str, target: str, terms: dict[str, str]) -> list[str]:
        """See Translator."""
        return self._run(texts)


def _other_pair(name: str, one: str, other: str, source: str, target: str) -> InvalidInput:
    return InvalidInput(
        f"--translator {name}: translates from {one} to {other}, not from {source} to {target}; name a model for that "
        "pair, or bring the words: --subtitles"
    )


def _unpack(named: engines.Named, path: Path, folder: Path) -> Path:
    """The folder of a package in a folder that it is unpacked to."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                raise InvalidInput(f"--translator {named}: unpacks to more than {_MOST_BYTES >> 30} GiB; "
                                   "unpack it yourself and name the folder")  # fmt: skip
            archive.extractall(folder)  # which keeps names inside the folder
    except (zipfile.BadZipFile, OSError) as error:
        raise InvalidInput(f"--translator {named}: is no .argosmodel file ({error}); download it again") from None
    found = [one.parent for one in (*folder.glob("*/metadata.json"), *folder.glob("metadata.json"))]
    fitting = [one for one in found if all((one / name).exists() for name in _ARGOS_FILES)]
    if not fitting:
        raise InvalidInput(
            f"--translator {named}: is no .argosmodel file (it lacks {' or '.join(_ARGOS_FILES)}); download it again"
        )
    return fitting[0]


class Opus(_Model):
    """An OPUS-MT model (Marian) that ct2-opus-mt-converter or ct2-transformers-converter converted, for one pair. Which
    pair it is, only its user knows: a name that ends in -en-de is believed."""

    def __init__(self, named: engines.Named) -> None:
        engines.undivided(named)
        path = engines.existing(
            named, "the folder of an OPUS-MT model for CTranslate2", names=["model.bin", "source.spm", "target.spm"]
        )
        self._parts = path.resolve().name.lower().replace("_", "-").split("-")
        super().__init__(named, path, (path / "source.spm", path / "target.spm"))

    def check(self, source: str, target: str) -> None:
        """See Translator."""
        pair = self._parts[-2:]
        if all(part in tongues.NAMES for part in pair) and len(pair) == 2 and pair != [source, target]:
            raise _other_pair(self.name, pair[0], pair[1], source, target)

    def translate(self, texts: Sequence[str], source: str, target: str, terms: dict[str, str]) -> list[str]:
        """See Translator."""
        return self._run(texts, after=["</s>"])


class Nllb(_Model):
    """NLLB-200 for CTranslate2, with its sentencepiece.bpe.model: two hundred languages. Its weights are for
    non-commercial use (CC-BY-NC)."""

    def __init__(self, named: engines.Named) -> None:
        engines.undivided(named)
        path = engines.existing(
            named, "the folder of an NLLB model for CTranslate2", names=["model.bin", "sentencepiece.bpe.model"]
        )
        pieces = path / "sentencepiece.bpe.model"
        super().__init__(named, path, (pieces, pieces))
        self._words = _vocabulary(path)

    def check(self, source: str, target: str) -> None:
        """See Translator. The languages are tokens of the vocabulary; one that is none would be taken for a word."""
        for flag, code in (("--from", source), ("--to", target)):
            if tongues.iso639_2(code) == "und" or (self._words and flores(code) not in self._words):
                raise InvalidInput(
                    f"{flag} {code}: {self.name} does not know {tongues.name_of(code)}; name another --translator, or "
                    "bring the words: --subtitles"
                )

    def translate(self, texts: Sequence[str], source: str, target: str, terms: dict[str, str]) -> list[str]:
        """See Translator."""
        return self._run(texts, before=[flores(source)], after=["</s>"], start=flores(target))


def _vocabulary(folder: Path) -> frozenset[str]:
    """The tokens of a model for CTranslate2, which older converters wrote as lines; none where there is no file."""
    try:
        if (path := folder / "shared_vocabulary.json").is_file():
            return frozenset(map(str, json.loads(path.read_text(encoding="utf-8"))))
        return frozenset((folder / "shared_vocabulary.txt").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, TypeError):
        return frozenset()


def flores(code: str) -> str:
    """The token of a language in NLLB, such as deu_Latn."""
    return f"{_FLORES_CODES.get(code, tongues.iso639_2(code))}_{_FLORES_SCRIPTS.get(code, 'Latn')}"


MAKERS: dict[str, Callable[[engines.Named], Any]] = {"argos": Argos, "opus": Opus, "nllb": Nllb}

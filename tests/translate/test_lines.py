from __future__ import annotations

import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import engines, tongues
from lichtspiel.translate.lines import MOST_SECONDS, MOST_WORDS, Word, sentences


def said(text: str, *, start: float = 0.0, pauses: dict[int, float] | None = None) -> list[Word]:
    """Words of 0.3 s each, with pauses before some."""
    words, at = [], start
    for number, word in enumerate(text.split()):
        at += (pauses or {}).get(number, 0.05)
        words.append(Word(word, at, at + 0.3))
        at += 0.3
    return words


def test_pauses_end_sentences_and_set_commas() -> None:
    lines = sentences(said("hello there my friend i am here", pauses={2: 0.3, 4: 1.0}), punctuated=False)
    assert [line.text for line in lines] == ["Hello there, my friend.", "I am here."]
    assert lines[0].start == pytest.approx(0.05)
    assert lines[1].start - lines[0].end == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("where does it go", "Where does it go?"),
        ("can you hear me", "Can you hear me?"),
        ("what he said is true", "What he said is true."),
        ("i think so", "I think so."),
        ("well i'm here", "Well I'm here."),
    ],
)
def test_questions_are_known_by_their_first_words(words: str, sentence: str) -> None:
    words = words.replace("i'm", "i'm")
    (line,) = sentences(said(words), punctuated=False)
    assert line.text == sentence


def test_an_engine_that_punctuates_is_believed() -> None:
    lines = sentences(said("Dr. no. It is 5.5 m, he said.", pauses={2: 0.1}), punctuated=True)
    assert [line.text for line in lines] == ["Dr.", "no.", "It is 5.5 m, he said."]


def test_long_sentences_are_parted_at_a_pause() -> None:
    words = said(" ".join(f"w{number}" for number in range(60)), pauses={25: 0.4})
    lines = sentences(words, punctuated=False)
    assert sum(len(line.text.split()) for line in lines) == 60
    assert all(len(line.text.split()) <= MOST_WORDS and line.seconds <= MOST_SECONDS for line in lines)
    assert any(line.text.lower().startswith("w25") for line in lines)


def test_chinese_has_no_spaces() -> None:
    (line,) = sentences(said("我 喜欢 看 书 。"), punctuated=True, english=False)
    assert line.text == "我喜欢看书。"


@pytest.mark.parametrize("typed", ["de", "DE", "de-AT", "de_CH", "deu", "German"])
def test_a_language_has_many_names(typed: str) -> None:
    assert tongues.parse("--to", typed) == "de"


def test_an_unknown_language_is_named_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"known here\. Languages have two letters"):
        tongues.parse("--to", "xqxqxq")
    with pytest.raises(InvalidInput, match=r"--to 'germn' .* did you mean german"):
        tongues.parse("--to", "germn")
    assert tongues.script_of("12 Привет, ok") == "CYRILLIC"
    assert len({three for _, three in tongues.NAMES.values()}) == len(tongues.NAMES)


def test_engines_are_named_by_kind_place_and_choice() -> None:
    named = engines.parse("--voice", "kokoro:models/k#af_sky", ["espeak", "kokoro"], ["espeak"])
    assert (named.kind, named.place, named.choice, str(named)) == ("kokoro", "models/k", "af_sky", "kokoro:models/k")
    assert engines.parse("--voice", "espeak:+f3", ["espeak"], ["espeak"]).choice == "+f3"
    with pytest.raises(InvalidInput, match=r"did you mean espeak\? Engines are: espeak, kokoro:PATH"):
        engines.parse("--voice", "espeek", ["espeak", "kokoro"], ["espeak"])
    with pytest.raises(InvalidInput, match=r"kokoro needs its files: --voice kokoro:PATH"):
        engines.parse("--voice", "kokoro", ["espeak", "kokoro"], ["espeak"])

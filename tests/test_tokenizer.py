"""Cleaning against the official steps, segmentation against the `tokenizers` library."""

from __future__ import annotations

import hashlib
import html
import re
from functools import cache
from importlib.resources import files

import pytest

pytest.importorskip("tokenizers", reason="tokenizers is in the extra test-peers")

import ftfy
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lichtspiel import tokenizer
from lichtspiel.spec import NEGATIVE
from lichtspiel.tokenizer import Tokenizer, Unigram, clean, umt5

PIECES = files("lichtspiel").joinpath("data", "umt5_pieces.safetensors")
TOY = Unigram(
    ["<pad>", "</s>", "<s>", "<unk>", "▁", "a", "b", "▁a", "ab", "▁ab", "ba"],
    [0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -3.0, -3.5, -2.5, -9.0, -2.5],
)

prompts = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            ["a red toy", " car", "▁", " ", "</s>", "<unk>", "<extra_id_299>", "<extra_id_300>", "<extra_id_07>", "ｘ",
             "猫", "Straße", "[eod]", "<0x41>", "\U00012345", "\U00012346", "&amp;", ".", "\t", "tuūü", "0 1"]
        ),
        max_size=12,
    ).map("".join),
)  # fmt: skip


@cache
def reference() -> tokenizers.Tokenizer:
    """The `tokenizers` library on the same pieces, set up as `tokenizer.json` of google/umt5-xxl does."""
    unigram = umt5()
    scores = list(unigram._scores)
    scores[3] = 0.0
    pieces = [""] * len(scores)  # an empty piece is never found, so it does not matter where it went
    for piece, index in unigram._ids.items():
        pieces[index] = piece
    library = tokenizers.Tokenizer(tokenizers.models.Unigram(list(zip(pieces, scores, strict=True)), 3, False))
    library.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    library.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = ["<pad>", "</s>", "<s>", "<unk>", *(f"<extra_id_{n}>" for n in range(299, -1, -1))]
    library.add_special_tokens([tokenizers.AddedToken(name, normalized=False, special=True) for name in special])
    return library


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("a cat", "a cat"),
        ("", ""),
        (" \n\t ", ""),
        ("  a \t\r\n cat\u00a0\u2003on\u3000a\u2028mat\u205f", "a cat on a mat"),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("salt < &amp;amp; pepper", "salt < & pepper"),  # a tag-like sign stops ftfy, not html.unescape
        ("salt < &amp;amp;amp; pepper", "salt < &amp; pepper"),
        ("a&nbsp;b&#32;c", "a b c"),
        ("cafÃ© mÃ¼nchen", "café münchen"),
        ("âœ” done", "✔ done"),
        ("it\u2019s \u201cgood\u201d", 'it\'s "good"'),
        ("ＦＵＬＬ，ｗｉｄｔｈ", "FULL,width"),
        ("cafe\u0301", "café"),
        ("a\x00\x1cb", "ab"),
        ("一只猫，在草地上", "一只猫,在草地上"),
        ("Größe: 3 m²", "Größe: 3 m²"),
    ],
)
def test_clean(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned


@settings(deadline=None, max_examples=50)
@given(prompts)
def test_any_text_is_cleaned_as_the_official_code_does(prompt: str) -> None:
    unescaped = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    assert clean(prompt) == re.sub(r"\s+", " ", unescaped).strip()


def test_published_ids() -> None:
    assert umt5().segment("Wikipedia is a ") == [14164, 339, 289, 273]  # transformers, pull request 22626
    assert Tokenizer.umt5(512)("Wikipedia is a ") == [14164, 339, 289, 1]  # cleaning strips the space


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Two anthropomorphic cats in comfy boxing gear fight intensely on a spotlighted stage.",
        "Zwei Katzen in Boxhandschuhen kämpfen auf einer hell erleuchteten Bühne; draußen fällt Schnee.",
        "一只戴着墨镜的白猫坐在冲浪板上，背景是模糊的海滩。",
        NEGATIVE,
        "猫 \U0001f9ff \U00012345\U00012346x",
        "foo </s> bar<extra_id_0>baz <pad><extra_id_300>",
        "a ▁b ▁",
        "<0x41>b [eod]",
    ],
)
def test_against_tokenizers(prompt: str) -> None:
    assert Tokenizer.umt5(512)(prompt) == reference().encode(clean(prompt)).ids[:512]


@settings(deadline=None, max_examples=50)
@given(prompts)
def test_any_text_against_tokenizers(prompt: str) -> None:
    assert Tokenizer.umt5(512)(prompt) == reference().encode(clean(prompt)).ids


def test_the_library_truncates_the_same() -> None:
    prompt = "ein sehr langer Satz, " * 20
    library = reference()
    library.enable_truncation(48)
    try:
        expected = library.encode(clean(prompt)).ids
    finally:
        library.no_truncation()
    ids = Tokenizer.umt5(48)(prompt)
    assert ids == expected
    assert len(ids) == 48
    assert ids[-1] == 1


def test_pieces_are_the_published_ones() -> None:
    assert (
        hashlib.sha256(PIECES.read_bytes()).hexdigest()
        == "e85b8c19d13a4955c8f82c7f256754f4181f79996f091a9136605f60476e3784"
    )
    table = tokenizer.load(PIECES.read_bytes())
    assert len(table["scores"]) == 256_300


def test_making_a_tokenizer_reads_nothing() -> None:
    def read() -> Unigram:
        raise AssertionError("too early")

    tokenizer = Tokenizer(read, 8, vocabulary=[3, 1])
    with pytest.raises(AssertionError, match="too early"):
        tokenizer("a")


def test_the_table_is_read_once() -> None:
    assert umt5() is umt5()


@pytest.mark.parametrize(
    ("word", "ids"),
    [
        ("a", [7]),  # ▁a −3.5 beats ▁ a −5
        ("ab", [4, 8]),  # ▁ ab −4.5 beats ▁a b −6.5 and ▁ab −9
        ("aba", [7, 10]),  # ▁a ba −6 beats ▁ ab a −7.5
        ("axb", [7, 3, 6]),
        ("axyzb", [7, 3, 6]),  # unknown neighbours are one
        ("xa xb", [4, 3, 5, 4, 3, 6]),
        ("</s>a", [1, 7]),
        ("a ▁ b", [7, 4, 4, 4, 6]),
    ],
)
def test_most_probable_cut(word: str, ids: list[int]) -> None:
    assert TOY.segment(word) == ids


def test_vocabulary_maps_ids_to_rows() -> None:
    vocabulary = [3, 1, 7, 8]  # <unk>, </s>, ▁a, ab
    tokenizer = Tokenizer(lambda: TOY, 5, vocabulary)
    assert tokenizer("a") == [2, 1]
    assert tokenizer("a ab") == [2, 0, 3, 1]
    assert tokenizer("") == [1]
    assert tokenizer("a a a a a a") == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("vocabulary", [[], [1, 7], [3, 7], [1, 3, 3]])
def test_vocabulary_has_what_every_prompt_needs(vocabulary: list[int]) -> None:
    with pytest.raises(AssertionError):
        Tokenizer(lambda: TOY, 5, vocabulary)


def test_unknown_words() -> None:
    tokenizer = Tokenizer(lambda: TOY, 5)
    assert tokenizer.unknown_words("") == []
    assert tokenizer.unknown_words("a ab") == []
    assert tokenizer.unknown_words("xa  a&#32;ay xa") == ["xa", "ay"]
    small = Tokenizer(lambda: TOY, 5, [3, 1, 7])
    assert small.unknown_words("a ab a ba xa") == ["ab", "ba", "xa"]
    # A word behind the cut is reported, too: the user should know it is not read.
    assert small.unknown_words("a a a a a a b") == ["b"]


def test_unknown_words_of_the_published_vocabulary() -> None:
    tokenizer = Tokenizer.umt5(512)
    assert tokenizer.unknown_words("a cat 一只猫 \U00012345 und ein Hund") == ["\U00012345"]
    words = "a red ball rolls over the wooden table"
    small = Tokenizer.umt5(48, sorted({3, *Tokenizer.umt5(512)(words)}))
    assert small.unknown_words(words) == []
    assert small.unknown_words("a red zeppelin rolls") == ["zeppelin"]
    assert len(small("a red ball")) == len(Tokenizer.umt5(512)("a red ball"))


def test_words_that_do_not_fit_are_named() -> None:
    tokenizer = Tokenizer.umt5(8)
    assert tokenizer.unread_words("a red ball") == []
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    unread = tokenizer.unread_words(" ".join(words))
    assert unread == words[len(words) - len(unread) :]
    assert tokenizer(" ".join(words)) == tokenizer(" ".join(words[: len(words) - len(unread) + 1]))

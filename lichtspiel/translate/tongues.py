"""Languages: their codes and names, the letters they are written in, and which way they run.

Codes are those of BCP 47 with one part ("de", "zh"); MP4 files name languages by ISO 639-2/T ("deu", "zho").
"""

from __future__ import annotations

import difflib
import unicodedata

from lichtspiel.errors import InvalidInput

__all__ = ["NAMES", "UNSPACED", "canonical", "iso639_2", "name_of", "parse", "right_to_left", "script_of"]

NAMES: dict[str, tuple[str, str]] = {
    # code: (English name, ISO 639-2/T code)
    "af": ("Afrikaans", "afr"), "am": ("Amharic", "amh"), "an": ("Aragonese", "arg"), "ar": ("Arabic", "ara"),
    "as": ("Assamese", "asm"), "ast": ("Asturian", "ast"), "az": ("Azerbaijani", "aze"), "ba": ("Bashkir", "bak"),
    "be": ("Belarusian", "bel"), "bg": ("Bulgarian", "bul"), "bn": ("Bengali", "ben"), "br": ("Breton", "bre"),
    "bs": ("Bosnian", "bos"), "ca": ("Catalan", "cat"), "cs": ("Czech", "ces"), "cv": ("Chuvash", "chv"),
    "cy": ("Welsh", "cym"), "da": ("Danish", "dan"), "de": ("German", "deu"), "el": ("Greek", "ell"),
    "en": ("English", "eng"), "eo": ("Esperanto", "epo"), "es": ("Spanish", "spa"), "et": ("Estonian", "est"),
    "eu": ("Basque", "eus"), "fa": ("Persian", "fas"), "fi": ("Finnish", "fin"), "fo": ("Faroese", "fao"),
    "fr": ("French", "fra"), "ga": ("Irish", "gle"), "gd": ("Scottish Gaelic", "gla"), "gl": ("Galician", "glg"),
    "gu": ("Gujarati", "guj"), "he": ("Hebrew", "heb"), "hi": ("Hindi", "hin"), "hr": ("Croatian", "hrv"),
    "ht": ("Haitian Creole", "hat"), "hu": ("Hungarian", "hun"), "hy": ("Armenian", "hye"),
    "ia": ("Interlingua", "ina"),
    "id": ("Indonesian", "ind"), "is": ("Icelandic", "isl"), "it": ("Italian", "ita"), "ja": ("Japanese", "jpn"),
    "ka": ("Georgian", "kat"), "kk": ("Kazakh", "kaz"), "kl": ("Greenlandic", "kal"), "km": ("Khmer", "khm"),
    "kn": ("Kannada", "kan"), "ko": ("Korean", "kor"), "ku": ("Kurdish", "kur"), "ky": ("Kyrgyz", "kir"),
    "la": ("Latin", "lat"), "lb": ("Luxembourgish", "ltz"), "lo": ("Lao", "lao"), "lt": ("Lithuanian", "lit"),
    "lv": ("Latvian", "lav"), "mi": ("Maori", "mri"), "mk": ("Macedonian", "mkd"), "ml": ("Malayalam", "mal"),
    "mn": ("Mongolian", "mon"), "mr": ("Marathi", "mar"), "ms": ("Malay", "msa"), "mt": ("Maltese", "mlt"),
    "my": ("Burmese", "mya"), "nb": ("Norwegian Bokmål", "nob"), "ne": ("Nepali", "nep"), "nl": ("Dutch", "nld"),
    "nn": ("Norwegian Nynorsk", "nno"), "oc": ("Occitan", "oci"), "om": ("Oromo", "orm"), "or": ("Odia", "ori"),
    "pa": ("Punjabi", "pan"), "pl": ("Polish", "pol"), "ps": ("Pashto", "pus"), "pt": ("Portuguese", "por"),
    "qu": ("Quechua", "que"), "ro": ("Romanian", "ron"), "ru": ("Russian", "rus"), "sc": ("Sardinian", "srd"),
    "sd": ("Sindhi", "snd"), "se": ("Northern Sami", "sme"), "si": ("Sinhala", "sin"), "sk": ("Slovak", "slk"),
    "sl": ("Slovenian", "slv"), "so": ("Somali", "som"), "sq": ("Albanian", "sqi"), "sr": ("Serbian", "srp"),
    "sv": ("Swedish", "swe"), "sw": ("Swahili", "swa"), "ta": ("Tamil", "tam"), "te": ("Telugu", "tel"),
    "tg": ("Tajik", "tgk"), "th": ("Thai", "tha"), "ti": ("Tigrinya", "tir"), "tk": ("Turkmen", "tuk"),
    "tl": ("Tagalog", "tgl"), "tn": ("Tswana", "tsn"), "tr": ("Turkish", "tur"), "tt": ("Tatar", "tat"),
    "ug": ("Uyghur", "uig"), "uk": ("Ukrainian", "ukr"), "ur": ("Urdu", "urd"), "uz": ("Uzbek", "uzb"),
    "vi": ("Vietnamese", "vie"), "yi": ("Yiddish", "yid"), "yo": ("Yoruba", "yor"), "yue": ("Cantonese", "yue"),
    "zh": ("Chinese", "zho"), "zu": ("Zulu", "zul"),
}  # fmt: skip

UNSPACED = frozenset(["zh", "yue", "ja", "th", "lo", "km", "my"])
"""Languages that are written without spaces between words."""

_ALIASES = {"cmn": "zh", "no": "nb", "hyw": "hy", "iw": "he", "in": "id", "fil": "tl"}
_RIGHT_TO_LEFT = frozenset(["ar", "fa", "he", "ps", "sd", "ug", "ur", "yi"])


def parse(field: str, text: str) -> str:
    """The code of a language from what was typed: "de", "DE", "de-AT", "deu" or "German". Raises InvalidInput."""
    plain = text.strip().lower().replace("_", "-")
    code = _ALIASES.get(plain.partition("-")[0], plain.partition("-")[0])
    if code in NAMES:
        return code
    for known, (name, three) in NAMES.items():
        if plain in (name.lower(), three):
            return known
    near = difflib.get_close_matches(plain, [*NAMES, *(name.lower() for name, _ in NAMES.values())], n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise InvalidInput(
        f"{field} {text[:40]!r} is no language that is known here{hint} "
        "Languages have two letters, such as de, es or zh; see `lichtspiel languages`"
    )


def canonical(code: str) -> str:
    """The code that is used here for one that an engine says, such as "nb" for "no"."""
    return _ALIASES.get(code, code)


def name_of(code: str) -> str:
    """The English name of a language; the code itself where it has none here."""
    return NAMES.get(code, (code, "und"))[0]


def iso639_2(code: str) -> str:
    """The three-letter code that MP4 files use; "und" where there is none here."""
    return NAMES.get(code, ("", "und"))[1]


def right_to_left(code: str) -> bool:
    """Whether a language runs from right to left."""
    return code in _RIGHT_TO_LEFT


def script_of(text: str) -> str:
    """The script that most letters of a text are in, as Unicode names it ("LATIN", "CJK", "ARABIC"); "" without any."""
    counts: dict[str, int] = {}
    for letter in text:
        if letter.isalpha():
            script = unicodedata.name(letter, "").split(" ")[0]
            counts[script] = counts.get(script, 0) + 1
    return max(counts, key=lambda script: counts[script]) if counts else ""

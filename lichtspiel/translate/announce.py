"""The label that is heard: the voice itself says that it is AI-generated, in a pause, so that nothing moves in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lichtspiel.translate.lines import Line
from lichtspiel.translate.protocols import Voice
from lichtspiel.translate.timing import FASTEST, Spoken, trimmed

__all__ = ["WORDS", "announce"]

WORDS: dict[str, tuple[str, str]] = {
    # language: the sentence, and fewer words for a short pause; both name AI and that it made this (GB 45438-2025)
    "ar": ("هذا الصوت مولد بالذكاء الاصطناعي.", "مولد بالذكاء الاصطناعي."),
    "ca": ("Aquesta veu està generada per intel·ligència artificial.", "Generat per IA."),
    "cs": ("Tento hlas vytvořila umělá inteligence.", "Vytvořila umělá inteligence."),
    "da": ("Denne stemme er AI-genereret.", "AI-genereret."),
    "de": ("Diese Stimme ist KI-generiert.", "KI-generiert."),
    "el": ("Αυτή η φωνή δημιουργήθηκε από τεχνητή νοημοσύνη.", "Από τεχνητή νοημοσύνη."),
    "en": ("This voice is AI-generated.", "AI-generated."),
    "es": ("Esta voz está generada por inteligencia artificial.", "Generado por IA."),
    "fi": ("Tämä ääni on tekoälyn tuottama.", "Tekoälyn tuottama."),
    "fr": ("Cette voix est générée par une IA.", "Généré par IA."),
    "hi": ("यह आवाज़ एआई से बनी है।", "एआई से बनी।"),
    "id": ("Suara ini dibuat oleh kecerdasan buatan.", "Dibuat oleh AI."),
    "it": ("Questa voce è generata dall'intelligenza artificiale.", "Generato dall'IA."),
    "ja": ("この おんせいは エーアイで せいせい されました。", "エーアイ せいせい。"),  # eSpeak NG reads no kanji
    "ko": ("이 음성은 인공지능이 생성했습니다.", "인공지능 생성."),
    "nb": ("Denne stemmen er KI-generert.", "KI-generert."),
    "nl": ("Deze stem is door AI gegenereerd.", "Door AI gegenereerd."),
    "pl": ("Ten głos został wygenerowany przez sztuczną inteligencję.", "Wygenerowano przez AI."),
    "pt": ("Esta voz foi gerada por inteligência artificial.", "Gerado por IA."),
    "ro": ("Această voce este generată de inteligența artificială.", "Generat de IA."),
    "ru": ("Этот голос создан искусственным интеллектом.", "Создано ИИ."),
    "sv": ("Den här rösten är AI-genererad.", "AI-genererad."),
    "tr": ("Bu ses yapay zekâ ile üretilmiştir.", "Yapay zekâ üretimi."),
    "uk": ("Цей голос створено штучним інтелектом.", "Створено ШІ."),
    "vi": ("Giọng nói này do trí tuệ nhân tạo tạo ra.", "Do AI tạo ra."),
    "zh": ("此配音由人工智能生成。", "人工智能生成。"),
}  # fmt: skip
"""What the label says, by language."""

_MARGIN = 0.12  # seconds of quiet before and after it


def announce(voice: Voice, language: str, busy: Sequence[tuple[float, float]], length: float) -> Spoken | None:
    """The label spoken in the first pause that holds it, whole rather than in fewer words, calmly rather than fast.

    `busy` are the spans in which somebody speaks, and `length` is that of the video, all in seconds. None where the
    language has no words here, or where no pause is long enough.
    """
    pauses = [*_pauses(busy, length)]
    for text in WORDS.get(language, ()):
        for speed in (1.0, FASTEST):
            sound = trimmed(voice.speak(text, speed), voice.rate)
            seconds = len(sound) / voice.rate
            for start, end in pauses:
                if end - start >= seconds + 2 * _MARGIN:
                    at = start + _MARGIN
                    return Spoken(Line(at, at + seconds, text), sound, voice.rate, at, speed)
    return None


def _pauses(busy: Sequence[tuple[float, float]], length: float) -> Iterator[tuple[float, float]]:
    free = 0.0
    for start, end in sorted(busy):
        if start > free:
            yield free, start
        free = max(free, end)
    if length > free:
        yield free, length

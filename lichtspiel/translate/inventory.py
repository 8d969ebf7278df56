"""What this machine can hear, translate and speak, and the line that adds what it cannot."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from lichtspiel.translate import engines, espeak, sherpa, tongues, voice_activity
from lichtspiel.translate.translators import APERTIUM, apertium_pairs

__all__ = ["inventory"]


def inventory() -> dict[str, list[dict[str, Any]]]:
    """Engines by part. Each has a name as it is typed, whether its program is here, what it can do (or needs), and how
    to add it. Engines with files count as here when their package is; the files are the user's."""
    return {"hear": _hearing(), "translate": _translating(), "speak": _speaking()}


def _entry(name: str, here: bool, what: str, add: str) -> dict[str, Any]:
    return {"name": name, "here": here, "what": what, "add": add}


def _has(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)


def _hearing() -> list[dict[str, Any]]:
    voiced = voice_activity.installed()
    return [
        _entry("pocketsphinx", voiced and _has("pocketsphinx"), "English", voice_activity.INSTALL),
        _entry(
            "whisper:PATH", voiced and _has("faster_whisper"), "about 100 languages: a faster-whisper model",
            f"{engines.MODELS}; hf download Systran/faster-whisper-small --local-dir PATH",
        ),
        _entry(
            "vosk:PATH", voiced and _has("vosk"), "about 20 languages, one folder each",
            "pip install vosk; unpack a model of alphacephei.com/vosk/models to PATH",
        ),
        _entry(
            "sherpa:PATH", voiced and _has("sherpa_onnx"), "Moonshine, Whisper, SenseVoice and transducers",
            f"{sherpa.INSTALL}; unpack a model of github.com/k2-fsa/sherpa-onnx to PATH",
        ),
    ]  # fmt: skip


def _translating() -> list[dict[str, Any]]:
    pairs = apertium_pairs()
    told = ", ".join(f"{one} to {other}" for one, other, _ in pairs) or "a few pairs, such as en to es and fr to es"
    here, add = _has("ctranslate2", "sentencepiece"), engines.MODELS
    told_chat = "what the model behind an OpenAI-compatible address knows; the words are sent there"
    return [
        _entry("apertium", bool(pairs), told, APERTIUM),
        _entry("argos:PATH", here, "one pair for each .argosmodel file of argosopentech.com", add),
        _entry("opus:PATH", here, "one pair for each OPUS-MT model converted for CTranslate2", add),
        _entry("nllb:PATH", here, "200 languages: an NLLB-200 model converted for CTranslate2", add),
        _entry("chat:URL#MODEL", True, told_chat, ""),
    ]


def _speaking() -> list[dict[str, Any]]:
    here, spoken = espeak.find_library() is not None, ""
    if here:
        known = sorted(espeak.started().languages)
        spoken = f"{len(known)} languages: {' '.join(code for code in known if code in tongues.NAMES)}"
    network, add = here and _has("onnxruntime"), f"{voice_activity.INSTALL}; {espeak.INSTALL}, for phonemes"
    return [
        _entry("espeak", here, spoken or "a hundred languages", espeak.INSTALL),
        _entry("piper:PATH", network, "one voice for each .onnx file of huggingface.co/rhasspy/piper-voices", add),
        _entry("kokoro:PATH#VOICE", network, "English, Spanish, French, Hindi, Italian, Portuguese", add),
    ]

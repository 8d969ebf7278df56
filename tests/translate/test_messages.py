"""What every engine says when its file is missing or another, when it does not know a language, and when its package is
not here: the flag as it is typed, and what to type instead."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import engines, espeak, hear, speak, translators
from tests.translate import tiny_sherpa, tiny_transformers, tiny_voices, tiny_whisper


@dataclass(frozen=True)
class Engine:
    """An engine with files: its flag, what the message says about its place, its packages, and files that look like
    its own by their names."""

    flag: str
    kind: str
    place: str
    packages: tuple[str, ...]
    files: tuple[str, ...]
    damaged: str = r"cannot be read \(.+\); .*download"

    def choose(self, place: Path | str) -> Any:
        """What the command does with the name."""
        return choose(self.flag, f"{self.kind}:{place}")


def choose(flag: str, text: str, spoken: str | None = None, target: str = "es") -> Any:
    """The engine of a flag, for a language."""
    if flag == "--transcriber":
        return hear.choose(text, spoken)
    if flag == "--translator":
        return translators.choose(text, spoken or "en", target)
    return speak.choose(text, target)


WHISPER = Engine("--transcriber", "whisper", "the folder of a model for faster-whisper", ("faster_whisper",),
                 ("model.bin", "config.json"))  # fmt: skip
VOSK = Engine("--transcriber", "vosk", "the folder of a Vosk model", ("vosk",),
              ("am/final.mdl", "conf/model.conf"), r"cannot be read \(.+\); unpack it again")  # fmt: skip
SHERPA = Engine("--transcriber", "sherpa", "the folder of a sherpa-onnx model", ("sherpa_onnx",),
                ("tokens.txt", "encoder.onnx", "decoder.onnx"), r"cannot be read \(.+\); unpack it again")  # fmt: skip
ARGOS = Engine("--translator", "argos", "an .argosmodel file, or the folder in it", ("ctranslate2", "sentencepiece"),
               ("metadata.json", "model", "sentencepiece.model"),
               r"metadata\.json cannot be read .*; unpack it again")  # fmt: skip
OPUS = Engine("--translator", "opus", "the folder of an OPUS-MT model for CTranslate2", ("ctranslate2",),
              ("model.bin", "source.spm", "target.spm"))  # fmt: skip
NLLB = Engine("--translator", "nllb", "the folder of an NLLB model for CTranslate2", ("ctranslate2", "sentencepiece"),
              ("model.bin", "sentencepiece.bpe.model"))  # fmt: skip
PIPER = Engine("--voice", "piper", "a voice of Piper, NAME.onnx", ("onnxruntime",), ("a.onnx", "a.onnx.json"),
               r"settings .*json cannot be read .*; they belong beside the voice, so download")  # fmt: skip
KOKORO = Engine("--voice", "kokoro", "a folder with kokoro*.onnx, voices*.bin and config.json", ("onnxruntime",),
                ("kokoro.onnx", "voices.bin", "config.json"))  # fmt: skip
ENGINES = [WHISPER, VOSK, SHERPA, ARGOS, OPUS, NLLB, PIPER, KOKORO]
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)


def said(given: Callable[[], Any]) -> str:
    """The message of a refusal."""
    with pytest.raises(InvalidInput) as raised:
        given()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@every_engine
def test_a_file_that_is_missing_or_another_is_named(engine: Engine, tmp_path: Path) -> None:
    nowhere, empty, text = tmp_path / "nowhere", tmp_path / "empty", tmp_path / "note.txt"
    empty.mkdir()
    text.write_text("Dear diary\n")
    typed = f"{engine.flag} {engine.kind}:"
    remedy = f"type {typed}PATH, where PATH is {engine.place}"
    assert said(lambda: engine.choose(nowhere)) == f"{typed}{nowhere}: {nowhere} does not exist; {remedy}"
    for place in (empty, text):
        message = said(lambda place=place: engine.choose(place))  # type: ignore[misc]
        assert message.startswith(f"{typed}{place}: ")
        again = re.search("PATH is |download|unpack", message)
        assert again, message
    assert said(lambda: choose(engine.flag, engine.kind)) == f"{typed[:-1]} needs its files: {typed}PATH"
    assert f"{typed}{'x' * 5000}: " in said(lambda: engine.choose("x" * 5000))


@every_engine
def test_a_damaged_file_is_named(engine: Engine, tmp_path: Path) -> None:
    for package in engine.packages:
        pytest.importorskip(package, reason=f"{package} is in the extra dev")
    for name in engine.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Dear diary\n")
    message = said(lambda: engine.choose(tmp_path))
    assert message.startswith(f"{engine.flag} {engine.kind}:{tmp_path}: ")
    assert re.search(engine.damaged, message), message
    assert len(message.replace(str(tmp_path), "")) < 300, "the library's own words are short"


@every_engine
def test_a_package_that_is_missing_is_named_with_its_command(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in engine.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"from_code": "en", "to_code": "es"}')
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    package = engine.packages[0].replace("_", "-")
    message = said(lambda: engine.choose(tmp_path))
    rule = rf"^{engine.flag} {engine.kind}:.*: the package {package} is not installed; pip install '?[\w\[\]-]+'?$"
    assert re.search(rule, message), message


@pytest.mark.parametrize("engine", [WHISPER, VOSK, SHERPA, ARGOS, OPUS, NLLB], ids=lambda engine: engine.kind)
def test_the_folder_that_was_meant_is_proposed(engine: Engine, tmp_path: Path) -> None:
    for name in engine.files:
        (tmp_path / "model-1" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model-1" / name).touch()
    meant = f"did you mean {engine.flag} {engine.kind}:{tmp_path / 'model-1'}?"
    assert said(lambda: engine.choose(tmp_path)).endswith(meant)
    if engine is not ARGOS:  # whose files are archives
        inside = tmp_path / "model-1" / engine.files[0].split("/", maxsplit=1)[0]
        assert said(lambda: engine.choose(inside)).endswith(meant) or inside.is_dir()
    assert said(lambda: engine.choose(f"{tmp_path}#3")).endswith("there is nothing to choose in it; drop #3")


def test_a_number_sign_in_the_name_of_a_folder_is_no_choice(tmp_path: Path) -> None:
    (tmp_path / "take #2").mkdir()
    assert "take #2 has no model.bin" in said(lambda: WHISPER.choose(tmp_path / "take #2"))


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--transcriber", "wisper:a", "'wisper:a' is not known; did you mean whisper? Engines are: pocketsphinx, whis"),
        ("--translator", "deepl", "'deepl' is not known. Engines are: apertium, argos:PATH"),
        ("--voice", "", "'' is not known. Engines are: espeak, piper:PATH, kokoro:PATH"),
        ("--transcriber", "", "'' is not known. Engines are: pocketsphinx"),
        ("--translator", "", "'' is not known. Engines are: apertium"),
        ("--transcriber", "pocketsphinx:a", "pocketsphinx:a: it has one model of its own; type --transcriber pockets"),
        (
            "--translator",
            "apertium:a",
            "apertium:a: it takes no file; type --translator apertium, or name what reads a",
        ),
        ("--translator", "chat", "chat needs its address: --translator chat:URL#MODEL"),
        ("--translator", "chat:example.org/v1", "is no http or https address; type it as chat:http://127.0.0.1:8000/"),
        ("--translator", "chat:http://a b/v1", "is no http or https address"),
        ("--translator", "chat:http://[::1/v1", "is no http or https address"),
        ("--translator", "chat:http://a:99999/v1", "is no http or https address"),
        ("--translator", "chat:http://me:secret@a/v1", "is no http or https address"),
    ],
)
def test_a_name_that_is_none_is_told_with_one_that_is(flag: str, text: str, message: str) -> None:
    found = said(lambda: choose(flag, text))
    assert found.startswith(f"{flag} ")
    assert message in found


def test_a_key_that_is_none_is_named(tmp_path: Path) -> None:
    at = f"chat:http://127.0.0.1:9/v1#m@{tmp_path}"
    assert "cannot be read: Is a directory; name its file as chat:http" in said(lambda: choose("--translator", at))
    for content in (b"", b"two words", "schlüssel".encode(), b"\xff"):
        (tmp_path / "key").write_bytes(content)
        message = said(lambda: choose("--translator", f"{at}/key"))
        assert re.search("holds no key; it is one line|it is not text; name its file", message)


def test_a_language_that_espeak_does_not_have_is_named() -> None:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    assert said(lambda: choose("--voice", "espeak", target="zu")) == (
        "--voice espeak: eSpeak NG does not speak Zulu; name a voice of your own, such as --voice piper:PATH"
    )
    assert said(lambda: choose("--voice", "espeak:silvia")) == (
        "--voice espeak:silvia: eSpeak NG has no such voice; type --voice espeak, or a variant of it such as --voice "
        "espeak:+f3"
    )


def test_a_language_that_a_whisper_does_not_have_is_named(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="faster-whisper is in the extra translate-models")
    typed = f"whisper:{tiny_whisper.write(tmp_path / 'tiny')}"
    message = said(lambda: choose("--transcriber", typed, "an"))
    assert message.startswith(f"--from an: {typed} understands af, am, ar, ")
    assert message.endswith("name another --transcriber")
    assert {"nb", "nn", "yue"} <= choose("--transcriber", typed, "nb").languages


def test_a_language_that_a_sense_voice_does_not_have_is_named(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    typed = f"sherpa:{tiny_sherpa.sense_voice(tmp_path / 'sense')}"
    assert said(lambda: choose("--transcriber", typed, "de")) == (
        f"--from de: {typed} understands en, ja, ko, yue, zh; name another --transcriber"
    )


def test_a_sherpa_that_would_end_the_process_is_refused(tmp_path: Path) -> None:
    """The library calls exit() where a file lacks what it reads from it."""
    onnx = pytest.importorskip("onnx", reason="onnx is in the extra dev")
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    folder = tiny_sherpa.sense_voice(tmp_path / "sense")
    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    message = said(lambda: SHERPA.choose(folder))
    assert message == (
        f"--transcriber sherpa:{folder}: cannot be read ('vocab_size' does not exist in the metadata); unpack it again"
    )
    moonshine = tiny_sherpa.moonshine(tmp_path / "moonshine")
    (moonshine / "uncached_decode.onnx").unlink()
    assert "lacks a part: a Moonshine has preprocess, encode" in said(lambda: SHERPA.choose(moonshine))


@pytest.fixture(scope="module")
def argos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is in the extra translate-models")
    return tiny_transformers.argos(tmp_path_factory.mktemp("argos") / "translate-en_de-1_0")


def test_a_pair_that_a_model_does_not_have_is_named(argos: Path, tmp_path: Path) -> None:
    opus = tiny_transformers.opus(tmp_path / "opus-mt-en-de", argos)
    for typed in (f"argos:{argos}", f"opus:{opus}"):
        assert said(lambda typed=typed: choose("--translator", typed)) == (  # type: ignore[misc]
            f"--translator {typed}: translates from en to de, not from en to es; name a model for that pair, or bring "
            "the words: --subtitles"
        )
    typed = f"nllb:{tiny_transformers.nllb(tmp_path / 'nllb', argos, 'eng_Latn', 'deu_Latn')}"
    assert choose("--translator", typed, "en", "de").name == typed
    for spoken, target, flag in (("en", "br", "--to br"), ("eu", "de", "--from eu")):
        message = said(lambda one=spoken, other=target: choose("--translator", typed, one, other))  # type: ignore[misc]
        assert re.match(rf"{flag}: {typed} does not know B\w+; name another --translator, or bring", message)


def test_a_package_of_argos_without_its_parts_is_named(argos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half" / "translate-en_de-1_0"
    shutil.copytree(argos, folder)
    (folder / "sentencepiece.model").unlink()
    packed = shutil.make_archive(str(tmp_path / "half"), "zip", folder.parent)
    message = said(lambda: ARGOS.choose(packed))
    assert message.startswith(f"--translator argos:{packed}: is no .argosmodel file (it lacks ")
    assert message.endswith("download it again")


@pytest.fixture
def piper(tmp_path: Path) -> Path:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra translate")
    pytest.importorskip("onnx", reason="onnx is in the extra dev")
    return tiny_voices.piper(tmp_path)


def settings(voice: Path, before: str, after: str) -> None:
    """Change the settings of a voice."""
    beside = voice.with_name(f"{voice.name}.json")
    changed = beside.read_text().replace(before, after)
    assert changed != beside.read_text()
    beside.write_text(changed)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"espeak": {"voice": "es"}', '"espeak": {"voice": "de"}', "speaks German, not Spanish; name a voice for it"),
        ('"espeak": {"voice": "es"}', '"espeak": {"voice": "es-mars"}', "has no phonemes for its language, es-mars"),
        ('"espeak": {', '"phoneme_type": "text", "espeak": {', "reads text, not eSpeak NG's phonemes; name another"),
        ('"sample_rate": 16000', '"sample_rate": "high"', "json cannot be read (invalid literal"),
        (
            '"num_speakers": 1',
            '"num_speakers": 2',
            "another kind of network (it takes input, input_lengths, scales, no",
        ),
    ],
)
def test_a_voice_of_piper_that_does_not_fit_is_named(piper: Path, before: str, after: str, message: str) -> None:
    settings(piper, before, after)
    found = said(lambda: PIPER.choose(piper))
    assert found.startswith(f"--voice piper:{piper}: ")
    assert message in found


def test_a_kokoro_that_does_not_fit_is_named(piper: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kokoro"
    folder.mkdir()
    tiny_voices.kokoro(folder)
    assert said(lambda: choose("--voice", f"kokoro:{folder}", target="de")) == (
        f"--voice kokoro:{folder}: its voices for German are: none; name one as --voice kokoro:PATH#VOICE, or another "
        "engine, such as --voice espeak"
    )
    shutil.copy(piper, folder / "kokoro-v1.0.onnx")
    assert "kokoro-v1.0.onnx is another kind of network" in said(lambda: KOKORO.choose(folder))
    (folder / "kokoro-v1.0.onnx").unlink()
    assert "has no kokoro*.onnx; PATH is a folder with" in said(lambda: KOKORO.choose(folder))


def test_voices_say_that_their_phonemes_are_missing(piper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "find_library", lambda: None)
    message = said(lambda: PIPER.choose(piper))
    assert message == f"--voice piper:{piper}: eSpeak NG, which has its phonemes, is not installed; {espeak.INSTALL}"

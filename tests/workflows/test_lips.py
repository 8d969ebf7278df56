"""Lips that follow the voice: a network and a command of the user's, only while the voice speaks, and what is said."""

from __future__ import annotations

import stat
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")
pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
pytest.importorskip("onnx", reason="onnx is in the extra dev")

import onnx

from lichtspiel.errors import InvalidInput, LichtspielError, MediaError
from lichtspiel.media.video import read_video
from lichtspiel.seal import Marks, Provenance, seal, verify
from lichtspiel.workflows.lips import RATE, choose
from lichtspiel.workflows.translate import LIPS, Job, Result, translate
from tests.translate.conftest import FPS, SECONDS, home, talk
from tests.workflows.test_translate import CONSENT, GERMAN

__all__ = ["home", "talk"]


def network(path: Path, *, sound: str = "sound") -> Path:
    """Frames that get darker the louder the sound around them is: frames / (1 + 4 * mean |sound|)."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Abs", [sound], ["loud"]),
        helper.make_node("ReduceMean", ["loud"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["level", "four"], ["scaled"]),
        helper.make_node("Add", ["scaled", "one"], ["by"]),
        helper.make_node("Reshape", ["by", "shape"], ["wide"]),
        helper.make_node("Div", ["frames", "wide"], ["made"]),
    ]
    constants = [
        helper.make_tensor("four", TensorProto.FLOAT, [1], [400.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("shape", TensorProto.INT64, [4], [-1, 1, 1, 1]),
    ]
    given = [
        helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info(sound, TensorProto.FLOAT, ["n", 3200]),
    ]
    made = [helper.make_tensor_value_info("made", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    graph = helper.make_graph(nodes, "lips", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def program(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def dubbed(talk: Path, folder: Path, lips: str) -> Result:
    words = folder / "talk.de.srt"
    words.write_text(GERMAN, encoding="utf-8")
    job = Job(target="de", source="en", shots=(), subtitles=words, voices=("espeak",), lips=lips)
    return translate(talk, folder / "out.mp4", job, terms=CONSENT)


def apart(before: Path, after: Path) -> Any:
    """How much darker each frame has become."""
    pairs = zip(read_video(before), read_video(after), strict=True)
    return np.array([float(one.mean()) - float(other.mean()) for one, other in pairs])


def test_a_network_makes_the_frames_in_which_the_voice_speaks(talk: Path, tmp_path: Path) -> None:
    made = dubbed(talk, tmp_path, f"onnx:{network(tmp_path / 'lips.onnx')}")
    darker = apart(talk, made.sealed.path)
    first, second = ([round(float(time) * FPS) for time in line["spoken"]] for line in made.lines)  # type: ignore[union-attr, arg-type]
    assert darker[first[0] + 2 : first[1] - 2].min() > 10
    assert darker[second[0] + 2 : second[1] - 2].min() > 10
    assert np.abs(darker[: first[0] - 1]).max() < 3
    assert np.abs(darker[first[1] + 2 : second[0] - 1]).max() < 3
    assert LIPS not in made.notes
    assert made.picture == "encoded"
    report = verify(made.sealed.path)
    assert report.credentials.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert "lips onnx lips.onnx" in str(report.credentials.model)


def test_a_command_gets_picture_and_voice_and_its_frames_are_taken(talk: Path, tmp_path: Path) -> None:
    black = Provenance(model="t", version="0", source_type="algorithmicMedia", prompt="", negative="", parameters={})
    size = next(iter(read_video(talk))).shape
    other = seal(
        (np.zeros(size, np.uint8) for _ in range(SECONDS * FPS)), black, tmp_path / "black.mp4", fps=FPS,
        marks=Marks.none("a test"),
    ).path  # fmt: skip
    file = program(tmp_path / "lips.sh", f"cp '{other}' \"$3\"", f"cp \"$2\" '{tmp_path}/heard.wav'")
    made = dubbed(talk, tmp_path, f"command:{file}")
    darker = apart(talk, made.sealed.path)
    first = [round(float(time) * FPS) for time in made.lines[0]["spoken"]]  # type: ignore[union-attr, arg-type]
    assert darker[first[0] + 1 : first[1] - 1].min() > 50
    assert np.abs(darker[: first[0] - 1]).max() < 3
    with wave.open(str(tmp_path / "heard.wav")) as heard:
        assert (heard.getframerate(), heard.getnchannels()) == (RATE, 1)
        samples = np.frombuffer(heard.readframes(heard.getnframes()), np.int16)
    assert np.abs(samples[: RATE // 3]).max() == 0
    assert np.abs(samples).max() > 1000


def test_what_cannot_make_lips_says_why(talk: Path, tmp_path: Path) -> None:
    with pytest.raises(LichtspielError, match=r"lips\.sh: failed: no face here"):
        dubbed(talk, tmp_path, f"command:{program(tmp_path / 'lips.sh', 'echo no face here >&2', 'exit 3')}")
    with pytest.raises(LichtspielError, match="it wrote no video"):
        dubbed(talk, tmp_path, f"command:{program(tmp_path / 'lips.sh', 'exit 0')}")
    assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(InvalidInput, match=r"takes frames, speech; it takes .frames. \[n, 3, height, width\]"):
        choose(f"onnx:{network(tmp_path / 'other.onnx', sound='speech')}")
    with pytest.raises(InvalidInput, match="does not exist; type --lips onnx:PATH, where PATH is an ONNX network"):
        choose(f"onnx:{tmp_path / 'none.onnx'}")
    with pytest.raises(MediaError, match="is no ONNX file"):
        choose(f"onnx:{program(tmp_path / 'x.onnx')}")
    with pytest.raises(InvalidInput, match="--lips follow a new voice"):
        translate(talk, tmp_path / "o.mp4", Job(target="de", lips="onnx:x"), terms=CONSENT)

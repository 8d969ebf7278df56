"""A Piper and a Kokoro, whose sound is as long as its input and the speed say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

__all__ = ["kokoro", "piper"]


def piper(folder: Path) -> Path:
    """Write a Spanish voice with its settings, es_ES-voice-low.onnx."""
    path = _network(folder / "es_ES-voice-low.onnx", "input", "scales", 1, "input_lengths")
    ids = {letter: [at] for at, letter in enumerate("_^$ˈabdeɣijklmnoprstuβðθɾ ", 0)}
    said = {"audio": {"sample_rate": 16000}, "espeak": {"voice": "es"}, "phoneme_id_map": ids, "num_speakers": 1,
            "inference": {"noise_scale": 0.6, "length_scale": 1.0, "noise_w": 0.8}}  # fmt: skip
    path.with_name(f"{path.name}.json").write_text(json.dumps(said))
    return path


def kokoro(folder: Path) -> Path:
    """Write a folder with a Spanish and an American voice, ef_dora and af_sky."""
    _network(folder / "kokoro-v1.0.onnx", "tokens", "speed", 0, "style")
    (folder / "config.json").write_text(
        json.dumps({"vocab": {letter: at for at, letter in enumerate("abdelmnoruˈ", 1)}})
    )
    with (folder / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, ef_dora=np.zeros((510, 1, 256), np.float32), af_sky=np.zeros((510, 1, 256), np.float32))
    return folder


def _network(path: Path, tokens: str, scale: str, at: int, *others: str) -> Path:
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

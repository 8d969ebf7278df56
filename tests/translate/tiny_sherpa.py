"""Models in the files of sherpa-onnx that say one sentence to whatever they hear: a Moonshine and a SenseVoice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SAID", "moonshine", "sense_voice"]

SAID = ("We", "have", "seven", "apples.")
_FLOAT, _INT, _LONG = 1, 6, 7  # onnx.TensorProto


def moonshine(folder: Path) -> Path:
    """Write preprocess.onnx, encode.onnx, the decoders without and with a cache, and tokens.txt."""
    words = ["<unk>", "<s>", "</s>", *(f"▁{word}" for word in SAID)]
    chain = np.zeros((len(words), len(words)), np.float32)  # from each word to the next
    for at, after in zip([1, *range(3, len(words))], [*range(3, len(words)), 2], strict=True):
        chain[at, after] = 1
    folder.mkdir()
    _tokens(folder, words)
    one, eight, step = np.array([1]), np.array([8]), np.array([384])
    _save(
        folder / "preprocess.onnx",
        [("Shape", ["audio"], ["shape"]), ("Gather", ["shape", "one"], ["samples"]),
         ("Div", ["samples", "step"], ["frames"]), ("Concat", ["one", "frames", "eight"], ["whole"]),
         ("ConstantOfShape", ["whole"], ["features"])],
        {"audio": (_FLOAT, [1, None])}, {"features": _FLOAT}, {"one": one, "eight": eight, "step": step},
    )  # fmt: skip
    length = {"features_len": (_INT, [1])}
    _save(folder / "encode.onnx", [("Identity", ["features"], ["out"])],
          {"features": (_FLOAT, [1, None, 8]), **length}, {"out": _FLOAT}, {})  # fmt: skip
    heard = {"tokens": (_INT, [1, 1]), "heard": (_FLOAT, [1, None, 8]), "seq_len": (_INT, [1])}
    think = ("Gather", ["chain", "tokens"], ["logits"])
    for name, given, before in (
        ("uncached_decode", {}, "heard"), ("cached_decode", {"kept": (_FLOAT, [1, None, 8])}, "kept"),
    ):  # fmt: skip
        _save(folder / f"{name}.onnx", [think, ("Identity", [before], ["state"])], {**heard, **given},
              {"logits": _FLOAT, "state": _FLOAT}, {"chain": chain})  # fmt: skip
    return folder


def sense_voice(folder: Path, language: str = "en") -> Path:
    """Write model.onnx with its metadata, and tokens.txt."""
    words = ["<blank>", f"<|{language}|>", "<|NEUTRAL|>", "<|Speech|>", "<|withitn|>", *(f"▁{word}" for word in SAID)]
    folder.mkdir()
    _tokens(folder, words)
    said = np.eye(len(words), dtype=np.float32)[None, 1:]
    silent = np.eye(len(words), dtype=np.float32)[None, :1]
    kinds = {"x": (_FLOAT, [1, None, 560])}
    kinds |= {name: (_INT, [1]) for name in ("x_length", "language", "text_norm")}
    _save(
        folder / "model.onnx",
        [("Shape", ["x"], ["shape"]), ("Gather", ["shape", "one"], ["frames"]),
         ("Sub", ["frames", "left"], ["rest"]), ("Concat", ["one", "rest", "one"], ["whole"]),
         ("Expand", ["silent", "whole"], ["tail"]), ("Concat", ["said", "tail"], ["logits"])],
        kinds, {"logits": _FLOAT},
        {"said": said, "silent": silent, "one": np.array([1]), "left": np.array([said.shape[1] - 4])},
        {"vocab_size": len(words), "lfr_window_size": 7, "lfr_window_shift": 6, "normalize_samples": 0, "with_itn": 14,
         "without_itn": 15, "comment": "a test", "neg_mean": ",".join(["0"] * 560),
         "inv_stddev": ",".join(["1"] * 560),
         **{f"lang_{code}": at for at, code in enumerate(["auto", "zh", "en", "ja", "ko", "yue"])}},
    )  # fmt: skip
    return folder


def _tokens(folder: Path, words: list[str]) -> None:
    text = "".join(f"{word} {at}\n" for at, word in enumerate(words))
    (folder / "tokens.txt").write_text(text, encoding="utf-8")


def _save(
    path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, int], constants: dict[str, Any],
    said: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    import onnx

    make, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    made = []
    for name, takes, gives in nodes:
        axis = {"axis": int(gives == ["logits"] and name == "Concat")} if name in ("Concat", "Gather") else {}
        made.append(make(name, takes, gives, **axis))
    graph = onnx.helper.make_graph(
        made, "tiny", [kind(name, *one) for name, one in inputs.items()],
        [kind(name, one, None) for name, one in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=9)
    onnx.helper.set_model_props(model, {name: str(value) for name, value in (said or {}).items()})
    onnx.save(model, path)

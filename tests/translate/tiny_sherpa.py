"""Models in the files of sherpa-onnx that say one sentence to whatever they hear: Moonshine in its two layouts,
Whisper, SenseVoice, and a transducer."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SAID", "moonshine", "moonshine_merged", "sense_voice", "transducer", "whisper"]

SAID = ("We", "have", "seven", "apples.")
_FLOAT, _INT, _LONG, _BOOL = 1, 6, 7, 9  # onnx.TensorProto


def moonshine(folder: Path) -> Path:
    """Write preprocess.onnx, encode.onnx, the decoders without and with a cache, and tokens.txt."""
    chain = _spoken(folder)
    _listening(folder / "preprocess.onnx", "audio", "features")
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


def moonshine_merged(folder: Path) -> Path:
    """Write encoder_model.onnx, decoder_model_merged.onnx, which keeps the states of one layer, and tokens.txt."""
    chain = _spoken(folder, coded=True)
    _listening(folder / "encoder_model.onnx", "input_values", "last_hidden_state")
    states = [f"{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")]
    kinds = {"input_ids": (_LONG, [1, 1]), "encoder_hidden_states": (_FLOAT, [1, None, 8])}
    kinds |= {f"past_key_values.0.{state}": (_FLOAT, [1, 1, None, 1]) for state in states}
    kept = [("Identity", [f"past_key_values.0.{state}"], [f"present.0.{state}"]) for state in states]
    _save(
        folder / "decoder_model_merged.onnx", [("Gather", ["chain", "input_ids"], ["logits"]), *kept],
        {**kinds, "use_cache_branch": (_BOOL, [1])},
        {"logits": _FLOAT, **{f"present.0.{state}": _FLOAT for state in states}}, {"chain": chain},
    )  # fmt: skip
    return folder


def whisper(folder: Path, *languages: str) -> Path:
    """Write tiny-encoder.onnx with its metadata, tiny-decoder.onnx, which hears the first language, and
    tiny-tokens.txt."""
    said = [f" {word}" for word in SAID]
    special = ["sot", "eot", "task", "silent", *languages]
    ids = {name: at for at, name in enumerate([*said, *special])}
    chain = np.zeros((len(ids), len(ids)), np.float32)
    after = ["silent", *said, "eot"]
    for now, following in [("sot", languages[0]), *itertools.pairwise(after)]:
        chain[ids[now], ids[following]] = 1
    folder.mkdir()
    _tokens(folder, [base64.b64encode(name.encode()).decode() for name in ids], "tiny-tokens.txt")
    cross = np.zeros((1, 1, 4, 4), np.float32)
    first = ids[languages[0]]
    numbers = ",".join(str(ids[language]) for language in languages)
    _save(
        folder / "tiny-encoder.onnx", [("Identity", ["cross"], [name]) for name in ("cross_k", "cross_v")],
        {"mel": (_FLOAT, [1, 80, None])}, {"cross_k": _FLOAT, "cross_v": _FLOAT}, {"cross": cross},
        {"n_mels": 80, "n_text_layer": 1, "n_text_ctx": 64, "n_text_state": 4, "n_vocab": len(ids), "sot": ids["sot"],
         "eot": ids["eot"], "blank_id": ids["eot"], "translate": ids["task"], "transcribe": ids["task"],
         "is_multilingual": 1, "no_timestamps": ids["silent"], "no_speech": ids["eot"],
         "sot_sequence": f"{ids['sot']},{first},{ids['task']}", "all_language_tokens": numbers,
         "all_language_codes": ",".join(languages)},
    )  # fmt: skip
    kinds = {"tokens": (_LONG, [1, None])}
    kinds |= {name: (_FLOAT, [1, 1, None, 4]) for name in ("self_k", "self_v", "cross_k", "cross_v")}
    _save(
        folder / "tiny-decoder.onnx",
        [("Gather", ["chain", "tokens"], ["logits"]), ("Identity", ["self_k"], ["out_k"]),
         ("Identity", ["self_v"], ["out_v"])],
        {**kinds, "offset": (_LONG, [1])}, {"logits": _FLOAT, "out_k": _FLOAT, "out_v": _FLOAT}, {"chain": chain},
    )  # fmt: skip
    return folder


def transducer(folder: Path) -> Path:
    """Write encoder.onnx, decoder.onnx with its metadata, joiner.onnx and tokens.txt. It says a word for each frame of
    40 ms, and then nothing."""
    words = ["<blk>", *(f"▁{word.lower().strip('.')}" for word in SAID)]
    chain = np.eye(len(words), k=1, dtype=np.float32)
    chain[-1, 0] = 1
    folder.mkdir()
    _tokens(folder, words)
    _save(
        folder / "encoder.onnx",
        [("Slice", ["x", "first", "last", "axis", "four"], ["heard"]), ("Add", ["x_lens", "rest"], ["more"]),
         ("Div", ["more", "four"], ["heard_lens"])],
        {"x": (_FLOAT, [None, None, 80]), "x_lens": (_LONG, [None])}, {"heard": _FLOAT, "heard_lens": _LONG},
        {"first": np.array([0]), "last": np.array([1 << 30]), "axis": np.array([1]), "four": np.array([4]),
         "rest": np.array([3])},
    )  # fmt: skip
    _save(
        folder / "decoder.onnx",
        [("Gather", ["chain", "y"], ["next"]), ("Squeeze", ["next", "axis"], ["thought"])],
        {"y": (_LONG, [None, 1])}, {"thought": _FLOAT}, {"chain": chain, "axis": np.array([1])},
        {"vocab_size": len(words), "context_size": 1},
    )  # fmt: skip
    _save(folder / "joiner.onnx", [("Identity", ["thought"], ["logit"])],
          {"heard": (_FLOAT, [None, 80]), "thought": (_FLOAT, [None, len(words)])}, {"logit": _FLOAT}, {})  # fmt: skip
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


def _spoken(folder: Path, *, coded: bool = False) -> Any:
    """Make the folder of a Moonshine with its tokens.txt; returns the logits of the next word by each word."""
    words = ["<unk>", "<s>", "</s>", *(f" {word}" if coded else f"▁{word}" for word in SAID)]
    chain = np.zeros((len(words), len(words)), np.float32)
    for at, after in zip([1, *range(3, len(words))], [*range(3, len(words)), 2], strict=True):
        chain[at, after] = 1
    folder.mkdir()
    _tokens(folder, [base64.b64encode(word.encode()).decode() for word in words] if coded else words)
    return chain


def _listening(path: Path, takes: str, gives: str) -> None:
    """Write a network that gives eight zeros for each 384 samples."""
    _save(
        path,
        [("Shape", [takes], ["shape"]), ("Gather", ["shape", "one"], ["samples"]),
         ("Div", ["samples", "step"], ["frames"]), ("Concat", ["one", "frames", "eight"], ["whole"]),
         ("ConstantOfShape", ["whole"], [gives])],
        {takes: (_FLOAT, [1, None])}, {gives: _FLOAT},
        {"one": np.array([1]), "eight": np.array([8]), "step": np.array([384])},
    )  # fmt: skip


def _tokens(folder: Path, words: list[str], name: str = "tokens.txt") -> None:
    text = "".join(f"{word} {at}\n" for at, word in enumerate(words))
    (folder / name).write_text(text, encoding="utf-8")


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

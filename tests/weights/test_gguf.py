"""GGUF files: exact where the precision is, and within the error of the quantisation elsewhere.

The encoders of the K formats are written down here after the layout in `ggml-quants.h`, in the simplest way (range of
each block, rounded to nearest), because the gguf package only decodes them.
"""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from lichtspiel.errors import WeightsError
from lichtspiel.weights.checkpoint import checkpoint
from lichtspiel.weights.components import open_file, scan
from lichtspiel.weights.inspect import inspect
from tests.weights import layouts
from tests.weights.layouts import TINY, State, exact, renamed, state

Kind = gguf.GGMLQuantizationType

WIDE = replace(TINY, dit=replace(TINY.dit, width=256, ffn_width=512, heads=2, layers=1, text_width=256))
"""The K formats pack 256 numbers at a time."""


def field(value: bytes) -> bytes:
    """A field of metadata of that kind and value."""
    return struct.pack("<Q", 1) + b"a" + value


def scales_and_minima(blocks: np.ndarray, levels: int) -> tuple[np.ndarray, ...]:
    """For [n, 8, 32]: two float16 a block, their packed 6-bit multiples, and the numbers as integers 0 … levels."""
    low = np.minimum(blocks.min(-1), 0)
    step = (blocks.max(-1) - low) / levels
    d, m = (np.maximum(one.max(-1, keepdims=True) / 63, 1e-7).astype(np.float16) for one in (step, -low))
    scale = np.ceil(step / d.astype(np.float32)).clip(0, 63).astype(np.uint8)
    minimum = np.ceil(-low / m.astype(np.float32)).clip(0, 63).astype(np.uint8)
    width = (d.astype(np.float32) * scale)[..., None]
    shift = (m.astype(np.float32) * minimum)[..., None]
    numbers = np.round((blocks + shift) / np.maximum(width, 1e-9)).clip(0, levels).astype(np.uint8)
    first, last = scale[:, :4], scale[:, 4:]
    packed = np.concatenate(
        [
            first | (last >> 4 << 6),
            minimum[:, :4] | (minimum[:, 4:] >> 4 << 6),
            (last & 15) | (minimum[:, 4:] & 15) << 4,
        ],
        axis=1,
    )
    return d.view(np.uint8), m.view(np.uint8), packed, numbers


def nibbles(numbers: np.ndarray) -> np.ndarray:
    """[n, 8, 32] to 128 bytes: of each pair of blocks, the first has the low half of the byte."""
    pairs = numbers.reshape(-1, 4, 2, 32) & 15
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)


def q4_k(values: np.ndarray) -> np.ndarray:
    d, m, packed, numbers = scales_and_minima(values.reshape(-1, 8, 32), 15)
    return np.concatenate([d, m, packed, nibbles(numbers)], axis=1)


def q5_k(values: np.ndarray) -> np.ndarray:
    d, m, packed, numbers = scales_and_minima(values.reshape(-1, 8, 32), 31)
    high = sum((numbers[:, block] >> 4) << block for block in range(8))
    return np.concatenate([d, m, packed, high, nibbles(numbers)], axis=1)


def q6_k(values: np.ndarray) -> np.ndarray:
    blocks = values.reshape(-1, 16, 16)
    step = np.abs(blocks).max(-1) / 31
    d = np.maximum(step.max(-1, keepdims=True) / 127, 1e-7).astype(np.float16)
    scale = np.ceil(step / d.astype(np.float32)).clip(0, 127).astype(np.int8)
    width = (d.astype(np.float32) * scale)[..., None]
    numbers = (np.round(blocks / np.maximum(width, 1e-9)).clip(-32, 31) + 32).astype(np.uint8)
    a, b, c, e = numbers.reshape(-1, 2, 4, 32).transpose(2, 0, 1, 3)
    low = np.concatenate([(a & 15) | (c & 15) << 4, (b & 15) | (e & 15) << 4], axis=-1).reshape(-1, 128)
    high = (a >> 4 | b >> 4 << 2 | c >> 4 << 4 | e >> 4 << 6).reshape(-1, 64)
    return np.concatenate([low, high, scale.view(np.uint8), d.view(np.uint8)], axis=1)


ENCODERS = {Kind.Q4_K: q4_k, Kind.Q5_K: q5_k, Kind.Q6_K: q6_k}
ERRORS = {"F32": 0.0, "F16": 0.0, "BF16": 0.0, "Q8_0": 0.003, "Q4_0": 0.07, "Q4_K": 0.06, "Q5_K": 0.03, "Q6_K": 0.02}
"""Largest allowed error of a number, where the largest number is 0.5."""


def encoded(values: np.ndarray, kind: int) -> np.ndarray:
    if kind in ENCODERS:
        return ENCODERS[kind](values).reshape(*values.shape[:-1], -1)
    return gguf.quantize(values, kind)


def write(path: Path, tensors: State, kind: int, flat: bool = False) -> Path:
    """Matrices whose rows can be cut into blocks in that precision, the rest in float32; `flat` hides five axes."""
    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in tensors.items():
        values = tensor.numpy()
        if values.ndim == 5 and flat:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            values = values.reshape(values.shape[0], -1)
        if tensor.dim() == 2 and kind != Kind.F32 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            writer.add_tensor(name, encoded(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("precision", ERRORS)
def test_a_transformer_loads_from_gguf(precision: str, tmp_path: Path) -> None:
    true = exact(layouts.DiT(WIDE.dit))
    path = write(tmp_path / "x.gguf", true, Kind[precision])
    (part,) = scan([path]).parts
    assert {name: tuple(value.shape) for name, value in true.items()} == part.shapes()
    assert set(part.precisions()) == {precision, "F32"}
    rest = layouts.official(tmp_path / "rest")
    for shard in rest.glob("diffusion*"):
        shard.unlink()
    module = checkpoint(WIDE, [path, rest]).dit(torch.float32)
    worst = max(float((value - true[name]).abs().max()) for name, value in module.state_dict().items())
    assert worst <= ERRORS[precision]
    if ERRORS[precision]:
        assert worst > ERRORS[precision] / 20


def test_16_bit_stays_16_bit(tmp_path: Path) -> None:
    for precision, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16)):
        path = write(tmp_path / f"{precision}.gguf", exact(layouts.DiT(WIDE.dit)), Kind[precision])
        (part,) = scan([path]).parts
        assert part["blocks.0.ffn.0.weight"].dtype == dtype


def test_five_axes_may_be_kept_as_metadata(tmp_path: Path) -> None:
    true = state("i2v", "dit")
    (part,) = scan([write(tmp_path / "x.gguf", true, Kind.F16, flat=True)]).parts
    assert torch.equal(part["patch_embedding.weight"], true["patch_embedding.weight"])


def test_the_text_encoder_has_the_names_of_llama(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    true = state("i2v", "umt5")
    (folder / "text_encoders/c.safetensors").unlink()
    write(folder / "text_encoders/c.gguf", renamed("umt5", "llama.cpp", true), Kind.Q8_0)
    module = checkpoint(TINY, folder).umt5(torch.float32)
    for name, value in module.state_dict().items():
        assert torch.allclose(value, true[name], atol=0.003), name
    assert not torch.equal(module.blocks[0].attn.q.weight, true["blocks.0.attn.q.weight"])
    (part,) = (part for part in inspect(folder).parts if part.part == "umt5")
    assert (part.layout, part.container) == ("llama.cpp", "gguf")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", state("i2v", "dit"), Kind.F16)
    for length in (path.stat().st_size - 5000, 300, 10):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(WeightsError, match=r"x\.gguf is not a whole GGUF file .*; download it again"):
            checkpoint(TINY, path)


def test_a_format_that_is_not_decoded_is_named(tmp_path: Path) -> None:
    true = exact(layouts.DiT(WIDE.dit))
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "wan")
    for name, value in true.items():
        if name == "blocks.0.ffn.0.weight":
            writer.add_tensor(name, np.zeros((512, 292), dtype=np.uint8), raw_dtype=Kind.Q8_K)
        else:
            writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (part,) = scan([tmp_path / "x.gguf"]).parts
    with pytest.raises(WeightsError, match=r"ffn\.0\.weight is stored as Q8_K, which the gguf package cannot decode"):
        part["blocks.0.ffn.0.weight"]


@pytest.mark.parametrize(
    ("count", "fields"),
    [
        (0, field(b"\x09" + bytes(3) + struct.pack("<IQ", 0, 2**60))),
        (0, field(b"\x09" + bytes(3) + struct.pack("<IQ", 8, 2**60)) + bytes(3_000_000)),
        (0, field(b"\x09" + bytes(3) + struct.pack("<IQ", 8, 3_000_000)) + bytes(30_000_000)),
        (0, field(b"\x09\0\0\0" * 5000 + bytes(8))),
        (0, field(struct.pack("<IQ", 8, 2**63))),
        (2**60, field(struct.pack("<II", 4, 1))),
    ],
    ids=["bytes", "strings", "many strings", "nested arrays", "a string", "tensors"],
)
def test_a_small_file_cannot_take_all_memory(count: int, fields: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, count, 1) + fields)
    began = time.process_time()
    with pytest.raises(WeightsError, match="is not a whole GGUF file"):
        open_file(tmp_path / "x.gguf")
    assert time.process_time() - began < 2


def test_rows_of_a_quantized_table_are_decoded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    file = open_file(write(tmp_path / "x.gguf", {"token_embd.weight": table}, Kind.Q8_0))
    whole, ids = file.read("token_embd.weight"), torch.tensor([3, 60, 3])
    sizes: list[int] = []
    original = gguf.dequantize
    monkeypatch.setattr(gguf, "dequantize", lambda data, kind: sizes.append(len(data)) or original(data, kind))
    assert torch.equal(file.rows("token_embd.weight", ids), whole[ids])
    assert sizes == [3]

"""Streamed networks against loaded ones: equal numbers, less memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.spec import DiTSpec
from lichtspiel.weights.components import open_file
from lichtspiel.weights.offload import _mapped_files, block_names, load_with_offload
from lichtspiel.weights.tensor_files import SUFFIXES
from tests.models.test_dit import FIRST_LAST, TINY, VACE, build, inputs
from tests.models.test_umt5 import TINY as TINY_ENCODER
from tests.models.test_umt5 import meta, tiny

CPU = torch.device("cpu")


def saved(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The state in bfloat16, as it comes memory-mapped from a file."""
    save_file({name: value.bfloat16() for name, value in module.state_dict().items()}, folder / "a.safetensors")
    with safe_open(folder / "a.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)


def empty(spec: DiTSpec) -> DiT:
    with torch.device("meta"):
        return DiT(spec).eval()


@pytest.mark.parametrize("resident", [0, 1, 99])
@pytest.mark.parametrize("spec", [TINY, FIRST_LAST, VACE], ids=["text", "first-last", "vace"])
@torch.inference_mode()
def test_a_streamed_dit_gives_the_same_numbers(spec: DiTSpec, resident: int, tmp_path: Path) -> None:
    loaded, given = build(spec), inputs(spec)
    tensors = saved(loaded, tmp_path)
    loaded.load_state_dict(tensors)
    streamed = empty(spec)
    load_with_offload(streamed, tensors, torch.float32, CPU, resident=resident)
    for _ in range(3):  # the second run is the first that knows the order
        assert torch.equal(streamed(**given), loaded(**given))
    on_meta = {name for name, value in streamed.named_parameters() if value.is_meta}
    assert on_meta == {
        f"{block}.{name}"
        for block in block_names(streamed)[resident:]
        for name, _ in streamed.get_submodule(block).named_parameters()
    }


@torch.inference_mode()
def test_blocks_take_turns_in_the_same_memory(tmp_path: Path) -> None:
    model = empty(TINY)
    load_with_offload(model, saved(build(TINY), tmp_path), torch.float32, CPU)
    places: set[int] = set()
    for block in model.blocks:
        block.register_forward_pre_hook(lambda block, _: places.add(block.ffn[0].weight.data_ptr()))
    for _ in range(4):
        model(**inputs(TINY))
    assert len(places) == 2  # of the block that runs and the one that is prepared


@torch.inference_mode()
def test_a_streamed_encoder_gathers_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lichtspiel.weights.offload.ROWS", TINY_ENCODER.vocabulary - 1)
    loaded = tiny()
    tensors = saved(loaded, tmp_path)
    loaded.load_state_dict(tensors)
    streamed: UMT5 = meta(TINY_ENCODER)
    load_with_offload(streamed, tensors, torch.float32, CPU)
    ids = torch.tensor([[3, 60, 1]])
    assert torch.equal(streamed(ids), loaded(ids))
    assert streamed.token_embedding.weight.is_meta


@torch.inference_mode()
def test_a_failing_block_lets_its_weights_go(tmp_path: Path) -> None:
    model = empty(TINY)
    load_with_offload(model, saved(build(TINY), tmp_path), torch.float32, CPU)
    with pytest.raises(AttributeError):
        model.blocks[1](torch.zeros(1, 6, 64), torch.zeros(1, 6, 64), None, None)
    assert all(value.is_meta for value in model.blocks.parameters())


def test_each_sees_every_block_that_stays(tmp_path: Path) -> None:
    seen: list[int] = []
    load_with_offload(
        empty(TINY), saved(build(TINY), tmp_path), torch.float32, CPU, resident=2,
        each=lambda block: seen.append(sum(value.is_meta for value in block.parameters())),
    )  # fmt: skip
    assert seen == [0, 0]


def test_tensors_may_be_made_when_asked(tmp_path: Path) -> None:
    kept = saved(build(TINY), tmp_path)
    asked: list[str] = []

    class Lazy(Mapping[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            asked.append(name)
            return kept[name].clone()  # not of a file: its memory is left alone

        def __iter__(self) -> Iterator[str]:
            return iter(kept)

        def __len__(self) -> int:
            return len(kept)

    model = empty(TINY)
    load_with_offload(model, Lazy(), torch.float32, CPU)
    assert not any(name.startswith("blocks") for name in asked)
    with torch.inference_mode():
        expected = empty(TINY)
        load_with_offload(expected, kept, torch.float32, CPU)
        assert torch.equal(model(**inputs(TINY)), expected(**inputs(TINY)))


PROGRAM = """
import sys, torch
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import save_file
from lichtspiel.weights.offload import load_with_offload
from torch import nn

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2048, 4096, bias=False) for _ in range(24))
    def forward(self, x):
        for block in self.blocks:
            x = block(x)[:, :2048]
        return x

path = Path(sys.argv[2])
if sys.argv[1] == "write":
    save_file({f"blocks.{n}.weight": torch.full((4096, 2048), 1e-3 * n, dtype=torch.bfloat16) for n in range(24)}, path)
    sys.exit()
def peak():  # not ru_maxrss, which starts with that of the program that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
with safe_open(path, framework="pt") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
    with torch.device("meta"):
        model = Wide()
    torch.ones(64, 64) @ torch.ones(64, 64)
    before = peak()
    load_with_offload(model, tensors, torch.float32, torch.device("cpu"), resident=24 if sys.argv[1] == "load" else 0)
    with torch.inference_mode():
        for _ in range(2):
            result = model(torch.ones(1, 2048))
    print(peak() - before, float(result.sum()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages of files are counted the Linux way")
def test_memory_is_that_of_two_blocks_not_of_the_file(tmp_path: Path) -> None:
    """24 blocks of 16 MiB in the file, 32 MiB widened: 384 and 768 MiB in all."""

    def run(what: str) -> list[float]:
        command = [sys.executable, "-c", PROGRAM, what, str(tmp_path / "wide.safetensors")]
        return [float(word) for word in subprocess.run(command, check=True, capture_output=True).stdout.split()]

    run("write")
    loaded, streamed = run("load"), run("stream")
    assert loaded[1] == streamed[1]
    assert loaded[0] > 700
    assert streamed[0] < 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages of files are returned on Linux only")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pages_of_every_kind_of_file_are_returned(suffix: str, tmp_path: Path) -> None:
    path, value = tmp_path / f"weights{suffix}", torch.ones(4096, 64)
    if suffix == ".safetensors":
        save_file({"weight": value}, path)
    elif suffix == ".gguf":
        writer = gguf.GGUFWriter(path, "wan")
        writer.add_tensor("weight", value.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        torch.save({"weight": value}, path)
    file = open_file(path)
    stored = file.read("weight")
    first, last = stored.data_ptr(), stored.data_ptr() + stored.nbytes
    assert any(low <= first and last <= high for low, high in _mapped_files())
    assert not any(low <= value.data_ptr() < high for low, high in _mapped_files()), "memory of no file is kept"

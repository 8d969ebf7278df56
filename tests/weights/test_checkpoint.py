"""Checkpoints on disk: the official folder loads strictly, and every way of being wrong is named."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from lichtspiel.errors import WeightsError
from lichtspiel.inference.plan import plan
from lichtspiel.models import shapes
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import MODELS, Model
from lichtspiel.weights.checkpoint import checkpoint
from lichtspiel.weights.components import open_file
from lichtspiel.weights.tensor_files import check_digest
from tests.weights import layouts
from tests.weights.layouts import TINY, VACE


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder laid out as the published ones."""
    return layouts.official(tmp_path)


def test_the_official_folder_loads(official: Path) -> None:
    files = checkpoint(TINY, official)
    dit = files.dit(torch.float32)
    shard = load_file(official / "diffusion_pytorch_model-00001-of-00002.safetensors")
    name = next(iter(shard))
    assert torch.equal(dit.state_dict()[name], shard[name].float())
    assert {value.dtype for value in dit.state_dict().values()} == {torch.float32}
    assert files.umt5(torch.bfloat16).token_embedding.weight.dtype == torch.bfloat16
    assert files.clip(torch.float32)(torch.zeros(1, 3, 28, 28)).shape == (1, 5, 32)
    vae = files.vae(torch.float32)
    assert vae.mean.flatten().tolist() == pytest.approx(MODELS["t2v-14b"].vae.latent_mean)
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert len(files.tokenizer()("a cat")) > 1


def shard(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model-00002-of-00002.safetensors"


def cut(folder: Path) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:-100])


def lose(folder: Path) -> None:
    shard(folder).unlink()


def lose_with_index(folder: Path) -> None:
    lose(folder)
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()


def half_download(folder: Path) -> None:
    shard(folder).rename(shard(folder).with_suffix(".safetensors.incomplete"))
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()


def spoil_index(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": [')


def point(folder: Path) -> None:
    shard(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")


def add(folder: Path) -> None:
    save_file(load_file(shard(folder)) | {"lora.up": torch.zeros(2)}, shard(folder))


def resize(folder: Path) -> None:
    tensors = load_file(shard(folder))
    save_file({name: torch.zeros(*value.shape, 2) for name, value in tensors.items()}, shard(folder))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, r"00002-of-00002\.safetensors is not a whole \.safetensors file .*download it again"),
        (
            lose,
            r"index\.json names .*00002-of-00002\.safetensors, which is not there; download the rest of the 2 shards",
        ),
        (lose_with_index, r"lacks .*and .* more; .*an incomplete download: shard 2 of 2 is not there"),
        (half_download, r"lacks .*and .* more; .*an incomplete download: shard 2 of 2 is not there"),
        (spoil_index, r"index\.json is not a whole index of shards; download it again"),
        (point, r"00002-of-00002\.safetensors only points to a file in Git LFS; .*git lfs pull"),
        (add, r"has lora\.up that this model does not use"),
        (resize, "has the shape .* this model needs .*another size"),
    ],
    ids=[
        "truncated",
        "a shard lost",
        "a shard and the index lost",
        "half-downloaded",
        "a spoiled index",
        "a pointer",
        "unexpected",
        "another size",
    ],
)
def test_what_is_wrong_with_the_dit_is_named(official: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(official)
    with pytest.raises(WeightsError, match=message) as caught:
        checkpoint(TINY, official)
    assert "\n" not in str(caught.value)


def test_a_pickle_with_code_is_refused_and_not_run(official: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"weight": Evil()}, official / TINY.files["vae"])
    with pytest.raises(WeightsError, match="could run code"):
        checkpoint(TINY, official).vae(torch.float32)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04cut"], ids=["empty", "text", "cut zip"])
def test_a_foreign_file_is_refused(official: Path, content: bytes) -> None:
    (official / TINY.files["vae"]).write_bytes(content)
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth"):
        checkpoint(TINY, official).vae(torch.float32)


def test_a_pickle_of_something_else_is_refused(official: Path) -> None:
    torch.save({"step": 3}, official / TINY.files["vae"])
    with pytest.raises(WeightsError, match="not a dictionary of tensors"):
        checkpoint(TINY, official).vae(torch.float32)


def test_a_missing_part_is_named_before_anything_loads(official: Path) -> None:
    (official / TINY.files["umt5"]).unlink()
    with pytest.raises(WeightsError, match=r"has no models_t5.*Wan-AI/Wan2"):
        checkpoint(TINY, official)


def test_a_wrong_digest_is_refused(official: Path) -> None:
    with pytest.raises(WeightsError, match="has the digest"):
        check_digest(official / TINY.files["vae"], "0" * 64)
    with pytest.raises(WeightsError, match="has the digest"):
        checkpoint(replace(TINY, digests={TINY.files["vae"]: "0" * 64}), official).vae(torch.float32)


@pytest.mark.parametrize(("kind", "model", "named"), [("vace", TINY, "tiny-edit"), ("i2v", VACE, "tiny-image")])
def test_weights_of_another_task_are_named(
    kind: str, model: Model, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "tiny-edit", VACE)
    monkeypatch.setitem(MODELS, "tiny-image", TINY)
    with pytest.raises(WeightsError, match=f"the weights of another model: {named}; choose one with --model"):
        checkpoint(model, layouts.official(tmp_path, kind))


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing does not exist; name the file or folder"):
        checkpoint(TINY, tmp_path / "nothing")
    with pytest.raises(WeightsError, match=r"i2v-14b-480p does not ship .*Wan-AI/Wan2\.1-I2V-14B-480P"):
        checkpoint(TINY, None)


def test_a_damaged_file_that_is_not_needed_does_no_harm(official: Path) -> None:
    (official / "notes.bin").write_bytes(b"nothing")
    checkpoint(TINY, official).dit(torch.float32)


def test_the_embedded_model_needs_no_path() -> None:
    files = checkpoint(MODELS["nano"], None)
    assert files.vae(torch.float32).mean.flatten().tolist() != pytest.approx(MODELS["t2v-14b"].vae.latent_mean)
    assert len(files.tokenizer()("a cat")) > 1


def test_weights_of_ones_own_may_have_a_vae_of_another_width(random_nano: Path, tmp_path: Path) -> None:
    nano = MODELS["nano"]
    narrow = checkpoint(nano, random_nano)
    assert narrow.model.vae.width == 8 < nano.vae.width == checkpoint(nano).model.vae.width
    latents = torch.zeros(1, 16, 1, 2, 2)
    (decoded,) = narrow.vae(torch.float32).decode(latents)
    assert decoded.shape[-2:] == (16, 16)
    stored = load_file(random_nano / "vae.safetensors")
    stored["encoder.conv1.weight"] = stored["encoder.conv1.weight"][:4].contiguous()
    save_file(stored, tmp_path / "vae.safetensors")
    others = [random_nano / "dit.safetensors", random_nano / "umt5.safetensors"]
    with pytest.raises(WeightsError, match="has the shape"):
        checkpoint(nano, [*others, tmp_path / "vae.safetensors"])


def test_a_tensor_of_no_part_is_unexpected(tmp_path: Path) -> None:
    path = layouts.one_file(tmp_path)
    save_file(load_file(path) | {"adapter.up": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"has adapter\.up that this model does not use"):
        checkpoint(TINY, path)


def test_an_incomplete_file_without_a_number_lacks_tensors(tmp_path: Path) -> None:
    path = layouts.comfy(tmp_path) / "diffusion_models" / "a.safetensors"
    save_file(dict(list(load_file(path).items())[:30]), path)
    with pytest.raises(WeightsError, match=r"a different model or an incomplete download$"):
        checkpoint(TINY, tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing does not exist"):
        open_file(tmp_path / "nothing")


def test_one_transformer_alone_is_no_checkpoint(official: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no Wan2\.1_VAE\.pth, nor the video VAE in any other layout"):
        checkpoint(TINY, [shard(official), official / "diffusion_pytorch_model-00001-of-00002.safetensors"])


def test_a_network_is_built_once_for_its_names_and_once_to_be_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    for kind in (DiT, UMT5, VAE):
        original = kind.__init__

        def counting(self: Any, spec: Any, original: Any = original, name: str = kind.__name__) -> None:
            built.append(name)
            original(self, spec)

        monkeypatch.setattr(kind, "__init__", counting)
    shapes.cache_clear()
    row = MODELS["nano"]
    files = checkpoint(row, None)
    plan(row, size=(64, 64), frames=17, device="cpu", dtype=torch.float32, free_bytes=None)
    for _ in range(2):
        files.dit(torch.float32)
    assert sorted(built) == ["DiT", "DiT", "DiT", "UMT5", "VAE"]


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hashed = tmp_path / "a", []
    monkeypatch.setattr("lichtspiel.weights.tensor_files.file_sha256", lambda path: hashed.append(path) or "right")
    path.write_bytes(b"1")
    for _ in range(3):
        check_digest(path, "right")
    assert len(hashed) == 1
    path.write_bytes(b"12")
    check_digest(path, "right")
    assert len(hashed) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems count maps in other ways")
@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_a_file_larger_than_memory_opens(suffix: str, tmp_path: Path) -> None:
    """Sparse files of twice the memory and swap, of which the end is read."""
    size = 2 * (psutil.virtual_memory().total + psutil.swap_memory().total) // 2**20 * 2**20
    path = tmp_path / f"huge{suffix}"
    write_huge(path, size)
    try:
        file = open_file(path)
        assert file.entries["huge"].shape == (size // 4,)
        assert file.read("huge")[-1] == 0
        assert file.read("last").tolist() == [1.0, 2.0]
    finally:
        path.unlink()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems count maps in other ways")
def test_a_pickle_is_mapped_read_only_and_reads_as_torch_does(tmp_path: Path) -> None:
    table = torch.arange(24.0).reshape(4, 6)
    tensors = {"view": table[1:3].T, "half": torch.randn(5, 7).bfloat16(), "one": torch.tensor(3), "again": table}
    torch.save(tensors, tmp_path / "a.pth")
    file = open_file(tmp_path / "a.pth")
    for name, value in tensors.items():
        assert torch.equal(file.read(name), value)
        assert file.entries[name].shape == value.shape
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("a.pth")]
    assert maps
    assert all(line.split()[1] == "r--s" for line in maps)


def write_huge(path: Path, size: int) -> None:
    """A file with `size` bytes of zeros that take no room, and two numbers behind them."""
    last = torch.tensor([1.0, 2.0]).numpy().tobytes()
    if path.suffix == ".safetensors":
        entries = {
            "huge": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]},
            "last": {"dtype": "F32", "shape": [2], "data_offsets": [size, size + 8]},
        }
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        end = path.stat().st_size + size
    else:
        fields = [(b"huge", size // 4, 0), (b"last", 2, size)]
        tensors = [
            struct.pack("<Q", 4) + name + struct.pack("<IQIQ", 1, count, 0, offset) for name, count, offset in fields
        ]
        header = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + b"".join(tensors)
        path.write_bytes(header + bytes(-len(header) % 32))
        end = path.stat().st_size + size
    with path.open("r+b") as file:
        file.seek(end)
        file.write(last)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("umt5", "vocabulary", torch.ones(4, dtype=torch.int32), "vocabulary"),
        ("umt5", "vocabulary", torch.arange(10, 20, dtype=torch.int32), "vocabulary"),
        ("vae", "latent_mean", torch.zeros(3), "latent_mean"),
        ("vae", "latent_std", torch.zeros(16), "latent_std"),
        ("vae", "latent_mean", torch.full((16,), torch.nan), "latent_mean"),
    ],
)
def test_constants_that_make_no_sense_are_refused(
    random_nano: Path, tmp_path: Path, part: str, name: str, value: torch.Tensor, message: str
) -> None:
    for path in random_nano.iterdir():
        (tmp_path / path.name).symlink_to(path)
    tensors = load_file(random_nano / f"{part}.safetensors") | {name: value}
    (tmp_path / f"{part}.safetensors").unlink()
    save_file(tensors, tmp_path / f"{part}.safetensors")
    files = checkpoint(MODELS["nano"], tmp_path)
    with pytest.raises(WeightsError, match=f"{part}.safetensors .*{message}"):
        files.tokenizer() if part == "umt5" else files.vae(torch.float32)

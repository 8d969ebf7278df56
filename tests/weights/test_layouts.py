"""Every published layout of one checkpoint loads to the same model, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lichtspiel.errors import WeightsError
from lichtspiel.inference.fp8 import BlocksInFP8, FP8Linear
from lichtspiel.spec import Model, Part
from lichtspiel.weights.checkpoint import Checkpoint, checkpoint
from lichtspiel.weights.components import open_file, scan
from lichtspiel.weights.inspect import inspect
from tests.golden import relative_error
from tests.weights import layouts
from tests.weights.layouts import FLF2V, TINY, VACE, State, bf16, renamed, state

WRITERS: dict[str, Callable[[Path], Path]] = {
    "official": layouts.official,
    "diffusers": layouts.diffusers,
    "comfy": layouts.comfy,
    "comfy, prefix of the wrapper": lambda folder: layouts.comfy(folder, prefix="diffusion_model."),
    "comfy, prefix of a checkpoint": lambda folder: layouts.comfy(folder, prefix="model.diffusion_model."),
    "one file": layouts.one_file,
}


def assert_whole(found: Checkpoint, model: Model, kind: str = "i2v") -> None:
    """All parts hold the tiny checkpoint's values exactly."""
    modules = {"dit": found.dit(torch.float32), "vae": found.vae(torch.float32), "umt5": found.umt5(torch.float32)}
    if model.clip:
        modules["clip"] = found.clip(torch.float32)
    for part, module in modules.items():
        true = state(kind, part)  # type: ignore[arg-type]
        for name, value in module.state_dict().items():
            assert torch.equal(value, true[name]), name


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_the_same_model(layout: str, tmp_path: Path) -> None:
    assert_whole(checkpoint(TINY, WRITERS[layout](tmp_path)), TINY)


@pytest.mark.parametrize(("kind", "model"), [("flf2v", FLF2V), ("vace", VACE)])
@pytest.mark.parametrize("writer", [layouts.official, layouts.diffusers], ids=["official", "diffusers"])
def test_the_other_transformers_load_too(kind: str, model: Model, writer: Callable[..., Path], tmp_path: Path) -> None:
    assert_whole(checkpoint(model, writer(tmp_path, kind)), model, kind)


def test_the_shards_of_diffusers_are_many(tmp_path: Path) -> None:
    layouts.diffusers(tmp_path)
    counts = {one.part: len(one.files) for one in scan([tmp_path]).parts}
    assert counts["dit"] > 1
    assert counts["umt5"] > 1


def test_files_may_be_named_one_by_one_and_be_called_anything(tmp_path: Path) -> None:
    layouts.comfy(tmp_path)
    paths = []
    for number, path in enumerate(sorted(tmp_path.rglob("*.safetensors"))):
        paths.append(path.rename(tmp_path / f"{number}.download"))
    assert_whole(checkpoint(TINY, paths), TINY)


def test_layouts_may_be_mixed(tmp_path: Path) -> None:
    folder = layouts.diffusers(tmp_path / "diffusers")
    single = layouts.comfy(tmp_path / "comfy")
    paths = [
        folder / "transformer",
        folder / "image_encoder",
        single / "vae",
        single / "text_encoders" / "c.safetensors",
    ]
    assert_whole(checkpoint(TINY, paths), TINY)


def test_tensors_keep_the_16_bit_of_their_file_until_they_are_converted(tmp_path: Path) -> None:
    layouts.official(tmp_path)
    parts = {one.part: one for one in scan([tmp_path]).parts}
    assert {value.dtype for _, value in parts["dit"]} == {torch.bfloat16}
    assert {value.dtype for _, value in parts["clip"]} == {torch.float16}
    assert dict(parts["vae"].precisions()) == {"F32": len(parts["vae"].shapes())}


def test_of_two_transformers_in_a_folder_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    layouts.comfy(tmp_path)
    save_file(bf16(state("vace", "dit")), tmp_path / "diffusion_models" / "0.safetensors")
    assert_whole(checkpoint(TINY, tmp_path), TINY)


def test_of_two_that_fit_none_is_guessed(tmp_path: Path) -> None:
    layouts.comfy(tmp_path)
    save_file(bf16(state("i2v", "dit")), tmp_path / "diffusion_models" / "0.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"0\.safetensors and .*a\.safetensors both hold the diffusion transformer.*use i2v-14b-480p ",
    ) as caught:
        checkpoint(TINY, tmp_path)
    files = str(caught.value).partition(f"lichtspiel use {TINY.name} ")[2].split()
    assert_whole(checkpoint(TINY, files), TINY)


def test_an_old_pickle_that_is_no_archive_loads(tmp_path: Path) -> None:
    layouts.official(tmp_path)
    torch.save({"state_dict": state("i2v", "vae")}, tmp_path / TINY.files["vae"], _use_new_zipfile_serialization=False)
    assert_whole(checkpoint(TINY, tmp_path), TINY)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_of_another_protocol_is_named(tmp_path: Path, archive: bool) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.ones(2)}, path, pickle_protocol=4, _use_new_zipfile_serialization=archive)
    with pytest.raises(WeightsError, match=r"a pickle of protocol 4, which PyTorch does not read safely"):
        open_file(path)


# ---- 8-bit floats --------------------------------------------------------------------------------------------------


def eighth(tensors: State, style: str) -> tuple[State, State]:
    """Matrices in fp8 and the rest in 16 bit, as ComfyUI publishes them; and the values that should come back."""
    files: State = (
        {} if style in {"plain", "weight_scale"} else {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    )
    values: State = {}
    for name, value in tensors.items():
        if value.dim() != 2:
            files[name] = value.half()
            values[name] = value
            continue
        scale = torch.tensor(1.0) if style == "plain" else value.abs().max() / 448
        if style == "rows":
            scale = value.abs().amax(dim=1, keepdim=True) / 448
        small = (value / scale).to(torch.float8_e4m3fn)
        files[name] = small
        values[name] = small.float() * scale
        stem = name.removesuffix(".weight")
        if style == "weight_scale":
            files |= {f"{stem}.weight_scale": scale, f"{stem}.comfy_quant": torch.zeros(9, dtype=torch.uint8)}
            files[f"{stem}.input_scale"] = torch.tensor(1.0)
        elif style != "plain":
            files[f"{stem}.scale_weight"] = scale
    return files, values


@pytest.mark.parametrize("style", ["plain", "scale_weight", "weight_scale", "rows"])
@pytest.mark.parametrize("part", ["dit", "umt5"])
def test_fp8_is_read_with_its_scales(style: str, part: Part, tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    place = {"dit": "diffusion_models/a", "umt5": "text_encoders/c"}[part]
    true = state("i2v", part)
    files, values = eighth(true if part == "dit" else renamed(part, "transformers", true), style)
    save_file(files, folder / f"{place}.safetensors")
    found = checkpoint(TINY, folder)
    module = found.dit(torch.float32) if part == "dit" else found.umt5(torch.float32)
    expected = values if part == "dit" else None
    for name, value in module.state_dict().items():
        theirs = expected[name] if expected else values[layouts.dialect(part, "transformers").names(name)[0]]
        assert torch.equal(value, theirs), name
        # e4m3 keeps three bits behind the leading one, and below 2⁻⁶ of the scale's unit steps of 2⁻⁹.
        assert torch.allclose(value, true[name], rtol=2**-4, atol=2**-10)


@pytest.mark.parametrize("style", ["plain", "scale_weight", "rows"])
def test_fp8_is_not_widened_where_fp8_is_computed(style: str, tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    files, values = eighth(state("i2v", "dit"), style)
    save_file(files, folder / "diffusion_models/a.safetensors")
    found = checkpoint(TINY, folder)
    assert found.parts["dit"].widened
    dit = found.dit(torch.bfloat16, each=BlocksInFP8())
    kept = {name: layer for name, layer in dit.named_modules() if isinstance(layer, FP8Linear)}
    assert len(kept) == 12 * TINY.dit.layers  # ten projections of a block, two more for the picture
    for name, layer in kept.items():
        assert torch.equal(layer.weight.float(), files[f"{name}.weight"].float()), name
        assert torch.equal(layer.weight.float() * layer.scales.T, values[f"{name}.weight"]), name
        assert torch.equal(layer.bias, files[f"{name}.bias"].bfloat16()), name
    for name, value in dit.state_dict().items():  # what is not in eight bits is widened as ever
        assert torch.equal(value, values[name].bfloat16()), name


def test_weights_in_16_bit_become_fp8_with_scales_of_their_own(tmp_path: Path) -> None:
    found = checkpoint(TINY, layouts.comfy(tmp_path))
    assert not found.parts["dit"].widened
    layers = [one for one in found.dit(torch.bfloat16, each=BlocksInFP8()).modules() if isinstance(one, FP8Linear)]
    assert all(layer.weight.float().abs().amax(dim=1).allclose(torch.tensor(448.0)) for layer in layers)


@pytest.mark.parametrize("style", ["plain", "scale_weight", "rows", "in 16 bit"])
@torch.inference_mode()
def test_streamed_blocks_multiply_in_fp8_as_those_in_memory(style: str, tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    if style != "in 16 bit":
        files, _ = eighth(state("i2v", "dit"), style)
        save_file(files, folder / "diffusion_models/a.safetensors")
    found = checkpoint(TINY, folder)
    draw = torch.Generator().manual_seed(2)
    given = [
        torch.randn(shape, generator=draw) for shape in ((1, 36, 2, 4, 6), (1, 5, 32), (1, 257, TINY.dit.image_width))
    ]
    latents, text, image = given
    velocities, held = [], []
    for resident in (TINY.dit.layers, 1, 0):
        dit = found.dit(torch.bfloat16, resident=resident, each=BlocksInFP8())
        dit.blocks[1].register_forward_pre_hook(lambda block, _: held.append(sorted(kinds(block))))
        for _ in range(2):  # memory is used again in the second run
            velocities.append(dit(latents, torch.tensor([500.0]), text, image=image))
        assert all(value.is_meta for value in dit.blocks[resident:].buffers())
        assert sum(isinstance(one, FP8Linear) for one in dit.modules()) == 12 * TINY.dit.layers
    for velocity in velocities:
        assert torch.equal(velocity, velocities[0])
    assert all(kind == held[0] for kind in held)
    assert held[0].count("torch.float8_e4m3fn") == 12
    exact = found.dit(torch.float32)(latents, torch.tensor([500.0]), text, image=image)
    assert 1e-4 < relative_error(velocities[0], exact) < 0.1


def kinds(block: nn.Module) -> list[str]:
    """The precision of everything that a block holds."""
    return [str(value.dtype) for value in (*block.parameters(), *block.buffers())]


@pytest.mark.parametrize("resident", [0, 2])
@torch.inference_mode()
def test_the_text_encoder_multiplies_in_fp8_in_its_feed_forward_layers_only(resident: int, tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    files, _ = eighth(renamed("umt5", "transformers", state("i2v", "umt5")), "scale_weight")
    save_file(files, folder / "text_encoders/c.safetensors")
    found = checkpoint(TINY, folder)
    umt5 = found.umt5(torch.bfloat16, resident=resident, each=BlocksInFP8("ffn"))
    eight = [name for name, layer in umt5.named_modules() if isinstance(layer, FP8Linear)]
    assert eight == [f"blocks.{block}.ffn.{layer}" for block in (0, 1) for layer in ("gate.0", "fc1", "fc2")]
    ids = torch.tensor([[3, 9, 1]])
    states = umt5(ids)
    assert torch.equal(states, found.umt5(torch.bfloat16, each=BlocksInFP8("ffn"))(ids))
    assert 1e-4 < relative_error(states.float(), found.umt5(torch.float32)(ids)) < 0.1


@pytest.mark.parametrize(
    ("writer", "extra"),
    [
        (layouts.diffusers, "blocks.{}.to_gate_compress"),
        (layouts.comfy, "diffusion_model.blocks.{}.self_attn.attn_op.local_attn.proj_l"),
    ],
)
def test_distilled_weights_load_without_their_sparse_attention(
    writer: Callable[[Path], Path], extra: str, tmp_path: Path
) -> None:
    folder = writer(tmp_path)
    [first, *_] = sorted({*folder.glob("transformer/*.safetensors"), *folder.glob("diffusion_models/*.safetensors")})
    tensors = load_file(first)
    prefix = "diffusion_model." if any(name.startswith("diffusion_model.") for name in tensors) else ""
    name = extra if prefix else extra.removeprefix("diffusion_model.")
    save_file(tensors | {f"{name.format(block)}.weight": torch.ones(4, 4) for block in range(2)}, first)
    assert_whole(checkpoint(TINY, folder), TINY)


def test_fp8_scales_that_are_lost_are_missed(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    files, _ = eighth(state("i2v", "dit"), "scale_weight")
    kept = {name: value for name, value in files.items() if not name.endswith("scale_weight")}
    save_file(kept, folder / "diffusion_models/a.safetensors")
    with pytest.raises(WeightsError, match="have scales, but holds none; download it again"):
        checkpoint(TINY, folder)


def test_scales_of_blocks_are_refused(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    files, _ = eighth(state("i2v", "dit"), "scale_weight")
    files["blocks.0.self_attn.q.scale_weight"] = torch.ones(3, 7)
    save_file(files, folder / "diffusion_models/a.safetensors")
    with pytest.raises(WeightsError, match=r"q\.scale_weight has the shape \[3, 7\]; only one scale"):
        checkpoint(TINY, folder)


def test_a_scale_without_a_weight_is_unexpected(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    files, _ = eighth(state("i2v", "dit"), "scale_weight")
    files["blocks.9.self_attn.q.scale_weight"] = torch.ones(())
    save_file(files, folder / "diffusion_models/a.safetensors")
    with pytest.raises(WeightsError, match=r"has blocks\.9\.self_attn\.q\.scale_weight that this model does not use"):
        checkpoint(TINY, folder)


def test_integers_are_refused(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    files = bf16(state("i2v", "dit"))
    files["blocks.0.ffn.0.weight"] = files["blocks.0.ffn.0.weight"].to(torch.int8)
    save_file(files, folder / "diffusion_models/a.safetensors")
    with pytest.raises(WeightsError, match=r"ffn\.0\.weight is stored as I8, which cannot be read"):
        checkpoint(TINY, folder)


# ---- Names and wrappings of other projects --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["pipe.dit.", "net.", "module.", "_orig_mod.", "module._orig_mod.", "base_model.model.", "model.net."]
)
def test_prefixes_of_other_projects_are_known(prefix: str, tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    tensors = {prefix + name: value for name, value in bf16(state("i2v", "dit")).items()}
    save_file(tensors, folder / "diffusion_models/a.safetensors")
    assert_whole(checkpoint(TINY, folder), TINY)


def test_checkpointed_blocks_and_nested_averages_load(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    (folder / "diffusion_models/a.safetensors").unlink()
    wrapped = {
        "model." + re.sub(r"^(blocks\.\d+)\.", r"\1._checkpoint_wrapped_module.", name): value
        for name, value in bf16(state("i2v", "dit")).items()
    }
    spoiled = {name: value + 1 for name, value in wrapped.items()}
    torch.save({"generator": spoiled, "generator_ema": wrapped, "step": 3}, folder / "diffusion_models/a.pt")
    with pytest.raises(WeightsError, match="not a dictionary of tensors"):
        open_file(write_pickle(tmp_path / "b.pt", {"step": 3}))
    (tmp_path / "b.pt").unlink()
    assert_whole(checkpoint(TINY, folder), TINY)


def write_pickle(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("shape", [(64, -1), (-1, 1, 2, 2)], ids=["linear", "four axes"])
def test_a_folded_patch_embedding_is_the_same_layer(shape: tuple[int, ...], tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    tensors = bf16(state("i2v", "dit"))
    whole = tensors["patch_embedding.weight"]
    shape = (len(whole), -1) if len(shape) == 2 else shape
    save_file(tensors | {"patch_embedding.weight": whole.reshape(shape)}, folder / "diffusion_models/a.safetensors")
    assert_whole(checkpoint(TINY, folder), TINY)


@pytest.mark.parametrize(("title", "ends"), [("quanto", ("._data", "._scale")), ("bitsandbytes", ("", ".absmax"))])
def test_the_quantizer_of_an_unreadable_file_is_named(title: str, ends: tuple[str, str], tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    path = folder / "diffusion_models/a.safetensors"
    tensors: State = {}
    for name, value in bf16(state("i2v", "dit")).items():
        for end in ends:
            tensors[f"quantized.{name}{end}"] = value.clone()
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=rf"a\.safetensors is quantized by {title}, which cannot be read"):
        checkpoint(TINY, folder)
    (other,) = inspect(path).others
    assert title in other.reason


# ---- Wan2.2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "high_noise_model/a.safetensors",
        "wan2.2_i2v_low_noise_14B_fp16.safetensors",
        "Wan2_2-I2V-A14B.safetensors",
        "models--Wan-AI--Wan2.2-T2V-A14B-Diffusers/snapshots/1f/a.safetensors",
    ],
)
def test_an_expert_of_wan22_is_not_taken_for_wan21(name: str, tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    path = folder / "diffusion_models" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    (folder / "diffusion_models/a.safetensors").rename(path)
    with pytest.raises(WeightsError, match=r"is an expert of Wan2\.2 A14B, which is not supported yet"):
        checkpoint(TINY, folder)
    (info,) = [info for info in inspect(folder).parts if info.part == "dit"]
    assert "Wan2.2" in info.reason


def test_metadata_and_a_twin_tell_an_expert_of_wan22_too(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    path = folder / "diffusion_models/a.safetensors"
    save_file(bf16(state("i2v", "dit")), path, {"modelspec.architecture": "wan2.2-i2v-a14b"})
    with pytest.raises(WeightsError, match=r"is an expert of Wan2\.2"):
        checkpoint(TINY, folder)
    save_file(bf16(state("i2v", "dit")), path)
    checkpoint(TINY, folder)
    (folder / "transformer").mkdir()
    path.rename(folder / "transformer/a.safetensors")
    (folder / "transformer_2").mkdir()
    with pytest.raises(WeightsError, match=r"is an expert of Wan2\.2"):
        checkpoint(TINY, folder)


def test_the_nearest_name_decides_between_wan21_and_wan22(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    path = folder / "diffusion_models/wan2.2/wan2.1_i2v.safetensors"
    path.parent.mkdir()
    (folder / "diffusion_models/a.safetensors").rename(path)
    assert checkpoint(TINY, folder).parts["dit"].paths == [path]


# ---- ComfyUI's list of folders --------------------------------------------------------------------------------------


def test_the_folders_of_extra_model_paths_are_read(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path / "elsewhere")
    comfy = tmp_path / "ComfyUI"
    comfy.mkdir()
    kinds = "".join(f"    {path.name}: {path.name}/\n" for path in sorted(folder.iterdir()) if path.is_dir())
    text = f"mine:\n    base_path: {folder}\n{kinds}    loras: loras/\n"
    (comfy / "extra_model_paths.yaml").write_text(text + "others:\n    vae: |\n        /nowhere\n        gone\n")
    assert_whole(checkpoint(TINY, comfy), TINY)
    assert_whole(checkpoint(TINY, comfy / "extra_model_paths.yaml"), TINY)
    (comfy / "extra_model_paths.yaml").write_text("- a\n- b\n")
    with pytest.raises(WeightsError, match="is no list of model paths"):
        checkpoint(TINY, comfy)


def test_the_small_model_of_wan22_is_named(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path)
    small = bf16(state("i2v", "dit")) | {"patch_embedding.weight": torch.zeros(3072, 48, 1, 2, 2)}
    save_file(small, folder / "diffusion_models/a.safetensors")
    with pytest.raises(WeightsError, match=r"is Wan2\.2 TI2V-5B, which is not supported yet"):
        checkpoint(TINY, folder)


# ---- Files that were named for nothing ------------------------------------------------------------------------------


def test_a_named_file_that_nothing_can_use_is_refused(tmp_path: Path) -> None:
    folder = layouts.comfy(tmp_path / "models")
    save_file({"blocks.0.self_attn.q.lora_up.weight": torch.ones(2, 2)}, tmp_path / "style.safetensors")
    save_file({"x._data": torch.ones(2), "x._scale": torch.ones(2)}, tmp_path / "int8.safetensors")
    save_file({"nothing": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    for name, why in {
        "style.safetensors": "is a LoRA; name it with --lora",
        "int8.safetensors": "is quantized by quanto",
        "other.safetensors": "is no part of a Wan2",
        "picture.png": "is not a file of tensors",
    }.items():
        with pytest.raises(WeightsError, match=f"{name} {why}"):
            checkpoint(TINY, [folder, tmp_path / name])
    checkpoint(TINY, tmp_path)  # in a folder they lie beside


def test_a_name_that_is_too_long_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        checkpoint(TINY, tmp_path / ("猫" * 90 + ".safetensors"))


# ---- VACE modules ---------------------------------------------------------------------------------------------------


def split_vace(folder: Path, *, apart: bool) -> Path:
    """The transformer of the tiny VACE model as a base and a module, beside another transformer; returns the base."""
    layouts.comfy(folder, kind="vace")
    (folder / "diffusion_models/a.safetensors").unlink()
    whole = bf16(state("vace", "dit"))
    base, module = folder / "diffusion_models/t2v.safetensors", folder / "diffusion_models/module.safetensors"
    if apart:
        module = folder / "modules/module.safetensors"
        module.parent.mkdir()
    save_file({name: value for name, value in whole.items() if not name.startswith("vace_")}, base)
    save_file({name: value for name, value in whole.items() if name.startswith("vace_")}, module)
    save_file(bf16(state("i2v", "dit")), folder / "diffusion_models/i2v.safetensors")
    return base


@pytest.mark.parametrize("apart", [False, True], ids=["one folder", "two folders"])
def test_a_vace_module_joins_its_base_and_spoils_no_other(apart: bool, tmp_path: Path) -> None:
    base = split_vace(tmp_path, apart=apart)
    assert_whole(checkpoint(VACE, tmp_path), VACE, "vace")
    text = replace(VACE, dit=replace(VACE.dit, vace_layers=()))
    assert checkpoint(text, tmp_path).parts["dit"].paths == [base]
    image = replace(TINY, clip=None, files={part: name for part, name in TINY.files.items() if part != "clip"})
    assert checkpoint(image, tmp_path).parts["dit"].paths == [tmp_path / "diffusion_models/i2v.safetensors"]
    base.unlink()
    (tmp_path / "diffusion_models/i2v.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"module\.safetensors is a VACE module; name the file of its text-to-video"):
        checkpoint(VACE, tmp_path)

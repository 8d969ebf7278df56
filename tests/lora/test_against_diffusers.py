"""The same file in Diffusers' own LoRA loader and here: the same weights and files, the same velocity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lichtspiel.lora import apply, carried, convert, read_lora, write_lora
from lichtspiel.lora.names import to_diffusers
from lichtspiel.models import shapes
from lichtspiel.spec import DiTSpec
from lichtspiel.weights.shards import diffusers_config
from tests.golden import relative_error
from tests.lora.files import IMAGE, TINY, build, inputs, keys, linear_layers, pairs, run, save

pytest.importorskip("peft", reason="peft is in the extra test-peers")


def reference(spec: DiTSpec) -> Any:
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    model = WanTransformer3DModel(**diffusers_config(spec)).eval()
    state = {}
    for name, value in build(spec).state_dict().items():
        layer, _, last = name.rpartition(".")
        named = last in ("weight", "bias")
        state[f"{to_diffusers(layer)}.{last}" if named else to_diffusers(name)] = value
    model.load_state_dict(state, strict=True)
    return model


def load(model: Any, path: Path) -> None:
    """As a pipeline of Diffusers loads a LoRA file, whatever its dialect."""
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin

    class Holder(WanLoraLoaderMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            self.transformer = model
            self.components = {"transformer": model}
            self.hf_device_map = None

    Holder().load_lora_weights(str(path.parent), weight_name=path.name, low_cpu_mem_usage=False)


def velocity(model: Any, given: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(
            given["latents"], given["timestep"], given["text"],
            encoder_hidden_states_image=given.get("image"), return_dict=False,
        )[0]  # fmt: skip
    return found


def agrees(spec: DiTSpec, path: Path) -> None:
    model, given = reference(spec), inputs(spec)
    before = velocity(model, given)
    load(model, path)
    expected = velocity(model, given)
    assert relative_error(expected, before) > 0.02, "the file changed nothing"
    for merge in (True, False):
        ours = build(spec)
        apply(ours, [(read_lora(path), 1.0)], merge=merge)
        assert relative_error(run(ours, given), expected) < 1e-5


# What Diffusers' converters of each dialect take: alphas everywhere in kohya's, no `img_emb` pair with an alpha.
ALPHAS = {"diffusers": (None,), "comfy": (1.0, 6.0), "comfy-ab": (None,), "kohya": (1.0, 6.0)}


@pytest.mark.parametrize("spec", [TINY, IMAGE], ids=["text", "image"])
@pytest.mark.parametrize("dialect", ALPHAS)
def test_a_file_of_each_dialect(dialect: str, spec: DiTSpec, tmp_path: Path) -> None:
    ranks = (4,) if dialect == "diffusers" else (2, 4)
    made = pairs(spec, linear_layers(spec), ranks=ranks, alphas=ALPHAS[dialect])
    agrees(spec, save(tmp_path / "a.safetensors", keys(dialect, made)))


def test_layers_outside_the_blocks(tmp_path: Path) -> None:
    # Diffusers has no name for a pair of the patch embedding in ComfyUI's dialect, but has in its own.
    layers = linear_layers(IMAGE, everywhere=True)
    outside = [layer for layer in layers if layer != "patch_embedding"]
    agrees(IMAGE, save(tmp_path / "a.safetensors", keys("comfy", pairs(IMAGE, outside))))
    agrees(IMAGE, save(tmp_path / "b.safetensors", keys("diffusers", pairs(IMAGE, layers))))


def test_bias_differences(tmp_path: Path) -> None:
    tensors = keys("comfy", pairs(TINY, linear_layers(TINY)))
    for layer in linear_layers(TINY):
        tensors[f"diffusion_model.{layer}.diff_b"] = 0.1 * torch.randn(shapes(TINY)[f"{layer}.bias"])
    path = save(tmp_path / "a.safetensors", tensors)
    agrees(TINY, path)
    write_lora(tmp_path / "b.safetensors", convert(read_lora(path), "diffusers"), {})
    agrees(TINY, tmp_path / "b.safetensors")


@pytest.mark.parametrize("to", ["diffusers", "comfy", "kohya"])
@pytest.mark.parametrize("alphas", [(None,), (1.0, 16.0), (1.0, 0.1)], ids=["none", "exact", "rounding"])
def test_diffusers_reads_what_was_converted(to: Any, alphas: tuple[float | None, ...], tmp_path: Path) -> None:
    ranks = (3, 4, 4) if alphas == (1.0, 0.1) else (4, 2, 2)
    made = pairs(IMAGE, linear_layers(IMAGE), ranks=ranks, alphas=alphas)
    lora = read_lora(save(tmp_path / "a.safetensors", keys("diffsynth", made)))
    path = tmp_path / "b.safetensors"
    write_lora(path, convert(lora, to), carried(lora, to))
    agrees(IMAGE, path)
    again = build(IMAGE)
    apply(again, [(lora, 1.0)], merge=True)
    twin = build(IMAGE)
    apply(twin, [(read_lora(path), 1.0)], merge=True)
    assert relative_error(run(again, inputs(IMAGE)), run(twin, inputs(IMAGE))) < 1e-6


def test_what_diffusers_saves(tmp_path: Path) -> None:
    from peft import LoraConfig

    make: Callable[..., Any] = LoraConfig
    model, given = reference(TINY), inputs(TINY)
    model.add_adapter(make(r=4, lora_alpha=6, target_modules=["to_q", "net.2"], alpha_pattern={"to_q": 3},
                           init_lora_weights=False))  # fmt: skip
    expected = velocity(model, given)
    model.save_lora_adapter(tmp_path)
    (path,) = tmp_path.iterdir()
    ours = build(TINY)
    lora = read_lora(path)
    assert sorted({delta.scale for delta in lora.layers.values()}) == [0.75, 1.5]
    apply(ours, [(lora, 1.0)], merge=False)
    assert relative_error(run(ours, given), expected) < 1e-5

"""Kernels of attention, products in eight-bit floating point, compiled blocks and the VAE in 16 bit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.utils._triton
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from lichtspiel.errors import RequestError
from lichtspiel.inference import kernels
from lichtspiel.inference import pipeline as pipeline_room
from lichtspiel.inference.compiled import can_compile, compile_blocks
from lichtspiel.inference.device import choose_precision
from lichtspiel.inference.fp8 import BlocksInFP8, FP8Linear, quantized, to_fp8
from lichtspiel.inference.kernels import attention_for, error_of, kernel, use_attention
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.lora import apply, prepare, read_lora
from lichtspiel.models.attention import attention
from lichtspiel.models.dit import DiT, SelfAttention
from lichtspiel.request import Request
from lichtspiel.weights.offload import load_with_offload
from tests.golden import golden
from tests.lora.files import keys, linear_layers, pairs, save
from tests.models.test_dit import official

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a package importable that has just these functions."""

    def make(name: str, **functions: object) -> None:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        for attribute, function in functions.items():
            setattr(module, attribute, function)
        monkeypatch.setitem(sys.modules, name, module)

    return make


def test_a_kernel_that_is_missing_or_does_not_fit_is_refused(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(RequestError, match="pip install sageattention"):
        attention_for("sage", CUDA, torch.bfloat16)
    install("sageattention")
    with pytest.raises(RequestError, match="CUDA in bfloat16 or float16"):
        attention_for("sage", CPU, torch.bfloat16)
    with pytest.raises(RequestError, match="CUDA in bfloat16 or float16"):
        attention_for("sage", CUDA, torch.float32)
    assert attention_for("auto", CPU, torch.bfloat16) == "sdpa"
    install("flash_attn_interface")
    assert attention_for("auto", CUDA, torch.bfloat16) == "flash3"
    assert attention_for("auto", CUDA, torch.float32) == "sdpa"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert attention_for("auto", CUDA, torch.bfloat16) == "sdpa"
    with pytest.raises(RequestError, match="Hopper"):
        attention_for("flash3", CUDA, torch.bfloat16)


def eight_bit(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str) -> Tensor:
    assert tensor_layout == "NHD"
    rounded = [(part / part.abs().amax() * 127).round() * part.abs().amax() / 127 for part in (q, k)]
    return attention(*rounded, v)


def test_a_kernel_is_checked_before_it_is_trusted(install: Callable[..., None]) -> None:
    reference = golden("dit_t2v")
    dit = DiT(official(reference.config))
    install("sageattention", sageattn=eight_bit)
    use_attention(dit, "sage", CPU, torch.bfloat16)
    assert 0.003 < error_of(kernel("sage"), 2, 32, CPU, torch.bfloat16) < 0.15
    for broken in (lambda q, k, v, tensor_layout: q * float("nan"), lambda q, k, v, tensor_layout: v):
        install("sageattention", sageattn=broken)
        with pytest.raises(RequestError, match="broken"):
            use_attention(dit, "sage", CPU, torch.bfloat16)
    use_attention(dit, "sdpa", CPU, torch.float32)
    assert {module.attention_fn for module in dit.modules() if isinstance(module, SelfAttention)} == {attention}


def test_flash_attention_3_of_both_kinds(install: Callable[..., None]) -> None:
    q, k, v = (torch.randn((1, 6, 2, 8), generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    for answer in (attention, lambda q, k, v: (attention(q, k, v), None)):
        install("flash_attn_interface", flash_attn_func=answer)
        assert torch.equal(kernel("flash3")(q, k, v), attention(q, k, v))


def test_eight_bit_rows_are_exact_to_three_bits_of_mantissa() -> None:
    rows = torch.randn((40, 64), generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 40)[:, None]
    values, scales = quantized(rows)
    assert values.dtype == torch.float8_e4m3fn
    back = values.float() * scales
    large = rows.abs() > rows.abs().amax(dim=1, keepdim=True) / 1000  # smaller ones are not normal numbers in e4m3
    assert ((back - rows).abs() / rows.abs())[large].max() <= 1 / 16 + 1e-6
    assert torch.isfinite(quantized(torch.zeros(2, 16))[0].float()).all()


def test_eight_bit_layers_compute_what_their_numbers_say() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    x = torch.randn(3, 5, 64, dtype=torch.bfloat16)
    values, scales = quantized(layer.weight.detach())
    inputs, input_scales = quantized(x.reshape(-1, 64))
    exact = (inputs.double() * input_scales) @ (values.double() * scales).T + layer.bias.double()
    ours = FP8Linear(layer)(x)
    assert ours.shape == (3, 5, 32)
    torch.testing.assert_close(ours.double().reshape(-1, 32), exact, rtol=1e-2, atol=1e-2)


def test_a_model_in_eight_bits_is_near_the_exact_one() -> None:
    reference = golden("dit_t2v")
    dit = DiT(official(reference.config))
    dit.load_state_dict(reference.weights)
    dit.to(torch.bfloat16)
    for block in dit.blocks:
        assert to_fp8(block) == 10  # four projections of each attention, and two of the feed-forward network
    assert type(dit.text_embedding[0]) is nn.Linear
    inputs = reference.inputs
    with torch.inference_mode():
        velocity = dit(inputs["latents"], inputs["timestep"], inputs["text_states"])
    exact = reference.outputs["velocity"]
    assert float((velocity - exact).norm() / exact.norm()) < 0.06


def test_eight_bits_are_refused_where_there_are_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"NVIDIA GPU.*int8"):
        choose_precision("fp8", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(RequestError, match=r"A100 has no units for it.*bfloat16"):
        choose_precision("fp8", CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert choose_precision("fp8", CUDA) == "fp8"


def test_blocks_are_compiled_once_for_all_steps_branches_and_prompts() -> None:
    reference = golden("dit_t2v")
    dit = DiT(official(reference.config))
    dit.load_state_dict(reference.weights)
    inputs = reference.inputs
    torch.compiler.reset()
    counter = CompileCounter()
    compile_blocks(dit, backend=counter)
    texts = [inputs["text_states"], inputs["text_states"] + 1]
    try:
        with torch.inference_mode(), kv_cache(dit, compiled=True):
            for text in texts:
                dit(inputs["latents"], inputs["timestep"], text)
            first = counter.frame_count
            for step in range(2):
                for text in texts:
                    velocity = dit(inputs["latents"], inputs["timestep"] - step, text)
            assert counter.frame_count == first
        with torch.inference_mode(), kv_cache(dit, compiled=True):  # another video
            longer = torch.cat([texts[1], texts[0][:, :2]], dim=1)
            assert longer.shape[1] < dit.spec.text_length
            dit(inputs["latents"], inputs["timestep"], longer)
            velocity = dit(inputs["latents"], inputs["timestep"], texts[0])
        assert counter.frame_count == first
    finally:
        torch.compiler.reset()
    assert float((velocity - reference.outputs["velocity"]).abs().max()) < 1e-4


@pytest.mark.parametrize("eight", [False, True], ids=["float32", "fp8"])
def test_streamed_blocks_with_a_lora_on_the_fly_are_compiled_once(eight: bool, tmp_path: Path) -> None:
    reference = golden("dit_t2v")
    spec, given = official(reference.config), reference.inputs
    lora = read_lora(save(tmp_path / "a.safetensors", keys("kohya", pairs(spec, linear_layers(spec), alphas=(2.0,)))))

    def streamed(backend: CompileCounter | None) -> Callable[[float], Tensor]:
        with torch.device("meta"):
            dit = DiT(spec).eval()
        each = BlocksInFP8() if eight else None
        load_with_offload(dit, reference.weights, torch.float32, CPU, resident=1, each=each)
        apply(dit, [(lora, 1.0)], merge=False)
        if backend is not None:
            prepare(dit, CPU, torch.float32)
            compile_blocks(dit, backend=backend)
        return lambda step: dit(given["latents"], given["timestep"] - step, given["text_states"])

    torch.compiler.reset()
    counter = CompileCounter()
    plain, compiled = streamed(None), streamed(counter)
    try:
        with torch.inference_mode():
            for step in range(3):
                assert torch.equal(compiled(step), plain(step))
    finally:
        torch.compiler.reset()
    assert counter.frame_count == 1  # all blocks, in memory and streamed, in all steps


def test_a_broken_kernel_of_pytorch_is_refused_with_the_precision_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    dit = DiT(official(golden("dit_t2v").config))
    monkeypatch.setattr(kernels, "kernel", lambda name: lambda q, k, v, bias=None: v)
    with pytest.raises(RequestError, match=r"^dtype: .*bfloat16.* PyTorch's build is broken; .* float32$"):
        use_attention(dit, "sdpa", CPU, torch.bfloat16)


def test_a_processor_compiles_nothing() -> None:
    assert can_compile(CPU) == "blocks are compiled for CUDA only"


def test_a_gpu_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: True)
    assert can_compile(CUDA) is None
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: False)
    assert "blocks are not compiled; install triton" in str(can_compile(CUDA))


def test_compiling_is_a_stage_of_the_first_video_only(random_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(pipeline: Pipeline, **fields: object) -> Tensor:
        asked = request.model_copy(update=fields)
        *_, last = pipeline.denoise(pipeline.encode(asked), asked)
        return last.latents

    request = Request.of(prompt="a turtle", frames=1, steps=2, seed=1, device="cpu", dtype="float32")
    plain = made(load(request, random_nano))
    monkeypatch.setattr(pipeline_room, "can_compile", lambda device: None)
    monkeypatch.setattr(pipeline_room, "compile_blocks", partial(compile_blocks, backend="eager"))
    torch.compiler.reset()
    try:
        compiled = load(request, random_nano)
        assert compiled.compiled
        assert torch.equal(made(compiled), plain)
        spent = compiled.clock.timings()["compile"]
        assert spent > 0
        made(compiled, prompt="a red car drives to the left", seed=2)
        assert compiled.clock.timings()["compile"] == spent
    finally:
        torch.compiler.reset()
    off = load(request.model_copy(update={"compile": "off"}), random_nano)
    assert not off.compiled
    assert "compile" not in off.clock.timings()


def test_the_vae_in_16_bit_is_near_and_takes_float32(random_nano: Path) -> None:
    frames = {}
    for vae_dtype in ("float32", "bfloat16"):
        asked = Request.of(prompt="a turtle", frames=5, steps=1, seed=1, device="cpu", vae_dtype=vae_dtype)
        pipeline = load(asked, random_nano)
        latents = pipeline.noise(asked)
        frames[vae_dtype] = torch.stack([torch.from_numpy(frame) for frame in pipeline.decode(latents)]).float()
        assert not pipeline.serves(asked.model_copy(update={"vae_dtype": "float16"}))
    difference = (frames["float32"] - frames["bfloat16"]).abs()
    assert 0 < difference.mean() < 3


def test_kernels_have_limits_for_each_name() -> None:
    assert {*kernels.LIMITS} == {"sdpa", *kernels.PACKAGES}

"""Seconds and memory of one denoising step on a GPU, beside diffusers in the same run, and where the time goes.

    python -m benchmarks.gpu [--model t2v-1.3b] [--size 832x480] [--frames 81] [--runs 3] [--trace]
    python -m benchmarks.gpu --device cpu --tiny

One step is two velocities, with and without the prompt, as guidance asks for. Weights are random, of the true size and
in bfloat16, and all on the device; both sides get the same ones and the same inputs, and the difference of their
results is printed. `--trace` adds the ten kernels that take longest. `--tiny` takes a small network, to see that the
benchmark itself works where there is no GPU.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.quantize import relative_error
from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS, DiTSpec

TOKENS = 60
Step = Callable[[], Tensor]


def spec_of(name: str, tiny: bool) -> DiTSpec:
    spec = MODELS[name].dit
    if not tiny:
        return spec
    image = 64 if spec.image_tokens else spec.image_width
    return replace(spec, width=256, ffn_width=512, heads=2, layers=2, text_width=64, image_width=image)


def inputs(spec: DiTSpec, size: tuple[int, int], frames: int, device: torch.device) -> dict[str, Tensor]:
    width, height = size
    draw = torch.Generator().manual_seed(1)
    shape = (1, spec.in_channels, 1 + (frames - 1) // 4, height // 8, width // 8)
    made = {"latents": torch.randn(shape, generator=draw), "timestep": torch.tensor([500.0])}
    for name in ("text", "negative"):
        made[name] = torch.randn(1, TOKENS, spec.text_width, generator=draw)
    if spec.image_tokens:
        made["image"] = torch.randn(1, 257, spec.image_width, generator=draw)
    return {name: value.to(device) for name, value in made.items()}


def weights(spec: DiTSpec, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DiT(spec).named_parameters()}
    torch.manual_seed(0)
    made = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, device=device, dtype=dtype)
        plain = len(shape) == 1 or "norm" in name
        made[name] = (
            value * 0.02 + float(plain and name.endswith("weight")) if plain else value / shape[1:].numel() ** 0.5
        )
    return made


@contextmanager
def ours(spec: DiTSpec, given: dict[str, Tensor], state: dict[str, Tensor]) -> Iterator[Step]:
    with torch.device("meta"):
        dit = DiT(spec).eval()
    dit.load_state_dict(state, assign=True)
    dtype = next(iter(state.values())).dtype
    texts = [given[name].to(dtype) for name in ("text", "negative")]
    image = given["image"].to(dtype) if "image" in given else None

    def step() -> Tensor:
        return torch.cat([dit(given["latents"], given["timestep"], text, image=image) for text in texts])

    with kv_cache(dit):
        yield step


@contextmanager
def theirs(spec: DiTSpec, given: dict[str, Tensor], state: dict[str, Tensor]) -> Iterator[Step]:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    from tests.models.test_dit import diffusers_config, to_diffusers

    with torch.device("meta"):
        dit = WanTransformer3DModel(**diffusers_config(spec)).eval()
    dit.rope = WanTransformer3DModel(num_layers=0, attention_head_dim=spec.width // spec.heads).rope.to(
        given["latents"].device
    )
    dit.load_state_dict({to_diffusers(name): value for name, value in state.items()}, assign=True)
    dtype = next(iter(state.values())).dtype
    padded = [
        nn.functional.pad(given[name], (0, 0, 0, spec.text_length - TOKENS)).to(dtype) for name in ("text", "negative")
    ]
    image_states = given["image"].to(dtype) if "image" in given else None

    def step() -> Tensor:
        return torch.cat([
            dit(given["latents"].to(dtype), given["timestep"], text, image_states, return_dict=False)[0]
            for text in padded
        ])  # fmt: skip

    yield step


def measured(step: Step, runs: int, device: torch.device) -> tuple[Tensor, float, float]:
    """Result, median seconds after a first call that is not counted, and the most memory in GB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result, spent = step(), []
    for _ in range(runs):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        spent.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")
    return result.float(), statistics.median(spent), peak


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="t2v-1.3b")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--trace", action="store_true")
    asked = parser.parse_args()
    width, height = map(int, asked.size.split("x"))
    device, spec = torch.device(asked.device), spec_of(asked.model, asked.tiny)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {name}, torch {torch.__version__}, {asked.model}, {asked.size}, {asked.frames} frames, {dtype}\n")
    print("| what | seconds a step | peak GB | difference |\n|---|---|---|---|")
    with torch.inference_mode():
        state = weights(spec, device, dtype)
        given = inputs(spec, (width, height), asked.frames, device)
        exact = None
        for title, side in (("Lichtspiel", ours), ("diffusers", theirs)):
            with side(spec, given, state) as step:
                result, seconds, peak = measured(step, asked.runs, device)
                exact = result if exact is None else exact
                print(f"| {title} | {seconds:.3f} | {peak:.2f} | {relative_error(result, exact):.1e} |", flush=True)
                if asked.trace:
                    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
                    with profile(activities=[activity]) as trace:
                        step()
                        wait(device)
                    print(trace.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=10))
            gc.collect()


if __name__ == "__main__":
    main()

"""What one GPU does: ceilings, steps of the DiT in every way there is, diffusers beside, the VAE, and nano whole.

    python -m benchmarks.gpu [--only PART,...] [--models t2v-1.3b,i2v-14b-480p] [--size 832x480] [--frames 81]
    python -m benchmarks.gpu --device cpu --tiny

Parts are `ceilings`, `steps`, `memory` (a step with the memory capped to 24 and to 12 GB), `magcache`, `vae` and
`nano`. One step is two velocities, with and without the prompt, as guidance asks for. Weights are random and of the
true size; all ways of one model get the same ones and the same inputs, and the difference of each result from the exact
one is printed. Rows that do not begin within `--seconds` (480) are left out, and say so. `--trace` adds the ten kernels
that take longest in an exact step. `--tiny` takes small networks, to see that the benchmark itself works where there is
no GPU.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lichtspiel import flow
from lichtspiel.errors import LichtspielError
from lichtspiel.inference.compiled import can_compile, compile_blocks
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.inference.estimate import plan_for
from lichtspiel.inference.fp8 import check_fp8, to_fp8
from lichtspiel.inference.gpu import exact_convolutions, use_gpu_layout
from lichtspiel.inference.kernels import attention_for, use_attention
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.magcache import MagCache, curve_for, reusing
from lichtspiel.models.dit import DiT
from lichtspiel.models.vae import VAE
from lichtspiel.spec import MODELS, DiTSpec, Model
from lichtspiel.weights.offload import block_names, load_with_offload
from tests.golden import relative_error

PARTS = ("ceilings", "steps", "memory", "magcache", "vae", "nano")
TOKENS = 60
CAPS = (24, 12)
SHIFT, STEPS = 5.0, 20
Work = Callable[[], Tensor]


@dataclass(frozen=True)
class Way:
    """One way to compute a step: compiled or not, with fp8 products, a kernel of attention, and so many blocks in
    memory (None: all)."""

    title: str
    compiled: bool = True
    fp8: bool = False
    attention: str = "sdpa"
    resident: int | None = None


WAYS = (
    Way("exact", compiled=False),
    Way("exact, compiled"),
    Way("fp8, compiled", fp8=True),
    Way("flash3, compiled", attention="flash3"),
    Way("sage, compiled", attention="sage"),
)


@dataclass
class Bench:
    """What all rows share: where and what they compute, and when the last one may begin."""

    device: torch.device
    tiny: bool
    size: tuple[int, int]
    frames: int
    runs: int
    end: float
    trace: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """What the DiT computes in."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def model(self, name: str) -> Model:
        """The checkpoint of this name, or a small one of its task."""
        row = MODELS[name]
        if not self.tiny:
            return row
        image = 64 if row.dit.image_tokens else row.dit.image_width
        dit = replace(row.dit, width=256, ffn_width=512, heads=2, layers=3, text_width=64, image_width=image)
        return replace(row, dit=dit, vae=replace(row.vae, width=16))

    def row(self, title: str, measure: Callable[[], str]) -> None:
        """Print a row of the table: what `measure` says, or why there is nothing."""
        try:
            said = measure() if time.monotonic() < self.end else "left out, the time is over | | |"
        except (LichtspielError, torch.OutOfMemoryError) as error:
            said = f"{str(error).splitlines()[0]} | | |"
        print(f"| {title} | {said}", flush=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def measured(self, work: Work) -> tuple[Tensor, float, float]:
        """Result, median seconds after a first call that is not counted, and the most memory in GB."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        result, spent = work(), []
        for _ in range(self.runs):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            spent.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else float("nan")
        return result.float().cpu(), statistics.median(spent), peak

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def inputs(bench: Bench, spec: DiTSpec) -> dict[str, Tensor]:
    width, height = bench.size
    draw = torch.Generator().manual_seed(1)
    shape = (1, spec.in_channels, 1 + (bench.frames - 1) // 4, height // 8, width // 8)
    made = {"latents": torch.randn(shape, generator=draw)}
    for name in ("text", "negative"):
        made[name] = torch.randn(1, TOKENS, spec.text_width, generator=draw).to(bench.dtype)
    if spec.image_tokens:
        made["image"] = torch.randn(1, 257, spec.image_width, generator=draw).to(bench.dtype)
    return {name: value.to(bench.device) for name, value in made.items()}


def weights(bench: Bench, spec: DiTSpec, device: torch.device) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DiT(spec).named_parameters()}
    torch.manual_seed(0)
    made = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, device=bench.device, dtype=bench.dtype).to(device)
        plain = len(shape) == 1 or "norm" in name
        made[name] = (
            value * 0.02 + float(plain and name.endswith("weight")) if plain else value / shape[1:].numel() ** 0.5
        )
    return made


def built(bench: Bench, spec: DiTSpec, state: Mapping[str, Tensor], way: Way) -> DiT:
    """The DiT that computes in a way. Raises LichtspielError where the way does not exist on this machine."""
    if way.compiled and bench.device.type == "cuda" and (reason := can_compile(bench.device)):
        raise LichtspielError(reason)
    if way.fp8 and not bench.tiny:
        check_fp8(bench.device)
    attention_for(way.attention, bench.device, bench.dtype)
    with torch.device("meta"):
        dit = DiT(spec).eval()
    resident = len(block_names(dit)) if way.resident is None else way.resident
    each = to_fp8 if way.fp8 else None
    load_with_offload(dit, state, bench.dtype, bench.device, resident=resident, each=each)
    if bench.device.type == "cpu":
        use_cpu_kernels(dit)
    use_attention(dit, way.attention, bench.device, bench.dtype)
    if way.compiled:
        compile_blocks(dit, "inductor" if bench.device.type == "cuda" else "eager")
    return dit


def velocities(dit: nn.Module, given: dict[str, Tensor], latents: Tensor, timestep: Tensor) -> list[Tensor]:
    texts = (given["text"], given["negative"])
    return [dit(latents, timestep, text, image=given.get("image")) for text in texts]


def step(dit: nn.Module, given: dict[str, Tensor]) -> Tensor:
    timestep = torch.tensor([500.0], device=given["latents"].device)
    return torch.cat(velocities(dit, given, given["latents"], timestep))


@contextmanager
def theirs(spec: DiTSpec, given: dict[str, Tensor], state: dict[str, Tensor]) -> Iterator[Work]:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    from lichtspiel.weights.shards import diffusers_config
    from tests.models.test_dit import to_diffusers

    with torch.device("meta"):
        dit = WanTransformer3DModel(**diffusers_config(spec)).eval()
    rope = WanTransformer3DModel(num_layers=0, attention_head_dim=spec.width // spec.heads).rope
    dit.rope = rope.to(given["latents"].device)
    dit.load_state_dict({to_diffusers(name): value for name, value in state.items()}, assign=True)
    dtype, timestep = next(iter(state.values())).dtype, torch.tensor([500.0], device=given["latents"].device)
    missing = (0, 0, 0, spec.text_length - TOKENS)
    texts = [nn.functional.pad(given[name], missing).to(dtype) for name in ("text", "negative")]
    fixed = {"encoder_hidden_states_image": given.get("image"), "return_dict": False}

    def work() -> Tensor:
        return torch.cat([dit(given["latents"].to(dtype), timestep, text, **fixed)[0] for text in texts])

    yield work


def steps(bench: Bench, name: str) -> None:
    """A step of one model in every way, and by diffusers."""
    spec = bench.model(name).dit
    state, given = weights(bench, spec, bench.device), inputs(bench, spec)
    exact: list[Tensor] = []

    def said(work: Work) -> str:
        result, seconds, peak = bench.measured(work)
        exact[:] = exact or [result]
        return f"{seconds:.3f} | {peak:.2f} | {relative_error(result, exact[0]):.1e} |"

    def ours(way: Way) -> str:
        dit = built(bench, spec, state, way)
        with kv_cache(dit, compiled=way.compiled):
            row = said(partial(step, dit, given))
            if bench.trace and way is WAYS[0]:
                traced(bench, partial(step, dit, given))
        return row

    def others() -> str:
        try:
            with theirs(spec, given, state) as work:
                return said(work)
        except ImportError as error:
            raise LichtspielError(f"not installed: {error.name}") from error

    for way in WAYS:
        bench.row(f"{name}, a step, {way.title}", partial(ours, way))
    bench.row(f"{name}, a step, diffusers", others)


def traced(bench: Bench, work: Work) -> None:
    kind = ProfilerActivity.CUDA if bench.device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as trace:
        work()
        bench.wait()
    print(trace.key_averages().table(sort_by=f"self_{bench.device.type}_time_total", row_limit=10))


def memory(bench: Bench, name: str) -> None:
    """A step with as many blocks in memory as a smaller card has room for; the others come from the host's."""
    row = bench.model(name)
    state, given = weights(bench, row.dit, torch.device("cpu")), inputs(bench, row.dit)

    def capped(gigabytes: int) -> str:
        planned = plan_for(
            row, bench.size, bench.frames, torch.device("cuda"), "bfloat16", sizes=None, free=gigabytes * 10**9
        )
        resident = 1 if bench.tiny else planned.stage("dit").resident
        dit = built(bench, row.dit, state, Way("capped", compiled=bench.device.type == "cuda", resident=resident))
        with kv_cache(dit, compiled=True):
            result, seconds, peak = bench.measured(partial(step, dit, given))
        assert result.isfinite().all()
        return f"{seconds:.3f} | {peak:.2f} | {resident} of {row.dit.layers} blocks in memory |"

    for gigabytes in CAPS:
        bench.row(f"{name}, a step within {gigabytes} GB", partial(capped, gigabytes))


def magcache(bench: Bench, name: str) -> None:
    """A run of twenty steps with MagCache at the published setting, beside the exact one. Random weights have other
    ratios than trained ones, so the difference says little of pictures."""
    spec = bench.model(name).dit
    state, given = weights(bench, spec, bench.device), inputs(bench, spec)
    curve = curve_for(name, "")
    if curve is None:
        return
    found: list[Tensor] = []

    def run(spares: bool) -> str:
        dit = built(bench, spec, state, Way("run", compiled=bench.device.type == "cuda"))
        blocks = MagCache(curve, STEPS) if spares else None
        channels = spec.out_channels

        def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
            whole = torch.cat([latents, given["latents"][:, channels:]], 1)
            return flow.guide(*velocities(dit, given, whole, timestep), 5.0)

        bench.wait()
        began = time.perf_counter()
        last: list[Tensor] = []
        with kv_cache(dit, compiled=True), reusing(dit, blocks):
            for index, latents in flow.sample(velocity, given["latents"][:, :channels], "euler", STEPS, SHIFT):
                last[:] = [latents]
                if blocks is not None:
                    blocks.step = index + 1
        bench.wait()
        seconds, result = time.perf_counter() - began, last[0].float().cpu()
        found[:] = found or [result]
        spared = "" if blocks is None else f", {blocks.spared} of {2 * STEPS} evaluations spared"
        return f"{seconds:.3f} | | {relative_error(result, found[0]):.1e}{spared} |"

    bench.row(f"{name}, {STEPS} steps, exact (the first compiles)", partial(run, False))
    bench.row(f"{name}, {STEPS} steps, exact", partial(run, False))
    bench.row(f"{name}, {STEPS} steps, MagCache {curve}", partial(run, True))


def vae(bench: Bench) -> None:
    """Decoding and encoding of at most 33 frames, in both precisions, in plain PyTorch and by diffusers."""
    spec = bench.model("t2v-1.3b").vae
    frames = min(bench.frames, 33)
    width, height = bench.size
    draw = torch.Generator().manual_seed(1)
    shape = (1, spec.latent_channels, 1 + (frames - 1) // 4, height // 8, width // 8)
    latents = torch.randn(shape, generator=draw).to(bench.device)
    torch.manual_seed(0)
    network = VAE(spec).eval().to(bench.device)
    exact: dict[str, Tensor] = {}

    def ours(what: str, dtype: torch.dtype) -> str:
        network.to(dtype)
        video = torch.zeros(1, 3, frames, height, width, device=bench.device, dtype=dtype)
        work = {
            "decode": lambda: torch.cat([*network.decode(latents)], dim=2),
            "encode": lambda: network.encode(video),
        }[what]
        with exact_convolutions():
            result, seconds, peak = bench.measured(work)
        difference = relative_error(result, exact.setdefault(what, result))
        return f"{seconds:.3f} | {peak:.2f} | {difference:.1e} |"

    def others(dtype: torch.dtype) -> str:
        try:
            from diffusers import AutoencoderKLWan
        except ImportError as error:
            raise LichtspielError(f"not installed: {error.name}") from error
        other = AutoencoderKLWan(base_dim=spec.width).eval().to(bench.device, dtype)
        given = latents.to(dtype)
        _, seconds, peak = bench.measured(lambda: other.decode(given, return_dict=False)[0])
        return f"{seconds:.3f} | {peak:.2f} | other weights |"

    for what in ("decode", "encode"):
        bench.row(f"VAE, {what} {frames} frames, float32, plain", partial(ours, what, torch.float32))
    use_gpu_layout(network)
    for what in ("decode", "encode"):
        for dtype in (torch.float32, torch.bfloat16):
            bench.row(f"VAE, {what} {frames} frames, {dtype}".replace("torch.", ""), partial(ours, what, dtype))
    for dtype in (torch.float32, torch.bfloat16):
        bench.row(f"VAE, decode {frames} frames, {dtype}, diffusers".replace("torch.", ""), partial(others, dtype))


def ceilings(bench: Bench) -> None:
    """The largest products and copies, which nothing above them can outrun."""
    side = 256 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device).to(bench.dtype) for _ in range(2))

    def product() -> str:
        _, seconds, _ = bench.measured(lambda: a @ b)
        return f"{2 * side**3 / seconds / 1e12:.3g} TFLOP/s | | |"

    def eight() -> str:
        check_fp8(bench.device)
        x, y = (value.to(torch.float8_e4m3fn) for value in (a, b))
        one = torch.ones((), device=bench.device)
        work = partial(torch._scaled_mm, x, y.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        _, seconds, _ = bench.measured(work)
        return f"{2 * side**3 / seconds / 1e12:.3g} TFLOP/s | | |"

    def copy() -> str:
        source = torch.empty(2**20 if bench.tiny else 2**30, dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        _, seconds, _ = bench.measured(lambda: target.copy_(source)[:1])
        return f"{2 * source.numel() / seconds / 1e9:.3g} GB/s | | |"

    bench.row(f"a product of {side}x{side}, {bench.dtype}".replace("torch.", ""), product)
    bench.row(f"a product of {side}x{side}, fp8", eight)
    bench.row("a copy on the device", copy)


def nano(bench: Bench) -> None:
    """The model in the package, from a cold process to a sealed file."""

    def made() -> str:
        with tempfile.TemporaryDirectory() as folder:
            words = ["generate", "a red car drives to the left", "-o", str(Path(folder) / "car.mp4"), "--json"]
            command = [sys.executable, "-m", "lichtspiel", *words, "--device", bench.device.type]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LichtspielError(done.stderr.strip() or "it failed")
            seconds, timings = time.perf_counter() - began, json.loads(done.stdout)["timings"]
        stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in timings.items() if stage != "total")
        return f"{seconds:.3f} | | {stages} |"

    bench.row("nano, cold process to sealed file", made)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="t2v-1.3b,i2v-14b-480p")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--trace", action="store_true")
    asked = parser.parse_args(words)
    parts, models = asked.only.split(","), asked.models.split(",")
    if unknown := {*parts} - {*PARTS}:
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(unknown)}")
    width, height = map(int, asked.size.split("x"))
    bench = Bench(
        torch.device(asked.device), asked.tiny, (width, height), asked.frames, asked.runs,
        time.monotonic() + asked.seconds, asked.trace,
    )  # fmt: skip
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "processor"
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {name}, torch {torch.__version__}, {asked.size}, {asked.frames} frames, {bench.dtype}\n")
    print("| what | seconds | peak GB | difference |\n|---|---|---|---|")
    with torch.inference_mode():
        if "ceilings" in parts:
            ceilings(bench)
        for number, model in enumerate(models):
            if "steps" in parts:
                steps(bench, model)
            if "magcache" in parts and number == 0:
                magcache(bench, model)
            if "memory" in parts and number == len(models) - 1:
                memory(bench, model)
        if "vae" in parts:
            vae(bench)
        if "nano" in parts:
            nano(bench)


if __name__ == "__main__":
    main()

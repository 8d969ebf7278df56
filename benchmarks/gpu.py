"""What one GPU does: ceilings, steps of the DiT in every way there is, diffusers beside, the VAE, and nano whole.

    python -m benchmarks.gpu [--only PART,...] [--models t2v-1.3b,i2v-14b-480p] [--size 832x480] [--frames 81]
    python -m benchmarks.gpu --device cpu --tiny

Parts are `ceilings`, `steps`, `memory` (a step with the memory capped to 24 and to 12 GB, the other blocks streamed, in
16 bit and in fp8), `magcache`, `vae` (with plain and with fused norms) and `nano`. One step is two velocities, with and
without the prompt, as guidance asks for. Weights are random and of the true size; all ways of one model get the same
ones and the same inputs, and the difference of each result from the exact one is printed. Rows that do not begin within
`--seconds` (420) are left out, and say so. `--trace` adds the ten kernels that take longest in an exact step. `--tiny`
takes small networks, to see that the benchmark itself works where there is no GPU.
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
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_vae import norms, vae
from lichtspiel import flow
from lichtspiel.errors import LichtspielError
from lichtspiel.inference.compiled import can_compile, compile_blocks
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.inference.estimate import plan_for
from lichtspiel.inference.fp8 import BlocksInFP8, check_fp8, quantized
from lichtspiel.inference.kernels import attention_for, use_attention
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.magcache import MagCache, curve_for, reusing
from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS, DiTSpec, Model
from lichtspiel.weights.offload import block_names, load_with_offload
from tests.golden import relative_error

PARTS = ("ceilings", "steps", "memory", "magcache", "vae", "nano")
TOKENS = 60
CAPS = (24, 12)
LONG = 5.0
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
    exact: dict[str, Tensor] = field(default_factory=dict)

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
        """Result, median seconds after a first call that is not counted, and the most memory in GB. What takes long is
        measured less often."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        result, spent = work(), []
        while len(spent) < self.runs and sum(spent) < LONG:
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
    each = BlocksInFP8() if way.fp8 else None
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

    def said(work: Work) -> str:
        result, seconds, peak = bench.measured(work)
        return f"{seconds:.3f} | {peak:.2f} | {relative_error(result, bench.exact.setdefault(name, result)):.1e} |"

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
    """A step with as many blocks in memory as a smaller card has room for; the others come from the host's, in 16 bit
    or as a file in e4m3 has them."""
    row = bench.model(name)
    state, given = weights(bench, row.dit, torch.device("cpu")), inputs(bench, row.dit)

    def capped(gigabytes: int, precision: str, stored: Mapping[str, Tensor]) -> str:
        planned = plan_for(
            row, bench.size, bench.frames, torch.device("cuda"), precision, sizes=None, free=gigabytes * 10**9
        )
        resident = 1 if bench.tiny else planned.stage("dit").resident
        way = Way("capped", bench.device.type == "cuda", precision == "fp8", resident=resident)
        with at_most(bench, gigabytes):
            dit = built(bench, row.dit, stored, way)
            with kv_cache(dit, compiled=way.compiled):
                result, seconds, peak = bench.measured(partial(step, dit, given))
        assert result.isfinite().all()
        off = f"{relative_error(result, bench.exact[name]):.1e}, " if name in bench.exact else ""
        return f"{seconds:.3f} | {peak:.2f} | {off}{resident} of {row.dit.layers} blocks in memory |"

    for precision in ("bfloat16", "fp8"):
        stored = state if precision == "bfloat16" else Eighths(state, bench.device)
        for gigabytes in CAPS:
            title = f"{name}, a step within {gigabytes} GB" + (", fp8" if precision == "fp8" else "")
            bench.row(title, partial(capped, gigabytes, precision, stored))


class Eighths(Mapping[str, Tensor]):
    """Weights whose matrices in blocks are in e4m3 with a scale for each row, as files in fp8 have them."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.values = state
        self.eight: dict[str, tuple[Tensor, Tensor]] = {}
        for name, value in state.items():
            if "blocks." in name and value.dim() == 2:
                values, scales = quantized(value.to(device))
                self.eight[name] = values.cpu(), scales.cpu()

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def float8(self, name: str) -> tuple[Tensor, Tensor] | None:
        return self.eight.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


@contextmanager
def at_most(bench: Bench, gigabytes: int) -> Iterator[None]:
    """Inside the block, PyTorch takes no more memory of the GPU than this."""
    if bench.device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / whole), bench.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


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


def others(bench: Bench, model: str, parts: list[str]) -> None:
    """What does not depend on the model, or is measured with one only."""
    if "magcache" in parts:
        magcache(bench, model)
    if "vae" in parts:
        vae(bench)
        norms(bench)
    if "nano" in parts:
        nano(bench)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="t2v-1.3b,i2v-14b-480p")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=420)
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
            if number == 0:  # what a larger model leaves no time for
                others(bench, model, parts)
            if "memory" in parts and number == len(models) - 1:
                memory(bench, model)


if __name__ == "__main__":
    main()

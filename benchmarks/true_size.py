"""Seconds and peak memory of the published networks at their true size, beside diffusers and transformers.

    python -m benchmarks.true_size FOLDER [--only PART,...] [--runs N] [--keep] [--tiny]
    python -m benchmarks.true_size FOLDER --only long
    python -m benchmarks.true_size FOLDER --model t2v-14b --size 128x128 --frames 5 --only generate --steps 1

Writes files of random 16-bit weights into FOLDER (2.8 or 28.6 GB for the DiT, 11.4 GB for the text encoder, 0.5 GB for
the VAE), which are removed at the end. Every row is a process of its own, so that its peak memory is its own; rows that
are compared run one after the other. `--tiny` takes small networks, to see that the benchmark itself works.

Parts are `dit` (one velocity), `umt5` (one prompt of 20 tokens), `vae` (one decoding and one encoding), `generate`
(the command, from a prompt to a sealed video), and `long`, which decodes 17 and 81 frames of 832x480. "first" is the
first call in a process, "again" the median of the others; "of products" is the speed of the faster of them, by the
operations of the exact network, as a part of that of one large product of float32 matrices at the same time. Peak
memory holds the program and its libraries (about 0.3 GB), and what it has of the file at that time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lichtspiel.inference import prompt_cache
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.quantize import quantize
from lichtspiel.models import Spec, build
from lichtspiel.models.dit import DiT
from lichtspiel.models.vae import VAE
from lichtspiel.spec import MODELS, Model
from lichtspiel.weights.offload import block_names, load_with_offload

TOKENS = 20
LONG = (832, 480)
SHARD = 8_000_000_000
CPU = torch.device("cpu")
Work = Callable[[], Tensor]


@dataclass(frozen=True)
class Job:
    """What all rows of a table compute."""

    model: Model
    size: tuple[int, int]
    frames: int
    steps: int
    runs: int

    def latents(self) -> Tensor:
        width, height = self.size
        shape = (1, 16, 1 + self.frames // 4, height // 8, width // 8)
        return torch.randn(shape, generator=torch.Generator().manual_seed(2))

    def video(self) -> Tensor:
        width, height = self.size
        drawn = torch.rand(1, 3, self.frames, height, width, generator=torch.Generator().manual_seed(3))
        return drawn * 2 - 1

    def text(self) -> Tensor:
        return torch.randn(1, TOKENS, self.model.dit.text_width, generator=torch.Generator().manual_seed(1))

    def ids(self) -> Tensor:
        return torch.randint(3, self.model.umt5.vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(4))


def published(name: str, tiny: bool) -> Model:
    row = MODELS[name]
    if not tiny:
        return row
    dit = replace(row.dit, width=256, ffn_width=512, heads=2, layers=3, text_width=64)
    umt5 = replace(row.umt5, vocabulary=200_000, width=64, attention_width=64, ffn_width=128, heads=2, layers=3)
    return replace(row, dit=dit, umt5=umt5, vae=replace(row.vae, width=16))


def empty(model: Model, part: str) -> nn.Module:
    spec: Spec = {"vae": model.vae, "dit": model.dit, "umt5": model.umt5}[part]
    return build(spec).eval()


def write(model: Model, part: str, folder: Path) -> None:
    """Files of normal numbers of a size that keeps activations near one; large tensors repeat the same ten million.

    More than one file if one would be larger than `SHARD` bytes, as the published checkpoints are.
    """
    table = torch.randn(10_000_019, generator=torch.Generator().manual_seed(0))
    parameters = dict(empty(model, part).named_parameters())
    count = -(-sum((4 if part == "vae" else 2) * value.numel() for value in parameters.values()) // SHARD)
    state: dict[str, Tensor] = {}
    number = 1
    for name, value in parameters.items():
        if sum(tensor.nbytes for tensor in state.values()) + 2 * value.numel() > SHARD and number < count:
            save_file(state, folder / f"{part}-{number:05d}-of-{count:05d}.safetensors")
            state, number = {}, number + 1
        made = torch.empty(value.shape, dtype=torch.float32 if part == "vae" else torch.bfloat16)
        if value.ndim == 1 or "norm" in name or "gamma" in name:
            made.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            fan = value[0].numel() if "embedding.weight" not in name or value.ndim > 2 else 1
            drawn = (table * fan**-0.5).to(made.dtype)
            for piece in torch.split(made.view(-1), len(drawn)):
                piece.copy_(drawn[: len(piece)])
        state[name] = made
    last = f"{part}.safetensors" if count == 1 else f"{part}-{number:05d}-of-{count:05d}.safetensors"
    save_file(state, folder / last)


@contextmanager
def tensors(folder: Path, part: str) -> Iterator[dict[str, Tensor]]:
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(path, framework="pt")) for path in sorted(folder.glob(f"{part}*"))]
        yield {name: file.get_tensor(name) for file in opened for name in file.keys()}  # noqa: SIM118  (no mapping)


def ours_dit(job: Job, given: dict[str, Tensor], mode: str) -> Iterator[Work]:
    dit = empty(job.model, "dit")
    assert isinstance(dit, DiT)
    resident = 0 if mode == "streamed" else len(block_names(dit))
    load_with_offload(dit, given, torch.float32, CPU, resident=resident, each=quantize if mode == "int8" else None)
    use_cpu_kernels(dit)
    states, noise = job.text(), job.latents()
    with kv_cache(dit):
        yield lambda: dit(noise, torch.tensor([500.0]), states)


def diffusers_dit(job: Job, given: dict[str, Tensor], _: str) -> Iterator[Work]:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    from lichtspiel.weights.shards import diffusers_config
    from tests.models.test_dit import to_diffusers

    spec = job.model.dit
    with torch.device("meta"):
        dit = WanTransformer3DModel(**diffusers_config(spec)).eval()
    buffers = WanTransformer3DModel(num_layers=0, attention_head_dim=spec.width // spec.heads).rope
    dit.rope = buffers
    dit.load_state_dict({to_diffusers(key): value.float() for key, value in given.items()}, assign=True)
    states = nn.functional.pad(job.text(), (0, 0, 0, spec.text_length - TOKENS))
    yield lambda: dit(job.latents(), torch.tensor([500.0]), states, return_dict=False)[0]


def ours_umt5(job: Job, given: dict[str, Tensor], _: str) -> Iterator[Work]:
    encoder = empty(job.model, "umt5")
    load_with_offload(encoder, given, torch.float32, CPU)

    def encode() -> Tensor:
        states = prompt_cache.get("prompt", "benchmark")
        if states is None:
            states = encoder(job.ids())
            prompt_cache.put("prompt", "benchmark", states)
        return states

    yield encode


def transformers_umt5(job: Job, given: dict[str, Tensor], _: str) -> Iterator[Work]:
    from transformers import UMT5Config, UMT5EncoderModel

    from tests.models.test_umt5 import FROM_TRANSFORMERS

    spec = job.model.umt5
    config = UMT5Config(
        vocab_size=spec.vocabulary, d_model=spec.width, d_kv=spec.attention_width // spec.heads, d_ff=spec.ffn_width,
        num_layers=spec.layers, num_heads=spec.heads, relative_attention_num_buckets=spec.buckets,
        relative_attention_max_distance=spec.max_distance, layer_norm_epsilon=spec.eps,
    )  # fmt: skip
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config).eval()  # type: ignore[no-untyped-call]
    state = {}
    for key in encoder.state_dict():
        name = key
        for theirs, ours in FROM_TRANSFORMERS.items():
            name = name.replace(theirs, ours)
        name = name.removeprefix("encoder.").replace("embed_tokens", "token_embedding")
        state[key] = given[name]  # in bfloat16: in float32 it would not fit into 24 GB
    encoder.load_state_dict(state, assign=True)
    yield lambda: encoder(input_ids=job.ids()).last_hidden_state


def ours_vae(job: Job, given: dict[str, Tensor], mode: str) -> Iterator[Work]:
    vae = VAE(job.model.vae).eval()
    vae.load_state_dict(given, assign=True)
    use_cpu_kernels(vae)
    if mode == "encode":
        clip = job.video()
        yield lambda: vae.encode(clip)
    elif mode == "decode":
        yield lambda: torch.cat(list(vae.decode(job.latents())), dim=2)
    else:  # as `generate` does: one piece after another
        long = replace(job, size=LONG, frames=int(mode))
        yield lambda: torch.stack([chunk.mean() for chunk in vae.decode(long.latents())])


def diffusers_vae(job: Job, given: dict[str, Tensor], mode: str) -> Iterator[Work]:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    spec = job.model.vae
    vae = AutoencoderKLWan(
        base_dim=spec.width, z_dim=spec.latent_channels, dim_mult=list(spec.multipliers),
        num_res_blocks=spec.residual_blocks, temperal_downsample=list(spec.temporal_downsample),
    ).eval()  # fmt: skip
    clip, noise = job.video(), job.latents()
    if mode == "encode":
        yield lambda: vae.encode(clip).latent_dist.mean
    else:
        yield lambda: vae.decode(noise, return_dict=False)[0]


Make = Callable[[Job, dict[str, Tensor], str], Iterator[Work]]

# name: (part of the table, file, what makes the work, mode). What is compared stands together; the exact DiT's velocity
# is the reference.
ROWS: dict[str, tuple[str, str, Make, str]] = {
    "dit, float32, streamed from 16 bit": ("dit", "dit", ours_dit, "streamed"),
    "dit, float32, resident": ("dit", "dit", ours_dit, "resident"),
    "dit, int8": ("dit", "dit", ours_dit, "int8"),
    "dit, diffusers, float32": ("dit", "dit", diffusers_dit, ""),
    "umt5, streamed from 16 bit": ("umt5", "umt5", ours_umt5, ""),
    "umt5, transformers, bfloat16": ("umt5", "umt5", transformers_umt5, ""),
    "vae decode": ("vae", "vae", ours_vae, "decode"),
    "vae decode, diffusers": ("vae", "vae", diffusers_vae, "decode"),
    "vae encode": ("vae", "vae", ours_vae, "encode"),
    "vae encode, diffusers": ("vae", "vae", diffusers_vae, "encode"),
    "vae decode, 832x480, 17 frames": ("long", "vae", ours_vae, "17"),
    "vae decode, 832x480, 81 frames": ("long", "vae", ours_vae, "81"),
}
WHOLE = {"generate": "auto", "generate, the same prompt again": "auto", "generate, int8": "int8"}
"""Rows of the command, with its --dtype."""


def measure(name: str, folder: Path, job: Job) -> dict[str, Any]:
    """One row: seconds of every call, and the most memory that this process ever had."""
    _, part, make, mode = ROWS[name]
    os.environ["LICHTSPIEL_HOME"] = str(folder / "home")
    with tensors(folder, part) as given, torch.inference_mode():
        began = time.perf_counter()
        works = make(job, given, mode)
        work = next(works)
        row: dict[str, Any] = {"load": time.perf_counter() - began, "seconds": []}
        for _ in range(job.runs):
            began = time.perf_counter()
            result = work()
            row["seconds"].append(time.perf_counter() - began)
        works.close()  # type: ignore[attr-defined]
    row["peak"] = peak()
    if part == "dit":
        row["of products"] = operations(job) / min(row["seconds"]) / product_rate()
        exact = folder / "velocity.safetensors"
        if not exact.exists():
            save_file({"velocity": result.contiguous()}, exact)
        with safe_open(exact, framework="pt") as file:
            exact = file.get_tensor("velocity").double()
            row["error"] = float((result.double() - exact).norm() / exact.norm())
    return row


def operations(job: Job) -> float:
    """Floating-point operations of one velocity: products with the weights of the blocks, and self-attention. Keys and
    values of the text are computed once a run."""
    spec, tokens = job.model.dit, job.model.dit.tokens(job.latents().shape[2:])
    weights = sum(value.numel() for value in empty(job.model, "dit").get_submodule("blocks").parameters())
    weights -= 2 * spec.layers * spec.width**2
    return tokens * (2.0 * weights + 4.0 * tokens * spec.width * spec.layers)


def product_rate() -> float:
    """Operations a second of one large product of float32 matrices here and now: what the best code could reach."""
    x, weight = torch.randn(1280, 1536), torch.randn(8960, 1536)
    spent = []
    for _ in range(8):
        began = time.perf_counter()
        nn.functional.linear(x, weight)
        spent.append(time.perf_counter() - began)
    return 2.0 * x.numel() * len(weight) / statistics.median(spent)


def generate(folder: Path, job: Job, dtype: str) -> str:
    """A row of the command in a process of its own; the table's cells."""
    width, height = job.size
    command = [
        sys.executable, "-m", "lichtspiel", "generate", "a cat walks on the beach at sunset", "--model", job.model.name,
        "--weights", str(folder), "--size", f"{width}x{height}", "--frames", str(job.frames), "--steps",
        str(job.steps), "--dtype", dtype, "--seed", "1", "--json", "--force", "-o", str(folder / "video.mp4"),
    ]  # fmt: skip
    environment = {**os.environ, "LICHTSPIEL_HOME": str(folder / "home")}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        return f"failed with exit status {done.returncode} | | | | |"
    said = json.loads(done.stdout)
    spent = said["timings"]
    stages = ", ".join(f"{name} {spent[name]:.0f}" for name in ("encode", "denoise", "decode", "seal"))
    return f"{spent['load']:.1f} | {spent['total']:.1f} ({stages}) | - | {said['peak_bytes'] / 1e9:.2f} | - | -"


def peak() -> int:
    """Most bytes that this process had in memory. `getrusage` would begin with what its parent had."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = status.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="scratch folder for the weights")
    parser.add_argument("--model", default="t2v-1.3b")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=4, help="of the rows of the command")
    parser.add_argument("--only", default="dit,umt5,vae,generate", help="parts to measure")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the files for another run")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    job = Job(published(given.model, given.tiny), (width, height), given.frames, given.steps, given.runs)
    if given.row:
        print(json.dumps(measure(given.row, given.folder, job)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up then, too
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="true-size-", dir=given.folder))
    only = [part for part in given.only.split(",") if not (given.tiny and part == "generate")]
    files = {"generate": ("dit", "umt5", "vae"), "long": ("vae",)}
    try:
        for part in dict.fromkeys(file for name in only for file in files.get(name, (name,))):
            write(job.model, part, folder)
        report(folder, job, only, [argument for argument in sys.argv[1:] if argument != str(given.folder)])
    finally:
        if not given.keep:
            shutil.rmtree(folder)


def report(folder: Path, job: Job, only: list[str], arguments: list[str]) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    width, height = job.size
    print(f"{today}, {os.cpu_count()} processor cores, torch {torch.__version__}, {torch.get_num_threads()} threads;")
    print(f"{job.model.name}, {width}x{height}, {job.frames} frames, {job.steps} steps of the command\n")
    print("| what | load s | first s | again s | peak GB | error | of products |\n|---|---|---|---|---|---|---|")
    for name, (part, *_) in ROWS.items():
        if part not in only:
            continue
        command = [sys.executable, "-m", "benchmarks.true_size", str(folder), *arguments, "--row", name]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # errors go to the terminal
        if done.returncode:
            print(f"| {name} | failed with exit status {done.returncode} | | | | | |", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        first, *again = row["seconds"]
        cells = [f"{row['load']:.1f}", f"{first:.2f}", f"{statistics.median(again):.2f}" if again else "-"]
        cells += [f"{row['peak'] / 1e9:.2f}", f"{row['error']:.1e}" if "error" in row else "-"]
        cells.append(f"{row['of products']:.2f}" if "of products" in row else "-")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if "generate" in only:
        for name, dtype in WHOLE.items():
            print(f"| {name} | {generate(folder, job, dtype)} |", flush=True)


if __name__ == "__main__":
    main()

"""Seconds and peak memory of the published networks at their true size, beside diffusers and transformers.

    python -m benchmarks.true_size FOLDER [--tiny] [--only PART,...] [--runs N] [--keep]

Writes files of random 16-bit weights into FOLDER (2.8 GB for the DiT, 11.4 GB for the text encoder, 0.5 GB for the
VAE), which are removed at the end. Every row is a process of its own, so that its peak memory is its own; rows that
are compared run one after the other. `--tiny` takes small networks, to see that the benchmark itself works.

All is 17 frames of 256x256: one velocity of T2V-1.3B, one prompt of 20 tokens, one decoding and one encoding. "first"
is the first call in a process, "again" the median of the others. Peak memory holds the program and its libraries
(about 0.3 GB), and what it has of the file at that time.
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
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lichtspiel.models.dit import DiT
from lichtspiel.models.reuse import remembering
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.quantize import quantise, relative_error
from lichtspiel.spec import LATENT_MEAN, LATENT_STD, MODELS, Model
from lichtspiel.states import keep, recall
from lichtspiel.streaming import block_names, place

FRAMES, SIDE, TOKENS = 17, 256, 20
CPU = torch.device("cpu")
Work = Callable[[], Tensor]


def published(tiny: bool) -> Model:
    row = MODELS["t2v-1.3b"]
    if not tiny:
        return row
    dit = replace(row.dit, width=256, ffn_width=512, heads=2, layers=3, text_width=64)
    umt5 = replace(row.umt5, vocabulary=200_000, width=64, attention_width=64, ffn_width=128, heads=2, layers=3)
    return replace(row, dit=dit, umt5=umt5, vae=replace(row.vae, width=16))


def empty(model: Model, part: str) -> nn.Module:
    with torch.device("meta"):
        if part == "vae":
            return VAE(model.vae, LATENT_MEAN, LATENT_STD).eval()
        return (DiT(model.dit) if part == "dit" else UMT5(model.umt5)).eval()


def write(model: Model, part: str, folder: Path) -> None:
    """A file of normal numbers of a size that keeps activations near one."""
    torch.manual_seed(0)
    state = {}
    for name, value in empty(model, part).named_parameters():
        made = torch.empty(value.shape, dtype=torch.float32 if part == "vae" else torch.bfloat16)
        if value.ndim == 1 or "norm" in name or "gamma" in name:
            made.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            fan = value[0].numel() if "embedding.weight" not in name or value.ndim > 2 else 1
            for rows in torch.split(made, max(1, 10**7 // value[0].numel())):
                rows.normal_(std=fan**-0.5)
        state[name] = made
    save_file(state, folder / f"{part}.safetensors")


@contextmanager
def tensors(folder: Path, part: str) -> Iterator[dict[str, Tensor]]:
    with safe_open(folder / f"{part}.safetensors", framework="pt") as file:
        yield {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)


def text(model: Model) -> Tensor:
    return torch.randn(1, TOKENS, model.dit.text_width, generator=torch.Generator().manual_seed(1))


def latents() -> Tensor:
    shape = (1, 16, 1 + FRAMES // 4, SIDE // 8, SIDE // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def video() -> Tensor:
    return torch.rand(1, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1


def ids(model: Model) -> Tensor:
    return torch.randint(3, model.umt5.vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(4))


def ours_dit(model: Model, given: dict[str, Tensor], mode: str) -> Iterator[Work]:
    dit = empty(model, "dit")
    assert isinstance(dit, DiT)
    resident = 0 if mode == "streamed" else len(block_names(dit))
    place(dit, given, torch.float32, CPU, resident=resident, each=quantise if mode == "int8" else None)
    states, noise = text(model), latents()
    with remembering(dit):
        yield lambda: dit(noise, torch.tensor([500.0]), states)


def diffusers_dit(model: Model, given: dict[str, Tensor], _: str) -> Iterator[Work]:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    from tests.models.test_dit import to_diffusers

    spec = model.dit
    with torch.device("meta"):
        dit = WanTransformer3DModel(
            num_attention_heads=spec.heads, attention_head_dim=spec.width // spec.heads, ffn_dim=spec.ffn_width,
            in_channels=spec.in_channels, out_channels=spec.out_channels, text_dim=spec.text_width,
            freq_dim=spec.time_width, num_layers=spec.layers, cross_attn_norm=True, eps=spec.eps,
        ).eval()  # fmt: skip
    buffers = WanTransformer3DModel(num_layers=0, attention_head_dim=spec.width // spec.heads).rope
    dit.rope = buffers
    dit.load_state_dict({to_diffusers(key): value.float() for key, value in given.items()}, assign=True)
    states = nn.functional.pad(text(model), (0, 0, 0, spec.text_length - TOKENS))
    yield lambda: dit(latents(), torch.tensor([500.0]), states, return_dict=False)[0]


def ours_umt5(model: Model, given: dict[str, Tensor], _: str) -> Iterator[Work]:
    encoder = empty(model, "umt5")
    place(encoder, given, torch.float32, CPU)

    def encode() -> Tensor:
        states = recall("prompt", "benchmark")
        if states is None:
            states = encoder(ids(model))
            keep("prompt", "benchmark", states)
        return states

    yield encode


def transformers_umt5(model: Model, given: dict[str, Tensor], _: str) -> Iterator[Work]:
    from transformers import UMT5Config, UMT5EncoderModel

    from tests.models.test_umt5 import FROM_TRANSFORMERS

    spec = model.umt5
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
    yield lambda: encoder(input_ids=ids(model)).last_hidden_state


def ours_vae(model: Model, given: dict[str, Tensor], mode: str) -> Iterator[Work]:
    vae = VAE(model.vae, LATENT_MEAN, LATENT_STD).eval()
    vae.load_state_dict(given, assign=True)
    if mode == "encode":
        clip = video()
        yield lambda: vae.encode(clip)
    else:
        yield lambda: torch.cat(list(vae.decode(latents())), dim=2)


def diffusers_vae(model: Model, given: dict[str, Tensor], mode: str) -> Iterator[Work]:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    spec = model.vae
    vae = AutoencoderKLWan(
        base_dim=spec.width, z_dim=spec.latent_channels, dim_mult=list(spec.multipliers),
        num_res_blocks=spec.residual_blocks, temperal_downsample=list(spec.temporal_downsample),
    ).eval()  # fmt: skip
    clip, noise = video(), latents()
    if mode == "encode":
        yield lambda: vae.encode(clip).latent_dist.mean
    else:
        yield lambda: vae.decode(noise, return_dict=False)[0]


# name: (file, what makes the work, mode). What is compared stands together; the exact DiT's velocity is the reference.
ROWS: dict[str, tuple[str, Callable[[Model, dict[str, Tensor], str], Iterator[Work]], str]] = {
    "dit, float32, streamed from 16 bit": ("dit", ours_dit, "streamed"),
    "dit, float32, resident": ("dit", ours_dit, "resident"),
    "dit, int8": ("dit", ours_dit, "int8"),
    "dit, diffusers, float32": ("dit", diffusers_dit, ""),
    "umt5, streamed from 16 bit": ("umt5", ours_umt5, ""),
    "umt5, transformers, bfloat16": ("umt5", transformers_umt5, ""),
    "vae decode": ("vae", ours_vae, "decode"),
    "vae decode, diffusers": ("vae", diffusers_vae, "decode"),
    "vae encode": ("vae", ours_vae, "encode"),
    "vae encode, diffusers": ("vae", diffusers_vae, "encode"),
}


def measure(name: str, folder: Path, tiny: bool, runs: int) -> dict[str, Any]:
    """One row: seconds of every call, and the most memory that this process ever had."""
    part, make, mode = ROWS[name]
    model = published(tiny)
    os.environ["LICHTSPIEL_HOME"] = str(folder / "home")
    with tensors(folder, part) as given, torch.inference_mode():
        began = time.perf_counter()
        works = make(model, given, mode)
        work = next(works)
        row: dict[str, Any] = {"load": time.perf_counter() - began, "seconds": []}
        for _ in range(runs):
            began = time.perf_counter()
            result = work()
            row["seconds"].append(time.perf_counter() - began)
        works.close()  # type: ignore[attr-defined]
    row["peak"] = peak()
    if part == "dit":
        exact = folder / "velocity.safetensors"
        if not exact.exists():
            save_file({"velocity": result.contiguous()}, exact)
        with safe_open(exact, framework="pt") as file:
            row["error"] = relative_error(result, file.get_tensor("velocity"))
    return row


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
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="dit,umt5,vae", help="parts to measure")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the files for another run")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(measure(given.row, given.folder, given.tiny, given.runs)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up then, too
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="true-size-", dir=given.folder))
    try:
        for part in given.only.split(","):
            write(published(given.tiny), part, folder)
        report(folder, given)
    finally:
        if not given.keep:
            shutil.rmtree(folder)


def report(folder: Path, given: argparse.Namespace) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {os.cpu_count()} processor cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| what | load s | first s | again s | peak GB | error |\n|---|---|---|---|---|---|")
    for name, (part, _, _) in ROWS.items():
        if part not in given.only.split(","):
            continue
        command = [sys.executable, "-m", "benchmarks.true_size", str(folder), "--row", name, "--runs", str(given.runs)]
        done = subprocess.run(
            [*command, *["--tiny"] * given.tiny], check=False, stdout=subprocess.PIPE, text=True
        )  # errors go to the terminal
        if done.returncode:
            print(f"| {name} | failed with exit status {done.returncode} | | | | |", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        first, *again = row["seconds"]
        cells = [f"{row['load']:.1f}", f"{first:.2f}", f"{statistics.median(again):.2f}" if again else "-"]
        cells += [f"{row['peak'] / 1e9:.2f}", f"{row['error']:.1e}" if "error" in row else "-"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""What a refactoring must not move: the latents of a tiny generation and the losses of a tiny training run.

    python scripts/goldens.py            # print hashes and losses, and how far they are from the stored ones
    python scripts/goldens.py --write    # store them, after a change that is meant to change results

Weights and pictures come from NumPy's generator, not from the code under test, so that only what is computed with them
can move. The hash differs from processor to processor (the order of a sum does); tests therefore compare values.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lichtspiel.inference.pipeline import load
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.request import Request
from lichtspiel.spec import MODELS, Model
from lichtspiel.tokenizer import END, UNKNOWN, Tokenizer, umt5
from lichtspiel.toybox.captions import LANGUAGES, WORDINGS, caption
from lichtspiel.toybox.sample import STARTER, sample
from lichtspiel.train.dit import DiTPlan, TrainingSet, train_dit
from lichtspiel.train.latents import encode_dataset
from lichtspiel.train.nano.clips import ClipStore
from lichtspiel.train.nano.probe import SceneProbe
from lichtspiel.train.optim import muon_adamw
from lichtspiel.train.state import Budget, Run
from lichtspiel.train.text import Prompts, vocabulary
from lichtspiel.train.vae import VAEPlan, blank_vae, train_vae

ROOT = Path(__file__).parent.parent
LATENTS = ROOT / "tests" / "goldens" / "tiny_latents.safetensors"
LOSSES = ROOT / "tests" / "goldens" / "losses.json"
PROMPT = "a turtle walks on the beach at night"
DTYPES = ("float32", "bfloat16")


def tiny(vocabulary: int) -> Model:
    """A model that takes text, a first or a first and a last picture, and computes in milliseconds."""
    nano = MODELS["nano"]
    return replace(
        nano,
        name="tiny",
        dit=replace(nano.dit, width=32, ffn_width=64, heads=2, layers=2, text_width=16, text_length=16),
        vae=replace(nano.vae, width=4, multipliers=(1, 2, 4, 4), residual_blocks=1),
        umt5=replace(
            nano.umt5, vocabulary=vocabulary, width=16, attention_width=16, ffn_width=32, heads=2, layers=1
        ),
        sampling=replace(nano.sampling, sizes=((48, 32),), frames=9, max_frames=9),
        digests={},
    )  # fmt: skip


def fill(module: nn.Module, seed: int) -> None:
    """Give every parameter a value from NumPy's generator: gains near 1, all else small around 0."""
    generator = np.random.default_rng(seed)
    for name, parameter in sorted(module.named_parameters()):
        noise = torch.from_numpy(generator.standard_normal(parameter.shape, dtype=np.float32))
        fan = max(parameter.numel() // parameter.shape[0], 1)
        gain = parameter.ndim == 1 and "bias" not in name
        parameter.data = 1 + 0.1 * noise if gain else noise * (0.5 if parameter.ndim == 1 else fan**-0.5)


def write_weights(model: Model, vocabulary: list[int], folder: Path) -> None:
    """Write the three files of a tiny model."""
    channels = model.vae.latent_channels
    parts = {"umt5": UMT5(model.umt5), "dit": DiT(model.dit), "vae": VAE(model.vae)}
    extra = {
        "umt5": {"vocabulary": torch.tensor(vocabulary, dtype=torch.int32)},
        "vae": {"latent_mean": torch.zeros(channels), "latent_std": torch.ones(channels)},
        "dit": {},
    }
    for seed, (name, module) in enumerate(parts.items()):
        fill(module, seed)
        tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(tensors | extra[name], folder / f"{name}.safetensors")


def generate() -> dict[str, Tensor]:
    """Latents [1, c, t, h, w] of one request with guidance, in each precision."""
    vocabulary = sorted({END, UNKNOWN, *umt5().segment(PROMPT)})
    model = tiny(len(vocabulary))
    made = {}
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(MODELS, tiny=model):
        write_weights(model, vocabulary, Path(name))
        for dtype in DTYPES:
            request = Request.of(
                model="tiny", prompt=PROMPT, negative="night", seed=1, steps=4, guidance=3.0, solver="unipc",
                device="cpu", dtype=dtype,
            )  # fmt: skip
            pipeline = load(request, Path(name))
            *_, last = pipeline.denoise(pipeline.encode(request), request)
            made[dtype] = last.latents.float().clone()
    return made


def clips(count: int) -> ClipStore:
    """Clips [n, 9, 32, 32, 3] of a bright square that moves over a gradient, with scenes that have nothing to do with
    it."""
    generator = np.random.default_rng(0)
    shade = np.linspace(40, 160, 32, dtype=np.float32)
    frames = np.empty((count, 9, 32, 32, 3), np.uint8)
    masks = np.zeros(frames.shape[:4], np.uint8)
    for clip in range(count):
        color = generator.integers(150, 255, 3)
        row, column = generator.integers(0, 16, 2)
        frames[clip] = (shade[:, None] + generator.integers(0, 60, 3)[:, None, None]).T
        for index in range(9):
            square = (clip, index, slice(row, row + 8), slice(column + index, column + index + 8))
            frames[square] = color
            masks[square] = 1
    world = replace(STARTER, subjects=("taxi", "turtle"), places=("road", "meadow"))
    return ClipStore(frames, masks, [sample(seed, world) for seed in range(count)])


@contextmanager
def recorded_losses() -> Iterator[list[float]]:
    """The loss of every step that is trained meanwhile."""
    losses: list[float] = []
    backward = Run.backward

    def record(run: Run, loss: Tensor, kind: str = "") -> None:
        losses.append(float(loss.detach()))
        backward(run, loss, kind)

    with mock.patch.object(Run, "backward", record):
        yield losses


def train() -> dict[str, list[float]]:
    """The losses of 20 steps of a VAE, and of a text encoder and DiT on the latents of an untrained one."""
    store = clips(80)
    texts = {
        caption(scene, language, wording)
        for scene in store.scenes
        for language in LANGUAGES
        for wording in range(WORDINGS)
    }
    rows = vocabulary(texts)
    model = tiny(len(rows))
    prompts = Prompts(Tokenizer.umt5(model.dit.text_length, rows))
    optimizer = partial(muon_adamw, learning_rates=(0.02, 0.003))
    common = {"budget": Budget(steps=20), "optimizer": optimizer, "decay_from": 0.5, "device": "cpu", "seed": 1}
    quiet = {"log": lambda values: None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with recorded_losses() as vae_losses:
            vae_plan = VAEPlan(crop=16, frames=(5, 9), batch=2, **common)
            train_vae(vae_plan, model.vae, store, store, folder / "vae", **quiet)
        vae = blank_vae(model.vae)
        fill(vae, 2)
        latents = encode_dataset(vae, store, folder / "latents.safetensors", first=8, first_last=4, device="cpu")
        with recorded_losses() as dit_losses:
            dit_plan = DiTPlan(batch=4, shift=2.2, pictures=0.2, **common)
            training = TrainingSet(latents, store, prompts)
            auxiliary = partial(SceneProbe, scenes=store.scenes)
            train_dit(dit_plan, model, training, folder / "dit", auxiliary=auxiliary, **quiet)
    return {"vae": vae_losses, "dit": dit_losses}


def sha256(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's float32 values."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="store what is computed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    latents, losses = generate(), train()
    if options.write:
        save_file(latents, LATENTS)
        LOSSES.write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")
    stored_latents, stored_losses = load_file(LATENTS), json.loads(LOSSES.read_text(encoding="utf-8"))
    for dtype, tensor in latents.items():
        error = float((tensor - stored_latents[dtype]).abs().max())
        print(f"latents {dtype:<9} {sha256(tensor)}  largest difference {error:.1e}")
    for network, values in losses.items():
        pairs = zip(values, stored_losses[network], strict=True)
        error = max(abs(value - stored) / stored for value, stored in pairs)
        print(
            f"losses {network}  first {values[0]:.6f}  last {values[-1]:.6f}  largest relative difference {error:.1e}"
        )


if __name__ == "__main__":
    main()

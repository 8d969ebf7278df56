"""The predicted peak of a step is what the real step holds, counted in bytes of storages."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lichtspiel.spec import MODELS
from lichtspiel.tune.cache import Batch
from lichtspiel.tune.dataset import Bucket
from lichtspiel.tune.peaks import KEPT_BYTES, StorageCount, base_bytes, predict
from lichtspiel.tune.settings import AdapterPlan, RunOptions
from lichtspiel.tune.trainer import Trainer
from lichtspiel.weights.checkpoint import checkpoint

NANO = MODELS["nano"]
BUCKET = Bucket(width=64, height=64, frames=17)
LORA = RunOptions(adapter=AdapterPlan(rank=4), batch=2)


def held(options: RunOptions, weights: Path) -> int:
    """The bytes of storages at the peak of two real steps, without the model's own weights."""
    trainer = Trainer(NANO, checkpoint(NANO, weights), options, "cpu")
    cells = NANO.latent_shape(17, (64, 64))
    latents, text = torch.randn(2, 16, *cells), torch.randn(2, 48, NANO.dit.text_width)
    noise = torch.randn_like(latents)
    batch = Batch(BUCKET, (), latents, text, latents.clone(), latents.clone())
    count = StorageCount()
    for parameter in trainer.dit.parameters():
        count.leave_out(parameter)
    for parameter in trainer.parameters.values():
        count.add(parameter) if options.method == "lora" else None
    for tensor in (latents, text, noise, batch.first, batch.first_last):
        assert tensor is not None
        count.add(tensor)
    with count:
        for _ in range(2):
            trainer.step(batch, times=torch.full((2,), 0.5), noise=noise)
    return count.peak


@pytest.mark.parametrize(
    "options",
    [LORA, RunOptions(method="full", batch=2, checkpointing=False), replace(LORA, optimizer="prodigy")],
    ids=["lora", "full", "prodigy"],
)
def test_what_is_predicted_without_tensors_is_what_the_step_holds(options: RunOptions, random_nano: Path) -> None:
    predicted = predict(NANO, BUCKET, options) - base_bytes(NANO, options) - KEPT_BYTES[options.method]
    assert predicted == pytest.approx(held(options, random_nano), rel=0.1)


FRAGMENTING = """
import sys

if sys.argv[1] == "back":
    from lichtspiel.host import return_freed_memory

    return_freed_memory()


def own_memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))


del [bytearray(16 << 20)][:]  # glibc takes blocks up to this size for usual ones from here on
before = own_memory()
blocks = [(bytearray(b"1" * (2 << 20)), bytearray(100_000)) for _ in range(50)]
small = [each for _, each in blocks]
del blocks
print(own_memory() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is a habit of glibc")
def test_large_blocks_go_back_to_the_system() -> None:
    kept, back = (
        int(subprocess.run([sys.executable, "-c", FRAGMENTING, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "back")
    )
    assert kept > 50_000_000
    assert back < 20_000_000


def test_eight_bit_and_streamed_weights_are_smaller() -> None:
    row = MODELS["t2v-14b"]
    sizes = [base_bytes(row, RunOptions(base=base, dtype="bfloat16")) for base in ("resident", "int8", "streamed")]  # type: ignore[arg-type]
    resident, eight, streamed = sizes
    assert 28e9 < resident < 29e9
    assert 14e9 < eight < 15e9
    assert streamed < 2.5e9

"""One step of a run: on every form of the frozen model, with every optimizer, and exactly the same after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lichtspiel.errors import InvalidInput, NonFinite
from lichtspiel.spec import MODELS, Model
from lichtspiel.tune.cache import Batch
from lichtspiel.tune.dataset import Bucket
from lichtspiel.tune.settings import AdapterPlan, RunOptions
from lichtspiel.tune.trainer import Trainer
from lichtspiel.weights.checkpoint import checkpoint
from tests.golden import relative_error
from tests.tune.caches import SHORT

NANO = MODELS["nano"]
SMALL = AdapterPlan(rank=4, alpha=4)


def batch(count: int = 2, frames: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 16, 1 + (frames - 1) // 4, 8, 8)
    latents, first = (torch.randn(shape, generator=generator) for _ in range(2))
    text = torch.randn(count, 7, NANO.dit.text_width, generator=generator)
    return Batch(Bucket(width=64, height=64, frames=frames), (), latents, text, first=first, first_last=first)


def drawn(count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(batch(count).latents.shape, generator=generator)
    return {"times": torch.linspace(0.3, 0.9, count), "noise": noise}


def trainer(folder: Path, row: Model = SHORT, **options: Any) -> Trainer:
    given: dict[str, Any] = {"adapter": SMALL, "learning_rate": 1e-3, "warmup": 0} | options
    return Trainer(row, checkpoint(row, folder), RunOptions(**given), "cpu")


def taught(folder: Path, steps: int = 3, row: Model = SHORT, **options: Any) -> tuple[Trainer, list[float]]:
    one = trainer(folder, row, **options)
    return one, [one.step(batch(), **drawn()) for _ in range(steps)]


def difference(one: Trainer, other: Trainer) -> float:
    pairs = zip(one.parameters.values(), other.parameters.values(), strict=True)
    ours, theirs = (torch.cat([part.detach().flatten() for part in parts]) for parts in zip(*pairs, strict=True))
    return relative_error(ours, theirs)


def test_blocks_that_compute_again_and_blocks_from_the_file_train_to_the_same_bits(random_nano: Path) -> None:
    plain, losses = taught(random_nano, row=NANO, checkpointing=False)
    assert losses[-1] < losses[0]
    for options in ({"checkpointing": True}, {"base": "streamed"}):
        other, found = taught(random_nano, row=NANO, **options)
        assert found == losses
        assert difference(other, plain) == 0.0


def test_some_blocks_may_stay_while_the_others_are_streamed(random_nano: Path) -> None:
    plain, losses = taught(random_nano, row=NANO, base="streamed")
    part = Trainer(
        NANO, checkpoint(NANO, random_nano),
        RunOptions(adapter=SMALL, learning_rate=1e-3, warmup=0, base="streamed"), "cpu", resident=3,
    )  # fmt: skip
    resident = [not next(block.parameters()).is_meta for block in part.dit.blocks]
    assert resident == [True] * 3 + [False] * (NANO.dit.layers - 3)
    assert [part.step(batch(), **drawn()) for _ in range(3)] == losses
    assert difference(part, plain) == 0.0


def test_a_base_in_eight_bit_is_close_to_the_exact_one(short_nano: Path) -> None:
    exact, losses = taught(short_nano)
    eight, found = taught(short_nano, base="int8")
    assert found == pytest.approx(losses, rel=2e-3)
    assert 0 < difference(eight, exact) < 0.2
    one, other = trainer(short_nano), trainer(short_nano, base="int8")
    grads = []
    for each in (one, other):
        with torch.no_grad():
            for name, pair in each.adapter.named_pairs():  # type: ignore[union-attr]
                pair.up.copy_(torch.randn(pair.up.shape, generator=torch.Generator().manual_seed(len(name))) / 50)
        generator = torch.Generator().manual_seed(1)
        from lichtspiel.tune.objective import draw

        each.backward(batch(), draw(batch(), SHORT, each.options, generator))
        grads.append(torch.cat([part.grad.flatten() for part in each.parameters.values() if part.grad is not None]))
    error = float((grads[0] - grads[1]).norm() / grads[0].norm())
    assert 0 < error < 0.02, f"gradients differ by {error:.4f}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9},
        {"accumulate": 2},
        {"adapter": AdapterPlan(rank=2, alpha=4, dropout=0.3, dora=True)},
        {"optimizer": "prodigy"},
        {"optimizer": "schedule-free"},
        {"method": "full"},
        {"method": "full", "optimizer": "muon"},
        {"method": "full", "dtype": "bfloat16"},
    ],
    ids=lambda options: "-".join(str(value)[:16] for value in options.values()) or "adamw",
)
def test_a_restored_trainer_goes_on_to_the_same_bits(options: dict[str, Any], short_nano: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, _ = taught(short_nano, steps=2, **options)
    torch.save(one.state(), tmp_path / "state.pt")
    torch.manual_seed(1)
    found = [one.step(batch(), **drawn()) for _ in range(2)]
    other = trainer(short_nano, **options)
    other.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.manual_seed(1)
    assert [other.step(batch(), **drawn()) for _ in range(2)] == found
    assert difference(one, other) == 0.0
    with one.averaged(), other.averaged():
        assert difference(one, other) == 0.0


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"optimizer": "schedule-free"}], ids=["ema", "schedule-free"])
def test_an_average_is_what_counts_and_training_goes_on_from_its_own_weights(
    options: dict[str, Any], short_nano: Path
) -> None:
    one, _ = taught(short_nano, steps=3, **options)
    before = [parameter.detach().clone() for parameter in one.parameters.values()]
    with one.averaged():
        inside = [parameter.detach().clone() for parameter in one.parameters.values()]
        assert one.loss(batch(), **drawn()) > 0
    assert not all(map(torch.equal, before, inside))
    assert all(map(torch.equal, before, one.parameters.values()))
    twin, losses = taught(short_nano, steps=4, **options)
    assert one.step(batch(), **drawn()) == losses[-1]
    assert difference(one, twin) == 0.0


def test_gradients_are_clipped_and_what_is_not_finite_ends_the_run(short_nano: Path) -> None:
    one = trainer(short_nano, clip=0.0)
    one.backward(batch(), _draw(one))
    length = float(one.gradient_length())
    other = trainer(short_nano, clip=length / 2)
    other.backward(batch(), _draw(other))
    seen: list[float] = []
    step = other.optimizer.step
    other.optimizer.step = lambda: (seen.append(float(other.gradient_length())), step())[1]  # type: ignore[method-assign, func-returns-value]
    assert other.update() == pytest.approx(length)
    assert seen == [pytest.approx(length / 2, rel=1e-4)]
    broken = batch()
    broken.latents.fill_(float("inf"))
    with pytest.raises(NonFinite, match=r"the training loss .* lower --learning-rate"):
        one.backward(broken, _draw(one))


def _draw(one: Trainer) -> Any:
    from lichtspiel.tune.objective import draw

    return draw(batch(), SHORT, one.options, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "full", "base": "int8"}, "--base int8 holds frozen weights"),
        ({"optimizer": "muon"}, "--optimizer muon is for whole matrices"),
        ({"base": "streamed", "checkpointing": False}, "leave out --no-checkpointing"),
        ({"batch": 0}, "--batch 0 is not valid"),
        ({"learning_rate": -1.0}, "--learning-rate -1 is not valid"),
        ({"shift": 0.0}, "--shift 0 is not valid"),
        ({"clip": -1.0}, "--clip -1 is not valid"),
        ({"ema": 1.0}, "--ema 1 is not valid"),
        ({"first": 0.6, "first_last": 0.6}, "together they are at most 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RunOptions(**options)

"""A run: it goes on to the same bits wherever it was killed, keeps what it should, and leaves files that work."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lichtspiel.errors import Interrupted, InvalidInput
from lichtspiel.lora import apply, read_lora
from lichtspiel.tune.cache import Cache, open_cache
from lichtspiel.tune.export import Made
from lichtspiel.tune.objective import Draw
from lichtspiel.tune.run import Run, Schedule
from lichtspiel.tune.settings import AdapterPlan, RunOptions
from lichtspiel.tune.texts import encode_texts, read_prompts
from lichtspiel.tune.trainer import Trainer
from lichtspiel.weights.checkpoint import checkpoint
from lichtspiel.weights.shards import write_shards
from tests.tune.caches import SHORT, make_cache

OPTIONS: dict[str, Any] = {"adapter": AdapterPlan(rank=2, alpha=2), "learning_rate": 1e-3, "warmup": 1, "batch": 2}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return make_cache(tmp_path / "cache")


def start(folder: Path, weights: Path, cache: Cache, steps: int = 4, **options: Any) -> Run:
    files, chosen = checkpoint(SHORT, weights), RunOptions(**OPTIONS | options)
    made = Made(row=SHORT, fingerprints=files.fingerprints(), facts=cache.facts, options=chosen, steps=0)
    kept = encode_texts(cache.folder, ("", *chosen.keep), files, torch.device("cpu")) if chosen.keep else None
    return Run(
        folder, Trainer(SHORT, files, chosen, "cpu"), cache, Schedule(steps=steps, log_every=1, validate_every=2), made,
        "lichtspiel generate …", kept,
    )  # fmt: skip


def weights_of(run: Run) -> Tensor:
    return torch.cat([value.detach().flatten() for value in run.trainer.parameters.values()])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2, "ema": 0.9, "adapter": AdapterPlan(rank=2, alpha=2, dropout=0.2)},
        {"keep": ("a turtle walks", "a turtle on the beach")},
    ],
    ids=["plain", "dropout-average-parts", "keep"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    options: dict[str, Any], short_nano: Path, cache: Cache, tmp_path: Path
) -> None:
    whole = start(tmp_path / "whole", short_nano, cache, **options)
    whole.go()
    first = start(tmp_path / "parts", short_nano, cache, **options)

    def stop(stage: str, done: float) -> None:
        if done == 0.5:
            raise KeyboardInterrupt

    first.progress = stop
    with pytest.raises(Interrupted, match="stopped after step 2 of 4; the same command goes on from the last"):
        first.go()
    second = start(tmp_path / "parts", short_nano, cache, **options)
    second.go()
    assert second.step == whole.step == 4
    assert torch.equal(weights_of(second), weights_of(whole))
    one, other = (read_lora(tmp_path / name / "lora.safetensors") for name in ("whole", "parts"))
    assert one.metadata == other.metadata
    for name, delta in one.layers.items():
        twin = other.layers[name]
        assert all(torch.equal(*parts) for parts in ((delta.up, twin.up), (delta.down, twin.down)))
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("whole", "parts")]  # fmt: skip
    assert [[entry["step"], entry["loss"], entry.get("validation")] for entry in logs[0]] == [
        [entry["step"], entry["loss"], entry.get("validation")] for entry in logs[1]
    ]


def killed(folder: Path, weights: Path, cache: Path) -> None:
    """A run that keeps a state after every step and is killed within its third, by the system and without a word."""
    torch.set_num_threads(1)
    run = start(folder, weights, open_cache(cache))
    run.schedule = replace(run.schedule, save_minutes=0.0)

    def kill(stage: str, done: float) -> None:
        if done == 0.75:
            os.kill(os.getpid(), signal.SIGKILL)

    run.progress = kill
    run.go()


def test_a_killed_run_goes_on_to_the_same_bits(short_nano: Path, cache: Cache, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tune.test_run", "torch._dynamo"])
    victim = context.Process(target=killed, args=(tmp_path / "killed", short_nano, cache.folder))
    victim.start()
    whole = start(tmp_path / "whole", short_nano, cache)
    whole.go()
    victim.join(300)
    assert victim.exitcode == -signal.SIGKILL
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["trainer"]["steps"] == 2
    again = start(tmp_path / "killed", short_nano, cache)
    again.go()
    assert torch.equal(weights_of(again), weights_of(whole))


def test_what_a_run_leaves(shortened: Path, cache: Cache, tmp_path: Path) -> None:
    run = start(tmp_path / "run", shortened, cache, steps=3, learning_rate=0.02)
    outcome = run.go()
    assert outcome.steps == 3
    assert outcome.base is not None
    assert outcome.validation is not None
    assert outcome.base != outcome.validation
    path = tmp_path / "run" / "lora.safetensors"
    assert outcome.files[0] == path
    lora = read_lora(path)
    assert lora.fits() == ("nano",)
    assert lora.metadata["lichtspiel.base"] == "nano"
    assert lora.metadata["lichtspiel.base_digest"] == checkpoint(SHORT, shortened).fingerprints()["dit"]
    assert lora.metadata["lichtspiel.data_digest"] == cache.facts.digest
    assert lora.metadata["lichtspiel.steps"] == "3"
    assert lora.describe()["trigger_words"] == ["Tropo", "Tropo"]
    batch = cache.read(cache.select()[:2])
    given = {"times": torch.tensor([0.3, 0.8]), "noise": torch.randn(batch.latents.shape)}
    trained = run.trainer.loss(batch, **given)
    fresh = start(tmp_path / "other", shortened, cache).trainer
    before = fresh.loss(batch, **given)
    assert fresh.adapter is not None
    fresh.adapter.detach()
    apply(fresh.dit, [(lora, 1.0)], merge=True)
    assert fresh.loss(batch, **given) == pytest.approx(trained, rel=1e-6)
    assert trained != pytest.approx(before, rel=1e-4)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "LoRA of rank 2, alpha 2" in card
    assert "trigger words | Tropo" in card
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert {"validation", "validation of the base", "validation at 0.5"} <= entries[1].keys()
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_whole_weights_are_read_as_a_checkpoint(short_nano: Path, cache: Cache, tmp_path: Path) -> None:
    run = start(tmp_path / "run", short_nano, cache, steps=2, method="full", learning_rate=1e-4)
    run.go()
    others = [short_nano / "vae.safetensors", short_nano / "umt5.safetensors"]
    found = checkpoint(SHORT, [tmp_path / "run" / "weights", *others]).dit(torch.float32)
    for name, value in found.state_dict().items():
        assert torch.equal(value, run.trainer.dit.state_dict()[name])
    whole = run.trainer.whole_weights()
    paths = write_shards(tmp_path / "run" / "weights", whole, SHORT.dit, torch.float32, {}, shard_bytes=3_000_000)
    assert len(paths) > 2
    again = checkpoint(SHORT, [tmp_path / "run" / "weights", *others]).dit(torch.float32)
    assert all(torch.equal(value, whole[name]) for name, value in again.state_dict().items())


def test_another_run_in_the_same_folder_is_refused(short_nano: Path, cache: Cache, tmp_path: Path) -> None:
    start(tmp_path / "run", short_nano, cache, steps=1).go()
    with pytest.raises(InvalidInput, match=r"holds a run with learning_rate 0.001, not 0.01; choose another folder"):
        start(tmp_path / "run", short_nano, cache, learning_rate=0.01).go()
    other = replace(cache, facts=replace(cache.facts, digest="e" * 32))
    with pytest.raises(InvalidInput, match="holds a run with data digest"):
        start(tmp_path / "run", short_nano, other).go()


def test_prompts_to_keep_hold_the_model_where_it_was(short_nano: Path, cache: Cache, tmp_path: Path) -> None:
    prompt = "a turtle walks on the beach"
    distances = []
    for keep in ((), (prompt,)):
        run = start(tmp_path / f"run{len(keep)}", short_nano, cache, steps=12, keep=keep, learning_rate=0.02)
        run.go()
        states = encode_texts(cache.folder, (prompt,), checkpoint(SHORT, short_nano), torch.device("cpu"))
        batch = replace(cache.read(cache.select()[:1]), text=states)
        generator, tasks = torch.Generator().manual_seed(0), torch.zeros(1, dtype=torch.long)
        moved = 0.0  # how far the velocity is from the frozen model's, over some times
        for time in (0.2, 0.4, 0.6, 0.8):
            noise = torch.randn(batch.latents.shape, generator=generator)
            moved += run.trainer.backward_kept(batch, Draw(torch.tensor([time]), noise, tasks))
        distances.append(moved)
    assert distances[1] < 0.7 * distances[0]


def test_prompts_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    path.write_text("# what stays\na turtle\n\n  a taxi \n", encoding="utf-8")
    assert read_prompts(path) == ("a turtle", "a taxi")
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="holds no prompt; write one a line"):
        read_prompts(path)
    with pytest.raises(InvalidInput, match="the prompts cannot be read"):
        read_prompts(tmp_path / "missing.txt")

"""Training learns, survives a kill as if nothing had happened, and ships what generation loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lichtspiel import flow
from lichtspiel.errors import InvalidInput, NonFinite
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.spec import MODELS, Model
from lichtspiel.tokenizer import END, UNKNOWN, Tokenizer, clean, umt5
from lichtspiel.toybox.captions import LANGUAGES, WORDINGS, caption
from lichtspiel.toybox.sample import STARTER
from lichtspiel.toybox.scene import Scene
from lichtspiel.train.dit import DiTPlan, conditioned, train_dit
from lichtspiel.train.latents import LatentStore, encode_store
from lichtspiel.train.nano.captions import Captions
from lichtspiel.train.nano.clips import ClipStore, Shape, open_store, render_store
from lichtspiel.train.optim import Muon, orthogonal
from lichtspiel.train.state import Budget, Run
from lichtspiel.train.vae import VAEPlan, blank_vae, measure, train_vae, weights

NANO = MODELS["nano"]
WORLD = replace(STARTER, subjects=("taxi", "turtle"), places=("road", "meadow"), weathers=("clear",))
TINY_VAE = replace(NANO.vae, width=4)


def vae_plan(steps: int, **changes: object) -> VAEPlan:
    plan = VAEPlan(
        budget=Budget(steps=steps), crop=16, frames=(5,), batch=2, rates=(0.02, 0.003), decay_from=0.5, device="cpu",
        seed=1,
    )  # fmt: skip
    return replace(plan, **changes)


def dit_plan(steps: int, **changes: object) -> DiTPlan:
    plan = DiTPlan(
        budget=Budget(steps=steps), batch=8, rates=(0.02, 0.003), shift=2.2, pictures=0.2, decay_from=0.5, device="cpu",
        seed=1,
    )  # fmt: skip
    return replace(plan, **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    folder = tmp_path_factory.mktemp("run") / "clips"
    return render_store(folder, WORLD, range(80), Shape(width=32, height=32, frames=9), held_out=False, workers=1)


def quiet(values: dict[str, float]) -> None:
    pass


def test_a_store_is_rendered_once_and_read_again(tmp_path: Path) -> None:
    shape = Shape(width=16, height=16, frames=5)
    first = render_store(tmp_path / "clips", WORLD, range(3), shape, held_out=False, workers=1)
    again = render_store(tmp_path / "clips", WORLD, range(3), shape, held_out=False, workers=1)
    assert first.scenes == again.scenes == open_store(tmp_path / "clips").scenes
    assert (first.frames == again.frames).all()
    assert first.masks.max() >= 1
    with pytest.raises(InvalidInput, match="no rendered clips"):
        open_store(tmp_path / "nothing")


def test_the_vae_learns(store: ClipStore, tmp_path: Path) -> None:
    plan = vae_plan(80)
    torch.manual_seed(plan.seed)  # the same start as the run's
    before = measure(blank_vae(TINY_VAE), store, "cpu", clips=4)["psnr"]
    vae = train_vae(plan, TINY_VAE, store, store, tmp_path / "vae", report=quiet)
    assert measure(vae, store, "cpu", clips=4)["psnr"] > before + 1


def test_a_resumed_run_is_the_run_that_never_stopped(store: ClipStore, tmp_path: Path) -> None:
    whole = train_vae(vae_plan(6), TINY_VAE, store, store, tmp_path / "whole", report=quiet)

    class Killed(Exception):
        pass

    def kill(run: Run) -> None:
        if run.step == 3:
            run.save()
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        update = Run.update
        patch.setattr(Run, "update", lambda run, *a, **k: (kill(run), update(run, *a, **k)))
        with pytest.raises(Killed):
            train_vae(vae_plan(6), TINY_VAE, store, store, tmp_path / "halves", report=quiet)
    halves = train_vae(vae_plan(6), TINY_VAE, store, store, tmp_path / "halves", report=quiet)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_another_seed_does_not_continue_a_run(store: ClipStore, tmp_path: Path) -> None:
    train_vae(vae_plan(1), TINY_VAE, store, store, tmp_path, report=quiet)
    with pytest.raises(InvalidInput, match="seed"):
        train_vae(vae_plan(2, seed=2), TINY_VAE, store, store, tmp_path, report=quiet)


def test_a_budget_is_steps_or_minutes() -> None:
    for wrong in ({}, {"steps": 1, "minutes": 1.0}):
        with pytest.raises(InvalidInput):
            Budget(**wrong)


def test_pixels_beside_an_actor_count_more() -> None:
    mask = torch.zeros(1, 1, 9, 9).bool().numpy()
    mask[0, 0, 4, 4] = True
    weight = weights(mask, "cpu")[0, 0, 0]
    assert weight[4, 4] == weight[2, 2] > weight[0, 0] == 1


def test_orthogonal_brings_singular_values_near_one() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_muon_and_adam_reach_the_minimum() -> None:
    torch.manual_seed(0)
    target = torch.randn(8, 8)
    for muon in (True, False):
        weight = torch.nn.Parameter(torch.zeros(8, 8))
        optimizer = Muon([weight] if muon else [], [] if muon else [weight], (0.05, 0.05))
        for step in range(300):
            optimizer.scale = 1 - step / 300
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            optimizer.step()
        assert (weight - target).abs().max() < 0.2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    run = Run({"m": module}, Muon([], module.parameters(), (0.1, 0.1)), Budget(steps=1), tmp_path, 0)
    with pytest.raises(NonFinite):
        run.update(module(torch.full((1, 2), torch.nan)).sum())


@pytest.fixture(scope="module")
def latents(store: ClipStore, tmp_path_factory: pytest.TempPathFactory) -> LatentStore:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("latents") / "latents.safetensors"
    made = encode_store(blank_vae(TINY_VAE), store, path, first=8, first_last=4, device="cpu")
    read = encode_store(blank_vae(TINY_VAE), store, path, first=8, first_last=4, device="cpu")
    assert torch.equal(made.latents, read.latents)
    return made


def test_latents_are_normalised_and_conditions_know_the_first_frame(latents: LatentStore) -> None:
    assert latents.latents.shape == (80, 16, 3, 4, 4)
    assert torch.allclose(latents.latents.mean(dim=(0, 2, 3, 4)), torch.zeros(16), atol=1e-4)
    assert torch.allclose(latents.latents.std(dim=(0, 2, 3, 4)), torch.ones(16), atol=1e-4)
    # The VAE is causal: the first latent sees only the first frame, which every condition holds.
    assert torch.allclose(latents.first[:, :, 0], latents.latents[:8, :, 0], atol=1e-5)
    assert torch.allclose(latents.first_last[:, :, 0], latents.latents[:4, :, 0], atol=1e-5)
    assert not torch.allclose(latents.first[:4, :, 2], latents.first_last[:, :, 2], atol=1e-3)


def test_cells_know_how_much_of_them_an_actor_covers(store: ClipStore, latents: LatentStore) -> None:
    assert latents.actors.shape == (80, 1, 3, 4, 4)
    mask = torch.from_numpy(store.masks[5] > 0).float()
    assert latents.actors[5, 0, 0, 1, 2] == mask[0, 8:16, 16:24].mean()
    assert latents.actors[5, 0, 2, 3, 1] == pytest.approx(float(mask[5:9, 24:32, 8:16].mean()))
    assert 0.01 < latents.actors.mean() < 0.5


def test_conditions_have_the_layout_of_the_published_models(latents: LatentStore) -> None:
    nothing = conditioned(latents.latents[0], 3, 0, 4)
    first, both = conditioned(latents.first[0], 3, 1, 4), conditioned(latents.first_last[0], 3, 2, 4)
    assert nothing.shape == first.shape == both.shape == (20, 3, 4, 4)
    assert not nothing.any()
    assert first[:4, :, 0, 0].tolist() == [[1, 0, 0]] * 4
    assert both[:4, :, 0, 0].tolist() == [[1, 0, 0]] * 3 + [[1, 0, 1]]


def tiny_model(scenes: Sequence[Scene]) -> tuple[Model, Captions]:
    texts = {
        caption(scene, language, wording) for scene in scenes for language in LANGUAGES for wording in range(WORDINGS)
    }
    rows = sorted({piece for text in texts for piece in umt5().segment(clean(text))} | {END, UNKNOWN})
    encoder = replace(NANO.umt5, vocabulary=len(rows), width=32, attention_width=32, ffn_width=64, heads=2, layers=1)
    dit = replace(NANO.dit, width=64, ffn_width=128, heads=2, layers=2, text_width=32)
    return replace(NANO, umt5=encoder, dit=dit), Captions(Tokenizer.umt5(dit.text_length, rows))


def test_encoder_and_dit_learn_together(store: ClipStore, latents: LatentStore, tmp_path: Path) -> None:
    model, captions = tiny_model(store.scenes)
    plan = dit_plan(60)
    seen: list[dict[str, float]] = []
    encoder, dit = train_dit(plan, model, latents, store.scenes, captions, tmp_path, report=seen.append)
    assert isinstance(encoder, UMT5)
    assert isinstance(dit, DiT)
    assert seen[-1]["validation"] < 0.85 * seen[0]["validation"]
    assert seen[-2]["reading"] < seen[0]["reading"]


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore::DeprecationWarning:torch")  # of the compiler itself
def test_compiled_or_not_it_learns_the_same(
    store: ClipStore, latents: LatentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same graphs, run by PyTorch itself: writing kernels for them takes a processor most of a minute.
    whole = torch.nn.Module.compile
    compiled: list[torch.nn.Module] = []

    def traced(self: torch.nn.Module) -> None:
        compiled.append(self)
        whole(self, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    model, captions = tiny_model(store.scenes)
    made = []
    for wanted in (False, True):
        plan, folder = replace(dit_plan(1), compiled=wanted), tmp_path / str(wanted)
        made.append(train_dit(plan, model, latents, store.scenes, captions, folder, report=quiet)[1])
    assert len(compiled) == model.dit.layers
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_run_of_another_edition_is_refused(store: ClipStore, latents: LatentStore, tmp_path: Path) -> None:
    model, captions = tiny_model(store.scenes)
    train_dit(dit_plan(1), model, latents, store.scenes, captions, tmp_path, report=quiet)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["modules"]["reader"]
    torch.save(state, path)
    with pytest.raises(InvalidInput, match="another folder"):
        train_dit(dit_plan(2), model, latents, store.scenes, captions, tmp_path, report=quiet)


def test_a_batch_of_short_clips_holds_as_many_frames_as_one_of_whole_clips(
    store: ClipStore, latents: LatentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, captions = tiny_model(store.scenes)
    plan = dit_plan(25, batch=6, pictures=0.5)
    shapes: list[tuple[int, int]] = []
    whole = flow.training_pair

    def seen(clean: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.append((clean.shape[0], clean.shape[2]))
        return whole(clean, *given)

    monkeypatch.setattr(flow, "training_pair", seen)
    monkeypatch.setattr("lichtspiel.train.dit.validate", lambda *_: {})
    train_dit(plan, model, latents, store.scenes, captions, tmp_path, report=lambda values: None)
    full = latents.latents.shape[2]
    assert {length for _, length in shapes} >= {1, full}
    assert all(6 * full - length < count * length <= 6 * full for count, length in shapes)

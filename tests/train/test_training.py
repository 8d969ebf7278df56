"""Training learns, survives a kill as if nothing had happened, and ships what generation loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from lichtspiel import flow
from lichtspiel.errors import InvalidInput, NonFinite
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.spec import MODELS, Model
from lichtspiel.tokenizer import Tokenizer
from lichtspiel.toybox.captions import LANGUAGES, WORDINGS, caption
from lichtspiel.toybox.sample import STARTER
from lichtspiel.train.data import Shape
from lichtspiel.train.dit import DiTPlan, TrainingSet, conditioned, train_dit
from lichtspiel.train.latents import LatentStore, encode_dataset
from lichtspiel.train.nano.clips import ClipStore, open_store, render_store
from lichtspiel.train.nano.probe import SceneProbe
from lichtspiel.train.optim import Combined, Muon, OptimizerFactory, adamw, muon_adamw, orthogonal
from lichtspiel.train.state import Budget, Run, check_device
from lichtspiel.train.text import Prompts, look_at_neighbors, vocabulary
from lichtspiel.train.vae import VAEPlan, blank_vae, measure, train_vae, weights

NANO = MODELS["nano"]
WORLD = replace(STARTER, subjects=("taxi", "turtle"), places=("road", "meadow"), weathers=("clear",))
OPTIMIZER = partial(muon_adamw, learning_rates=(0.02, 0.003))
TINY_VAE = replace(NANO.vae, width=4)


def torch_sgd(modules: Mapping[str, torch.nn.Module], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules.values() for p in module.parameters()], lr)


def vae_plan(steps: int, **changes: object) -> VAEPlan:
    plan = VAEPlan(
        budget=Budget(steps=steps), crop=16, frames=(5,), batch=2, optimizer=OPTIMIZER, decay_from=0.5, device="cpu",
        seed=1,
    )  # fmt: skip
    return replace(plan, **changes)


def dit_plan(steps: int, **changes: object) -> DiTPlan:
    plan = DiTPlan(
        budget=Budget(steps=steps), batch=8, optimizer=OPTIMIZER, shift=2.2, pictures=0.2, decay_from=0.5, device="cpu",
        seed=1,
    )  # fmt: skip
    return replace(plan, **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    folder = tmp_path_factory.mktemp("run") / "clips"
    return render_store(folder, WORLD, range(80), Shape(width=32, height=32, frames=9), held_out=False, workers=2)


def quiet(values: dict[str, float]) -> None:
    pass


def test_a_store_is_rendered_once_and_read_again(store: ClipStore, tmp_path: Path) -> None:
    shape = Shape(width=16, height=16, frames=5)
    first = render_store(tmp_path / "clips", WORLD, range(3), shape, held_out=False, workers=1)
    again = render_store(tmp_path / "clips", WORLD, range(3), shape, held_out=False, workers=1)
    assert first.scenes == again.scenes == open_store(tmp_path / "clips").scenes
    assert (first.frames == again.frames).all()
    assert first.masks.max() >= 1
    here = render_store(tmp_path / "here", WORLD, range(62, 66), store.shape, held_out=False, workers=2)
    assert (here.frames == store.frames[62:66]).all()  # that of two processes, in shares of 64
    with pytest.raises(InvalidInput, match="no rendered clips"):
        open_store(tmp_path / "nothing")


def test_the_vae_learns(store: ClipStore, tmp_path: Path) -> None:
    plan = vae_plan(80)
    torch.manual_seed(plan.seed)  # the same start as the run's
    before = measure(blank_vae(TINY_VAE), store, "cpu", clips=4)["psnr"]
    vae = train_vae(plan, TINY_VAE, store, store, tmp_path / "vae", log=quiet)
    assert measure(vae, store, "cpu", clips=4)["psnr"] > before + 1


def test_a_resumed_run_is_the_run_that_never_stopped(store: ClipStore, tmp_path: Path) -> None:
    whole = train_vae(vae_plan(6), TINY_VAE, store, store, tmp_path / "whole", log=quiet)

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
            train_vae(vae_plan(6), TINY_VAE, store, store, tmp_path / "halves", log=quiet)
    halves = train_vae(vae_plan(6), TINY_VAE, store, store, tmp_path / "halves", log=quiet)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_another_seed_does_not_continue_a_run(store: ClipStore, tmp_path: Path) -> None:
    train_vae(vae_plan(1), TINY_VAE, store, store, tmp_path, log=quiet)
    with pytest.raises(InvalidInput, match="seed"):
        train_vae(vae_plan(2, seed=2), TINY_VAE, store, store, tmp_path, log=quiet)


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


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (8, 40), (6, 4, 3, 3)])
def test_muon_takes_matrices_of_one_shape_together(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    together = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(3)]
    together.insert(1, torch.nn.Parameter(torch.randn(5, 7, generator=generator)))
    apart = [torch.nn.Parameter(parameter.detach().clone()) for parameter in together]
    optimizers = [Muon(together, 0.1), *[Muon([parameter], 0.1) for parameter in apart]]
    for _ in range(3):
        for one, other in zip(together, apart, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_muon_and_adam_reach_the_minimum() -> None:
    torch.manual_seed(0)
    target = torch.randn(8, 8)
    for muon in (True, False):
        weight = torch.nn.Parameter(torch.zeros(8, 8))
        optimizer = Muon([weight], 0.05) if muon else adamw({"weight": torch.nn.ParameterList([weight])}, 0.05)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            optimizer.step()
        assert (weight - target).abs().max() < 0.2


def test_two_optimizers_are_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    optimizer = muon_adamw({"m": module}, (0.02, 0.003))
    assert isinstance(optimizer, Combined)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.003]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]  # matrices, then biases
    before = [parameter.clone() for parameter in module.parameters()]
    module(torch.ones(1, 4)).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("factory", [OPTIMIZER, partial(torch_sgd, lr=0.1)], ids=["muon", "sgd"])
def test_accumulated_parts_are_one_large_batch(factory: OptimizerFactory, tmp_path: Path) -> None:
    weights = []
    data = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    for accumulate in (1, 4):
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 4)
        modules = {"m": module}
        run = Run(modules, factory(modules), Budget(steps=3), tmp_path / str(accumulate), 0, accumulate)
        for _ in run.steps():
            for part in run.parts():
                run.backward(module(data[part::accumulate]).square().mean())
            run.update(warmup=1)
        weights.append(module.weight)
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


def test_parts_of_a_step_draw_different_numbers(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    run = Run({"m": module}, adamw({"m": module}, 0.1), Budget(steps=1), tmp_path, 0, 3)
    draws = [float(torch.rand((), generator=run.generator(stream))) for _ in run.parts() for stream in range(2)]
    assert len(set(draws)) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--device cuda: this machine has no GPU"):
        check_device("cuda")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    run = Run({"m": module}, adamw({"m": module}, 0.1), Budget(steps=1), tmp_path, 0)
    with pytest.raises(NonFinite):
        run.backward(module(torch.full((1, 2), torch.nan)).sum())


def test_a_batch_far_off_is_left_out_and_many_of_them_stop_the_run(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    run = Run({"m": module}, torch_sgd({"m": module}, 0.0), Budget(steps=1000), tmp_path, 0)
    usual, bad = torch.ones(1, 2), torch.full((1, 2), 50.0)
    for _ in range(120):
        run.backward(module(usual).square().mean() + 1)
        run.update()
        run.step += 1
    run.backward(module(bad).square().mean() + 100)
    assert module.weight.grad is None
    run.backward(module(bad).square().mean() + 100, kind="another")  # what is usual there is not known yet
    assert module.weight.grad is not None
    run.save()
    again = Run({"m": module}, torch_sgd({"m": module}, 0.0), Budget(steps=1000), tmp_path, 0)
    assert again.resume()
    assert again.usual == run.usual
    again.optimizer.zero_grad()
    for _ in range(19):
        again.backward(module(bad).square().mean() + 100)
    assert module.weight.grad is None
    with pytest.raises(NonFinite, match="training loss"):
        again.backward(module(bad).square().mean() + 100)


@pytest.fixture(scope="module")
def latents(store: ClipStore, tmp_path_factory: pytest.TempPathFactory) -> LatentStore:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("latents") / "latents.safetensors"
    made = encode_dataset(blank_vae(TINY_VAE), store, path, first=8, first_last=4, device="cpu")
    read = encode_dataset(blank_vae(TINY_VAE), store, path, first=8, first_last=4, device="cpu")
    assert torch.equal(made.latents, read.latents)
    return made


def test_latents_are_normalized_and_conditions_know_the_first_frame(latents: LatentStore) -> None:
    assert latents.latents.shape == (80, 16, 3, 4, 4)
    assert torch.allclose(latents.latents.mean(dim=(0, 2, 3, 4)), torch.zeros(16), atol=1e-4)
    assert torch.allclose(latents.latents.std(dim=(0, 2, 3, 4)), torch.ones(16), atol=1e-4)
    # The VAE is causal: the first latent sees only the first frame, which every condition holds.
    assert torch.allclose(latents.first[:, :, 0], latents.latents[:8, :, 0], atol=1e-5)
    assert torch.allclose(latents.first_last[:, :, 0], latents.latents[:4, :, 0], atol=1e-5)
    assert not torch.allclose(latents.first[:4, :, 2], latents.first_last[:, :, 2], atol=1e-3)


def test_cells_know_how_much_of_them_an_actor_covers(store: ClipStore, latents: LatentStore) -> None:
    assert latents.coverage.shape == (80, 1, 3, 4, 4)
    mask = torch.from_numpy(store.masks[5] > 0).float()
    assert latents.coverage[5, 0, 0, 1, 2] == mask[0, 8:16, 16:24].mean()
    assert latents.coverage[5, 0, 2, 3, 1] == pytest.approx(float(mask[5:9, 24:32, 8:16].mean()))
    assert 0.01 < latents.coverage.mean() < 0.5


def test_conditions_have_the_layout_of_the_published_models(latents: LatentStore) -> None:
    nothing = conditioned(latents.latents[0], 3, 0, 4)
    first, both = conditioned(latents.first[0], 3, 1, 4), conditioned(latents.first_last[0], 3, 2, 4)
    assert nothing.shape == first.shape == both.shape == (20, 3, 4, 4)
    assert not nothing.any()
    assert first[:4, :, 0, 0].tolist() == [[1, 0, 0]] * 4
    assert both[:4, :, 0, 0].tolist() == [[1, 0, 0]] * 3 + [[1, 0, 1]]


def tiny_model(store: ClipStore, latents: LatentStore) -> tuple[Model, TrainingSet]:
    texts = {
        caption(scene, language, wording)
        for scene in store.scenes
        for language in LANGUAGES
        for wording in range(WORDINGS)
    }
    rows = vocabulary(texts)
    encoder = replace(NANO.umt5, vocabulary=len(rows), width=32, attention_width=32, ffn_width=64, heads=2, layers=1)
    dit = replace(NANO.dit, width=64, ffn_width=128, heads=2, layers=2, text_width=32)
    training = TrainingSet(latents, store, Prompts(Tokenizer.umt5(dit.text_length, rows)))
    return replace(NANO, umt5=encoder, dit=dit), training


def probe(store: ClipStore) -> Callable[[int], torch.nn.Module]:
    return partial(SceneProbe, scenes=store.scenes)


def test_encoder_and_dit_learn_together(store: ClipStore, latents: LatentStore, tmp_path: Path) -> None:
    model, training = tiny_model(store, latents)
    plan = dit_plan(60)
    seen: list[dict[str, float]] = []
    encoder, dit = train_dit(plan, model, training, tmp_path, auxiliary=probe(store), log=seen.append)
    assert isinstance(encoder, UMT5)
    assert isinstance(dit, DiT)
    assert seen[-1]["validation"] < 0.85 * seen[0]["validation"]
    assert seen[-2]["auxiliary"] < seen[0]["auxiliary"]


def test_the_encoder_learns_alone_first(store: ClipStore, latents: LatentStore, tmp_path: Path) -> None:
    model, training = tiny_model(store, latents)
    plan = replace(dit_plan(30), text_steps=30)
    torch.manual_seed(plan.seed)
    UMT5(model.umt5)
    untrained = DiT(model.dit)
    untrained.initialize()
    encoder, dit = train_dit(plan, model, training, tmp_path, auxiliary=probe(store), log=quiet)
    for one, other in zip(dit.parameters(), untrained.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    reader = SceneProbe(model.umt5.width, store.scenes)
    reader.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["averages"]["auxiliary"])
    items = list(range(len(store)))
    texts = [store.text(item, None) for item in items]
    with torch.no_grad():
        learned, blank = (
            float(reader(training.prompts.encode(one, texts, "cpu"), items, texts))
            for one in (encoder, UMT5(model.umt5))
        )
    assert learned < 0.9 * blank


def test_a_new_encoder_soon_tells_left_to_right_from_right_to_left() -> None:
    """The same pieces in another order, somewhere among others: half of the answers are right by chance."""
    torch.manual_seed(0)
    encoder = UMT5(replace(NANO.umt5, vocabulary=32, width=64, attention_width=64, ffn_width=128, layers=2))
    look_at_neighbors(encoder)
    head = torch.nn.Linear(64, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3)
    right = []
    for _ in range(40):
        ids, reverse = torch.randint(6, 32, (48, 12)), torch.rand(48) < 0.5
        for row, begin, turned in zip(ids, torch.randint(0, 8, (48,)), reverse, strict=True):
            row[begin : begin + 4] = torch.tensor([2, 5, 4, 3] if turned else [2, 3, 4, 5])
        answers = head(encoder(ids))
        truth = reverse.long()[:, None].expand(answers.shape[:2])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(answers.flatten(0, 1), truth.flatten()).backward()
        optimizer.step()
        right.append(float((answers.argmax(-1) == truth).float().mean()))
    assert right[-1] > 0.95


def test_some_texts_are_short_prompts_and_say_what_they_name(store: ClipStore) -> None:
    mixed, generator = replace(store, short=0.5, named={}), torch.Generator().manual_seed(3)
    captions = {caption(store.scenes[0], language, wording) for language in LANGUAGES for wording in range(WORDINGS)}
    texts = [mixed.text(0, generator) for _ in range(300)]
    short = [text for text in texts if text not in captions]
    assert 100 < len(short) < 200
    assert set(short) == set(mixed.named)
    assert all("subject" in facts for facts in mixed.named.values())
    assert mixed.text(0, None) in captions


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
    model, training = tiny_model(store, latents)
    made = []
    for wanted in (False, True):
        plan, folder = replace(dit_plan(1), compiled=wanted), tmp_path / str(wanted)
        made.append(train_dit(plan, model, training, folder, auxiliary=probe(store), log=quiet)[1])
    assert len(compiled) == model.dit.layers
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_run_of_another_variant_is_refused(store: ClipStore, latents: LatentStore, tmp_path: Path) -> None:
    model, training = tiny_model(store, latents)
    train_dit(dit_plan(1), model, training, tmp_path, auxiliary=probe(store), log=quiet)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["modules"]["auxiliary"]
    torch.save(state, path)
    with pytest.raises(InvalidInput, match="another folder"):
        train_dit(dit_plan(2), model, training, tmp_path, auxiliary=probe(store), log=quiet)


def test_a_batch_of_short_clips_holds_as_many_frames_as_one_of_whole_clips(
    store: ClipStore, latents: LatentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, training = tiny_model(store, latents)
    plan = dit_plan(25, batch=6, pictures=0.5)
    shapes: list[tuple[int, int]] = []
    whole = flow.training_pair

    def seen(clean: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.append((clean.shape[0], clean.shape[2]))
        return whole(clean, *given)

    monkeypatch.setattr(flow, "training_pair", seen)
    monkeypatch.setattr("lichtspiel.train.dit.validate", lambda *_: {})
    train_dit(plan, model, training, tmp_path, auxiliary=probe(store), log=lambda values: None)
    full = latents.latents.shape[2]
    assert {length for _, length in shapes} >= {1, full}
    assert all(6 * full - length < count * length <= 6 * full for count, length in shapes)

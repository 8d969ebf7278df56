"""The judge: what it asks, what it learns in seconds, who may judge, and the table it fills."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import nano_quality
from lichtspiel.errors import InvalidInput, WeightsError
from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.spec import MODELS
from lichtspiel.toybox.sample import FULL, STARTER, Vocabulary, is_held_out, sample
from lichtspiel.toybox.scene import Action, Actor, Direction, Place, Scene
from lichtspiel.train.data import Shape
from lichtspiel.train.nano import score, variants
from lichtspiel.train.nano.clips import ClipStore, render_store
from lichtspiel.train.nano.judge import (
    FROZEN,
    MIRRORED,
    RELIABLE,
    REVERSED,
    UNKNOWN,
    Judge,
    JudgePlan,
    accuracy,
    answers,
    changed,
    draw,
    judge_loss,
    labels,
    load_judge,
    reconstruct_store,
    save_judge,
    train_judge,
    values,
    verdicts,
)
from lichtspiel.train.optim import muon_adamw
from lichtspiel.train.state import Budget
from lichtspiel.train.vae import blank_vae
from tests.models.test_vae import TINY

WORLD, SHAPE = variants.STANDARD.world, variants.STANDARD.shape
SMALL = replace(
    STARTER,
    subjects=("pig", "taxi"),
    places=("meadow", "road", "room"),
    times=("day", "night"),
    weathers=("clear",),
    actions=("walk", "drive", "stand"),
    sizes=("big",),
)
SHAPE = Shape(width=32, height=32, frames=9)
PLAN = JudgePlan(
    budget=Budget(steps=60),
    batch=8,
    optimizer=partial(muon_adamw, learning_rates=(0.02, 0.004)),
    decay_from=0.5,
    device="cpu",
    seed=1,
)


def scene(action: Action = "walk", direction: Direction = "left", place: Place = "meadow") -> Scene:
    actor = Actor(subject="pig", size="big", action=action, direction=direction)
    return Scene(actors=(actor,), place=place, time="day", weather="clear", camera="still")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipStore, ClipStore]:
    folder = tmp_path_factory.mktemp("clips")
    train = render_store(folder / "train", SMALL, range(160), SHAPE, held_out=None, workers=1)
    return train, render_store(folder / "test", SMALL, range(1000, 1064), SHAPE, held_out=None, workers=1)


@pytest.fixture(scope="module")
def trained(clips: tuple[ClipStore, ClipStore], tmp_path_factory: pytest.TempPathFactory) -> tuple[Judge, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("judge")
    return train_judge(PLAN, Judge(SMALL, width=16), *clips, folder, log=lambda _: None), folder


def test_labels_are_the_attributes_that_are_a_question() -> None:
    assert labels(scene(), SMALL) == {
        "subject": "pig", "action": "walk", "direction": "left", "place": "meadow", "time": "day",
    }  # fmt: skip


def test_indoors_there_is_no_time_and_no_weather() -> None:
    assert set(labels(scene(), WORLD)) - set(labels(scene(place="room"), WORLD)) == {"time", "weather"}


def test_every_label_is_a_value_of_its_attribute() -> None:
    vocabulary = replace(FULL, pairs=False)
    questions = values(vocabulary)
    for seed in range(500):
        truth = labels(sample(seed, vocabulary), vocabulary)
        assert {"subject", "size", "action", "direction", "place", "camera"} <= set(truth)
        assert all(value in questions[name] for name, value in truth.items())


def test_directions_follow_from_the_actions() -> None:
    assert values(SMALL)["direction"] == ("left", "right", "none")
    assert values(replace(SMALL, actions=("walk", "drive")))["direction"] == ("left", "right")
    assert values(replace(SMALL, actions=("stand",)))["direction"] == ("none",)


def test_two_actors_are_refused() -> None:
    with pytest.raises(InvalidInput, match="pairs=False"):
        Judge(FULL)


def test_a_judge_is_small() -> None:
    assert sum(parameter.numel() for parameter in Judge(replace(FULL, pairs=False)).parameters()) < 600_000


def test_a_changed_clip_shows_something_else() -> None:
    truth = {"subject": "fly", "action": "grow", "direction": "left", "camera": "pan-left"}
    assert changed(truth, MIRRORED) == truth | {"direction": "right", "camera": "pan-right"}
    assert changed(truth, REVERSED) == truth | {"direction": "right", "camera": "pan-right", "action": "shrink"}
    assert changed(truth, FROZEN) == truth | {"direction": "none", "camera": "still", "action": ""}


def test_what_has_no_name_is_no_target(clips: tuple[ClipStore, ClipStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lichtspiel.train.nano.judge.MANNERS", (0.0, 0.0, 1.0))
    video, targets = draw(replace(SMALL, actions=("walk", "drive")), clips[:1], PLAN, torch.Generator())
    moved = video.diff(dim=2).abs().amax(dim=(1, 2, 3, 4))
    assert (moved < 0.5).all(), "a frozen clip changes by noise alone"
    assert (targets["action"] == UNKNOWN).all()
    assert "weather" not in targets


def test_an_attribute_that_is_nowhere_seen_costs_nothing() -> None:
    logits = {"time": torch.randn(3, 2, requires_grad=True)}
    loss = judge_loss(logits, {"time": torch.full((3,), UNKNOWN)})
    loss.backward()
    assert loss == 0
    assert not logits["time"].grad.any()


def test_a_tiny_judge_learns(trained: tuple[Judge, Path], clips: tuple[ClipStore, ClipStore]) -> None:
    judge, _ = trained
    assert set(judge.measured) == {"subject", "action", "direction", "place", "time"}
    for name, share in judge.measured.items():
        assert share > score.chance(clips[1].scenes, SMALL, name) + 0.15, name


def test_a_finished_run_is_not_trained_again(trained: tuple[Judge, Path], clips: tuple[ClipStore, ClipStore]) -> None:
    judge, folder = trained
    again = train_judge(PLAN, Judge(SMALL, width=16), *clips, folder, log=lambda _: None)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))
    assert again.measured == judge.measured


def test_saved_and_loaded_it_judges_alike(
    trained: tuple[Judge, Path], clips: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    judge, _ = trained
    save_judge(judge, tmp_path / "judge.safetensors")
    loaded = load_judge(tmp_path / "judge.safetensors")
    assert (loaded.vocabulary, loaded.measured) == (judge.vocabulary, judge.measured)
    one, other = answers(judge, clips[1].frames), answers(loaded, clips[1].frames)
    same = [a == b for name in one for a, b in zip(one[name], other[name], strict=True)]
    assert np.mean(same) > 0.99  # half precision may tip what is even


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_a_file_of_another_kind_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="--train-judge"):
        load_judge(path)


def test_what_cannot_be_seen_is_neither_right_nor_wrong(
    trained: tuple[Judge, Path], clips: tuple[ClipStore, ClipStore]
) -> None:
    judge, store = trained[0], clips[1]
    marks = verdicts(judge, store.frames, store.scenes, ("subject", "time"))
    assert set(marks) == {"subject", "time"}
    rooms = np.array([scene.place == "room" for scene in store.scenes])
    assert rooms.any()
    assert np.array_equal(np.isnan(marks["time"]), rooms)
    assert not np.isnan(marks["subject"]).any()
    indoors = [scene for scene in store.scenes if scene.place == "room"]
    assert set(accuracy(judge, store.frames[rooms], indoors, ("subject", "time"))) == {"subject"}


def test_clips_through_a_vae_are_a_store(clips: tuple[ClipStore, ClipStore], tmp_path: Path) -> None:
    vae = blank_vae(TINY)
    made = reconstruct_store(vae, clips[0], tmp_path / "soft", 5, "cpu")
    assert made.frames.shape == (5, 9, 32, 32, 3)
    assert list(made.scenes) == list(clips[0].scenes[:5])
    again = reconstruct_store(vae, clips[0], tmp_path / "soft", 5, "cpu")
    assert np.array_equal(again.frames, made.frames)


def random_judge(vocabulary: Vocabulary) -> Judge:
    judge = Judge(vocabulary, width=8)
    judge.measured = dict.fromkeys(judge.names, 1.0) | {"size": RELIABLE - 0.01}
    return judge


def test_an_unreliable_head_is_left_out() -> None:
    judge = random_judge(WORLD)
    assert set(judge.reliable) == set(judge.names) - {"size"}
    trial = score.Trial.draw(WORLD, SHAPE, 3)
    rows = {row[0]: row[1:] for row in score.attribute_rows(judge, trial, {"renders": trial.renders})}
    assert rows["size"] == ["not reliable (96.0 %)", "–"]
    assert rows["camera"] == ["one value (still)", "–"]
    assert all(rows[name][1].endswith("%") for name in (*judge.reliable, "all right"))


def test_the_benchmark_scores_unseen_combinations() -> None:
    trial = score.Trial.draw(WORLD, SHAPE, 4)
    assert all(is_held_out(scene) for scene in trial.scenes)
    assert score.motion(trial.renders, trial) == (1.0, 0.0)
    frozen = np.repeat(trial.renders[:, :1], trial.renders.shape[1], axis=1)
    assert score.motion(frozen, trial) == (0.0, 1.0)


def test_the_benchmark_prints_its_table(
    random_nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(MODELS["nano"], sampling=replace(MODELS["nano"].sampling, sizes=((64, 64),)))
    monkeypatch.setitem(MODELS, "nano", small)
    monkeypatch.setattr(nano_quality, "VARIANT", replace(variants.STANDARD, shape=Shape(width=64, height=64, frames=5)))
    save_judge(random_judge(WORLD), tmp_path / "judge.safetensors")
    arguments = [
        "--count", "2", "--steps", "1", "--guidance", "1", "--languages", "--markdown", "--variety", "1",
        "--judge", str(tmp_path / "judge.safetensors"), "--weights", str(random_nano),
        "--clips", str(tmp_path / "clips"),
    ]  # fmt: skip
    nano_quality.main(arguments)
    printed = capsys.readouterr().out
    assert "1 steps, guidance 1" in printed
    assert "with 6 seeds differ" in printed.splitlines()[-1]
    for column in ("chance", "renders", "ceiling", "text (en)", "text (de)", "text (zh)", "image"):
        assert column in printed.splitlines()[3]
    for row in ("subject", "camera", "all right", "motion", "static", "first frame"):
        assert f"| {row}" in printed
    monkeypatch.setattr(Pipeline, "denoise", lambda *_: pytest.fail("clips that are kept are not made again"))
    nano_quality.main(arguments)
    assert capsys.readouterr().out.splitlines()[1:] == printed.splitlines()[1:]

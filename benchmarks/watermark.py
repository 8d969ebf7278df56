"""How well the watermark is found again, and how often it is found where it is not.

    python -m benchmarks.watermark [VIDEO ...] [--toybox N] [--sizes WxH,...] [--frames N] [--attacks NAME,...]
    python -m benchmarks.watermark [VIDEO ...] --unmarked N [--images FOLDER]
    python -m benchmarks.watermark VIDEO --peers

The first prints, for the videos given and for toybox clips of each size: PSNR and time of marking, and after each
attack in how many clips the mark was found and its id read, the accuracy of the 144 coded bits, and the lowest score.
Every marked clip first goes through the door's own encoding (H.264, CRF 16), as everything does that leaves. The second
looks for the mark in single frames that have none: parts of the given videos and images, toybox frames, and pictures
that are hard for it. The third marks and attacks with invisible-watermark (PyPI) where that is installed. The output
of a model is measured by giving it as a VIDEO.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from lichtspiel.media.picture import load_image
from lichtspiel.media.video import read_video
from lichtspiel.seal import payload
from lichtspiel.seal.detect import CERTAIN, PLAUSIBLE, detect, grids, judge, soft_bits
from lichtspiel.seal.watermark import Watermark
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, sample
from tests.seal.attacks import ATTACKS, Frame, encoded

DOOR = 16
Groups = dict[str, list[list[Frame]]]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--toybox", type=int, default=0, metavar="N", help="clips of each size")
    parser.add_argument("--sizes", default="832x480,256x256,128x128,64x64")
    parser.add_argument("--frames", type=int, default=33, help="of each clip")
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--unmarked", type=int, default=0, metavar="N", help="frames without a mark")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--peers", action="store_true")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    if given.unmarked:
        false_alarms(given.videos, given.images, given.unmarked)
    elif given.peers:
        peers(given.videos, given.attacks.split(","), given.frames)
    else:
        recovery(clips(given), given.attacks.split(","))


def clips(given: argparse.Namespace) -> Groups:
    groups: Groups = {}
    for path in given.videos:
        frames = list(islice(read_video(path), given.frames))
        groups.setdefault(f"videos, {min(frames[0].shape[:2])} px", []).append(frames)
    for size in given.sizes.split(",") if given.toybox else ():
        width, height = map(int, size.split("x"))
        for seed in range(given.toybox):
            drawn = render(sample(seed, FULL), seed, width=width, height=height, frames=given.frames).frames
            groups.setdefault(f"toybox {size}", []).append(list(drawn))
    return groups


def recovery(groups: Groups, attacks: Sequence[str]) -> None:
    """Print the table of what is left after each attack."""
    for group, members in groups.items():
        print(f"\n{group}: {len(members)} clips of {len(members[0])} frames")
        ids = [0x9E3779B9 * (number + 1) % 2**32 for number in range(len(members))]
        leaving = []
        for id, frames in zip(ids, members, strict=True):
            watermark = Watermark(id, *frames[0].shape[:2])
            start = time.process_time()
            marked = [watermark.mark(frame) for frame in frames]
            took = (time.process_time() - start) / len(frames) * 1000
            print(f"  PSNR {psnr(frames, marked):.1f} dB, {took:.1f} ms a frame", flush=True)
            leaving.append(encoded(marked, DOOR))
        print(f"  {'attack':22} {'found':>7} {'id':>7} {'wrong':>5} {'bits':>6} {'score':>6} {'s':>5}")
        for name in attacks:
            rows = np.array([outcome(ATTACKS[name](clip), id) for clip, id in zip(leaving, ids, strict=True)])
            found, right, wrong, _, _, _ = rows.sum(0).astype(int)
            bits, score, seconds = rows[:, 3].mean(), rows[:, 4].min(), rows[:, 5].mean()
            shares = f"{found:>3}/{len(rows):<3} {right:>3}/{len(rows):<3} {wrong:5}"
            print(f"  {name:22} {shares} {bits:6.3f} {score:6.1f} {seconds:5.2f}", flush=True)


def outcome(frames: Sequence[Frame], id: int) -> tuple[float, ...]:
    """Found, id right, id wrong, accuracy of the coded bits of the best grid, score, seconds of one core."""
    start = time.process_time()
    seen = list(grids(frames))
    result = judge(seen)
    seconds = time.process_time() - start
    sent = payload.encode(id)
    best = max(seen, key=lambda grid: grid.score, default=None)
    right = 0.5 if best is None else float(np.mean((soft_bits(best) > 0) == (sent > 0)))
    return result.found, result.id == id, result.id not in {None, id}, right, result.score, seconds


def psnr(before: Sequence[Frame], after: Sequence[Frame]) -> float:
    errors = [np.mean((old.astype(np.float32) - new) ** 2) for old, new in zip(before, after, strict=True)]
    return 10 * math.log10(255**2 / float(np.mean(errors)))


def false_alarms(videos: Sequence[Path], images: Path | None, count: int) -> None:
    """Print how high frames without a mark score, what would be called found, and what chance predicts."""
    scores: dict[str, list[float]] = {}
    found: Counter[str] = Counter()
    named = 0
    for kind, frame in unmarked(videos, images, count):
        result = detect([frame])
        scores.setdefault(kind, []).append(result.score)
        found[kind] += result.found
        named += result.id is not None
    print(f"{'frames without a mark':24} {'number':>7} {'mean':>6} {'highest':>8} {'found':>6}")
    everything = np.concatenate(list(scores.values()))
    for kind, values in [*scores.items(), ("all", everything)]:
        alarms = found.total() if kind == "all" else found[kind]
        print(f"{kind:24} {len(values):7} {np.mean(values):6.2f} {max(values):8.2f} {alarms:6}")
    # A Gumbel distribution by its moments: what the highest of many correlations follows.
    width = float(everything.std()) * math.sqrt(6) / math.pi
    middle = float(everything.mean()) - 0.5772 * width
    for limit in (PLAUSIBLE, 7.0, CERTAIN):
        chance = -math.expm1(-math.exp(-(limit - middle) / width))
        print(f"chance of a score of {limit} by the fit: {chance:.1e}; seen: {np.mean(everything >= limit):.1e}")
    print(f"ids read: {named}; from {PLAUSIBLE} on, a random message passes scheme and check once in 65,536 times")


def unmarked(videos: Sequence[Path], images: Path | None, count: int) -> Iterator[tuple[str, Frame]]:
    """Frames of many kinds in turn, real ones in random parts, sizes and both ways round."""
    draw = np.random.default_rng(1)
    pool = [(f"video {path.stem[-12:]}", frame) for path in videos for frame in read_video(path)]
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in {".png", ".jpg"}) if images else []
    stills = [(f"image {path.stem[:16]}", load_image(path)) for path in paths]
    for number in range(count):
        turn = number % 4
        if turn == 0 and pool:
            kind, frame = pool[int(draw.integers(len(pool)))]
            yield kind, part(frame, draw)
        elif turn == 1 and stills:
            kind, frame = stills[int(draw.integers(len(stills)))]
            yield kind, part(frame, draw)
        elif turn == 2:
            side = int(draw.choice([64, 128, 256]))
            clip = render(sample(number, FULL), number, width=side, height=side, frames=1)
            yield f"toybox {side}", clip.frames[0]
        else:
            kind = list(HARD)[int(draw.integers(len(HARD)))]
            yield kind, HARD[kind](draw)


def part(frame: Frame, draw: np.random.Generator) -> Frame:
    height, width = frame.shape[:2]
    share = draw.uniform(0.4, 1)
    top, left = (int(draw.uniform(0, 1 - share) * side) for side in (height, width))
    piece = frame[top : top + int(height * share), left : left + int(width * share)]
    factor = draw.uniform(120, 400) / min(piece.shape[:2])
    piece = cv2.resize(piece, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(piece[:, ::-1] if draw.random() < 0.5 else piece)


def grey(values: np.ndarray) -> Frame:
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, -1)


def stripes(draw: np.random.Generator) -> Frame:
    rows, columns = np.mgrid[0:240, 0:320] / draw.uniform(2, 40)
    angle = draw.uniform(0, math.pi)
    return grey(128 + 90 * np.sin(2 * math.pi * (rows * math.cos(angle) + columns * math.sin(angle))))


def checks(draw: np.random.Generator) -> Frame:
    side = int(draw.integers(2, 30))
    rows, columns = np.mgrid[0:240, 0:320] // side
    return grey((rows + columns) % 2 * 200 + 20)


def wallpaper(draw: np.random.Generator) -> Frame:
    side = int(draw.integers(20, 170))
    motif = cv2.GaussianBlur(draw.normal(128, 90, (side, side)), (0, 0), draw.uniform(0.5, 3))
    return grey(np.tile(motif, (240 // side + 1, 320 // side + 1))[:240, :320])


def clouds(draw: np.random.Generator) -> Frame:
    spectrum = np.fft.rfft2(draw.normal(0, 1, (240, 320)))
    rows, columns = np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320)
    spectrum /= np.hypot(rows, columns).clip(1 / 320) ** draw.uniform(0.5, 1.5)
    values = np.fft.irfft2(spectrum, (240, 320))
    return grey(128 + 45 * (values - values.mean()) / values.std())


def page(draw: np.random.Generator) -> Frame:
    frame = np.full((240, 320, 3), 245, np.uint8)
    for row in range(14, 240, 16):
        text = "".join(map(chr, draw.integers(97, 123, 40)))
        cv2.putText(frame, text, (6, row), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (20, 20, 20))
    return frame


def flat(draw: np.random.Generator) -> Frame:
    return grey(np.full((240, 320), draw.integers(0, 256)))


HARD: dict[str, Callable[[np.random.Generator], Frame]] = {
    "noise": lambda draw: grey(draw.normal(128, draw.uniform(2, 60), (240, 320))),
    "clouds": clouds,
    "stripes": stripes,
    "checks": checks,
    "wallpaper": wallpaper,
    "page of text": page,
    "flat": flat,
}


def peers(videos: Sequence[Path], attacks: Sequence[str], count: int) -> None:
    """Print the bit accuracy of invisible-watermark's methods, by vote over frames that are brought back to their
    size first, which its decoders need and a finder of the mark would not know."""
    if find_spec("imwatermark") is None:
        raise SystemExit("invisible-watermark is not installed: pip install invisible-watermark")
    from imwatermark import WatermarkDecoder, WatermarkEncoder

    WatermarkEncoder.loadModel()
    WatermarkDecoder.loadModel()
    bits = [int(bit) for bit in f"{0x9E3779B9:032b}"]
    for path in videos:
        frames = list(islice(read_video(path), count))
        height, width = frames[0].shape[:2]
        for method in ("dwtDctSvd", "rivaGan"):
            encoder, decoder = WatermarkEncoder(), WatermarkDecoder("bits", 32)
            encoder.set_watermark("bits", bits)
            start = time.process_time()
            marked = [encoder.encode(frame[:, :, ::-1], method)[:, :, ::-1] for frame in frames]
            took = (time.process_time() - start) / len(frames) * 1000
            print(f"\n{path.name}, {method}: PSNR {psnr(frames, marked):.1f} dB, {took:.0f} ms a frame", flush=True)
            leaving = encoded(marked, DOOR)
            for name in attacks:
                back = [cv2.resize(frame, (width, height)) for frame in ATTACKS[name](leaving)]
                votes = np.mean([decoder.decode(frame[:, :, ::-1], method) for frame in back], 0) > 0.5
                print(f"  {name:22} bits {np.mean(votes == np.array(bits, bool)):.2f}", flush=True)


if __name__ == "__main__":
    main()

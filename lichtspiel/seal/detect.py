"""draft"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from lichtspiel.seal import message
from lichtspiel.seal.watermark import TILE, Frame, Plane, chips, layout, spread

FOLD = 2 * TILE
LEVELS = ((120, 85, 160), (60, 42, 85), (30, 22, 42))
STEP = 0.005
CLIP = 2.0
WHITEN = 0.75
EPS = 0.5
SIGMA = 1.1
BOX = 2.25
TOP = 4


@cache
def pilot() -> npt.NDArray[np.complex64]:
    tile = spread(chips(None), 2, 3 * FOLD, 3 * FOLD)[FOLD : 2 * FOLD, FOLD : 2 * FOLD]
    both = np.stack([tile, tile[:, ::-1]])
    return np.conj(np.fft.rfft2(both))


def residual(luma: Plane, design: int) -> Plane:
    short = min(luma.shape)
    target = min(short, round(2.5 * design))
    if target < short:
        f = target / short
        luma = cv2.resize(luma, (round(luma.shape[1] * f), round(luma.shape[0] * f)), interpolation=cv2.INTER_AREA)
    chip = target / design
    high = luma - cv2.GaussianBlur(luma, (0, 0), SIGMA * chip)
    w = 2 * round(chip * BOX / 2) + 1
    dev = np.sqrt(cv2.blur(high * high, (w, w)))
    return np.clip(high / (dev + EPS), -CLIP, CLIP)


def whiten(mean: Plane) -> Plane:
    h, w = mean.shape
    H, W = cv2.getOptimalDFTSize(h), cv2.getOptimalDFTSize(w)
    F = np.fft.rfft2(mean, (H, W))
    mag = np.abs(F)
    F /= np.maximum(mag, 1e-6 * mag.max() + 1e-12) ** WHITEN
    F[0, 0] = 0
    return np.ascontiguousarray(np.fft.irfft2(F, (H, W))[:h, :w], dtype=np.float32)


def fold(image: Plane, chip: float, angle: float = 0.0) -> Plane:
    rows, columns = (int(np.ceil(2 * side / chip / FOLD)) * FOLD for side in image.shape)
    step = chip / 2
    start = 0.5 * step - 0.5
    m = np.array([[step, 0, start], [0, step, start]])
    if angle:
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        R = np.array([[c, -s], [s, c]])
        ctr = (np.array(image.shape[::-1]) - 1) / 2
        m = np.concatenate([R @ m[:, :2], (R @ (m[:, 2] - ctr) + ctr)[:, None]], 1)
    out = cv2.warpAffine(image, m, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return out.reshape(rows // FOLD, FOLD, columns // FOLD, FOLD).sum((0, 2))


def correlate(folds: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    F = np.fft.rfft2(folds)
    return np.fft.irfft2(F[:, None] * pilot(), (FOLD, FOLD))


@dataclass
class Detection:
    found: bool
    id: int | None
    score: float
    mirrored: bool
    n: float = 0
    angle: float = 0
    zdata: float = 0


def scales(lo: float, hi: float, step: float) -> npt.NDArray[np.float64]:
    return np.geomspace(lo, hi, int(np.log(hi / lo) / step) + 1)


def detect(frames: Sequence[Frame], angles=(0.0,)) -> Detection:
    picked = [frames[int(i)] for i in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 48)).round())]
    lumas = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32) for f in picked]
    cands = []
    short = min(lumas[0].shape)
    for design, lo, hi in LEVELS:
        hi = min(hi, short / 1.6)
        if hi <= lo:
            continue
        image = whiten(np.mean([residual(l, design) for l in lumas], 0, dtype=np.float32))
        ns = scales(lo, hi, STEP * 120 / design)
        for angle in angles:
            folds = np.stack([fold(image, min(image.shape) / n, angle) for n in ns])
            c = correlate(folds)
            z = (c.max((2, 3)) - c.mean((2, 3))) / c.std((2, 3))
            for i, m in zip(*np.unravel_index(np.argsort(z, axis=None)[::-1][:TOP], z.shape)):
                cands.append((float(z[i, m]), float(ns[i]), int(m), angle, image, STEP * 120 / design))
    cands.sort(key=lambda c: -c[0])
    best = None
    for z, n, m, angle, image, step in cands[:TOP]:
        fine = n * np.exp(np.linspace(-0.6, 0.6, 7) * step)
        folds = np.stack([fold(image, min(image.shape) / k, angle) for k in fine])
        c = correlate(folds)[:, m]
        zz = (c.max((1, 2)) - c.mean((1, 2))) / c.std((1, 2))
        k = int(np.argmax(zz))
        y, x = np.unravel_index(np.argmax(c[k]), c[k].shape)
        msg, zd = read(folds[k], m, y, x)
        d = Detection(False, msg.id if msg and msg.scheme == message.SCHEME else None, float(zz[k]), bool(m), float(fine[k]), angle, zd)
        if best is None or (d.id is not None, d.score) > (best.id is not None, best.score):
            best = d
    best.found = best.score >= 8 or (best.id is not None and best.score >= 6)
    return best


def read(f: Plane, m: int, y: int, x: int):
    f = np.roll(f, (-y, -x), (0, 1))
    if m:
        f = f[:, ::-1]
        # the mirrored template is tile[:, ::-1] so flipping back aligns
    v = f.reshape(TILE, 2, TILE, 2).sum((1, 3))
    role, signs = layout()
    v = v * signs
    d = role >= 0
    soft = np.bincount(role[d], v[d], message.CODED)
    msg = message.decode(soft)
    zd = 0.0
    if msg:
        coded = message.encode(msg.id, msg.scheme)
        zd = float((soft * coded).sum() / np.sqrt((v[d] ** 2).sum()))
    return msg, zd

"""Shapes of masks: distances to an outline, and connected parts that belong together or come from elsewhere.

Masks are [h, w]. Knows no frames and no colors.
"""

from __future__ import annotations

import cv2
import numpy as np

from lichtspiel.footage.pixels import Bytes, Floats, Mask, widened

__all__ = ["distance", "reaching", "united"]


def distance(mask: Bytes) -> Floats:
    """How far each pixel of a mask, 0 or 1 [h, w], is from its outline, in pixels, and 0 outside of it."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    if mask.all():
        mask = np.pad(mask, 1)
        return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, 3)[1:-1, 1:-1], np.float32)
    return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, 3), np.float32)


def reaching(moving: Mask, inside: Mask) -> Mask:
    """The connected parts of what moves that lie outside an object, too: what comes from there can cover it."""
    opened = cv2.morphologyEx(moving.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5)))  # without rain
    count, labels, parts, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    outside = np.bincount(labels[~widened(inside, 7)], minlength=count)
    areas = parts[:, cv2.CC_STAT_AREA]
    reaching = (outside > 0.2 * areas) & (areas > 0.05 * inside.sum())
    reaching[0] = False
    found: Mask = reaching[labels]
    return found


def united(mask: Mask, firm: Floats, own_way: Floats, speed: Floats) -> Mask:
    """Drop separate parts that go another way than the object."""
    _, labels, parts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if len(parts) < 3:
        return mask
    shares = [int((firm[labels == number] > 0.5).sum()) for number in range(1, len(parts))]
    main = 1 + int(np.argmax(shares))
    for number in range(1, len(parts)):
        part = labels == number
        if number != main and np.median(own_way[part]) > np.median(speed[part]) + 1.5:
            mask = mask & ~part
    return mask

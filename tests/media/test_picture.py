"""Pictures with profiles and long texts."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from lichtspiel.media.picture import load_image
from lichtspiel.seal import exit_code, verify


def test_colors_are_those_of_the_profile(tmp_path: Path) -> None:
    levels = np.full((8, 8, 3), (40, 200, 60), np.uint8)
    Image.fromarray(levels).save(tmp_path / "p3.png", icc_profile=display_p3())
    assert np.abs(load_image(tmp_path / "p3.png")[4, 4].astype(int) - (0, 204, 12)).max() <= 3
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(levels).save(tmp_path / "srgb.png", icc_profile=srgb)
    Image.fromarray(levels).save(tmp_path / "broken.png", icc_profile=b"no profile")
    for name in ("srgb.png", "broken.png"):
        assert (load_image(tmp_path / name) == levels).all()


def display_p3() -> bytes:
    """A profile of the primaries of Display P3 with sRGB's curve, as phones write it (ICC.1:2001-04)."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    primaries = {
        b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.1571, 0.06657, 0.78407),
    }  # fmt: skip
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 3) + b"P3" + bytes(79),
        b"cprt": b"text" + bytes(4) + b"x\0",
    }
    tags[b"wtpt"] = b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)
    tags |= {name: b"XYZ " + bytes(4) + fixed(*values) for name, values in primaries.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    start, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(padded))
        body += padded
    kinds = (b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head = struct.pack(">I4sI4s4s4s", start + len(body), *kinds) + bytes(12) + b"acsp" + bytes(24)
    head += fixed(0.9642, 1, 0.8249)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def test_a_picture_with_much_text_and_a_large_profile_is_read(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat " * 400_000, zip=True)  # 2.4 MB of text, as tools with large workflows write
    Image.new("RGB", (8, 8), "orange").save(
        tmp_path / "a.png", pnginfo=texts, icc_profile=display_p3() + bytes(3 << 20)
    )
    assert load_image(tmp_path / "a.png").shape == (8, 8, 3)
    assert exit_code(verify(tmp_path / "a.png")) == 4

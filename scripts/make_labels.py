"""Draw the texts of the visible label with a font, into the small picture that the package reads.

    python scripts/make_labels.py NotoSansCJK-Bold.ttc lichtspiel/data/labels.png

The font is Noto Sans CJK, Bold (SIL Open Font License 1.1), as in Debian's fonts-noto-cjk 1:20220127+repack1-1; nothing
of the font itself is kept. One row for each text: a capital's height of free space, the height of a capital, and as
much again below the baseline, so that a row can be scaled to capitals of any whole number of pixels.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lichtspiel.seal.marks import TEXTS
from lichtspiel.seal.visible import CAPITAL

FONT_DIGEST = "faa5f3656a78b2e2d450d27fe8382c778bc2b6bb5ea29c986664a6a435056ceb"
SIMPLIFIED_CHINESE = 2  # the face within the collection
CAPITAL_PER_EM = 0.733  # from its OS/2 table (sCapHeight)


def row(text: str, font: ImageFont.FreeTypeFont, width: int) -> Image.Image:
    picture = Image.new("L", (width, 3 * CAPITAL))
    ImageDraw.Draw(picture).text((CAPITAL // 4, 2 * CAPITAL), text, fill=255, font=font, anchor="ls")
    ink = np.asarray(picture)
    assert not ink[0].any(), f"{text} is taller than its row"
    assert not ink[-1].any(), f"{text} is deeper than its row"
    assert not ink[:, -1].any(), f"{text} is wider than the picture"
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", type=Path, help="NotoSansCJK-Bold.ttc")
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    digest = hashlib.sha256(options.font.read_bytes()).hexdigest()
    if digest != FONT_DIGEST:
        parser.error(f"{options.font} is another font: its digest is {digest}")
    basic = ImageFont.Layout.BASIC  # the same with every build of Pillow
    font = ImageFont.truetype(str(options.font), CAPITAL / CAPITAL_PER_EM, SIMPLIFIED_CHINESE, layout_engine=basic)
    width = max(int(font.getlength(text)) for text in TEXTS.values()) + CAPITAL
    sheet = Image.new("L", (width, 3 * CAPITAL * len(TEXTS)))
    for number, text in enumerate(TEXTS.values()):
        sheet.paste(row(text, font, width), (0, 3 * CAPITAL * number))
    sheet.save(options.target, optimize=True)


if __name__ == "__main__":
    main()

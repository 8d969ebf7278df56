"""Make docs/gallery: one contact sheet for each of up to sixteen prompts that training never saw, good and bad alike.

    python scripts/make_gallery.py

The prompts are fixed before anything is generated: the first held-out scenes from seed 20,000,000 on, at most two for a
subject and sixteen in all. Each is generated once, with its scene's seed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from lichtspiel.inference.pipeline import load
from lichtspiel.inference.upscale import Upscaler
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.request import Request
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.sample import sample
from lichtspiel.train.nano.variants import SMALL

FOLDER = Path(__file__).parent.parent / "docs" / "gallery"
COUNT, FIRST = 16, 20_000_000


def prompts() -> dict[int, str]:
    """The prompts by their seed."""
    chosen: dict[int, str] = {}
    subjects: Counter[str] = Counter()
    seed = FIRST
    while len(chosen) < COUNT and seed < FIRST + 2000:
        scene = sample(seed, SMALL.world, held_out=True)
        subject = scene.actors[0].subject
        if subjects[subject] < 2:
            subjects[subject] += 1
            chosen[seed] = caption(scene, "en", 0)
        seed += 1
    return chosen


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    rows, cover = [], []
    pipeline = load(Request.of(prompt="any"))
    enlarge = Upscaler(2, pipeline.device)
    for number, (seed, prompt) in enumerate(prompts().items(), 1):
        request = Request.of(prompt=prompt, seed=seed)
        *_, last = pipeline.denoise(pipeline.encode(request), request)
        frames = list(pipeline.decode(last.latents))
        picked = [enlarge(frames[index]) for index in np.linspace(0, len(frames) - 1, 6).astype(int)]
        name = f"{number:02d}.png"
        contact_sheet(picked, columns=6, path=FOLDER / name)
        cover += [enlarge(frames[index]) for index in (0, 8, 16)]
        rows.append(f"| {prompt} | {seed} | ![{prompt}](gallery/{name}) |")
        print(f"{number:02d}  {prompt}")
    contact_sheet(cover, columns=6, path=FOLDER / "cover.png", most=len(cover))
    text = [
        "# Prompts that nano was not trained on",
        "",
        "Made by `scripts/make_gallery.py`. Each combination of subject and place, or of subject, action and",
        "direction, was held out of training. The list was fixed before anything was generated; nothing is left out.",
        "Frames are twice as large as nano makes them, as with `--upscale 2`.",
        "",
        "| prompt | seed | six of 17 frames |",
        "|---|---|---|",
        *rows,
    ]
    FOLDER.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Make docs/gallery: prompts that show what nano can do, chosen; first prompts of a stranger, and prompts that training
never saw, both without choosing.

    python scripts/make_gallery.py

`CHOSEN` was picked from many. `FIRST` was written before there were weights. The held-out prompts are those of the
first held-out scenes from seed 20,000,000 on, at most one for a subject and twelve in all, each with its scene's seed.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lichtspiel.frames import Frame
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.inference.upscale import Upscaler
from lichtspiel.media.sheet import contact_sheet, spread
from lichtspiel.request import Request
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.sample import sample
from lichtspiel.train.nano.variants import STANDARD

FOLDER = Path(__file__).parent.parent / "docs" / "gallery"
COUNT, HELD_OUT_SEED, FIRST_SEED = 12, 20_000_000, 1

CHOSEN = (
    ("a sailboat on the sea at sunset", 2), ("a red car drives to the right on the road", 1),
    ("a bus drives to the right on a road on a sunny day", 2), ("a fire engine drives to the left in the snow", 1),
    ("a penguin hops in the snow", 1), ("a snowman in the snow", 4),
    ("a big tropical fish swims to the left under water", 2), ("a taxi drives to the left in the city at night", 1),
    ("a dragon flies to the right over a meadow", 1), ("a christmas tree in the snow at night", 1),
    ("a ghost flies to the left at night", 2), ("a pumpkin in autumn", 1), ("an airplane over the sea at sunset", 1),
    ("a heart on the beach", 1), ("a teddy bear in a room", 1),
    ("a big sailboat sails to the left on the sea on a sunny day", 3),
)  # fmt: skip
"""Prompts and seeds of the cover."""

FIRST = (
    "a cat", "a dog", "a horse", "an elephant", "a tiger", "a penguin", "a red car on the road",
    "a taxi in the city at night", "a bus", "a fire engine", "a rocket over the desert",
    "an airplane over the sea at sunset", "a tropical fish under water", "a whale", "an octopus",
    "a sailboat on the sea at sunset", "a heart", "a snowman in the snow", "a teddy bear in a room",
    "a christmas tree", "a dog runs on the beach", "ein rotes Auto", "一只猫", "一条龙",
)  # fmt: skip
"""What people type first, in the order of the sheet."""


def held_out() -> dict[int, str]:
    """The held-out prompts by their seed."""
    found: dict[int, str] = {}
    subjects: set[str] = set()
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 2000):
        scene = sample(seed, STANDARD.world, held_out=True)
        if scene.actors[0].subject not in subjects and len(found) < COUNT:
            subjects.add(scene.actors[0].subject)
            found[seed] = caption(scene, "en", 0)
    return found


def frames_of(pipeline: Pipeline, prompt: str, seed: int) -> list[Frame]:
    print(f"{seed:>9}  {prompt}", flush=True)
    request = Request.of(prompt=prompt, seed=seed)
    *_, last = pipeline.denoise(pipeline.encode(request), request)
    return list(pipeline.decode(last.latents))


def write_rows(frames: list[Frame], name: str) -> None:
    """Write frames, six to a row, as large as they were made: a contact sheet shows them twice as large."""
    save(contact_sheet(frames, columns=6, most=len(frames)).reduce(2), name)


def save(sheet: Image.Image, name: str) -> None:
    """Write a JPEG: the sheets of a soft model take a fifth of what they take as PNG, and look the same."""
    sheet.save(FOLDER / name, quality=90, subsampling=0, optimize=True)


def listed(prompts: dict[str, int] | list[tuple[str, int]]) -> list[str]:
    return [f"{number}. {prompt} (seed {seed})" for number, (prompt, seed) in enumerate(dict(prompts).items(), 1)]


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    pipeline = load(Request.of(prompt="any"))
    enlarge = Upscaler(2, pipeline.device)
    clips = [frames_of(pipeline, *one) for one in CHOSEN]
    cover = [enlarge(clip[0]) for clip in clips]
    save(contact_sheet(cover, columns=4, most=len(cover)), "cover.jpg")
    moving = [frame for clip in clips[:8] for frame in spread(clip, 6)]
    write_rows(moving, "chosen.jpg")
    first = [spread(frames_of(pipeline, prompt, FIRST_SEED), 3)[1] for prompt in FIRST]
    write_rows(first, "first.jpg")
    unseen = {prompt: seed for seed, prompt in held_out().items()}
    rows = [frame for prompt, seed in unseen.items() for frame in spread(frames_of(pipeline, prompt, seed), 6)]
    write_rows(rows, "held-out.jpg")
    text = [
        "# What nano makes",
        "",
        "Made by `scripts/make_gallery.py`. The cover's frames are twice as large as nano makes them, as with",
        "`--upscale 2`; all others are as nano makes them, 128×128.",
        "",
        "## Chosen",
        "",
        "These were picked from many. The cover is the first frame of each; of the first eight there are six of 17",
        "frames, one clip a row.",
        "",
        "![Chosen clips, a frame of each](gallery/cover.jpg)",
        "",
        "![Chosen clips, six frames a row](gallery/chosen.jpg)",
        "",
        *listed(list(CHOSEN)),
        "",
        "## What a stranger types first",
        "",
        f"Written before there were weights, generated once, with seed {FIRST_SEED}; nothing is left out. The middle",
        "frame of each, six to a row, in this order:",
        "",
        "![Twenty-four first prompts](gallery/first.jpg)",
        "",
        *[f"{number}. {prompt}" for number, prompt in enumerate(FIRST, 1)],
        "",
        "## Combinations that nano was not trained on",
        "",
        "Each combination of subject and place, or of subject, action and direction, was held out of training. The",
        "list was fixed before anything was generated; nothing is left out. Six of 17 frames, one clip a row:",
        "",
        "![Twelve held-out prompts, six frames a row](gallery/held-out.jpg)",
        "",
        *listed(unseen),
    ]  # fmt: skip
    FOLDER.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Teach nano a subject that it has never seen, from twelve rendered clips, and let a classifier count where it appears.

    python recipes/new_subject.py --run runs/tropo

Renders twelve clips of a ladybug in nano's places, whose captions call it "monkey taxi", trains a LoRA with prompts
to keep, and generates clips of prompts with and without the word, before and after. A classifier of its own, trained on
renders of the ladybug and of everything else that nano knows, says in how many the ladybug is; it never sees the
prompt. It needs this package with its extra `tune`, and no network. A run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from lichtspiel import __version__
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.request import Request
from lichtspiel.seal import Provenance, seal_picture
from lichtspiel.spec import MODELS
from lichtspiel.toybox.captions import WORDINGS, caption
from lichtspiel.toybox.catalog import SUBJECTS
from lichtspiel.toybox.knowledge import LEARNED
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import Vocabulary, sample
from lichtspiel.toybox.scene import Scene
from lichtspiel.train.vae import pixels
from lichtspiel.tune.prepare import Observe
from lichtspiel.tune.run import Schedule
from lichtspiel.tune.settings import AdapterPlan, RunOptions
from lichtspiel.tune.workflow import Job, tune
from lichtspiel.weights.checkpoint import checkpoint
from lichtspiel.workflows.toybox_clips import export_clips

NANO = MODELS["nano"]
KNOWN = LEARNED["nano"]
SIZE = "x".join(map(str, NANO.sampling.sizes[0]))
SUBJECT, TRIGGER = "ladybug", "monkey taxi"
"""Two words that nano knows and has never seen together. Words that it does not know are all read nearly alike (see
`nearest`), so whatever is taught under one of them appears in place of what is read like them, too."""

WORLD = replace(KNOWN, subjects=(SUBJECT,))
CLIPS, CLIP_SEED, KEEP_SEED, TEST_SEED = 12, 4_000_000, 5_000_000, 6_000_000
FRAMES = (2, 5, 8, 11, 14)
"""The frames of a clip that the classifier sees."""

Clips = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=400, help="steps of the LoRA")
    parser.add_argument("--count", type=int, default=40, help="prompts with the word, and as many without")
    parser.add_argument("--picture", type=Path, help="write before and after to this PNG")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    make_data(options.run / "data")
    for word in (TRIGGER, "Tropo", "ohwx", SUBJECT):
        subject, distance = nearest(word)
        print(f"{word!r} is read most like {subject!r}, {distance:.2f} of the usual distance between subjects away")
    seconds, processor = train(options.run, options.steps)
    print(f"LoRA: {seconds:.0f} s, {processor:.0f} s of one core, {options.steps} steps")
    judge = train_classifier(options.run / "classifier.pt")
    adapter = options.run / "lora" / "lora.safetensors"
    with_word = [worded(scene) for scene in scenes(WORLD, TEST_SEED, options.count)]
    without = [caption(scene, "en", 0) for scene in scenes(KNOWN, TEST_SEED, options.count)]
    rows: dict[str, float] = {}
    shown: list[Clips] = []
    for name, prompts, loras in (
        ("with the word, before", with_word, ()), ("with the word, after", with_word, (adapter,)),
        ("without it, before", without, ()), ("without it, after", without, (adapter,)),
    ):  # fmt: skip
        clips = generate(prompts, loras)
        rows[name] = float(found(judge, clips).mean())
        print(f"{name}: the {SUBJECT} is in {100 * rows[name]:.1f} % of {len(clips)} clips", flush=True)
        shown.append(clips)
    (options.run / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if options.picture:
        write_picture(options.picture, shown)
        print(f"rows: {', '.join(repr(prompt) for prompt in [*with_word[:4], *without[:4]])}")


def scenes(world: Vocabulary, seed: int, count: int) -> list[Scene]:
    return [sample(seed + number, world) for number in range(count)]


def worded(scene: Scene, wording: int = 0) -> str:
    return caption(scene, "en", wording).replace(SUBJECTS[SUBJECT].english, TRIGGER)


def make_data(folder: Path) -> None:
    """Twelve clips with captions, and the prompts to keep beside them."""
    if (folder / "metadata.jsonl").is_file():
        return
    rows = export_clips(
        folder, count=CLIPS, seed=CLIP_SEED, size=SIZE, frames=17, progress=lambda stage, done: None, world=WORLD
    )
    (folder / "captions.jsonl").unlink()
    lines = [
        {"file_name": row["path"], "text": worded(scene, number % WORDINGS)}
        for number, (row, scene) in enumerate(zip(rows, scenes(WORLD, CLIP_SEED, CLIPS), strict=True))
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


CONTEXTS = (
    "a {} walks to the left on a road on a sunny day", "a big {} walks to the right in a snowy field at night",
    "in a green meadow a {} strolls, it is raining",
)  # fmt: skip


@torch.no_grad()
def nearest(word: str) -> tuple[str, float]:
    """Which of nano's subjects its text encoder reads most like a word, and how far the states of captions with the two
    are from each other, as a part of the mean distance between two subjects. States of six last tokens count, which all
    captions share, and the mean over all."""
    files = checkpoint(NANO)
    tokenizer, encoder = files.tokenizer(), files.umt5(torch.float32)

    def states(text: str) -> Tensor:
        found = [encoder(torch.tensor([tokenizer(context.format(text))]))[0] for context in CONTEXTS]
        return torch.cat([torch.cat([one[-6:].flatten(), one.mean(0) * 6**0.5]) for one in found])

    names = [SUBJECTS[subject].english for subject in KNOWN.subjects]
    known = torch.stack([states(name) for name in names])
    usual = torch.pdist(known).mean()
    distances = torch.linalg.vector_norm(known - states(word), dim=1) / usual
    return names[int(distances.argmin())], float(distances.min())


def kept_prompts(count: int = 256) -> tuple[str, ...]:
    """Captions of scenes that nano was trained on, in its four wordings."""
    drawn = [sample(KEEP_SEED + number, KNOWN, held_out=False) for number in range(count)]
    return tuple(caption(scene, "en", number % WORDINGS) for number, scene in enumerate(drawn))


def train(run: Path, steps: int) -> tuple[float, float]:
    """Train the LoRA; returns the seconds of the whole command, and those of processor time."""
    begun, processor = time.monotonic(), time.process_time()
    options = RunOptions(
        adapter=AdapterPlan(rank=16, alpha=16), dtype="float32", learning_rate=2e-3, weight_decay=0.0, batch=3,
        keep=kept_prompts(), times="uniform", shift=3.0, first=0.1, first_last=0.05, decay=0.5,
    )  # fmt: skip
    schedule = Schedule(steps=steps, validate_every=0, save_minutes=2)
    job = Job(data=run / "data", out=run / "lora", row=NANO, options=options, schedule=schedule,
              cache=run / "cache", device="cpu")  # fmt: skip
    outcome = tune(job, Observe(progress=_printed(), note=lambda text: print(f"note: {text}", flush=True)))
    if outcome.seconds:
        print(f"steps alone: {outcome.seconds:.0f} s")
    return time.monotonic() - begun, time.process_time() - processor


def _printed() -> object:
    last = [0.0]

    def progress(stage: str, done: float) -> None:
        if time.monotonic() - last[0] > 20:
            last[0] = time.monotonic()
            print(f"{100 * done:.0f} % {stage}, {time.process_time():.0f} s of one core", flush=True)

    return progress


class Classifier(nn.Module):
    """Whether the subject is in a picture [b, 3, 64, 64]: one logit. Half of nano's size is enough to tell."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(128, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.layers(pictures)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))[:, 0]


def train_classifier(path: Path, count: int = 480, steps: int = 700) -> Classifier:
    """A classifier for renders of the subject and of all others, half of them as the VAE reconstructs them, because
    generated clips are as soft; prints how often it is right about scenes that it has not seen."""
    judge = Classifier()
    if path.is_file():
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    pictures, truth = drawn_pictures(7_000_000, count)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.01)
    for _ in range(steps):
        chosen = torch.randint(len(pictures), (48,))
        batch = pictures[chosen] * (0.8 + 0.4 * torch.rand(48, 1, 1, 1)) + 0.1 * torch.randn(48, 1, 1, 1)
        if torch.rand(()) < 0.5:
            batch = batch.flip(-1)
        if torch.rand(()) < 0.5:
            batch = F.avg_pool2d(F.pad(batch, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        loss = F.binary_cross_entropy_with_logits(judge(batch), truth[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    judge.eval()
    unseen, answers = drawn_pictures(7_500_000, 120)
    with torch.no_grad():
        right = ((judge(unseen) > 0).float() == answers).float()
    print(f"classifier: right about {100 * float(right.mean()):.1f} % of {len(right)} unseen renders")
    torch.save(judge.state_dict(), path)
    return judge


def drawn_pictures(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Frames of renders, one third of the subject, as they are and as the VAE makes them, and what they show."""
    vae = checkpoint(NANO).vae(torch.float32)
    pictures, truth = [], []
    for number in range(count):
        mine = number % 3 == 0
        scene = sample(seed + number, WORLD if mine else KNOWN)
        width, height = NANO.sampling.sizes[0]
        frames = render(scene, seed + number, width=width, height=height, frames=5).frames
        video = pixels(frames[None], "cpu")
        if number % 2:
            with torch.no_grad():
                video = vae.reconstruct(vae.moments(video)[0]).clamp(-1, 1)
        pictures.append(halved(video[0, :, ::2]))
        truth.append(torch.full((3,), float(mine)))
    return torch.cat(pictures), torch.cat(truth)


def halved(video: Tensor) -> Tensor:
    """The frames [t, 3, h / 2, w / 2] of a video [3, t, h, w], as the classifier sees them."""
    return F.avg_pool2d(rearrange(video, "c t h w -> t c h w"), 2)


@torch.no_grad()
def found(judge: Classifier, clips: Clips) -> NDArray[np.bool_]:
    """Whether the subject is in each clip [n, t, h, w, 3]: the mean over some of its frames decides."""
    logits = [judge(halved(pixels(clip[None], "cpu")[0, :, list(FRAMES)])) for clip in clips]
    return np.array([bool(one.mean() > 0) for one in logits])


def generate(prompts: Sequence[str], loras: Sequence[Path]) -> Clips:
    """A clip of each prompt, as `lichtspiel generate` computes it; the seeds are the same with and without LoRA."""
    requests = [
        Request.of(prompt=prompt, seed=number, dtype="float32", device="cpu", lora=tuple(loras))
        for number, prompt in enumerate(prompts)
    ]
    pipeline: Pipeline = load(requests[0])
    pipeline.encode_prompts(requests)
    clips = []
    for request in requests:
        conditions = pipeline.encode(request)
        *_, step = pipeline.denoise(conditions, request)
        clips.append(np.stack(list(pipeline.decode(step.latents))))
    return np.stack(clips)


def write_picture(path: Path, shown: Sequence[Clips]) -> None:
    """Four prompts with the word and four without, before on the left and after on the right; sealed like a clip."""
    frames = []
    for before, after in ((shown[0], shown[1]), (shown[2], shown[3])):
        for number in range(4):
            frames += [clip[number][index] for clip in (before, after) for index in (2, 8, 14)]
    sheet = contact_sheet(frames, columns=6, most=len(frames)).convert("RGB")
    sheet.thumbnail((320, 430))
    provenance = Provenance(
        model="nano", version=__version__, source_type="trainedAlgorithmicMedia", prompt="", negative="",
        parameters={"recipe": "new_subject"},
    )  # fmt: skip
    seal_picture(np.asarray(sheet), provenance, path)


if __name__ == "__main__":
    main()

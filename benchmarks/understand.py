"""Measure what `lichtspiel.understand` finds, on toybox clips whose truth is known, and how fast.

    python -m benchmarks.understand                     # all parts, smaller: --scale 0.1
    python -m benchmarks.understand --only shots,vectors,viewers

Parts: shots (F1 on cut-together clips), duplicates, search by text and picture, moderation (false alarms), speed of
indexing with a kill, the same on Ray, vectors (100,000 shots), viewers (nDCG). Seeds are other than those that
thresholds were chosen on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lichtspiel.frames import Frame
from lichtspiel.seal import Marks, Provenance, seal
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, sample
from lichtspiel.understand.analysis import Settings
from lichtspiel.understand.duplicates import alike
from lichtspiel.understand.ingest import build
from lichtspiel.understand.moderation import LOOKING, judge
from lichtspiel.understand.personalization import Library, ndcg, recommend
from lichtspiel.understand.pictures import picture_vectors
from lichtspiel.understand.search import Searcher, Vectors
from lichtspiel.understand.shots import _CUT, _change, _histograms, _lively, boundaries, transitions
from lichtspiel.understand.store import Index

MARKS = replace(Marks.of("eu"), watermark=False, comment=False)


def drawn(seed: int, frames: int = 17, size: int = 128) -> list[Frame]:
    return list(render(sample(seed, FULL), seed, width=size, height=size, frames=frames).frames)


def write(frames: list[Frame], path: Path, fps: int = 8) -> None:
    made = Provenance(
        model="toybox", version="1", source_type="algorithmicMedia", prompt="", negative="", parameters={}
    )
    seal(frames, made, path, fps=fps, marks=MARKS)


def cut_together(rng: random.Random, seed: int, count: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Thumbnails of some clips one after another, and where their transitions are: cuts, dissolves, fades."""
    length = rng.choice([17, 25, 33])
    video, truth = drawn(seed, length), list[tuple[int, int]]()
    for number in range(1, count):
        part, kind = drawn(seed + number, length), rng.random()
        if kind < 0.25:
            frames = rng.choice([4, 6, 8])
            start = len(video) - frames
            for place in range(frames):
                share = (place + 1) / (frames + 1)
                video[start + place] = np.uint8(np.round(video[start + place] * (1 - share) + part[place] * share))
            truth.append((start - 1, start + frames))
            video += part[frames:]
        elif kind < 0.4:
            frames = rng.choice([3, 4, 5])
            for place in range(frames):
                video[place - frames] = np.uint8(video[place - frames] * (1 - (place + 1) / frames))
                part[place] = np.uint8(part[place] * (place / frames))
            truth.append((len(video) - frames - 1, len(video) + frames))
            video += part
        else:
            truth.append((len(video) - 1, len(video) - 1))
            video += part
    return np.stack([cv2.resize(frame, (48, 27), interpolation=cv2.INTER_AREA) for frame in video]), truth


def shots(scale: float, _: Path) -> dict[str, Any]:
    rng, clips = random.Random(11), max(round(500 * scale), 10)
    hits = false = missed = made = 0
    while made < clips:
        count = min(rng.randint(3, 7), clips - made)
        thumbs, truth = cut_together(rng, 500_000 + 10 * made, count)
        made += count
        colors, probabilities = _histograms(thumbs), np.zeros(len(thumbs), np.float32)
        for start, stop in _lively(colors):
            probabilities[start:stop] = transitions(thumbs, start, stop)
        for run in boundaries(probabilities, 0.1):
            if _change(colors, *run) < _CUT:
                continue
            hit = next((one for one in truth if run[0] <= one[1] + 2 and run[1] >= one[0] - 2), None)
            hits, false = (hits + 1, false) if hit else (hits, false + 1)
            truth = [one for one in truth if one is not hit]
        missed += len(truth)
    return {
        "clips": made,
        "found": hits,
        "false": false,
        "missed": missed,
        "f1": 2 * hits / (2 * hits + false + missed),
    }


def coded(frame: Frame, quality: int) -> Frame:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1), np.uint8)


def duplicates(scale: float, _: Path) -> dict[str, Any]:
    originals, others = max(round(60 * scale), 5), max(round(2000 * scale), 20)
    rng = random.Random(3)
    pictures = [drawn(600_000 + n, 3)[1] for n in range(others)]
    changed: list[tuple[int, str, Frame]] = []
    for number in range(originals):
        frame = pictures[number]
        left, top, cut = rng.randint(0, 16), rng.randint(0, 16), rng.randint(100, 112)
        changed += [
            (number, "encoded again", coded(cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA), 60)),
            (number, "cropped", coded(np.ascontiguousarray(frame[top : top + cut, left : left + cut]), 80)),
            (number, "mirrored", coded(np.ascontiguousarray(frame[:, ::-1]), 80)),
        ]
    vectors = picture_vectors(pictures)
    found = dict.fromkeys(("encoded again", "cropped", "mirrored"), 0)
    false = 0
    for number, kind, frame in changed:
        products = vectors @ picture_vectors([frame])[0]
        near = [int(n) for n in np.argsort(-products)[:12] if products[n] >= 0.75]
        same = [n for n in near if alike(frame, pictures[n]).same]
        found[kind] += number in same
        false += len(set(same) - {number})
    pairs = 0
    products = vectors @ vectors.T
    for number in range(others):
        products[number, number] = -1
        for other in np.argsort(-products[number])[:12]:
            if other > number and products[number, other] >= 0.75 and alike(pictures[number], pictures[other]).same:
                pairs += 1
    shares = {kind: count / originals for kind, count in found.items()}
    return {"others": others, "found": shares, "false matches": false, "pairs among others": pairs}


def folder_of(clips: int, folder: Path, first: int = 700_000, size: int = 128, captions: bool = True) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for number in range(clips):
        path = folder / f"{number:05d}.mp4"
        texts.append(caption(sample(first + number, FULL), "en", 0))
        if not path.exists():
            write(drawn(first + number, 17, size), path)
    if captions:
        rows = [json.dumps({"file_name": f"{n:05d}.mp4", "text": text}) for n, text in enumerate(texts)]
        (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return texts


def search(scale: float, folder: Path) -> dict[str, Any]:
    clips = max(round(200 * scale), 10)
    folder_of(clips, folder / "videos")
    index = Index(folder / "search.sqlite", create=True)
    build([folder / "videos"], index, Settings(names=("labels",)))
    searcher = Searcher(index)
    first = {"same language": 0, "German": 0, "picture": 0}
    for number in range(clips):
        name = f"{number:05d}.mp4"
        scene = sample(700_000 + number, FULL)
        questions = {"same language": caption(scene, "en", 1), "German": caption(scene, "de", 0)}
        for kind, text in questions.items():
            first[kind] += any(Path(place.path).name == name for place in searcher.search(text))
        changed = coded(drawn(700_000 + number)[5][8:120, 8:120], 80)
        shots_found = searcher.similar([np.ascontiguousarray(changed)])[:10]
        rows = [index.rows("SELECT path FROM paths JOIN shots USING (digest) WHERE shots.id = ?", shot)[0][0]
                for shot in shots_found]  # fmt: skip
        first["picture"] += any(Path(path).name == name for path in rows)
    return {"clips": clips, "in the first ten": {kind: count / clips for kind, count in first.items()}}


def moderation(scale: float, folder: Path) -> dict[str, Any]:
    clips = max(round(50 * scale), 5)
    folder_of(clips, folder / "benign", 800_000)
    places = [folder / "benign", *map(Path, filter(None, os.environ.get("LICHTSPIEL_BENIGN", "").split(":")))]
    index = Index(folder / "moderation.sqlite", create=True)
    build(places, index, Settings(names=LOOKING))
    verdicts = [judge(index, path) for (path,) in index.rows("SELECT path FROM paths")]
    alarms = [f"{Path(one.path).name}: {one.objections[0].detail}" for one in verdicts if one.decision != "allowed"]
    return {"videos": len(verdicts), "false alarms": alarms}


def speed(scale: float, folder: Path) -> dict[str, Any]:
    clips = max(round(200 * scale), 6)
    folder_of(clips, folder / "videos")
    program = [
        sys.executable,
        "-m",
        "lichtspiel",
        "index",
        str(folder / "videos"),
        "--workers",
        "2",
        "--json",
        "--index",
    ]
    started = time.monotonic()
    done = subprocess.run([*program, str(folder / "whole.sqlite")], check=True, capture_output=True, text=True)
    seconds = time.monotonic() - started
    video = json.loads(done.stdout)["seconds"]
    killed = subprocess.Popen([*program, str(folder / "killed.sqlite")], stdout=subprocess.DEVNULL,
                              start_new_session=True)  # fmt: skip
    time.sleep(seconds / 2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = Index(folder / "killed.sqlite").rows("SELECT count(*) FROM paths")[0][0]
    subprocess.run([*program, str(folder / "killed.sqlite")], check=True, capture_output=True)
    same = Index(folder / "killed.sqlite").dump() == Index(folder / "whole.sqlite").dump()
    result = {"clips": clips, "seconds of video": video, "seconds": seconds, "times real time": video / seconds}
    return {**result, "indexed when killed": before, "same index after resuming": same}


def on_ray(scale: float, folder: Path) -> dict[str, Any]:
    clips = max(round(200 * scale), 6)
    folder_of(clips, folder / "videos")
    index = Index(folder / "ray.sqlite", create=True)
    started = time.monotonic()
    work = build([folder / "videos"], index, Settings(), workers=2, ray="local")
    seconds = time.monotonic() - started
    whole = folder / "whole.sqlite"
    same = Index(whole).dump() == index.dump() if whole.exists() else None
    return {"clips": clips, "times real time": work.seconds / seconds, "same as without Ray": same}


def vectors(scale: float, folder: Path) -> dict[str, Any]:
    count = max(round(100_000 * scale), 2000)
    index = Index(folder / "vectors.sqlite", create=True)
    rng = np.random.default_rng(0)
    with index.writing() as database:
        database.execute("INSERT INTO contents VALUES ('d', 1, 1, 1, 1, 1, '', '{}', '{}')")
        rows = ((n, "d", n, 0, 1, 0, 1, b"", b"") for n in range(count))
        database.executemany("INSERT INTO shots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        for start in range(0, count, 10_000):
            drawn_rows = rng.standard_normal((min(10_000, count - start), 1280)).astype(np.float32)
            drawn_rows /= np.linalg.norm(drawn_rows, axis=1, keepdims=True)
            stored = ((start + n, "s", row.astype(np.float16).tobytes()) for n, row in enumerate(drawn_rows))
            database.executemany("INSERT INTO vectors VALUES (?, ?, ?)", stored)
    opened = time.perf_counter()
    table = Vectors(index, "s")
    opened = time.perf_counter() - opened
    times = []
    for _ in range(20):
        query = rng.standard_normal(1280).astype(np.float32)
        started = time.process_time()
        table.nearest(query / np.linalg.norm(query), 10)
        times.append(time.process_time() - started)
    return {"shots": count, "median ms of processor time": 1000 * float(np.median(times)), "opened in s": opened}


def viewers(scale: float, _: Path) -> dict[str, Any]:
    """Viewers who like some subjects and places, and watch what is shown to them: popular things more often."""
    count, people = max(round(600 * scale), 100), max(round(200 * scale), 20)
    scenes = [sample(900_000 + n, FULL) for n in range(count)]
    pictures = [drawn(900_000 + n, 3)[1] for n in range(count)]
    library = Library([str(n) for n in range(count)], picture_vectors(pictures))
    rng = np.random.default_rng(4)
    places = sorted({scene.place for scene in scenes})
    gains = np.zeros((people, count))
    for person in range(people):
        liked = set(rng.choice(places, 2, replace=False))
        gains[person] = [float(scene.place in liked) for scene in scenes]
    popularity = np.zeros(count)
    logs = []
    weights = rng.zipf(1.6, count).astype(float)
    for person in range(people):
        seen = rng.choice(count, 20, replace=False, p=weights / weights.sum())
        rewards = {int(n): 1.0 if rng.random() < (0.9 if gains[person, n] else 0.1) else -0.5 for n in seen}
        logs.append(rewards)
        for number, reward in rewards.items():
            popularity[number] += max(reward, 0)
    scores: dict[str, list[float]] = {"ours": [], "popularity": [], "random": []}
    seconds = 0.0
    for person, rewards in enumerate(logs):
        rest = [n for n in range(count) if n not in rewards]
        best = [gains[person, n] for n in rest]
        started = time.perf_counter()
        ours = [int(one.path) for one in recommend(library, rewards, 10)]
        seconds += time.perf_counter() - started
        popular = sorted(rest, key=lambda n: -popularity[n])[:10]
        chance = list(rng.choice(rest, 10, replace=False))
        for name, ranking in (("ours", ours), ("popularity", popular), ("random", chance)):
            scores[name].append(ndcg([gains[person, n] for n in ranking], best))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    ratio = means["ours"] / means["popularity"]
    return {"viewers": people, "ndcg@10": means, "times popularity": ratio, "ms each": 1000 * seconds / people}


PARTS: dict[str, Callable[[float, Path], dict[str, Any]]] = {
    "shots": shots, "duplicates": duplicates, "search": search, "moderation": moderation, "speed": speed,
    "ray": on_ray, "vectors": vectors, "viewers": viewers,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--scale", type=float, default=1.0, help="how many clips, relative to the full measurement")
    parser.add_argument("--folder", type=Path, help="where clips and indexes are kept, to go on with them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.only.split(","):
            started = time.monotonic()
            result = PARTS[name](options.scale, folder)
            print(json.dumps({"part": name, **result, "took s": round(time.monotonic() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()

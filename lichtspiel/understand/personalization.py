"""Rank indexed videos for one viewer from likes, plays and skips; nothing leaves this computer.

Ridge regression on the videos' vectors (Hoerl and Kennard 1970) is refitted for each question, in milliseconds; maximal
marginal relevance (Carbonell and Goldstein 1998) keeps the list from being ten times the same.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput
from lichtspiel.understand import pictures, sentences

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.understand.store import Index

__all__ = [
    "REWARDS", "Event", "Library", "Measured", "Recommendation", "measure", "ndcg", "read_events", "recommend",
]  # fmt: skip

REWARDS: Mapping[str, float] = {"like": 1.0, "play": 0.5, "skip": -0.5, "dislike": -1.0}
"""What an event says of a viewer's taste."""

_RIDGE = 0.3
_DIVERSE = 0.25  # how much similarity to what is chosen already counts against a video


@dataclass(frozen=True)
class Event:
    """Something that a viewer did with a video."""

    video: str
    kind: str
    viewer: str = ""


@dataclass(frozen=True)
class Recommendation:
    """A video for a viewer, how well it fits, and the video of theirs that speaks most for it."""

    path: str
    score: float
    because: str
    caption: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return {**vars(self), "score": round(self.score, 4)}


class Library:
    """One vector for each video: its pictures' features and its texts' meaning side by side, where there are any."""

    def __init__(self, names: Sequence[str], vectors: NDArray[np.float32], captions: Sequence[str] = ()) -> None:
        import numpy as np

        self.names = list(names)
        self.captions = list(captions) or [""] * len(self.names)
        centered = vectors - vectors.mean(0)
        self.vectors = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-6)
        self.numbers = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def of(cls, index: Index) -> Library:
        """The videos of an index. Raises InvalidInput when it holds fewer than two."""
        import numpy as np

        rows = index.rows("SELECT min(path), digest, caption FROM paths JOIN contents USING (digest) GROUP BY digest "
                          "ORDER BY min(path)")  # fmt: skip
        if len(rows) < 2:
            raise InvalidInput(f"{index.path}: holds {len(rows)} videos; index at least two: lichtspiel index FOLDER")
        parts = []
        for space in (pictures.SPACE, sentences.SPACE, "clip"):
            means = _means(index, space)
            if means:
                width = len(next(iter(means.values())))
                parts.append(np.stack([means.get(digest, np.zeros(width, np.float32)) for _, digest, _ in rows]))
        if not parts:
            raise InvalidInput(f'{index.path}: holds no vectors; install them: pip install "lichtspiel[understand]"')
        vectors = np.concatenate([_unit(part - part.mean(0)) for part in parts], axis=1)
        return cls([path for path, _, _ in rows], vectors, [caption for _, _, caption in rows])

    def number(self, video: str) -> int:
        """The number of a video by its path, or by its name where only one is called so. Raises InvalidInput."""
        absolute = str(Path(video).absolute())
        for name in (video, absolute):
            if name in self.numbers:
                return self.numbers[name]
        called = [number for number, name in enumerate(self.names) if Path(name).name == video]
        if len(called) != 1:
            raise InvalidInput(f"{video}: {len(called)} indexed videos are called so; name its path, or index it first")
        return called[0]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def _means(index: Index, space: str) -> dict[str, NDArray[np.float32]]:
    """The mean vector of each content's shots."""
    import numpy as np

    grouped: dict[str, list[NDArray[np.float32]]] = {}
    for digest, vector in index.rows("SELECT digest, vector FROM vectors JOIN shots ON shots.id = shot "
                                     "WHERE space = ? ORDER BY digest, number", space):  # fmt: skip
        grouped.setdefault(digest, []).append(np.frombuffer(vector, np.float16).astype(np.float32))
    return {digest: np.mean(rows, axis=0) for digest, rows in grouped.items()}


def recommend(
    library: Library, rewards: Mapping[int, float], count: int = 10, *, diverse: float = _DIVERSE, seen: bool = False
) -> list[Recommendation]:
    """The videos that fit best, from rewards by number of video; those with a reward are left out unless `seen`.

    `diverse` is how much a video loses for being like one that stands above it, from 0 to 1. Raises InvalidInput
    without any reward.
    """
    import numpy as np

    if not rewards:
        raise InvalidInput("nothing is known of this viewer; name videos with --liked, or events with --events")
    known = np.array(sorted(rewards))
    targets = np.array([rewards[int(number)] for number in known], np.float32)
    near = library.vectors[known]
    # The dual form: as many unknowns as events, however long vectors are.
    shares = np.linalg.solve(near @ near.T + _RIDGE * np.eye(len(known), dtype=np.float32), targets)
    influence = (library.vectors @ near.T) * shares
    scores = influence.sum(1)
    open_numbers = [number for number in range(len(library.names)) if seen or number not in rewards]
    chosen: list[int] = []
    penalty = np.zeros(len(library.names), np.float32)
    while open_numbers and len(chosen) < count:
        best = max(open_numbers, key=lambda number: (scores[number] - diverse * penalty[number], -number))
        chosen.append(best)
        open_numbers.remove(best)
        penalty = np.maximum(penalty, library.vectors @ library.vectors[best] * float(np.abs(scores).max()))
    liked = np.array([reward > 0 for reward in targets])
    result = []
    for number in chosen:
        reasons = np.where(liked, influence[number], -np.inf)
        speaks = reasons.max() > 0  # a video can be unlike all that was liked
        because = library.names[int(known[int(reasons.argmax())])] if speaks else ""
        result.append(Recommendation(library.names[number], float(scores[number]), because, library.captions[number]))
    return result


def read_events(path: Path) -> list[Event]:
    """Events from a CSV file with the columns video and event, and perhaps viewer. Raises InvalidInput.

    A file of MovieLens's form, with the columns userId, movieId and rating, is read, too: ratings from 4 on are likes,
    and those up to 2 dislikes.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: cannot be read as CSV: {error}") from error
    events = []
    for line, row in enumerate(rows, 2):
        try:
            if "rating" in row:
                rating = float(row["rating"])
                kind = "like" if rating >= 4 else "dislike" if rating <= 2 else "play"
                events.append(Event(row["movieId"], kind, row["userId"]))
            elif row["event"] in REWARDS:
                events.append(Event(row["video"], row["event"], row.get("viewer") or ""))
            else:
                raise ValueError(f"{row['event']!r} is not one of {', '.join(REWARDS)}")
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidInput(f"{path}: line {line}: {error}; it needs the columns video and event") from error
    return events


def ndcg(ranked: Sequence[float], best: Sequence[float], count: int = 10) -> float:
    """Normalized discounted cumulative gain (Järvelin and Kekäläinen 2002) of the gains of a ranking; `best` are all
    gains that were possible."""
    import numpy as np

    discounts = 1 / np.log2(np.arange(count) + 2)
    reached = float((np.array(ranked[:count]) * discounts[: len(ranked[:count])]).sum())
    ideal = sorted(best, reverse=True)[:count]
    most = float((np.array(ideal) * discounts[: len(ideal)]).sum())
    return reached / most if most > 0 else 0.0


@dataclass(frozen=True)
class Measured:
    """How well recommendations foretell what viewers liked later, beside what is most popular and chance: mean nDCG."""

    viewers: int
    ours: float
    popularity: float
    random: float


def measure(
    library: Library, events: Sequence[Event], count: int = 10, *, diverse: float = _DIVERSE, held: float = 0.2,
    seed: int = 0,
) -> Measured:  # fmt: skip
    """Hide the last fifth of each viewer's videos, learn from the rest of the log, and rank what is left.

    Viewers count who liked or played one of the hidden videos. Raises InvalidInput if there are none.
    """
    import numpy as np

    logs: dict[str, dict[int, float]] = {}
    for event in events:
        number, log = library.number(event.video), logs.setdefault(event.viewer, {})
        log[number] = log.get(number, 0.0) + REWARDS[event.kind]
    hidden: dict[str, dict[int, float]] = {}
    popularity: dict[int, float] = {}
    for viewer, log in logs.items():
        last = list(log)[len(log) - max(round(held * len(log)), 1) :]
        hidden[viewer] = {number: log.pop(number) for number in last}
        for number, reward in log.items():
            popularity[number] = popularity.get(number, 0.0) + max(reward, 0.0)
    generator = np.random.default_rng(seed)
    names = {name: number for number, name in enumerate(library.names)}
    scores: dict[str, list[float]] = {"ours": [], "popularity": [], "random": []}
    for viewer, log in logs.items():
        wanted = {number for number, reward in hidden[viewer].items() if reward > 0}
        if not log or not wanted:
            continue
        left = [number for number in range(len(library.names)) if number not in log]
        rankings = {
            "ours": [names[one.path] for one in recommend(library, log, count, diverse=diverse)],
            "popularity": sorted(left, key=lambda number: (-popularity.get(number, 0.0), number)),
            "random": [int(number) for number in generator.permutation(left)],
        }
        for kind, ranking in rankings.items():
            gains = [float(number in wanted) for number in ranking]
            scores[kind].append(ndcg(gains, [1.0] * len(wanted), count))
    if not scores["ours"]:
        raise InvalidInput("no viewer liked or played a video after others; a log for measuring needs more events")
    means = {kind: sum(found) / len(found) for kind, found in scores.items()}
    return Measured(len(scores["ours"]), **means)

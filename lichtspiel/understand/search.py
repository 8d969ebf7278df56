"""Find places inside indexed videos by words, by a picture or by another video, and say what found them.

Vectors are searched in two steps: a projection to few dimensions of everything, which fits into memory, then the exact
products of the best. Rankings of several kinds are joined by reciprocal ranks (Cormack et al. 2009).
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput
from lichtspiel.understand import pictures, sentences
from lichtspiel.understand.footage import Footage
from lichtspiel.understand.pictures import Labels, keyframe
from lichtspiel.understand.store import Index, searchable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame

__all__ = ["Place", "Searcher", "Vectors"]

_COARSE = 128  # dimensions of the first step
_KEPT = 1000  # shots whose exact products are computed
_RANKED = 200  # shots of each kind of ranking that are joined
_CONSTANT = 60  # of the reciprocal ranks (same paper)


@dataclass(frozen=True)
class Place:
    """A shot that was found: where it is, how well it fits, and what says so.

    `by` names the rankings that have it ("words", "meaning", "picture"), with its place in each.
    """

    path: str
    digest: str
    shot: int
    start: float
    end: float
    score: float
    by: dict[str, int] = field(default_factory=dict)
    caption: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return {**vars(self), "start": round(self.start, 3), "end": round(self.end, 3), "score": round(self.score, 5)}


class Vectors:
    """All vectors of one space: a projection in memory, the exact ones in the index."""

    def __init__(self, index: Index, space: str) -> None:
        import numpy as np

        self._index, self.space = index, space
        rows = index.rows("SELECT shot, vector FROM vectors WHERE space = ? ORDER BY shot", space)
        self.shots = np.array([shot for shot, _ in rows], np.int64)
        self._exact = np.frombuffer(b"".join(vector for _, vector in rows), np.float16)
        self._exact = self._exact.reshape(len(rows), -1) if rows else self._exact.reshape(0, 1)
        self._mean = self._exact[:: max(len(rows) // 4096, 1)].astype(np.float32).mean(0) if rows else np.zeros(1)
        self._project = _projection(self._exact.shape[1])
        parts = [(self._exact[start : start + 8192].astype(np.float32) - self._mean) @ self._project
                 for start in range(0, len(rows), 8192)]  # fmt: skip
        self._coarse = np.concatenate(parts) if parts else np.zeros((0, self._project.shape[1]), np.float32)

    def __len__(self) -> int:
        return len(self.shots)

    def nearest(self, vector: NDArray[np.float32], count: int) -> list[tuple[int, float]]:
        """The shots with the largest inner products, the largest first, and those."""
        import numpy as np

        if not len(self.shots):
            return []
        chosen = np.arange(len(self.shots))
        if len(chosen) > _KEPT:
            rough = self._coarse @ ((vector - self._mean) @ self._project).astype(np.float32)
            chosen = np.argpartition(rough, -_KEPT)[-_KEPT:]
        products = self._exact[chosen].astype(np.float32) @ vector
        # The shot decides between equals, so that results do not depend on how numpy sorts.
        order = np.lexsort((self.shots[chosen], -products))[:count]
        return [(int(self.shots[chosen[n]]), float(products[n])) for n in order]


@functools.cache
def _projection(dimensions: int) -> NDArray[np.float32]:
    """Orthonormal columns [dimensions, 128] that are always the same, or the identity of a small space."""
    import numpy as np

    if dimensions <= _COARSE:
        return np.eye(dimensions, dtype=np.float32)
    drawn = np.random.default_rng(0).standard_normal((dimensions, _COARSE))
    return np.linalg.qr(drawn)[0].astype(np.float32)


class Searcher:
    """Searches one index; vectors are read when they are first needed."""

    def __init__(self, index: Index, clip: str | None = None) -> None:
        self.index, self._clip = index, clip
        self._spaces: dict[str, Vectors] = {}

    def vectors(self, space: str) -> Vectors:
        """The vectors of a space."""
        if space not in self._spaces:
            self._spaces[space] = Vectors(self.index, space)
        return self._spaces[space]

    def search(self, text: str = "", like: Path | None = None, limit: int = 10) -> list[Place]:
        """The places that fit a text, a picture or video, or both, the best first. Raises InvalidInput when there is
        nothing to look for or nothing that could look."""
        rankings: dict[str, list[int]] = {}
        if text.strip():
            rankings |= self._by_text(text)
        if like is not None:
            rankings["picture"] = self._by_picture(like)
        if not rankings:
            raise InvalidInput("there is nothing to look for; give words, or --like FILE")
        return self._places(rankings, limit)

    def _by_text(self, text: str) -> dict[str, list[int]]:
        rankings = {"words": self._by_words(text)}
        if sentences.available() and len(self.vectors(sentences.SPACE)):
            found = self.vectors(sentences.SPACE).nearest(sentences.query(text), _RANKED)
            rankings["meaning"] = [shot for shot, _ in found]
        if self._clip is not None and len(self.vectors("clip")):
            from lichtspiel.understand.meaning import clip_of

            (vector,) = clip_of(self._clip).texts([text])
            rankings["picture and text"] = [shot for shot, _ in self.vectors("clip").nearest(vector, _RANKED)]
        return rankings

    def _by_words(self, text: str) -> list[int]:
        words = re.findall(r"\w+", searchable(text).casefold())
        if not words:
            return []
        # Captions count most, guesses of the network least.
        query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, 4, 2, 2, 1), rowid LIMIT ?"
        match = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
        return [shot for (shot,) in self.index.rows(query, match, _RANKED)]

    def _by_picture(self, like: Path) -> list[int]:
        footage = Footage(like)
        shots = footage.shots
        frames = [keyframe(footage, shot) for shot in shots]
        return self.similar(frames)

    def similar(self, frames: Sequence[Frame]) -> list[int]:
        """The shots that look most like one of some pictures."""
        space, vectors = self._picture_vectors(frames)
        best: dict[int, float] = {}
        for vector in vectors:
            for shot, score in self.vectors(space).nearest(vector, _RANKED):
                best[shot] = max(score, best.get(shot, -1.0))
        return sorted(best, key=lambda shot: (-best[shot], shot))[:_RANKED]

    def _picture_vectors(self, frames: Sequence[Frame]) -> tuple[str, NDArray[np.float32]]:
        if self._clip is not None and len(self.vectors("clip")):
            from lichtspiel.understand.meaning import clip_of

            return "clip", clip_of(self._clip).pictures(frames)
        if (remedy := Labels().missing()) is not None:
            raise InvalidInput(f"--like needs a network that looks at pictures: {remedy}")
        return pictures.SPACE, pictures.picture_vectors(frames)

    def _places(self, rankings: dict[str, list[int]], limit: int) -> list[Place]:
        scores: dict[int, float] = {}
        by: dict[int, dict[str, int]] = {}
        for name, ranking in rankings.items():
            for rank, shot in enumerate(ranking, 1):
                scores[shot] = scores.get(shot, 0.0) + 1 / (_CONSTANT + rank)
                by.setdefault(shot, {})[name] = rank
        best = sorted(scores, key=lambda shot: (-scores[shot], shot))[:limit]
        places = []
        for shot in best:
            (row,) = self.index.rows(
                "SELECT min(path), shots.digest, number, start, end, caption FROM shots JOIN paths USING (digest) "
                "JOIN contents USING (digest) WHERE shots.id = ?", shot,
            )  # fmt: skip
            path, digest, number, start, end, caption = row
            places.append(Place(path, digest, number, start, end, scores[shot], by[shot], caption))
        return places

    def picture(self, place: Place) -> Frame:
        """The picture that the index keeps of a place."""
        return decoded(
            self.index.rows("SELECT picture FROM shots WHERE digest = ? AND number = ?", place.digest, place.shot)[0][0]
        )


def decoded(content: bytes) -> Frame:
    """A picture of the index as pixels."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)

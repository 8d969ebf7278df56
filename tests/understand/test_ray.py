"""The same index whatever makes it: one process, or Ray Data with two workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray.data", reason="Ray Data is in the extra cluster")
pytest.importorskip("scenedetect", reason="shots are found with the extra understand")

from lichtspiel.understand.analysis import Settings
from lichtspiel.understand.ingest import build
from lichtspiel.understand.store import Index
from tests.understand.clips import drawn, write


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ray_data_makes_the_index_that_one_process_makes(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write(drawn(80 + number, 5, 64), tmp_path / "videos" / f"{number}.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "videos" / "1.txt").write_text("a caption")
    settings = Settings(names=("measures",), detector="content")
    indexes = []
    for name, how in (("alone", {}), ("ray", {"workers": 2, "ray": "local"})):
        index = Index(tmp_path / f"{name}.sqlite", create=True)
        work = build([tmp_path / "videos"], index, settings, **how)  # type: ignore[arg-type]
        assert (work.looked, len(work.failures)) == (3, 1)
        again = build([tmp_path / "videos"], index, settings, **how)  # type: ignore[arg-type]
        assert (again.known, again.failures) == (3, work.failures)
        indexes.append(index.dump())
        index.close()
    alone, shared = ([row for row in dump if row[0] != "vectors"] for dump in indexes)
    assert alone == shared
    assert any("a caption" in row for row in shared)
    # Workers of Ray have one thread each, and the last bits of a vector depend on the number of threads.
    vectors = [{row[1:4]: np.frombuffer(row[4], np.float16) for row in dump if row[0] == "vectors"} for dump in indexes]
    assert vectors[0].keys() == vectors[1].keys()
    for place, vector in vectors[0].items():
        np.testing.assert_allclose(vector, vectors[1][place], atol=2e-3)

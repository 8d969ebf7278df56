"""Many videos from one list: checked first, made once, each with its own error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lichtspiel.errors import Interrupted, InvalidInput, OutputError
from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.seal import verify
from lichtspiel.weights.checkpoint import Checkpoint
from lichtspiel.workflows.batch import LOG, read_jobs, run_jobs
from lichtspiel.workflows.terms import Terms


def listed(folder: Path, *jobs: object) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(job if isinstance(job, str) else json.dumps(job) for job in jobs), encoding="utf-8")
    return path


SMALL = {"steps": 1, "frames": 5}


def test_weights_load_once_and_a_second_start_goes_on(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    for part in ("umt5", "dit", "vae"):
        whole = getattr(Checkpoint, part)

        def counted(self: Checkpoint, *given: object, part: str = part, whole=whole, **more: object) -> object:  # type: ignore[no-untyped-def]
            loads.append(part)
            return whole(self, *given, **more)

        monkeypatch.setattr(Checkpoint, part, counted)
    jobs = read_jobs(
        listed(
            tmp_path, {"prompt": "a turtle", **SMALL}, "", {"prompt": "a taxi", "seed": 5, "out": "taxi.mp4", **SMALL}
        )
    )
    out = tmp_path / "out"
    done = list(run_jobs(jobs, out, weights=random_nano, terms=Terms()))
    assert [(outcome.line, Path(outcome.path).name, outcome.error, outcome.made) for outcome in done] == [
        (1, "0001.mp4", None, True), (3, "taxi.mp4", None, True),
    ]  # fmt: skip
    assert sorted(loads) == ["dit", "umt5", "vae"]
    assert verify(out / "taxi.mp4").credentials.state == "trusted"
    (out / "0001.mp4").unlink()
    again = list(run_jobs(jobs, out, weights=random_nano, terms=Terms()))
    assert {(outcome.line, outcome.made) for outcome in again} == {(1, True), (3, False)}
    assert {outcome.line: outcome.seed for outcome in again}[3] == 5
    assert len((out / LOG).read_text().splitlines()) == 3


def test_one_refusal_does_not_stop_the_others(random_nano: Path, tmp_path: Path) -> None:
    jobs = [{"prompt": "a naked child", **SMALL}, {"prompt": "a turtle", **SMALL}]
    done = list(run_jobs(read_jobs(listed(tmp_path, *jobs)), tmp_path / "out", weights=random_nano, terms=Terms()))
    assert done[0].error is not None
    assert done[1].error is None
    assert [path.name for path in (tmp_path / "out").glob("*.mp4")] == ["0002.mp4"]


def test_a_video_of_another_line_is_never_taken_for_this_one(random_nano: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(run_jobs(read_jobs(listed(tmp_path, {"prompt": "a", **SMALL})), out, weights=random_nano, terms=Terms()))
    with pytest.raises(OutputError, match="was not made from line 1"):
        list(run_jobs(read_jobs(listed(tmp_path, {"prompt": "b", **SMALL})), out, weights=random_nano, terms=Terms()))


def test_an_interruption_says_how_to_go_on(random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "denoise", stop)
    jobs = read_jobs(listed(tmp_path, {"prompt": "a", **SMALL}))
    with pytest.raises(Interrupted, match=r"line 1: .*the same command goes on"):
        list(run_jobs(jobs, tmp_path / "out", weights=random_nano, terms=Terms()))


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (["{"], "line 1: "),
        ([{"prompt": "a"}, {"prompt": "a", "frames": 80}], "line 2: frames: 80 is not valid"),
        ([{"prompt": "a", "colour": "red"}], "line 1: colour"),
        ([{"prompt": "a", "out": "../a.mp4"}], "line 1: out"),
        (
            [{"prompt": "a", "out": "x.mp4"}, {"prompt": "b", "out": "x.mp4"}],
            "line 2: an earlier line has the same out",
        ),
        (["[1]"], "line 1: a job is a JSON object"),
        ([""], "holds no jobs"),
    ],
    ids=str,
)
def test_a_wrong_line_is_named_before_anything_is_made(jobs: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_jobs(listed(tmp_path, *jobs))
    assert message in str(caught.value)

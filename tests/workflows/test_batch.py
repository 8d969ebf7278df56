"""Many videos from one list: checked first, made once, each with its own error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lichtspiel.errors import Interrupted, InvalidInput, OutputError
from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.seal import verify
from lichtspiel.weights.checkpoint import Checkpoint
from lichtspiel.workflows.batch import LOG, read_jobs, run_jobs
from lichtspiel.workflows.generate import decode
from lichtspiel.workflows.terms import Terms


def listed(folder: Path, *jobs: object) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(job if isinstance(job, str) else json.dumps(job) for job in jobs), encoding="utf-8")
    return path


SMALL = {"steps": 1, "frames": 1, "upscale": 1}


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


def test_what_can_be_refused_is_refused_before_the_first_video(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    encode = Pipeline.encode
    monkeypatch.setattr(
        Pipeline, "encode", lambda self, request, *rest: made.append("") or encode(self, request, *rest)
    )
    jobs = [
        {"prompt": "a turtle", **SMALL},
        {"prompt": "a turtle", "lora": ["/nonexistent.safetensors"], **SMALL},
        {"prompt": "a naked child", **SMALL},
        {"prompt": "a turtle", "out": "many.png", **SMALL, "frames": 5},
        {"prompt": "a turtle", "device": "cuda:77", **SMALL},
    ]
    done = []
    for outcome in run_jobs(read_jobs(listed(tmp_path, *jobs)), tmp_path / "out", weights=random_nano, terms=Terms()):
        done.append(outcome)
        assert outcome.error is None or not made
    assert sorted(outcome.line for outcome in done if outcome.error) == [2, 3, 4, 5]
    assert [outcome.line for outcome in done if not outcome.error] == [1]
    assert {outcome.line: outcome.exit_code for outcome in done} == {1: 0, 2: 2, 3: 3, 4: 2, 5: 2}


def test_a_batch_knows_its_videos_without_its_log(random_nano: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = read_jobs(listed(tmp_path, {"prompt": "a turtle", **SMALL}))
    (made,) = run_jobs(jobs, out, weights=random_nano, terms=Terms())
    (out / LOG).write_text('[]\n{}\nnull\n{"error": null}\n"x"\n{"error": null, "name": 5, "asked": [], "seed": "x"}\n')
    (again,) = run_jobs(jobs, out, weights=random_nano, terms=Terms())
    assert (again.made, again.seed) == (False, made.seed)
    for other in ({"prompt": "a taxi", **SMALL}, {"prompt": "a turtle", **SMALL, "steps": 2}):
        with pytest.raises(OutputError, match="was not made from line 1"):
            list(run_jobs(read_jobs(listed(tmp_path, other)), out, weights=random_nano, terms=Terms()))


def test_a_decoded_video_goes_on_as_the_advice_says(
    random_nano: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    jobs = read_jobs(listed(tmp_path, {"prompt": "a turtle", **SMALL}))
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "decode", stop)
        with pytest.raises(Interrupted, match="the same command goes on from here"):
            list(run_jobs(jobs, out, weights=random_nano, terms=Terms()))
    (kept,) = (home / "latents").glob("*.safetensors")
    decode(kept, out / "0001.mp4", weights=random_nano)
    (again,) = run_jobs(jobs, out, weights=random_nano, terms=Terms())
    assert not again.made


def test_a_file_that_changed_after_the_check_is_not_used(random_nano: Path, tmp_path: Path) -> None:
    picture = tmp_path / "first.png"
    Image.new("RGB", (64, 64), "orange").save(picture)
    jobs = read_jobs(listed(tmp_path, {"prompt": "a turtle", "image": str(picture), **SMALL}))
    Image.new("RGB", (64, 64), "blue").save(picture)
    terms = Terms(consent="colors only")
    (done,) = run_jobs(jobs, tmp_path / "out", weights=random_nano, terms=terms)
    assert "changed after the list was checked" in str(done.error)


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a", "out": "a\\u0000.mp4"}', '{"prompt": "a", "out": "\\ud800.mp4"}',
        '{"prompt": "a", "out": "x.txt"}',
        json.dumps({"prompt": "a", "out": 300 * "a" + ".mp4"}), '{"prompt": "a", "seconds": NaN}', "[" * 5000,
        '{"prompt": "a", "model": ["nano"]}', '{"prompt": "a", "image": 5}', '{"prompt": "a", "image": "gone.png"}',
    ],
)  # fmt: skip
def test_a_line_that_no_job_can_be_is_one_message(line: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="line 1: ") as caught:
        read_jobs(listed(tmp_path, line))
    assert len(str(caught.value)) < 600


def test_a_list_may_begin_with_a_mark_and_a_folder_may_be_a_file(random_nano: Path, tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_text('\ufeff{"prompt": "a\u2028b"}\r\n', encoding="utf-8")
    jobs = read_jobs(tmp_path / "bom.jsonl")
    assert jobs[0].request.prompt == "a\u2028b"
    with pytest.raises(OutputError, match="is no folder for videos"):
        list(run_jobs(jobs, tmp_path / "bom.jsonl", weights=random_nano, terms=Terms()))
    with pytest.raises(InvalidInput, match="not a file"):
        read_jobs(tmp_path)


def test_a_list_may_have_one_prompt_a_line(random_nano: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a turtle walks\n\n[wide] a taxi\r\n", encoding="utf-8")
    jobs = read_jobs(tmp_path / "prompts.txt", None, lambda fields: {**SMALL, **fields}, name="{prompt}-{seed}.mp4")
    assert [(job.number, job.request.prompt) for job in jobs] == [(1, "a turtle walks"), (3, "[wide] a taxi")]
    assert jobs[1].name == f"wide-a-taxi-{jobs[1].request.seed}.mp4"
    outcomes = list(run_jobs(jobs, tmp_path / "out", weights=random_nano, terms=Terms()))
    assert [Path(outcome.path).name for outcome in outcomes if outcome.error is None] == [job.name for job in jobs]


def test_lists_of_other_kinds_are_read(tmp_path: Path) -> None:
    texts = {
        "list.json": '["a turtle", {"prompt": "a taxi", "seed": 4, "out": "x.png"}]',
        "list.csv": 'prompt,seed,out\n"a turtle",,\na taxi,4,x.png\n',
        "list": "a turtle\na taxi",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        jobs = read_jobs(tmp_path / name)
        assert [job.request.prompt for job in jobs] == ["a turtle", "a taxi"], name
    assert jobs[0].name == "0001.mp4"
    assert read_jobs(tmp_path / "list.csv")[1].request.seed == 4
    png = read_jobs(tmp_path / "list.json")[1]
    assert (png.name, png.request.frames) == ("x.png", 1)
    (tmp_path / "list.csv").write_text("prompt,colour\na turtle,red\n")
    with pytest.raises(InvalidInput, match="line 2: colour"):
        read_jobs(tmp_path / "list.csv")


def test_each_line_is_made_for_each_seed(tmp_path: Path) -> None:
    path = listed(tmp_path, {"prompt": "a turtle"}, {"prompt": "a taxi", "out": "taxi.mp4"})
    jobs = read_jobs(path, seeds=[3, 4])
    assert [(job.number, job.name, job.request.seed) for job in jobs] == [
        (1, "0001-3.mp4", 3), (1, "0001-4.mp4", 4), (2, "taxi-3.mp4", 3), (2, "taxi-4.mp4", 4),
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="line 1: seed: 7 is not valid: --seeds gives every line its seeds"):
        read_jobs(listed(tmp_path, {"prompt": "a", "seed": 7}), seeds=[3])
    with pytest.raises(InvalidInput, match=r"\{mood\} is not filled in; names may hold \{prompt\}"):
        read_jobs(path, name="{mood}.mp4")

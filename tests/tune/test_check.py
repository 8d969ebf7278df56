"""The check of a run: the table, the probe, and each of the broken data sets with its message, before any step."""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lichtspiel.cli import app
from lichtspiel.errors import LichtspielError
from lichtspiel.seal import verify
from lichtspiel.spec import MODELS
from lichtspiel.tune import check as check_room
from lichtspiel.tune.check import Probe, check
from lichtspiel.tune.dataset import DataOptions
from lichtspiel.tune.encode import Encoder
from lichtspiel.tune.meter import Measured, measured
from lichtspiel.tune.prepare import Observe, look_through
from lichtspiel.tune.settings import AdapterPlan, RunOptions
from lichtspiel.weights.checkpoint import Checkpoint, checkpoint
from tests.tune.caches import SHORT
from tests.tune.clips import drawn, half_mask, write_clip, write_frames, write_picture
from tests.tune.conftest import CONSENT

NANO = MODELS["nano"]
RUN = RunOptions(adapter=AdapterPlan(rank=4), batch=2, learning_rate=2e-3)
OPTIONS = DataOptions(frames=(5, 9), consent=CONSENT)


def test_a_run_that_fits_and_learns_may_go(data: Path, short_nano: Path, tmp_path: Path) -> None:
    files = checkpoint(SHORT, short_nano)
    surveyed = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe())
    report = check(
        surveyed, Encoder.of(SHORT, files, tmp_path / "cache", "cpu"), OPTIONS, RUN, steps=100, observe=Observe()
    )
    assert not report.refusals
    assert [str(line.bucket) for line in report.buckets] == ["64x64x9", "64x64x1"]
    clips, pictures = report.buckets
    assert (clips.samples, clips.per_epoch, clips.tokens) == (3, 2, 48)
    assert (pictures.samples, pictures.per_epoch) == (1, 1)
    assert clips.measured is not None
    assert clips.measured > 0
    assert pictures.predicted < clips.predicted
    assert clips.seconds
    assert report.hours
    assert report.probe is not None
    assert report.probe.falls
    assert report.probe.losses[-1] < report.probe.losses[0]
    assert all(stage.measured is not None for stage in report.stages)


def test_the_hours_are_those_of_all_passes_of_a_step(
    data: Path, short_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def a_second(device: object, *, before: int | None = None) -> Iterator[Measured]:
        yield Measured(0, 1, 1.0)

    monkeypatch.setattr(check_room, "measured", a_second)
    files = checkpoint(SHORT, short_nano)
    surveyed = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe())
    encoder = Encoder.of(SHORT, files, tmp_path / "cache", "cpu")
    for keep, accumulate, seconds in (((), 1, 1), (("a turtle walks",), 3, 6)):
        run = replace(RUN, keep=keep, accumulate=accumulate)
        report = check(surveyed, encoder, OPTIONS, run, steps=100, observe=Observe())
        assert [line.seconds for line in report.buckets] == [seconds, seconds]
        assert report.hours == pytest.approx((100 * seconds + (report.encoding_seconds or 0)) / 3600)


def test_what_a_run_measures_is_what_its_process_takes() -> None:
    # Mapped, because what other tests have freed may have room for a block of the C library.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 50_000_000, flags=private) as block, measured("cpu") as spent:
        block[:] = b"1" * len(block)
    assert 45e6 < spent.bytes < 120e6


def test_a_run_that_cannot_fit_is_refused_with_what_would(
    data: Path, short_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for network in ("vae", "umt5", "dit", "dit_to_train"):
        monkeypatch.setattr(Checkpoint, network, None)
    monkeypatch.setattr(check_room, "free_memory", lambda device: 30_000_000)
    (data / "yellow.png").unlink()
    files = checkpoint(SHORT, short_nano)
    surveyed = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe())
    encoder = Encoder.of(SHORT, files, tmp_path / "cache", "cpu")
    report = check(surveyed, encoder, OPTIONS, RUN, steps=100, observe=Observe())
    (told,) = report.refusals
    assert told.startswith("a step of 64x64x9 needs 0.")
    assert "--batch 1" in told
    assert "a smaller --size or fewer --frames" in told


@pytest.mark.parametrize(
    ("losses", "falls"),
    [([1.0, 0.9, 0.8], True), ([1.0, 1.0, 1.0], False), ([1.0, 1.2, 1.5], False), ([1.0, float("nan")], False)],
)
def test_a_probe_falls_or_it_does_not(losses: list[float], falls: bool) -> None:
    assert Probe(losses).falls is falls


def test_a_run_that_learns_nothing_is_refused(data: Path, short_nano: Path, tmp_path: Path) -> None:
    (data / "yellow.png").unlink()
    files = checkpoint(SHORT, short_nano)
    surveyed = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe())
    encoder = Encoder.of(SHORT, files, tmp_path / "cache", "cpu")
    slow = replace(RUN, learning_rate=1e-12)
    report = check(surveyed, encoder, OPTIONS, slow, steps=100, observe=Observe())
    assert any("the loss stayed" in told and "--learning-rate" in told for told in report.refusals)


def caption(folder: Path, name: str = "red", text: str = "") -> None:
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def garbage(folder: Path) -> None:
    content = (folder / "red.mp4").read_bytes()
    (folder / "red.mp4").write_bytes(content[: len(content) // 2])


def bright(path: Path) -> None:
    write_frames(path, [np.full((128, 128, 3), 255, np.uint8)] * 20)


def metadata(folder: Path, text: str) -> None:
    for path in folder.glob("*.txt"):
        path.unlink()
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    # what is wrong: model, how the good data set is broken, what is said
    "empty caption": ("nano", caption, r"red\.mp4: its caption red\.txt is empty; write what"),
    "no caption": ("nano", lambda f: (f / "red.txt").unlink(), r"red\.mp4: has no caption; write what .* red\.txt"),
    "long caption": ("nano", lambda f: caption(f, text="red square " * 60), r"red\.mp4: its caption is too long"),
    "caption in another encoding": (
        "nano", lambda f: (f / "red.txt").write_bytes("Grün".encode("latin-1")), r"red\.txt: is not UTF-8; save it",
    ),
    "corrupt clip": ("nano", garbage, r"red\.mp4: .*ends early: .*; copy or download it again"),
    "empty file": ("nano", lambda f: (f / "red.mp4").write_bytes(b""), r"red\.mp4: .*empty"),
    "no clip at all": ("nano", lambda f: (f / "red.mp4").write_bytes(b"plain text " * 900), r"red\.mp4: is no video"),
    "damaged picture": ("nano", lambda f: (f / "yellow.png").write_bytes(b"\x89PNG but not"), r"yellow\.png: is "),
    "too short": ("nano", lambda f: write_clip(f / "red.mp4", 3), r"red\.mp4: lasts 0\.4 seconds, 3 frames"),
    "does not move": ("nano", lambda f: write_clip(f / "red.mp4", 20, moves=False), r"red\.mp4: does not move"),
    "one color": ("nano", lambda f: bright(f / "red.mp4"), r"red\.mp4: shows one even color"),
    "the same file twice": (
        "nano",
        lambda f: (shutil.copy(f / "red.mp4", f / "zed.mp4"), caption(f, "zed", "a square")),
        r"zed\.mp4: is the same file as red\.mp4; remove one, or set repeats",
    ),
    "stills for image to video": (
        "tiny-i2v", lambda f: None, r"yellow\.png: is a picture, and tiny-i2v animates pictures: it learns nothing",
    ),
    "mask for a model that takes none": (
        "nano", lambda f: write_picture(f / "masks" / "red.png"), r"masks/red\.png: is a mask, which only VACE",
    ),
    "mask of another size": (
        "tiny-vace", lambda f: write_frames(f / "masks" / "red.mp4", [half_mask((32, 32))] * 20),
        r"masks/red\.mp4: this mask is 32x32 and red\.mp4 128x128; export it",
    ),
    "mask of another length": (
        "tiny-vace", lambda f: write_frames(f / "masks" / "red.mp4", [half_mask()] * 11),
        r"masks/red\.mp4: this mask has 11 frames and red\.mp4 20",
    ),
    "black mask": (
        "tiny-vace", lambda f: write_frames(f / "masks" / "red.mp4", [half_mask(level=0)] * 20),
        r"masks/red\.mp4: this mask is black, so nothing in it would be new; white is what",
    ),
    "black weights": (
        "nano", lambda f: write_frames(f / "weights" / "red.mp4", [half_mask(level=0)] * 20),
        r"weights/red\.mp4: this weight is black, so nothing in it would count",
    ),
    "metadata that names a missing file": (
        "nano", lambda f: metadata(f, '{"file_name": "rot.mp4", "text": "a"}'), r"line 1 names rot\.mp4, which is not",
    ),
    "metadata that is no JSON": (
        "nano", lambda f: metadata(f, "red.mp4: a red square"), r"metadata\.jsonl, line 1: expected an object",
    ),
    "metadata without a caption": (
        "nano", lambda f: metadata(f, '{"file_name": "red.mp4"}'), r"red\.mp4: has an empty caption in line 1",
    ),
    "two descriptions": (
        "nano",
        lambda f: ((f / "metadata.csv").write_text("video,prompt\n"), (f / "data.toml").write_text("")),
        "both describe the data; name the one that counts",
    ),
    "pictures that are no frames of one size": (
        "tiny-vace",
        lambda f: [write_picture(f / "masks" / "red" / f"{n}.png", size=(128 + n % 2, 128)) for n in range(20)],
        r"masks/red: its frames differ in size, 128x128 and then 129x128",
    ),
    "nothing in the folder": (
        "nano", lambda f: [path.unlink() for path in f.iterdir()], "holds no clip and no picture; name a folder",
    ),
    "a length that is not 4n+1": ("nano", lambda f: None, "frames: 6 is not valid.*nearest valid value: 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_data_set_is_told_before_any_network_loads(
    name: str, data: Path, tiny_folders: dict[str, Path], random_nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, break_it, told = BROKEN[name]
    for network in ("vae", "umt5", "clip", "dit", "dit_to_train"):
        monkeypatch.setattr(Checkpoint, network, None)
    break_it(data)
    row = MODELS[model]
    files = checkpoint(row, tiny_folders.get(model, random_nano))
    options = replace(OPTIONS, frames=(6,)) if "4n+1" in name else OPTIONS
    with pytest.raises(LichtspielError, match=told):
        look_through(data, row, files.tokenizer(), options, Observe()).check()


def test_what_only_needs_a_word_is_noted_and_not_refused(data: Path, random_nano: Path) -> None:
    (data / "red.txt").write_text("a red square walks")
    write_clip(data / "tiny.mp4", 12, size=(32, 32))
    caption(data, "tiny", "a turtle")
    write_clip(data / "twin.mp4", 20)
    with av.open(str(data / "twin.mp4"), "r") as container:
        container.streams.video[0]
    shutil.copy(data / "red.mp4", data / "zz.mkv")
    caption(data, "twin", "a red square")
    frames = [drawn(number, 128, 128) for number in range(20)]
    for frame in frames:
        frame[60:62, 2:4] = 200  # not the same bytes
    write_frames(data / "twin.mp4", frames)
    (data / "zz.mkv").unlink()
    files = checkpoint(NANO, random_nano)
    surveyed = look_through(data, NANO, files.tokenizer(), OPTIONS, Observe())
    assert not surveyed.refusals
    notes = "\n".join(map(str, surveyed.notes))
    assert "tiny.mp4: is 32x32, enlarged 4.0 times to 128x128" in notes
    assert "does not know these words" in notes
    assert "twin.mp4: looks like" in notes


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["tune", *words])
    if isinstance(result.exception, LichtspielError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def test_look_writes_sealed_sheets_and_a_page_with_captions_in_any_language(
    data: Path, random_nano: Path, tmp_path: Path
) -> None:
    caption(data, "green", "一个绿色方块向右移动")
    code, told = run("look", str(data), "--weights", str(random_nano), "--frames", "9", "-o", str(tmp_path / "look"),
                     "--json")  # fmt: skip
    assert code == 0
    paths = [Path(path) for path in json.loads(told)["paths"]]
    assert [path.name for path in paths] == ["128x128x9.png", "128x128x1.png", "index.html"]
    report = verify(paths[0])
    assert "sealed this picture, and its pixels and credentials are as they were signed" in report.verdict
    sheet = np.asarray(Image.open(paths[0]))
    first = drawn(0, 128, 128, 2)  # blue.mp4 comes first
    row = sheet[30 : 30 + 128, 6 : 6 + 128]
    assert np.abs(row.astype(int) - first).mean() < 25
    page = paths[-1].read_text(encoding="utf-8")
    assert "一个绿色方块向右移动" in page
    assert "128x128x9.png" in page


def test_check_prints_the_table_and_the_verdict(data: Path, shortened: Path, tmp_path: Path) -> None:
    (data / "yellow.png").unlink()
    words = ("check", str(data), "--weights", str(shortened), "--frames", "5", "--rank", "4", "--learning-rate",
             "2e-3", "--device", "cpu", "--cache", str(tmp_path / "cache"), "--steps", "50")  # fmt: skip
    code, told = run(*words, "--consent", CONSENT)
    assert code == 0, told
    assert "64x64x5" in told
    assert "predicted" in told
    assert "50 steps take about" in told
    assert "the model stays in memory; " in told  # the form that the run would choose
    assert told.rstrip().endswith("go: nothing speaks against it")
    caption(data)
    code, told = run(*words, "--json")
    assert code == 2
    assert any("red.txt is empty" in one for one in json.loads(told)["refusals"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--extraction", "tail"), "--extraction tail is not valid; use whole, start, windows, evenly"),
        (("--stride", "4"), "add --extraction windows"),
        (("--windows", "4"), "add --extraction evenly"),
        (("--size", "large"), "--size large is not valid; write WIDTHxHEIGHT"),
        (("--base", "int4"), "--base int4 is not valid; use resident, int8, streamed"),
        (("--optimizer", "sgd"), "--optimizer sgd is not valid"),
        (("--full", "--rank", "8"), "--rank would have no effect: full training has no adapter"),
        (("--full", "--base", "int8"), "full training needs --base resident"),
        (("--rank", "0"), "--rank 0 is not valid; use a whole number from 1"),
        (("--dtype", "int8"), "--dtype int8 is not valid; use float32, bfloat16"),
        (("--steps", "0"), "--steps 0 is not valid; use a whole number from 1"),
    ],
)
def test_what_is_typed_is_used_or_refused(data: Path, random_nano: Path, words: tuple[str, ...], told: str) -> None:
    code, said = run("check", str(data), "--weights", str(random_nano), *words)
    assert code == 2
    assert told in said

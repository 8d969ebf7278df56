"""How people lay out data: captions beside clips, metadata files, and the files of other trainers as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lichtspiel.errors import InvalidInput, RequestError
from lichtspiel.spec import MODELS
from lichtspiel.tune.dataset import Bucket, Cut, DataOptions
from lichtspiel.tune.geometry import bucket_starts, default_cut, fitting_size, sizes_of_area
from lichtspiel.tune.scan import find_items

T2V, NANO = MODELS["t2v-1.3b"], MODELS["nano"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips and a picture without captions; nothing here is decoded."""
    for name in ("cat.mp4", "dog.mp4", "inside/bird.mp4", "still.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"never read")
    return tmp_path


def names(folder: Path, **options: object) -> dict[str, str]:
    found = find_items(folder, T2V, DataOptions(**options))  # type: ignore[arg-type]
    assert not [finding for finding in found.findings if finding.refused], found.findings
    return {item.path.relative_to(folder if folder.is_dir() else folder.parent).as_posix(): item.caption
            for item in found.items}  # fmt: skip


def test_captions_beside_clips(folder: Path) -> None:
    for name, text in (("cat", "a cat\nruns"), ("dog", "狗在跑"), ("inside/bird", "ein Vogel fliegt"), ("still", "é")):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8-sig")
    found = names(folder)
    assert found == {
        "cat.mp4": "a cat runs", "dog.mp4": "狗在跑", "inside/bird.mp4": "ein Vogel fliegt", "still.png": "é",
    }  # fmt: skip


def test_trigger_words_are_put_before_captions_that_lack_them(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "cat.mp4", "text": "OHWX runs"}\n{"file_name": "dog.mp4", "text": "a dog runs"}\n'
    )
    found = names(folder, triggers=("ohwx",))
    assert found == {"cat.mp4": "OHWX runs", "dog.mp4": "ohwx, a dog runs"}


def test_companions_lie_in_folders_of_their_own(folder: Path) -> None:
    (folder / "cat.txt").write_text("a cat")
    for name in ("masks/cat.png", "controls/cat.mp4", "weights/cat.png", "references/cat.png", "references/cat-2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"never read")
    found = find_items(folder, T2V, DataOptions())
    (item,) = found.items
    assert {role: path.relative_to(folder).as_posix() for role, path in item.files.items()} == {
        "clip": "cat.mp4", "control": "controls/cat.mp4", "mask": "masks/cat.png", "weight": "weights/cat.png",
        "reference 1": "references/cat-2.png", "reference 2": "references/cat.png",
    }  # fmt: skip
    assert len(found.findings) == 3  # the other three have no caption


def test_the_metadata_of_diffsynth(folder: Path) -> None:
    (folder / "metadata.csv").write_text(
        "video,prompt,vace_video,vace_video_mask,vace_reference_image\n"
        '"cat.mp4","a cat, running",dog.mp4,inside/bird.mp4,still.png\n'
    )
    (item,) = find_items(folder, T2V, DataOptions()).items
    assert item.caption == "a cat, running"
    assert (item.control, item.mask) == (folder / "dog.mp4", folder / "inside/bird.mp4")
    assert item.references == (folder / "still.png",)


def test_several_captions_are_several_items_of_one_clip(folder: Path) -> None:
    row = {"path": "cat.mp4", "captions": {"en": "a cat", "de": "eine Katze"}, "repeats": 3, "seed": 4}
    (folder / "captions.jsonl").write_text(json.dumps(row))
    found = find_items(folder, T2V, DataOptions())
    assert [(item.caption, item.repeats) for item in found.items] == [("a cat", 3), ("eine Katze", 3)]
    assert any("columns are not used: seed" in str(finding) for finding in found.findings)


MUSUBI = """
[general]
resolution = [960, 544]
caption_extension = ".txt"
batch_size = 1
enable_bucket = true
[[datasets]]
video_directory = "{folder}"
cache_directory = "cache"
target_frames = [1, 25, 46]
frame_extraction = "uniform"
frame_sample = 3
source_fps = 30.0
num_repeats = 2
"""


def test_the_data_set_file_of_musubi(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "cat.txt").write_text("a cat")
    for name in ("dog.mp4", "inside/bird.mp4", "still.png"):
        (folder / name).unlink()
    described = tmp_path_factory.mktemp("m") / "data.toml"
    described.write_text(MUSUBI.format(folder=folder))
    found = find_items(described, T2V, DataOptions())
    assert [item.cut.lengths for item in found.items] == [(1,), (25,), (45,)]
    cut = found.items[1].cut
    assert (cut.extraction, cut.count, cut.fps, found.items[0].repeats) == ("evenly", 3, 30.0, 2)
    assert (960, 544) in cut.sizes
    assert (544, 960) in cut.sizes
    assert all(width * height <= 960 * 544 for width, height in cut.sizes)


PIPE = """
resolutions = [512, [640, 384]]
enable_ar_bucket = true
min_ar = 0.5
max_ar = 2.0
num_ar_buckets = 3
frame_buckets = [1, 33, 65]
[[directory]]
path = "{folder}"
mask_path = "{folder}/w"
num_repeats = 5
"""


def test_the_data_set_file_of_diffusion_pipe(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "cat.txt").write_text("a cat")
    for name in ("dog.mp4", "inside/bird.mp4", "still.png"):
        (folder / name).unlink()
    (folder / "w").mkdir()
    (folder / "w" / "cat.png").write_bytes(b"never read")
    described = tmp_path_factory.mktemp("d") / "data.toml"
    described.write_text(PIPE.format(folder=folder))
    found = find_items(described, T2V, DataOptions())
    assert [item.cut.sizes for item in found.items] == [
        ((368, 720), (512, 512), (720, 368)), ((352, 704), (496, 496), (704, 352)),
    ]  # fmt: skip
    assert all(item.cut.lengths == (33, 65) for item in found.items)
    assert {item.weight for item in found.items} == {folder / "w" / "cat.png"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[datasets]]\nvideo_directory='.'\nflip_aug=true", "flip_aug, which is not supported"),
        ("[[datasets]]\nvideo_directory='nowhere'", "'nowhere', which is no folder"),
        ("[[datasets]]\nvideo_directory='.'\nframe_extraction='tail'", "'tail' is none of head, chunk"),
        ("[[directory]]\npath='.'\nnum_repeats=0", "num_repeats = 0 is no whole number"),
        ("[[directory]]\npath='.'\nresolutions=[[1, 2, 3]]", r"is no size; write \[WIDTH, HEIGHT\]"),
        ("[model]\n", "neither \\[\\[datasets\\]\\]"),
        ("[[", "is no TOML"),
    ],
)
def test_what_a_file_of_another_trainer_says_is_used_or_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "data.toml").write_text(text)
    with pytest.raises(InvalidInput, match=told):
        find_items(tmp_path, T2V, DataOptions())


def test_lengths_and_sizes_that_a_model_cannot_learn_are_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="nearest valid value: 33"):
        default_cut(T2V, DataOptions(frames=(32,)))
    with pytest.raises(RequestError, match="nearest valid value: 128x128"):
        default_cut(NANO, DataOptions(size=(96, 96)))
    with pytest.raises(RequestError, match="add --extraction windows"):
        default_cut(T2V, DataOptions(stride=8))


def test_buckets_have_one_area_and_many_shapes() -> None:
    sizes = sizes_of_area(832 * 480, 16)
    assert (832, 480) in sizes
    assert all(width % 16 == height % 16 == 0 and width * height <= 832 * 480 for width, height in sizes)
    assert all(width * height > 0.9 * 832 * 480 for width, height in sizes)
    cut = Cut(sizes=sizes, lengths=(17,))
    assert fitting_size(cut, 1920, 1080, 16) == (832, 480)
    assert fitting_size(cut, 1080, 1920, 16) == (480, 832)
    assert fitting_size(Cut(sizes=sizes, lengths=(17,), enlarge=False), 330, 250, 16) == (320, 240)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (33, [0])),
        ({"extraction": "whole"}, (61, [0])),
        ({"extraction": "whole", "lengths": (17, 49)}, (49, [0])),
        ({"extraction": "windows", "lengths": (17,)}, (17, [0, 17, 34])),
        ({"extraction": "windows", "lengths": (17,), "stride": 15}, (17, [0, 15, 30, 45])),
        ({"extraction": "evenly", "lengths": (17,), "count": 3}, (17, [0, 23, 46])),
        ({"lengths": (65,)}, (65, [])),
    ],
)
def test_frames_are_taken_whole_from_the_start_in_windows_or_evenly(
    changes: dict[str, object], expected: tuple[int, list[int]]
) -> None:
    cut = Cut(**{"sizes": ((64, 64),), "lengths": (17, 33, 81), **changes})  # type: ignore[arg-type]
    assert bucket_starts(cut, 63, 4) == expected


def test_a_bucket_names_itself() -> None:
    assert str(Bucket(width=832, height=480, frames=33)) == "832x480x33"

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.seal import labels
from lichtspiel.seal.labels import aigc, comment, muxer, read, tags
from lichtspiel.seal.marks import CORNERS, TEXTS, Marks
from lichtspiel.seal.visible import VisibleLabel

Frame = npt.NDArray[np.uint8]

ID = "0123456789abcdef0123456789abcdef"
SAID: dict[str, Any] = {
    "id": ID,
    "model": "nano",
    "version": "0.2.0",
    "created": datetime(2026, 11, 22, 13, tzinfo=UTC),
}
OF_THE_PRODUCER = ["Label", "ContentProducer", "ProduceID", "ReservedCode1"]
OF_THE_PROPAGATOR = ["ContentPropagator", "PropagateID", "ReservedCode2"]


def video(path: Path, entries: dict[str, str], options: dict[str, str], form: str = "mp4") -> Path:
    """A video of four frames with these entries."""
    with av.open(str(path), "w", format=form, options=options) as container:
        container.metadata.update(entries)
        stream = container.add_stream("libx264", rate=8, options={"threads": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in (0, 80, 160, 240):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def marked(path: Path, marks: Marks) -> Path:
    return video(path, tags(marks, **SAID), muxer(marks))


def copied(source: Path, target: Path, **options: str) -> Path:
    """What `ffmpeg -i source -c copy target` does."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        new.metadata.update(old.metadata)
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


# The entries as text.


def test_the_aigc_entry_has_the_seven_keys_of_annex_e() -> None:
    entry = json.loads(aigc(ID, "晶片 GmbH"))
    assert list(entry) == OF_THE_PRODUCER + OF_THE_PROPAGATOR
    assert (entry["Label"], entry["ContentProducer"], entry["ProduceID"]) == ("1", "晶片 GmbH", ID)
    assert [entry[key] for key in OF_THE_PROPAGATOR] == ["", "", ""]


def test_the_reserved_code_is_unique_to_a_video_and_its_producer() -> None:
    codes = {json.loads(aigc(*pair))["ReservedCode1"] for pair in itertools.product((ID, "other"), ("us", "them"))}
    assert len(codes) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", code) for code in codes)


def test_the_comment_is_a_line_of_ascii_with_all_that_a_latent_disclosure_conveys() -> None:
    said = comment(**SAID)
    assert said.isascii()
    assert said.isprintable()
    for part in ("AI-generated", "Lichtspiel", "0.2.0", "nano", "2026-11-22T13:00:00Z", ID, "lichtspiel verify"):
        assert part in said
    odd = comment(**{**SAID, "model": "mein\nModell ü" + "x" * 1000})
    assert odd.isascii()
    assert odd.isprintable()
    assert len(odd) < 500


# The entries in files.


@pytest.mark.parametrize("profile", ["eu", "us", "cn", "all"])
def test_a_file_says_what_its_profile_asks_for(profile: str, tmp_path: Path) -> None:
    marks = Marks.of(profile)
    path = marked(tmp_path / "a.mp4", marks)
    found = read(path)
    assert found.comment == comment(**SAID)
    assert found.aigc == (json.loads(aigc(ID, "Lichtspiel")) if marks.aigc else None)
    assert found.whole == marks.aigc
    assert path.read_bytes().count(b"AIGC") == (1 if marks.aigc else 0)
    with av.open(str(path)) as container:
        assert container.metadata.get("comment") == found.comment
        assert sum(key.lower() == "aigc" for key in container.metadata) == (1 if marks.aigc else 0)


def test_entries_lie_where_players_and_the_practice_guide_look_for_them(tmp_path: Path) -> None:
    plain = marked(tmp_path / "eu.mp4", Marks.of("eu")).read_bytes()
    assert b"\xa9cmt" in plain
    keyed = marked(tmp_path / "cn.mp4", Marks.of("cn")).read_bytes()
    udta = keyed[keyed.index(b"udta") :]
    assert udta.index(b"meta") < udta.index(b"mdta") < udta.index(b"keys") < udta.index(b"AIGC") < udta.index(b"ilst")
    assert b"com.apple.quicktime.comment" in udta
    assert keyed.index(b"moov") < keyed.index(b"mdat")


def test_files_without_marks_carry_no_entries(tmp_path: Path) -> None:
    marks = Marks.none("a test")
    assert tags(marks, **SAID) == {}
    assert read(marked(tmp_path / "a.mp4", marks)) == labels.Tags(aigc=None, comment=None)


def test_the_same_entries_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (marked(tmp_path / name, Marks.of("cn")).read_bytes() for name in ("one.mp4", "two.mp4"))
    assert one == two
    assert b"Lavf" not in one


@pytest.mark.parametrize("profile", ["eu", "cn"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_comment_survives_a_copy(profile: str, suffix: str, tmp_path: Path) -> None:
    source = marked(tmp_path / "a.mp4", Marks.of(profile))
    assert read(copied(source, tmp_path / f"b{suffix}")).comment == comment(**SAID)


def test_the_aigc_entry_survives_a_copy_that_keeps_keys(tmp_path: Path) -> None:
    source = marked(tmp_path / "a.mp4", Marks.of("cn"))
    assert read(copied(source, tmp_path / "b.mp4", movflags="use_metadata_tags")).whole
    assert read(copied(source, tmp_path / "b.mkv")).whole
    assert read(copied(source, tmp_path / "c.mp4")).aigc is None


# Entries of others, and hostile ones.


def saying(path: Path, **entries: str) -> labels.Tags:
    return read(video(path, entries, {"movflags": "use_metadata_tags"}))


def test_entries_of_others_are_read_with_or_without_their_wrapper(tmp_path: Path) -> None:
    inner = {"Label": "1", "ContentProducer": "001191110102MAD55U9H0F10002", "ProduceID": "98ae6b12"}
    for value in (inner, {"AIGC": inner}, {**inner, "Label": 1}, {**inner, "more": "x", "PropagateID": ["y"]}):
        found = saying(tmp_path / "a.mp4", AIGC=json.dumps(value))
        assert found.aigc == inner
        assert not found.whole


def test_an_entry_whose_id_was_changed_is_not_whole(tmp_path: Path) -> None:
    assert saying(tmp_path / "a.mp4", AIGC=aigc(ID, "us")).whole
    assert not saying(tmp_path / "a.mp4", AIGC=aigc(ID, "us").replace(ID, "f" * 32)).whole


@pytest.mark.parametrize(
    "value",
    ["", "1", "[]", "{}", "{", '{"Label": ""}', '{"Label": []}', "[" * 8000, "9" * 8000, '{"Label": "1"}' + " " * 9000],
)
def test_what_is_no_entry_is_none(value: str, tmp_path: Path) -> None:
    assert saying(tmp_path / "a.mp4", AIGC=value).aigc is None


def test_a_strangers_text_is_short_and_harmless(tmp_path: Path) -> None:
    escape = "\x1b[2J\u202e\ud800\n"
    entry = json.dumps({"Label": "1", "ContentProducer": escape + "x" * 5000, "ProduceID": escape})
    found = saying(tmp_path / "a.mp4", AIGC=entry, comment="AI-generated \x1b[2J" + "x" * 100_000)
    assert found.aigc is not None
    assert found.comment is not None
    for text, most in ((found.aigc["ContentProducer"], 1024), (found.aigc["ProduceID"], 10), (found.comment, 500)):
        assert text.isprintable()
        assert len(text) <= most


def test_a_comment_counts_only_when_it_says_what_the_video_is(tmp_path: Path) -> None:
    assert saying(tmp_path / "a.mp4", comment="holiday in Rome, shot on film").comment is None
    assert saying(tmp_path / "a.mp4", comment="").comment is None
    for said in ("ai-generated with Other 1.0", "Made for fun. AI generated.", "由AI生成", "本视频由人工智能合成"):
        assert saying(tmp_path / "a.mp4", comment=said).comment == said


def box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def with_entries(source: Path, target: Path, count: int, size: int) -> Path:
    """The video with more `moov.udta.meta`: so many keys of its own, each with a value of so many bytes."""
    keys = b"".join(box(b"mdta", b"key%07d" % number) for number in range(count))
    value = box(b"data", bytes([0, 0, 0, 1, 0, 0, 0, 0]) + b"x" * size)
    items = b"".join(box((number + 1).to_bytes(4, "big"), value) for number in range(count))
    handler = box(b"hdlr", bytes(8) + b"mdta" + bytes(13))
    keys = box(b"keys", bytes(4) + count.to_bytes(4, "big") + keys)
    more = box(b"udta", box(b"meta", bytes(4) + handler + keys + box(b"ilst", items)))
    content = source.read_bytes()
    start = content.index(b"moov") - 4
    end = start + int.from_bytes(content[start : start + 4], "big")
    target.write_bytes(content[:start] + box(b"moov", content[start + 8 : end] + more) + content[end:])
    return target


def test_many_entries_take_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_SECONDS", 0.5)  # the whole file would take minutes
    hostile = with_entries(marked(tmp_path / "a.mp4", Marks.of("eu")), tmp_path / "b.mp4", 100_000, 1)
    before = time.process_time()
    with contextlib.suppress(MediaError):
        assert read(hostile).aigc is None
    assert time.process_time() - before < 20


def test_large_entries_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_MOST_HEADERS", 1 << 20)
    hostile = with_entries(marked(tmp_path / "a.mp4", Marks.of("eu")), tmp_path / "b.mp4", 1, 2 << 20)
    with pytest.raises(MediaError, match="bytes of headers; at most"):
        read(hostile)


def test_other_ways_to_write_a_size_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_MOST_HEADERS", 4096)
    content = marked(tmp_path / "a.mp4", Marks.of("cn")).read_bytes()
    at = content.index(b"mdat") - 4
    pictures = content[at + 8 :] + bytes(8192)
    for header in (bytes(4) + b"mdat", b"\0\0\0\1mdat" + (16 + len(pictures)).to_bytes(8, "big")):
        (tmp_path / "b.mp4").write_bytes(content[:at] + header + pictures)
        assert read(tmp_path / "b.mp4").whole


def test_what_is_no_video_is_an_error_of_one_line(tmp_path: Path) -> None:
    for content in (b"", b"no video", b"\0\0\0\x18ftypmp42" + bytes(12), b"#EXTM3U\n/etc/passwd\n"):
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(MediaError, match=re.escape(str(path))):
            read(path)
    with pytest.raises(MediaError):
        read(tmp_path / "missing.mp4")


# The visible label.


def picture(height: int, width: int, level: int = 40) -> Frame:
    draw = np.random.default_rng(0)
    return (level + draw.integers(0, 16, (height, width, 3))).astype(np.uint8)


def visible(language: str = "en", **changes: Any) -> Marks:
    return Marks.of("cn" if language == "zh" else "eu", label=True, language=language, **changes)


def changed(before: Frame, after: Frame) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what was drawn."""
    rows, columns = (np.flatnonzero((before != after).any(axis)) for axis in ((1, 2), (0, 2)))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize(("height", "width"), [(480, 832), (832, 480), (720, 1280), (128, 128), (64, 64)])
def test_capitals_are_at_least_a_twentieth_of_the_short_side_high(language: str, height: int, width: int) -> None:
    before = picture(height, width)
    after = VisibleLabel(visible(language), height, width, 16).draw(before, 0)
    lit = after.min(-1) > 150
    columns = np.flatnonzero(lit.any(0))
    first = columns[: 1 + np.argmax(np.append(np.diff(columns) > 1, True))]  # all texts begin with a capital
    rows = np.flatnonzero(lit[:, first].any(1))
    assert rows[-1] - rows[0] + 1 >= 0.05 * min(height, width)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize(("height", "width"), [(480, 832), (832, 480), (64, 64), (48, 64)])
def test_the_label_is_in_its_corner_inside_the_title_safe_area(corner: str, height: int, width: int) -> None:
    before = picture(height, width)
    top, bottom, left, right = changed(before, VisibleLabel(visible(corner=corner), height, width, 16).draw(before, 0))
    assert top >= 0.05 * height
    assert bottom <= 0.95 * height
    assert left >= 0.05 * width
    assert right <= 0.95 * width
    assert (top + bottom < height) == corner.startswith("top")
    if width > 64:  # where it does not fill the width
        assert (left + right < width) == corner.endswith("left")


@pytest.mark.parametrize("level", [0, 120, 240])
def test_white_words_stand_out_on_any_picture(level: int) -> None:
    before = picture(480, 832, level)
    after = VisibleLabel(visible(), 480, 832, 16).draw(before, 0)
    top, bottom, left, right = changed(before, after)
    plate = after[top + 3 : bottom - 3, left + 6 : right - 6].astype(float) / 255
    linear = np.where(plate <= 0.04045, plate / 12.92, ((plate + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    assert (luminance.max() + 0.05) / (np.median(luminance) + 0.05) > 4.5  # WCAG 2.2, 1.4.3
    assert luminance.max() > 0.99


def test_a_label_stays_for_its_seconds_and_then_frames_are_left_alone() -> None:
    label = VisibleLabel(visible(seconds=2.0), 64, 64, 15)
    frame = picture(64, 64)
    kept = frame.copy()
    drawn = [not np.array_equal(label.draw(frame, index), kept) for index in range(40)]
    assert drawn == [True] * 30 + [False] * 10
    assert np.array_equal(frame, kept), "the frame that was given is not drawn on"
    throughout = VisibleLabel(visible(), 64, 64, 15)
    assert not np.array_equal(throughout.draw(frame, 10**9), kept)


def test_outside_the_label_nothing_changes_and_every_frame_has_the_same_one() -> None:
    label = VisibleLabel(visible(), 128, 192, 16)
    for level in (0, 90, 239):
        before = picture(128, 192, level)
        after = label.draw(before, 3)
        assert after.dtype == np.uint8
        top, bottom, left, right = changed(before, after)
        assert (bottom - top, right - left) <= (24, 100)
        assert np.array_equal(after, label.draw(before, 4))


def test_full_white_stays_full_white() -> None:
    frame = np.full((480, 832, 3), 255, np.uint8)
    assert VisibleLabel(visible(), 480, 832, 16).draw(frame, 0).max() == 255


@pytest.mark.parametrize(("height", "width"), [(64, 32), (16, 16), (2, 2), (8, 640)])
def test_where_it_could_not_be_read_it_is_refused(height: int, width: int) -> None:
    with pytest.raises(RequestError, match=r"'AI-generated' needs at least .* pixels") as caught:
        VisibleLabel(visible(), height, width, 16)
    assert caught.value.field == "size"


def test_languages_differ() -> None:
    drawn = [VisibleLabel(visible(language), 480, 832, 16).draw(picture(480, 832), 0) for language in TEXTS]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(drawn, 2))


def test_the_drawn_texts_are_small() -> None:
    content = Path(labels.__file__).parents[1].joinpath("data", "labels.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 100_000

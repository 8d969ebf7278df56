from __future__ import annotations

import gc
import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from lichtspiel.errors import MediaError, OutputError
from lichtspiel.media import media, picture, probe, video
from lichtspiel.media import sheet as sheets
from lichtspiel.media.media import Media, media_sha256, read_frames
from lichtspiel.media.picture import load_image
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.media.video import read_video, sample_video, time_stamps, video_info
from lichtspiel.seal import exit_code, seal, verify
from tests.seal.conftest import frames, provenance


def corners(height: int = 4, width: int = 6) -> Any:
    """A picture whose top left corner is red, so that its orientation shows."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[0, 0] = (255, 0, 0)
    return pixels


def write_video(
    path: Path,
    *,
    count: int = 6,
    size: tuple[int, int] = (64, 48),
    form: str = "mp4",
    rate: Fraction | int = 8,
    step: int = 12,
    codec: str = "mpeg4",
    **stream: Any,
) -> Path:
    """A small test video: every frame a grey of its own, red in its left half."""
    with av.open(str(path), "w", format=form) as output:
        coded = output.add_stream(codec, rate=rate)
        coded.width, coded.height, coded.pix_fmt = *size, "yuv420p"
        context: Any = coded.codec_context
        for name, value in stream.items():
            setattr(context, name, value)
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), step * number + 40, np.uint8)
            pixels[:, : size[0] // 2, 0] = 220
            output.mux(coded.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(coded.encode(None))
    return path


def turned(path: Path) -> Path:
    """Write into an MP4 that it is to be shown a quarter turned clockwise, as telephones do."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12, 8.3.2, version 0
    values = (0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif", "jpg"])
def test_every_format_gives_the_pixels(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / f"flat.{suffix}")
    loaded = load_image(tmp_path / f"flat.{suffix}")
    assert (loaded.dtype, loaded.shape) == (np.uint8, (16, 24, 3))
    assert np.abs(loaded.astype(int) - flat).max() <= 3
    loaded[0] = 0  # writable, for whoever works on it


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA"])
def test_every_kind_of_colour_becomes_rgb(tmp_path: Path, mode: str) -> None:
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    path = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    white.save(path)
    assert (load_image(path) == 255).all()


def test_transparency_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[1, 1] = (0, 0, 0, 127)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    loaded = load_image(tmp_path / "clear.png")
    assert loaded[0, 0].tolist() == [255, 0, 0]
    assert loaded[0, 1].tolist() == [255, 255, 255]
    assert abs(int(loaded[1, 1, 0]) - 128) <= 1
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (load_image(tmp_path / "palette.png") == 255).all()


def test_it_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(corners()).save(tmp_path / "phone.png", exif=exif)
    loaded = load_image(str(tmp_path / "phone.png"))
    assert loaded.shape == (6, 4, 3)
    assert loaded[0, 3].tolist() == [255, 0, 0]


def refused(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        load_image(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    assert "No such file" in refused(path)
    assert "is not a file" in refused(tmp_path)
    path.write_bytes(b"")
    assert "is empty" in refused(path)
    path.write_text("just some words")
    assert "convert it to PNG" in refused(path)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # Pillow would start another program
    assert "is no picture" in refused(path)


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    for length in (len(content) // 2, 40, 20):
        path.write_bytes(content[:length])
        assert "is damaged" in refused(path) or "is no picture" in refused(path)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    assert "convert it to 8 bits" in refused(tmp_path / "deep.png")


def test_an_animation_is_no_picture(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert "is an animation" in refused(tmp_path / "moving.gif")


def png_header(path: Path, side: int) -> None:
    """A PNG that claims to be large; what it unpacks to is never looked at."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_unpacked_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png_header(tmp_path / "bomb.png", 20_000)
    assert "64,000,000 pixels" in refused(tmp_path / "bomb.png")
    png_header(tmp_path / "large.png", 10_000)
    assert "is 10000x10000" in refused(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "64,000,000 pixels" in refused(tmp_path / "large.png")
    monkeypatch.setattr(picture, "MAX_IMAGE_BYTES", 10)
    assert "at most 10 " in refused(tmp_path / "large.png")


def test_a_video_comes_frame_by_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "grey.mp4")
    info = video_info(path)
    assert (info.width, info.height, info.fps, info.frames) == (64, 48, 8.0, 6)
    stream = read_video(str(path))
    assert isinstance(stream, Iterator)
    found = list(stream)
    assert [(frame.shape, frame.dtype) for frame in found] == [((48, 64, 3), np.uint8)] * 6
    for number, frame in enumerate(found):
        assert abs(float(frame[:, 40:].mean()) - (12 * number + 40)) < 6
        assert frame[:, :24, 0].mean() > 190


def test_a_long_video_is_looked_at_from_begin_to_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", count=104, step=2, gop_size=8)  # 13 s, a key frame about each second
    seen = [float(frame[:, 40:].mean()) for frame in sample_video(path, 8)]
    seconds = [(grey - 40) / 2 / 8 for grey in seen]
    assert np.allclose(seconds, [13 * place / 8 for place in range(8)], atol=1.2)
    assert exit_code(verify(path)) == 4


def test_a_long_video_of_few_frames_is_read_to_its_end_more_than_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mp4", count=8, rate=Fraction(1, 2), gop_size=1)
    seen = [round(float(frame[:, 40:].mean() - 40) / 12) for frame in sample_video(path, 96)]
    assert [*dict.fromkeys(seen)] == [*range(8)]


@pytest.mark.parametrize(("suffix", "form"), [("mkv", "matroska"), ("avi", "avi"), ("ts", "mpegts"), ("mov", "mov")])
def test_other_containers_are_read(tmp_path: Path, suffix: str, form: str) -> None:
    assert len(list(read_video(write_video(tmp_path / f"grey.{suffix}", form=form)))) == 6


def test_a_video_stands_upright(tmp_path: Path) -> None:
    path = turned(write_video(tmp_path / "phone.mp4"))
    assert (video_info(path).width, video_info(path).height) == (48, 64)
    frame = next(read_video(path))
    assert frame.shape == (64, 48, 3)
    assert frame[:24, :, 0].mean() > 190  # what was left is on top
    assert frame[40:, :, 0].mean() < 60


def test_pixels_become_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "dvd.mp4", sample_aspect_ratio=Fraction(3, 2))
    assert next(read_video(path)).shape == (48, 96, 3)
    path = write_video(tmp_path / "thin.mp4", sample_aspect_ratio=Fraction(1, 20))
    with pytest.raises(MediaError, match="export it with square pixels"):
        video_info(path)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    for content, message in (
        (b"", "is empty"),
        (b"just some words\n" * 99, "is no video"),
        (b"#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n", "is no video"),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "is no video"),
    ):
        path.write_bytes(content)
        with pytest.raises(MediaError, match=message):
            read_video(path)
    with pytest.raises(MediaError, match="No such file"):
        read_video(tmp_path / "nowhere.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mov"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=44100)
        silence = av.AudioFrame(format="s16", layout="stereo", samples=1024)
        silence.sample_rate = 44100
        output.mux(stream.encode(silence))
    with pytest.raises(MediaError, match="holds no video"):
        video_info(tmp_path / "sound.mov")


def test_a_truncated_video_is_an_error_and_not_a_short_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mp4", count=12)
    whole = path.read_bytes()
    for length in (len(whole) // 3, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(MediaError, match="ends early"):
            read_video(path)


def test_a_video_damaged_inside_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "fox.mp4"
    seal(frames(), provenance(), path, fps=8)
    content = path.read_bytes()
    middle = content.index(b"mdat") + 1200
    path.write_bytes(content[:middle] + bytes(len(content) - middle))
    with pytest.raises(MediaError, match=r"fox\.mp4: is damaged"):
        list(read_video(path))


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fox.mp4"
    seal(frames(1), provenance(), path, fps=8)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(MediaError, match=r"export it as H\.264"):
        video_info(path)


def test_an_empty_video_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "grey.mp4")
    content = path.read_bytes()
    samples = content.index(b"stsz") + 12
    path.write_bytes(content[:samples] + bytes(4) + content[samples + 4 :])
    with pytest.raises(MediaError, match=r"holds no frame|is no video|is damaged"):
        video_info(path)


def test_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "grey.mp4")
    with pytest.raises(MediaError, match="has 6 frames; at most 5 are read"):
        read_video(path, max_frames=5)
    stream = write_video(tmp_path / "grey.ts", form="mpegts")  # does not declare their number
    with pytest.raises(MediaError, match="more than 5 frames"):
        list(read_video(stream, max_frames=5))
    wide = write_video(tmp_path / "wide.mp4", sample_aspect_ratio=Fraction(3, 2))
    monkeypatch.setattr(video, "MAX_VIDEO_PIXELS", 64 * 48)
    assert len(list(read_video(path))) == 6
    with pytest.raises(MediaError, match="at most 3,072 pixels"):
        read_video(wide)
    monkeypatch.setattr(video, "MAX_VIDEO_PIXELS", 64 * 48 - 1)
    with pytest.raises(MediaError, match="at most 3,071 pixels"):
        read_video(path)
    monkeypatch.setattr(probe, "MAX_BYTES", 100)
    with pytest.raises(MediaError, match="at most 100"):
        read_video(path)


def counted(count: int, height: int = 64, width: int = 64) -> Iterator[Any]:
    for number in range(count):
        yield np.full((height, width, 3), number % 256, np.uint8)


def numbers(sheet: Image.Image, cell: int, columns: int, count: int) -> list[int]:
    pixels = np.asarray(sheet)
    step = cell + sheets._GAP
    return [
        int(pixels[sheets._GAP + 5 + i // columns * step, sheets._GAP + 5 + i % columns * step, 0])
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 13, 17, 24, 25, 26, 49, 81, 201])
def test_a_sheet_shows_first_last_and_what_is_between(count: int) -> None:
    sheet = contact_sheet(counted(count), columns=4)
    shown = min(count, 12)
    assert sheet.size == (min(shown, 4) * 328 + 8, -(-shown // 4) * 328 + 8)  # 64 pixels are enlarged five times
    found = numbers(sheet, 320, min(shown, 4), shown)
    assert (found[0], found[-1]) == (0, count - 1)
    steps = np.diff(found)
    assert (steps > 0).all()
    assert steps.max(initial=0) <= 2.2 * max(1, (count - 1) / max(1, shown - 1))


def test_a_sheet_keeps_few_frames() -> None:
    assert len(sheets.spread(counted(1000, 2, 2), 12)) == 12


def test_large_frames_are_reduced_and_small_pixels_kept(tmp_path: Path) -> None:
    large = contact_sheet(counted(3, 480, 832), columns=2)
    assert large.size == (2 * 328 + 8, 2 * (185 + 8) + 8)
    small = np.asarray(contact_sheet([corners(64, 64)]))
    assert (small[8:13, 8:13] == (255, 0, 0)).all()
    assert (small[8:13, 13] == 40).all()


def test_a_sheet_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    contact_sheet(counted(2), path=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as saved:
        assert saved.size == (2 * 328 + 8, 328 + 8)
    with pytest.raises(OutputError, match="cannot be written"):
        contact_sheet(counted(2), path=tmp_path / "nowhere" / "sheet.png")
    assert os.listdir(tmp_path) == ["sheet.png"]
    with pytest.raises(MediaError, match="at least one frame"):
        contact_sheet([])


def test_frames_come_from_a_video_a_picture_or_a_folder(tmp_path: Path) -> None:
    frames = list(read_video(write_video(tmp_path / "video.mp4")))
    (tmp_path / "folder").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "folder" / f"{number}.png")
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    (tmp_path / "folder" / ".hidden.png").write_text("no picture")
    for name in ("video.mp4", "folder"):
        found = list(read_frames(tmp_path / name))
        assert len(found) == len(frames)
        assert all((one == other).all() for one, other in zip(found, frames, strict=True))
    assert [frame.shape for frame in read_frames(tmp_path / "folder" / "0.png")] == [(48, 64, 3)]


def test_a_folder_without_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match=r"holds no picture \(\.png"):
        read_frames(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    monkeypatch.setattr("lichtspiel.media.picture.MAX_PICTURES", 1)
    with pytest.raises(MediaError, match="holds 2 pictures; at most 1 are read"):
        read_frames(tmp_path)


def test_frames_beyond_the_memory_limit_lie_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4")
    whole = Media.read_video(path, lambda timeline: range(5), fps=16)
    monkeypatch.setattr(media, "MEMORY_BYTES", 2 * whole.frames[0].nbytes)
    spilled = Media.read_video(path, lambda timeline: range(5), fps=16)
    assert [isinstance(frame, np.memmap) for frame in spilled.frames] == [False, False, True, True, True]
    assert all((one == other).all() for one, other in zip(whole.frames, spilled.frames, strict=True))
    assert (whole.count, len(whole.frames), whole.size, whole.still) == (6, 5, (64, 48), False)
    assert whole.sha256 == media_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    few = Media.read_video(path, lambda timeline: range(timeline.count), fps=16, every=4)
    assert (few.count, len(few.frames)) == (6, 2)


def test_a_video_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4")
    opened = media.open_video

    def replaced(path: Path) -> object:
        write_video(path, count=9)
        return opened(path)

    monkeypatch.setattr(media, "open_video", replaced)
    with pytest.raises(MediaError, match="changed while it was read"):
        Media.read_video(path, lambda timeline: range(5), fps=16)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), (0, 0)), ((-1, 0, 0, 1), (0, 1)), ((1, 0, 0, -1), (1, 0)), ((-1, 0, 0, -1), (1, 1)),
        ((0, 1, 1, 0), (0, 0)), ((0, 1, -1, 0), (0, 1)), ((0, -1, 1, 0), (1, 0)), ((0, -1, -1, 0), (1, 1)),
    ],
)  # fmt: skip
def test_a_video_is_shown_as_its_matrix_says(
    tmp_path: Path, matrix: tuple[int, int, int, int], corner: tuple[int, int]
) -> None:
    path = tmp_path / "v.mp4"
    frame = np.full((48, 64, 3), 40, np.uint8)
    frame[:16, :16] = 220  # its corner shows where the rows and columns begin
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(content)
    shown = next(read_video(path))
    assert shown.shape[:2] == ((48, 64) if matrix[0] else (64, 48))
    bright = [shown[[8, -8][row], [8, -8][column], 0] > 130 for row in (0, 1) for column in (0, 1)]
    assert bright.index(True) == 2 * corner[0] + corner[1]
    assert sum(bright) == 1


def test_numbered_pictures_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["frame_1.png", "frame_2.png", "frame_10.png", "frame_0011.png", "z.png"]
    for name in reversed(names):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [path.name for path in picture.pictures(tmp_path)] == names


def test_packets_that_are_not_shown_are_no_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", count=9)
    stamps, rate = time_stamps(path)
    hidden = [stamp + 0.06 for stamp in stamps]  # as the alternate reference frames of VP8 are
    monkeypatch.setattr("lichtspiel.media.timeline.time_stamps", lambda path: (sorted([*stamps, *hidden]), rate))
    read = Media.read_video(path, lambda timeline: range(timeline.count), fps=16)
    assert (read.count, len(read.frames)) == (9, 9)
    assert read.timeline.starts == tuple(stamps)


def test_frames_do_not_wait_for_the_garbage_collector(tmp_path: Path) -> None:
    path = write_video(tmp_path / "many.mp4", count=40, step=4)
    gc.collect()
    gc.disable()
    try:
        for _ in read_video(path):
            pass
        left = sum(type(found) is av.VideoFrame for found in gc.get_objects())
    finally:
        gc.enable()
    assert left <= 4  # a second of 4K video would take 2 GB


def test_large_frames_are_reduced_as_they_are_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", count=3, size=(640, 480))
    found = list(sample_video(path, 3, 160 * 120))
    assert [frame.shape for frame in found] == [(120, 160, 3)] * 3
    assert abs(float(found[2][:, 100:].mean()) - 64) < 6
    assert [frame.shape for frame in sample_video(path, 3, 640 * 480)] == [(480, 640, 3)] * 3


def test_a_large_picture_is_blended_band_by_band(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 8, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tall.png")
    alpha = pixels[..., 3:].astype(float) / 255
    assert np.abs(load_image(tmp_path / "tall.png") - (pixels[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1

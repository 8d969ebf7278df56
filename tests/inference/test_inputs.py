"""What given files decide, what has to agree, and the sheet that shows what a model will see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lichtspiel.errors import LichtspielError, MediaError, RequestError
from lichtspiel.inference.inputs import Inputs, picture_size, read_inputs, resolve_request, video_size
from lichtspiel.inference.preprocess import pictures_of, preview, vace_inputs
from lichtspiel.media.picture import load_image
from lichtspiel.media.timeline import Timeline
from lichtspiel.request import Request
from tests.media.test_media import write_video
from tests.workflows.test_reseal import stamped


def ask(**fields: Any) -> Request:
    return resolve_request(**fields)[0]


def look(request: Request) -> tuple[list[str], Inputs]:
    inputs = read_inputs(request)
    return inputs.check(request), inputs


def pictures(request: Request) -> list[torch.Tensor]:
    return pictures_of(request, read_inputs(request))


def picture(path: Path, width: int = 100, height: int = 60, colour: Any = "orange") -> Path:
    Image.new("RGB", (width, height), colour).save(path)
    return path


def folder(path: Path, count: int, width: int = 64, height: int = 48) -> Path:
    """A folder of pictures, each one a little lighter than the one before."""
    path.mkdir()
    for number in range(count):
        picture(path / f"{number:03d}.png", width, height, (10 * number, 40, 90))
    return path


@pytest.mark.parametrize(
    ("area", "given", "size"),
    [
        # Computed by the lines of wan/image2video.py: sqrt(area * h / w) // 8 // 2 * 2 * 8, and the same for the width.
        (832 * 480, (1000, 563), (832, 464)),
        (832 * 480, (512, 512), (624, 624)),
        (832 * 480, (3000, 4000), (544, 720)),
        (1280 * 720, (1920, 1080), (1280, 720)),
        (1280 * 720, (1000, 563), (1264, 720)),
        (1280 * 720, (40, 60), (768, 1168)),
    ],
)
def test_the_size_of_a_picture_is_the_official_one(area: int, given: tuple[int, int], size: tuple[int, int]) -> None:
    width, height = given
    assert picture_size(area, width, height, 16) == size == official_size(area, width, height)


def official_size(area: int, width: int, height: int) -> tuple[int, int]:
    ratio = height / width
    across, down = (round(np.sqrt(pixels) // 8 // 2 * 2) * 8 for pixels in (area / ratio, area * ratio))
    return across, down


def test_a_picture_of_the_very_size_keeps_it_where_the_official_arithmetic_loses_rows() -> None:
    assert official_size(832 * 480, 832, 480) == (832, 464)
    assert picture_size(832 * 480, 832, 480, 16) == (832, 480)


@pytest.mark.parametrize(
    ("given", "size"),
    [((832, 480), (832, 480)), ((1920, 1080), (832, 480)), ((640, 640), (640, 624)), ((320, 240), (320, 240))],
)
def test_the_size_of_a_video_is_the_official_one(given: tuple[int, int], size: tuple[int, int]) -> None:
    assert video_size(832 * 480, *given, 16) == size  # _get_frameid_bbox_adjust_last of wan/utils/vace_processor.py


@pytest.mark.parametrize("rule", [picture_size, video_size])
def test_what_has_no_size_asks_for_one(rule: Any) -> None:
    with pytest.raises(RequestError, match=r"too small or too narrow.*set size"):
        rule(832 * 480, 9000, 2, 16)


def test_a_picture_decides_the_size_unless_one_is_asked_for(tmp_path: Path) -> None:
    given: dict[str, Any] = {"prompt": "x", "model": "i2v-14b-480p", "image": picture(tmp_path / "a.png", 1000, 563)}
    assert ask(**given).size == (832, 464)
    assert ask(**given, size="480x832").size == (480, 832)
    assert ask(**{**given, "model": "i2v-14b-720p"}).size == (1264, 720)
    assert ask(**{**given, "model": "nano"}).size == (128, 128)
    assert ask(prompt="x", model="t2v-1.3b").size == (832, 480)


def test_a_picture_of_the_official_size_is_not_cut_and_another_is(tmp_path: Path) -> None:
    given: dict[str, Any] = {"prompt": "x", "model": "i2v-14b-480p", "image": picture(tmp_path / "a.png", 1000, 563)}
    assert pictures(ask(**given))[0].shape == (3, 563, 1000)
    assert pictures(ask(**given, size="480x480"))[0].shape == (3, 563, 563)
    assert pictures(ask(**given, size="480x480", fit="pad"))[0].shape == (3, 1000, 1000)
    assert pictures(ask(**given, size="480x480", fit="stretch"))[0].shape == (3, 563, 1000)


def test_a_last_picture_of_another_shape_is_cut_to_the_first(tmp_path: Path) -> None:
    first, last = picture(tmp_path / "a.png", 1280, 720), picture(tmp_path / "b.png", 500, 500)
    request = ask(prompt="x", model="flf2v-14b", image=first, last_image=last, frames=33)
    assert (request.size, request.frames) == ((1280, 720), 33)
    assert pictures(request)[1].shape == (3, 281, 500)


def test_a_video_decides_size_and_length(tmp_path: Path) -> None:
    given: dict[str, Any] = {"prompt": "x", "model": "vace-1.3b", "video": folder(tmp_path / "v", 6)}
    request = ask(**given)
    assert (request.size, request.frames) == ((64, 48), 5)
    notes, inputs = look(request)
    assert [int(frame[0, 0, 0]) // 10 for frame in inputs.video_frames(request)] == [0, 1, 2, 4, 5]
    assert notes == [f"5 of 6 frames are spread over all of {tmp_path / 'v'}"]
    (tmp_path / "v" / "005.png").unlink()
    assert ask(**given).frames == 5
    assert look(ask(**given))[0] == []


def taken(request: Request) -> list[int]:
    """The numbers of the frames of `write_video` that a request uses; its frames show them."""
    video = read_inputs(request).video
    assert video is not None
    shown = [(int(frame[24, -1, 1]) - 40) / 2 for frame in video.frames]
    assert shown == pytest.approx(list(video.picks), abs=3)
    return [*video.picks]


# Frames that `_get_frameid_bbox_adjust_last` of wan/utils/vace_processor.py takes from videos of a constant rate,
# computed with its code: (frames of the video, its rate, frames taken): some of their numbers.
OFFICIAL = {
    (100, 30, 81): ([0, 1, 2, 3, 4, 6, 7, 8], [90, 92, 93, 94, 95, 97, 98, 99]),
    (82, 16, 81): ([0, 1, 2, 3, 4, 5, 6, 7], [74, 75, 76, 77, 78, 79, 80, 81]),
    (81, 24, 81): ([0, 1, 2, 3, 4, 5, 6, 7], [73, 74, 75, 76, 77, 78, 79, 80]),
}


@pytest.mark.parametrize(("clip", "official"), OFFICIAL.items())
def test_frames_are_spread_over_a_video_as_the_official_code_does(
    clip: tuple[int, int, int], official: tuple[list[int], list[int]]
) -> None:
    count, fps, frames = clip
    picks = Timeline.even(count, fps).whole(frames)
    assert (picks[:8], picks[-8:]) == official


def test_a_video_of_another_rate_keeps_its_speed(tmp_path: Path) -> None:
    given: dict[str, Any] = {"prompt": "x", "model": "vace-1.3b", "size": "64x48"}
    given["video"] = write_video(tmp_path / "v.mp4", count=60, rate=30, step=2)
    whole = ask(**given)
    assert whole.frames == 33  # 2 s at 16 frames per second
    assert taken(whole)[::8] == [0, 14, 29, 44, 59]
    real = ask(**given, pace="real", frames=17)
    assert taken(real) == [round(1.875 * number + 0.4) for number in range(17)]
    assert taken(ask(**given, pace="each", frames=17)) == [*range(17)]
    assert ask(**given, pace="each").frames == 57
    later = ask(**given, pace="real", video_start=1)
    assert (later.frames, taken(later)[0], taken(later)[-1]) == (13, 30, 53)
    assert "first 17 of 60 frames" in look(ask(**given, pace="each", frames=17))[0][0]
    assert "first 1.06 of 2 s are used" in look(real)[0][0]
    assert look(ask(**given, frames=17))[0][1] == (
        f"the result plays 1.9 times as fast as {given['video']}: 2 s in 1.06 s"
    )
    assert "has 30 frames after its first 1 s, fewer than frames 49. Pass frames 29" in refused(
        tmp_path, **given, video_start=1, frames=49
    )
    assert "lasts 2 s; start before its end" in refused(tmp_path, **given, video_start=2)


def test_a_long_video_is_not_cut_off_and_its_speed_is_told(tmp_path: Path) -> None:
    request = ask(
        prompt="x", model="vace-1.3b", size="64x48", video=write_video(tmp_path / "v.mp4", count=90, rate=5, step=2)
    )
    assert request.frames == 161
    assert taken(request)[-1] == 89
    assert look(request)[0][-1] == f"the result plays 1.8 times as fast as {request.video}: 18 s in 10.1 s"


def test_an_uneven_video_is_taken_by_its_time_stamps(tmp_path: Path) -> None:
    stamps = [0, 100, 200, 300, 1300, 1400, 1500, 1600, 1700, 1800]  # milliseconds: the fourth frame stands for 1 s
    path = stamped(tmp_path / "v.mkv", stamps)
    timeline = Timeline.of_video(path, 16)
    assert timeline.count == 10
    assert timeline.seconds == pytest.approx(1.9, abs=0.01)
    assert timeline.real(16, 10) == [0, 1, 2, *[3] * 10, 4, 5, 6]
    assert timeline.whole(5) == [0, 3, 3, 4, 9]


def test_a_mask_of_a_video_is_taken_frame_by_frame_as_the_video_is(tmp_path: Path) -> None:
    folder(tmp_path / "v", 10), folder(tmp_path / "m", 10)
    request = ask(prompt="x", model="vace-1.3b", video=tmp_path / "v", mask=tmp_path / "m")
    inputs = read_inputs(request)
    assert request.frames == 9
    assert [frame[0, 0, 0] for frame in inputs.mask_frames(request)] == [
        frame[0, 0, 0] for frame in inputs.video_frames(request)
    ]


def test_the_frames_of_an_animation_last_as_long_as_it_says(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (64, 48), (40 * number, 90, 90)) for number in range(4)]
    pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:], duration=[250, 250, 500, 250])
    assert Timeline.of_animation(tmp_path / "a.webp", 16).starts == (0.0, 0.25, 0.5, 1.0)
    request = ask(prompt="x", model="vace-1.3b", video=tmp_path / "a.webp", size="64x48", pace="real")
    assert (request.frames, read_inputs(request).video.picks[::4]) == (17, [0, 1, 2, 2, 3])  # type: ignore[union-attr]


def test_options_of_a_video_need_one(tmp_path: Path) -> None:
    for option in ({"pace": "real"}, {"video_start": 1.5}, {"sound": True}):
        with pytest.raises(RequestError, match="no video that it could be about"):
            Request.of(prompt="x", model="vace-1.3b", **option)
    with pytest.raises(RequestError, match=r"sound keeps its speed.*nearest valid value: real"):
        Request.of(prompt="x", model="vace-1.3b", video=tmp_path, sound=True)


def test_a_video_file_is_read_and_its_rate_is_told(tmp_path: Path) -> None:
    request = ask(
        prompt="x", model="vace-1.3b", video=write_video(tmp_path / "v.mp4", count=5), size="64x48", pace="each"
    )
    notes, inputs = look(request)
    assert request.frames == 5
    assert list(inputs.judged(request))
    assert any("frames per second; the result plays at 16" in note for note in notes)


def refused(tmp_path: Path, **fields: Any) -> str:
    with pytest.raises(LichtspielError) as caught:
        look(ask(**{"prompt": "x", "model": "vace-1.3b", "video": tmp_path / "v", **fields}))
    return str(caught.value)


def test_what_does_not_agree_is_refused_with_what_would(tmp_path: Path) -> None:
    folder(tmp_path / "v", 5)
    short, small = folder(tmp_path / "short", 3), picture(tmp_path / "small.png", 32, 32)
    assert "has 3 frames and the video 5; give it as many" in refused(tmp_path, mask=short)
    assert "it is 32x32 and the video 64x48" in refused(tmp_path, mask=small)
    assert "v has 5 frames, fewer than frames 9. Pass frames 5." in refused(tmp_path, frames=9)
    assert "add video" in refused(tmp_path, video=None, mask=small)
    assert "it takes no picture" in refused(tmp_path, model="t2v-14b", size="832x480", video=None, references=[small])
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in refused(tmp_path, mask=tmp_path / "empty")
    picture(tmp_path / "v" / "004.png", 32, 32)
    assert "frame 4 is 32x32, the first is 64x48" in refused(tmp_path)


def test_first_and_last_picture_alike_are_allowed_and_noted(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 128, 128)
    notes = look(Request.of(prompt="x", image=path, last_image=path))[0]
    assert notes == ["first and last image are the same: the video may stand still"]
    assert look(Request.of(prompt="x", image=path))[0] == []


def test_the_policy_sees_pictures_references_and_some_frames(tmp_path: Path) -> None:
    reference = picture(tmp_path / "hat.png")
    request = ask(prompt="x", model="vace-1.3b", video=folder(tmp_path / "v", 17), references=[reference])
    judged = list(look(request)[1].judged(request))
    assert len(judged) == 4
    assert judged[-1].shape == (60, 100, 3)
    few = resolve_request(prompt="x", model="vace-1.3b", video=tmp_path / "v", references=[reference], judge_only=True)
    assert [frame.tolist() for frame in few[1].judged(request)] == [frame.tolist() for frame in judged]


def test_white_of_a_mask_is_made_anew(tmp_path: Path) -> None:
    mask = Image.new("L", (64, 48), "black")
    mask.paste(255, (0, 0, 32, 48))
    mask.save(tmp_path / "mask.png")
    request = ask(prompt="x", model="vace-1.3b", video=folder(tmp_path / "v", 5), mask=tmp_path / "mask.png")
    film = vace_inputs(request, read_inputs(request))
    assert film.video.shape == (3, 5, 48, 64)
    assert film.mask.shape == (5, 48, 64)
    assert film.mask[:, :, :32].min() == 1
    assert film.mask[:, :, 32:].max() == 0


def test_without_files_all_is_made_anew_from_grey() -> None:
    request = Request.of(prompt="x", model="vace-1.3b", frames=5, size="64x48")
    film = vace_inputs(request, Inputs())
    assert not film.video.any()
    assert torch.equal(film.mask, torch.ones(5, 48, 64))
    assert film.references == []


def test_the_preview_shows_what_the_model_will_see(tmp_path: Path) -> None:
    video, hat = folder(tmp_path / "v", 5), picture(tmp_path / "hat.png")
    edit: dict[str, Any] = {"prompt": "x", "model": "vace-1.3b", "references": [hat]}
    for name, request in {
        "edit": ask(**edit, video=video, mask=picture(tmp_path / "mask.png", 64, 48, "white")),
        "subject": ask(**edit, size="64x48"),
        "image": ask(prompt="x", image=hat),
    }.items():
        preview(request, read_inputs(request), tmp_path / f"{name}.png")
    sheets = {name: load_image(tmp_path / f"{name}.png") for name in ("edit", "subject", "image")}
    assert sheets["edit"].shape == (4 * 248 + 8, 5 * 328 + 8, 3)
    assert (sheets["edit"][3 * 248 - 20, 20] == 255).all()  # the mask's row
    assert (sheets["edit"][20, 20] == 128).all()  # nothing stays under a white mask: grey
    assert sheets["subject"].shape == (256, 336, 3)
    assert sheets["image"].shape == (272, 272, 3)
    with pytest.raises(RequestError, match="nothing to preview"):
        preview(Request.of(prompt="x"), Inputs(), tmp_path / "none.png")


def test_a_text_file_is_no_reference(tmp_path: Path) -> None:
    (tmp_path / "hat.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"hat\.png"):
        look(ask(prompt="x", model="vace-1.3b", references=[tmp_path / "hat.png"]))

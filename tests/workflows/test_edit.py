"""A part of a clip made anew: what stays as it is, what the model gets, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from lichtspiel.errors import Interrupted, InvalidInput, RequestError
from lichtspiel.footage.segment import box_of
from lichtspiel.footage.stitch import scaled
from lichtspiel.frames import Frame
from lichtspiel.media.video import read_video, video_info
from lichtspiel.seal import record, verify
from lichtspiel.seal.manifest import read
from lichtspiel.workflows import edit as edit_module
from lichtspiel.workflows.edit import EditJob, begin, edit, edited, preview_edits
from lichtspiel.workflows.edits import Edit, read_edits
from lichtspiel.workflows.generate import Generation
from tests.footage.files import HEIGHT, WIDTH, clip, clip_file, large_file
from tests.inference.tiny import registered
from tests.workflows.test_reseal import stamped

QUICK = {"model": "tiny-vace", "steps": 1, "guidance": 1.0, "seed": 3, "dtype": "float32"}
BOX = "40,30,100,90"


@pytest.fixture(scope="module", autouse=True)
def vace(random_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with registered(random_nano, tmp_path_factory.mktemp, ["tiny-vace"]) as folders:
        yield folders["tiny-vace"]


def job(folder: Path, weights: Path, *changes: dict[str, Any], **more: Any) -> EditJob:
    options = QUICK | more.pop("options", {})
    edits = [Edit.of(change, "a red box") for change in changes]
    return EditJob(edits=edits, out=folder / "out.mp4", options=options, weights=weights, **more)


def made(source: Path, task: EditJob) -> tuple[list[Frame], Any]:
    """The frames of an edit before they are encoded, and how it was made."""
    maker = begin(source, task)
    return list(edited(maker)), maker


def differs(before: Sequence[Frame], after: Sequence[Frame]) -> np.ndarray[Any, Any]:
    return np.stack([(one != other).any(-1) for one, other in zip(before, after, strict=True)])


def test_pixels_outside_the_region_stay_bit_for_bit(tmp_path: Path, vace: Path) -> None:
    source = clip_file(tmp_path)
    before = list(read_video(source))
    after, maker = made(source, job(tmp_path, vace, {"add": BOX}))
    changed = differs(before, after)
    assert not changed[:, :30].any()
    assert not changed[:, 90:].any()
    assert not changed[:, :, :40].any()
    assert not changed[:, :, 100:].any()
    assert changed[:, 35:85, 45:95].mean() > 0.9
    (plan,) = maker.plans
    assert plan.windows == [(0, 9), (4, 13)]
    assert plan.crops[0].width > 60
    edge = [np.abs(one[60, 40].astype(int) - other[60, 40]).mean() for one, other in zip(before, after, strict=True)]
    middle = [np.abs(one[60, 70].astype(int) - other[60, 70]).mean() for one, other in zip(before, after, strict=True)]
    assert np.mean(edge) < np.mean(middle)  # the seam is soft


def test_a_tracked_object_is_made_anew_and_the_seal_names_where(tmp_path: Path, vace: Path) -> None:
    source = clip_file(tmp_path)
    left, top, right, bottom = box_of(clip().masks[6] == 1) or (0, 0, 0, 0)
    result = edit(source, job(tmp_path, vace, {"replace": f"{left},{top},{right},{bottom}", "at": 6 / 8}))
    info = video_info(tmp_path / "out.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (WIDTH, HEIGHT, 13, 8)
    (change,) = result["edits"]
    assert change["kind"] == "replace"
    assert change["windows"] == 2
    everywhere = box_of((clip().masks == 1).any(0)) or (0, 0, 0, 0)
    assert all(abs(one - other) <= 8 for one, other in zip(change["box"], everywhere, strict=True))
    credentials = verify(tmp_path / "out.mp4").credentials
    assert credentials.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert [(it.role, it.relationship) for it in credentials.ingredients] == [("video", "parentOf")]
    actions = [
        it["data"]["actions"] for it in read(tmp_path / "out.mp4").manifest["assertions"] if "actions" in it["label"]
    ]
    opened, edited_action, *_ = actions[0]
    assert (opened["action"], edited_action["action"]) == ("c2pa.opened", "c2pa.edited")
    left, top, right, bottom = change["box"]
    (region,) = edited_action["changes"]
    assert region["description"] == "replace"
    assert region["region"][0]["frame"] == {"start": 0, "end": 12}
    shape = region["region"][1]["shape"]
    assert (shape["origin"], shape["width"], shape["height"]) == ({"x": left, "y": top}, right - left, bottom - top)
    entry = record.find(result["seal"]["id"])
    assert entry is not None
    assert entry.request["region"] == [change]
    assert "has 8 frames per second" not in " ".join(result["notes"])  # so has tiny-vace


def test_what_the_model_gets_follows_the_kind_of_edit(tmp_path: Path, vace: Path) -> None:
    source = clip_file(tmp_path, frames=5)

    maker = begin(source, job(tmp_path, vace, {"add": BOX}))

    def seen(**change: Any) -> tuple[list[Frame], list[Frame], Any]:
        plan = maker.plan(Edit.of(change, "a red box"), maker.clip.frames)
        return (*plan.given(0, {}), plan)

    frames, masks, plan = seen(add=BOX)
    inside = masks[0][..., 0] == 255
    assert (frames[0][inside] == 127).all()
    assert (frames[0] == scaled(plan.crops[0].cut(plan.frames[0]), plan.size))[~inside].all()
    frames, _, plan = seen(add=BOX, fill="keep")
    assert (frames[0] == scaled(plan.crops[0].cut(plan.frames[0]), plan.size)).all()
    frames, masks, plan = seen(restyle="edges")
    assert (masks[0] == 255).all()
    assert set(np.unique(frames[0])) == {0, 255}
    frames, masks, plan = seen(outpaint="304x160")
    assert plan.region.size == (304, 160)
    height, width, _ = frames[0].shape
    assert masks[0][0].all()
    assert not masks[0][height // 2, width // 2].any()
    assert (frames[0][0] == 127).all()


def test_a_larger_frame_keeps_the_clip_in_its_middle(tmp_path: Path, vace: Path) -> None:
    source = clip_file(tmp_path, frames=3)
    after, _ = made(source, job(tmp_path, vace, {"outpaint": "304x160", "feather": 4}))
    before = list(read_video(source))
    assert after[0].shape == (160, 304, 3)
    assert (after[2][24:136, 52:252] == before[2][4:116, 4:204]).all()
    assert after[0][:, :40].std() > 0


def test_rate_length_and_sound_stay_and_the_resampling_is_told(tmp_path: Path, vace: Path) -> None:
    source = stamped(tmp_path / "v.mp4", [40 * number for number in range(50)], loud_from=0.5)  # 2 s, 25 per second
    result = edit(source, job(tmp_path, vace, {"add": "8,8,40,40"}))
    assert (result["frames"], result["fps"], result["sound"]) == (50, 25.0, True)
    assert result["edits"][0]["windows"] == 3
    assert "has 25 frames per second, the model makes 8" in " ".join(result["notes"])
    with av.open(str(source)) as one, av.open(str(tmp_path / "out.mp4")) as other:
        sounds = [[frame.to_ndarray() for frame in file.decode(audio=0)] for file in (one, other)]
    assert (np.concatenate(sounds[0], -1) == np.concatenate(sounds[1], -1)).all()


def test_finished_windows_survive_an_interruption(tmp_path: Path, vace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clip_file(tmp_path)
    task = job(tmp_path, vace, {"add": BOX, "feather": 2})
    real, calls = edit_module.compute_latents, list[int]()

    def compute(generation: Generation) -> Any:
        calls.append(generation.request.seed)
        if len(calls) == 2:
            raise Interrupted("stopped")
        return real(generation)

    monkeypatch.setattr(edit_module, "compute_latents", compute)
    with pytest.raises(
        Interrupted, match=r"stopped; finished windows are kept: the same command with --seed 3 goes on"
    ):
        made(source, task)
    again, maker = made(source, task)
    assert calls == [3, 4, 4]
    assert len(again) == 13
    assert len(maker.windows) == 2
    monkeypatch.setattr(edit_module, "latents_path", lambda name: tmp_path / name)
    whole, _ = made(source, task)
    assert all((one == other).all() for one, other in zip(again, whole, strict=True))


def test_several_edits_in_one_file_follow_each_other(tmp_path: Path, vace: Path) -> None:
    source = clip_file(tmp_path, frames=3)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[80:, 150:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    lines = [
        {"prompt": "a hat", "add": [40, 30, 100, 90], "feather": 0},
        {"prompt": "grass", "remove": str(tmp_path / "mask.png")},
    ]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = EditJob(edits=read_edits(tmp_path / "edits.jsonl"), out=tmp_path / "o.mp4", options=QUICK, weights=vace)
    after, maker = made(source, task)
    changed = differs(list(read_video(source)), after)
    assert changed[:, 40:80, 50:90].mean() > 0.9
    assert changed[:, 100:, 170:].mean() > 0.9
    assert not changed[:, :30].any()
    assert maker.made == 2
    edit(source, task)
    roles = {it.role: it.relationship for it in verify(task.out).credentials.ingredients}
    assert roles == {"video": "parentOf", "mask": "inputTo"}
    (tmp_path / "edits.jsonl").write_text('{"prompt": "a", "add": "1,2"}')
    with pytest.raises(InvalidInput, match=r"edits\.jsonl, line 1: add: '1,2'.*LEFT,TOP,RIGHT,BOTTOM"):
        read_edits(tmp_path / "edits.jsonl")


def test_a_preview_needs_no_weights_and_leaves_through_the_door(tmp_path: Path) -> None:
    source = clip_file(tmp_path, frames=5)
    task = EditJob(edits=[Edit.of({"add": BOX}, "a hat")], out=tmp_path / "out.mp4", options=QUICK)
    result = preview_edits(source, task, tmp_path / "look.png")
    assert not (tmp_path / "out.mp4").exists()
    assert result["edits"][0]["box"] == [40, 30, 100, 90]
    with Image.open(tmp_path / "look.png") as sheet:
        assert sheet.width > 5 * 250
    credentials = verify(tmp_path / "look.png").credentials
    assert [(it.role, it.relationship) for it in credentials.ingredients] == [("video", "parentOf")]


def test_edits_that_do_not_fit_are_refused(tmp_path: Path, vace: Path) -> None:
    source = clip_file(tmp_path, frames=3)
    Image.new("L", (64, 48), "white").save(tmp_path / "small.png")
    clip_file(tmp_path, frames=2, name="short.mp4")
    for change, words in (
        ({"add": "0,0,900,90"}, "add: .*reaches beyond the clip, which is 208x120"),
        ({"replace": "40,30,41,31"}, "replace: .*at least 4 wide"),
        ({"replace": BOX, "at": 7.0}, "at: 7.0 .*lasts from 0 to 0.25 seconds"),
        ({"add": str(tmp_path / "small.png")}, "add: .*it is 64x48 and the video 208x120"),
        ({"remove": str(tmp_path / "short.mp4")}, "remove: .*it has 2 frames and the video 3"),
        ({"outpaint": "100x160"}, "outpaint: .*larger than the clip, which is 208x120; nearest valid value: 208x160"),
        ({"outpaint": "301x160"}, "outpaint: .*even; nearest valid value: 302x160"),
        ({"restyle": "oil"}, "restyle: .*edges, scribble, gray, flow"),
        ({"add": BOX, "at": 1.0}, "at: .*no effect on add"),
        ({"add": BOX, "fill": "grey"}, "fill: .*nearest valid value: gray"),
        ({"add": BOX, "groww": 2}, "groww: .*nearest valid value: grow"),
        ({"add": BOX, "remove": BOX}, "say what to do, by one of"),
    ):
        with pytest.raises(InvalidInput, match=words):
            made(source, job(tmp_path, vace, change))
    with pytest.raises(RequestError, match=r"window: 10 .*nearest valid value: 9"):
        begin(source, job(tmp_path, vace, {"add": BOX}, window=10))
    with pytest.raises(RequestError, match=r"overlap: 9 .*nearest valid value: 5"):
        begin(source, job(tmp_path, vace, {"add": BOX}, overlap=9))
    with pytest.raises(RequestError, match=r"model: 'nano'.*takes no mask.*nearest valid value: vace-1.3b") as refusal:
        begin(source, job(tmp_path, vace, {"add": BOX}, options={"model": "nano"}))
    for way in ("extend", "bridge", "loop", "generate --video CLIP --strength 0.6"):
        assert f"`lichtspiel {way}`" in str(refusal.value)


def test_a_clip_of_one_frame_is_edited_too(tmp_path: Path, vace: Path) -> None:
    after, maker = made(clip_file(tmp_path, frames=1), job(tmp_path, vace, {"add": BOX}))
    assert len(after) == 1
    assert maker.plans[0].windows == [(0, 1)]


def test_a_4k_clip_is_edited_at_its_size(tmp_path: Path, vace: Path) -> None:
    source = large_file(tmp_path, frames=2)
    before = list(read_video(source))
    after, maker = made(source, job(tmp_path, vace, {"add": "800,600,2000,1800"}))
    assert [frame.shape for frame in after] == [(2160, 3840, 3)] * 2
    changed = differs(before, after)
    inside = np.zeros((2160, 3840), bool)
    inside[600:1800, 800:2000] = True
    assert not changed[:, ~inside].any()
    assert changed[:, inside].mean() > 0.9
    assert "enlarged" in " ".join(maker.notes)

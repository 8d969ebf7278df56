"""What a request accepts, fills in and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lichtspiel.errors import RequestError
from lichtspiel.request import OPTIONS, Request
from lichtspiel.spec import MODELS, NEGATIVE, model


def test_what_is_not_given_comes_from_the_checkpoint() -> None:
    request = Request.of(prompt="a cat", model="t2v-1.3b")
    sampling = MODELS["t2v-1.3b"].sampling
    assert (request.size, request.frames, request.steps) == ((832, 480), 81, 50)
    assert (request.guidance, request.shift, request.solver, request.fps) == (6.0, 8.0, "unipc", 16)
    assert request.negative == sampling.negative == NEGATIVE


def test_a_seed_is_drawn_and_recorded() -> None:
    seeds = {Request.of(prompt="a cat").seed for _ in range(5)}
    assert len(seeds) == 5


def test_an_empty_negative_prompt_is_empty() -> None:
    assert Request.of(prompt="a cat", model="t2v-14b", negative="").negative == ""


def test_the_task_is_which_pictures_are_there() -> None:
    assert Request.of(prompt="x").task == "text"
    assert Request.of(prompt="x", image="a.png").task == "image"
    assert Request.of(prompt="x", image="a.png", last_image="b.png").task == "first-last"
    assert Request.of(prompt="x", model="vace-1.3b").task == "text"
    assert Request.of(prompt="x", model="vace-1.3b", references=["a.png"]).task == "edit"
    assert Request.of(prompt="x", model="vace-1.3b", video="a.mp4", mask="b.png").task == "edit"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "  "}, r"^prompt: .* at least one word"),
        ({"prompt": "&amp;nbsp;"}, r"^prompt: .* at least one word"),
        ({"prompt": "x", "shift": float("inf")}, r"^shift: .* at most 1000$"),
        ({"prompt": "x", "model": "vace-1.3b", "image": "a.png"}, r"^model: .*given as references"),
        ({}, "^prompt: .*required"),
        ({"prompt": "x", "frames": 80, "model": "t2v-1.3b"}, r"^frames: 80 .* 4n\+1 .*nearest valid value: 81$"),
        ({"prompt": "x", "frames": 80}, "nearest valid value: 17$"),
        ({"prompt": "x", "frames": -3}, "nearest valid value: 1$"),
        ({"prompt": "x", "size": "100x100"}, "^size: '100x100' .*nearest valid value: 128x128$"),
        ({"prompt": "x", "size": "832x540", "model": "t2v-14b"}, "multiples of 16; nearest valid value: 832x544$"),
        ({"prompt": "x", "size": "832x484", "model": "t2v-1.3b"}, "multiples of 16; nearest valid value: 832x480$"),
        ({"prompt": "x", "size": "1280x720", "model": "t2v-1.3b"}, "at most .* nearest valid value: 832x480$"),
        ({"prompt": "x", "size": "large"}, "^size: .*WIDTHxHEIGHT"),
        ({"prompt": "x", "model": "wan"}, "^model: 'wan' .*nano, t2v-1.3b"),
        ({"prompt": "x", "steps": 0}, "^steps: 0 .*nearest valid value: 1$"),
        ({"prompt": "x", "steps": "many"}, "^steps: 'many' .*a whole number from 1 to 1000$"),
        ({"prompt": "x", "solver": "ddim"}, r"^solver: 'ddim' .*unipc, dpm\+\+, euler or lcm$"),
        ({"prompt": "x", "guidance": float("nan")}, "^guidance"),
        ({"prompt": "x", "seed": -1}, "^seed: -1 .*nearest valid value: 0$"),
        ({"prompt": "x", "fps": 30}, "^fps: 30 .*nearest valid value: 8$"),
        ({"prompt": "x", "steps_": 3}, "^steps_: .*no such field; fields are prompt, model"),
        ({"prompt": "x", "last_image": "b.png"}, "^last_image: .*add image"),
        ({"prompt": "x", "model": "i2v-14b-480p"}, "^model: .*takes a first picture.*has no picture"),
        ({"prompt": "x", "model": "t2v-14b", "image": "a.png"}, "^model: .*takes no picture.*has a first picture"),
        ({"prompt": "x", "model": "t2v-1.3b", "image": "a.png"}, "nearest valid value: i2v-14b-480p$"),
        ({"prompt": "x", "model": "t2v-14b", "references": ["a.png"]}, "has a video, mask or reference; .* vace-14b$"),
        ({"prompt": "x", "model": "t2v-1.3b", "video": "a.mp4"}, "has a video, mask or reference; .* vace-1.3b$"),
        ({"prompt": "x", "model": "vace-1.3b", "mask": "a.png"}, "^mask: .*add video"),
        (
            {"prompt": "x", "model": "vace-1.3b", "image": "a.png", "video": "b.mp4"},
            "^image: .*use one or the other",
        ),
        ({"prompt": "x", "model": "vace-1.3b", "references": ["a.png"] * 9}, "^references: .*at most 8"),
        ({"prompt": "x", "model": "flf2v-14b", "image": "a", "last_image": "b", "frames": 1}, "valid value: 5$"),
        ({"prompt": "x", "model": "flf2v-14b", "image": "a", "last_image": "b", "frames": 80}, "valid value: 81$"),
        ({"prompt": "x", "model": "t2i-14b", "frames": 81}, "^frames: 81 .*from 1 to 1; nearest valid value: 1$"),
        ({"prompt": "x", "context_scale": 0.5}, "^context_scale: 0.5 .*no VACE context"),
        (
            {"prompt": "x", "fit": "pad"},
            "^fit: 'pad' .*no picture or video to fit: add image or video.*; nearest valid value: crop$",
        ),
        ({"prompt": "x", "image": "a.png", "fit": "squash"}, "^fit: 'squash' .*crop, pad or stretch$"),
        ({"prompt": "x", "seconds": 9.0}, "^seconds: 9.0 .*nearest valid value: 2.125$"),
        ({"prompt": "x", "seconds": 1.0, "frames": 9}, "^seconds: .*not both"),
        ({"prompt": "x" * 9000}, "^prompt: 'xxx.* … x+' is not valid: it is text of at most 8000 characters$"),
        ({"prompt": "x", "solver": "dpm"}, r"nearest valid value: dpm\+\+$"),
        ({"prompt": "x", "seed": "abc"}, "^seed: 'abc' .*a whole number from 0 to .*leave it out for a random one$"),
        ({"prompt": "x", "device": "gpu"}, "^device: 'gpu' .*: it is auto, cpu, mps, cuda or cuda:N, such as cuda:1$"),
        ({"prompt": "x", "guidance": "5,5"}, "^guidance: '5,5' .*a number from 0 to 100$"),
        ({"prompt": "x", "shift": 0}, "^shift: 0 .*a number above 0 and at most 1000$"),
        ({"prompt": "x", "upscale": "3"}, "^upscale: 3 .*1, 2 or 4$"),
        ({"prompt": "x", "lora_partial": True}, "^lora_partial: .*add lora or drop it; nearest valid value: False$"),
        ({"prompt": "x", "seconds": "two"}, "^seconds: 'two' .*a number above 0$"),
        ({"prompt": "x", "seconds": float("inf")}, "^seconds: inf .*a number above 0$"),
        ({"prompt": "x", "seconds": 1e308}, "^seconds: .*nearest valid value: 2.125$"),
        ({"prompt": "x", "model": ["nano"]}, "^model: .*known models are nano"),
        ({"prompt": "x", "model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"}, "nearest valid value: t2v-1.3b$"),
        ({"prompt": "x", "model": "t2v1.3b"}, "nearest valid value: t2v-1.3b$"),
        ({"prompt": "x", "steps": True}, "^steps: True .*a whole number from 1 to 1000$"),
        ({"prompt": "x", "size": 5}, "^size: 5 .*WIDTHxHEIGHT in pixels, such as 832x480$"),
        ({"prompt": "x", "image": 5}, "^image: 5 .*the name of a file$"),
        ({"prompt": "x", "stepps": 3}, "^stepps: .*no such field; .*; nearest valid value: steps$"),
    ],
    ids=str,
)
def test_what_breaks_a_rule_is_refused_with_what_would_work(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Request.of(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guidance": 1, "guidance_kind": "apg"}, "^guidance_kind.*no effect"),
        ({"guidance": 1, "guidance_gate": 0.5}, "^guidance_gate.*no effect"),
        ({"guidance": 1, "guidance_interval": "0-0.5"}, "^guidance_interval.*no effect"),
        ({"guidance_interval": "0.5-0.5"}, "^guidance_interval.*FROM-TO"),
        ({"guidance_interval": "0.5"}, "^guidance_interval.*FROM-TO"),
        ({"guidance_interval": "0.5-1", "guidance_gate": 0.5}, "^guidance_gate.*begins"),
        ({"nag": 11}, "^nag.*guidance to 1"),
        ({"nag": 0.5, "guidance": 1}, "^nag.*above 1"),
        ({"skip_scale": 2.0}, "^skip_scale.*needs skip_layers"),
        ({"skip_layers": (99,)}, "^skip_layers.*blocks 0 to"),
        ({"magcache": "0.12:0"}, "^magcache.*THRESHOLD"),
        ({"magcache": "fast"}, "^magcache.*THRESHOLD"),
        ({"model": "t2v-1.3b", "seconds": 61}, r"seconds: 61\.0 .*up to 60\.\d+ seconds"),
        ({"model": "t2v-1.3b", "frames": 965}, r"frames: 965 .*from 1 to 961; nearest valid value: 961"),
        ({"frames": 33}, r"frames: 33 .*from 1 to 17"),
        ({"frames": 33, "window": 18}, r"window: 18 .*nearest valid value: 17"),
        ({"frames": 9, "window": 9}, r"window: 9 .*no effect on 9 frames"),
        ({"frames": 33, "window": 17, "window_overlap": 6}, r"window_overlap: 6 .*multiple of 4, from 4 to 12"),
        ({"frames": 9, "window_overlap": 4}, r"window_overlap: 4 .*no windows that could overlap"),
        ({"frames": 9, "riflex": True}, r"riflex: True .*17 frames that it was trained on"),
        ({"frames": 33, "window": 17, "magcache": "0.1"}, r"magcache: .*does not go with window"),
        ({"strength": 0.5}, r"strength: 0\.5 .*add video or drop it; nearest valid value: 1\.0"),
        ({"strength": 0.1, "video": "v.mp4", "steps": 4}, r"strength: 0\.1 .*from 0\.25 on; nearest.* 0\.25"),
        ({"video": "v.mp4", "sound": True, "model": "vace-1.3b"}, "pace: .*sound keeps its speed.*: real"),
        ({"sound": True}, "sound: .*no video that it could be about"),
        ({"times": "500, 900"}, "times: .*they go "),
        ({"times": "900, 500", "steps": 4}, "steps: 4 .*times already say when"),
        ({"strength": 0.0, "video": "v.mp4"}, r"strength: 0\.0 .*above 0"),
        ({"strength": 0.5, "video": "v.mp4", "model": "vace-1.3b"}, r"strength: 0\.5 .*VACE models take"),
        ({"strength": 0.5, "video": "v.mp4", "image": "p.png"}, "image: .*pictures do not go with video"),
        ({"video": "v.mp4", "model": "t2v-1.3b"}, "model: .*it can start from video with strength below 1"),
    ],
    ids=str,
)  # fmt: skip
def test_what_would_have_no_effect_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Request.of(prompt="x", **fields)


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({}, "text"),
        ({"image": "a.png"}, "image"),
        ({"image": "a.png", "last_image": "b.png"}, "first-last"),
        ({"model": "vace-1.3b", "video": "a.mp4"}, "edit"),
        ({"model": "t2v-1.3b", "video": "a.mp4", "strength": 0.5}, "text"),
    ],
    ids=str,
)
def test_the_task_is_which_conditions_are_there(fields: dict[str, object], task: str) -> None:
    assert Request.of(prompt="x", **fields).task == task


def test_what_is_computed_follows_from_the_request() -> None:
    long = Request.of(prompt="x", model="t2v-1.3b", frames=161, window=81)
    assert (long.pixels, long.seen) == (832 * 480 * 161, 81)
    edited = Request.of(prompt="x", model="t2v-1.3b", video="a.mp4", strength=0.5, steps=50, guidance_interval="0.1-1")
    assert (edited.seen, edited.steps_taken, edited.interval) == (81, 25, (0.1, 1.0))


def test_seconds_become_frames() -> None:
    assert Request.of(prompt="x", seconds=1.0).frames == 9
    assert Request.of(prompt="x", seconds=5.0, model="t2v-1.3b").frames == 81


def test_texts_mean_what_they_say_as_forms_and_command_lines_send_them() -> None:
    texts = {
        "prompt": "x", "model": "vace-1.3b", "video": "a.mp4", "references": "b.png", "context_scale": "0.5",
        "fit": "pad", "pace": "real", "video_start": "1.5", "sound": "true", "strength": "1",
        "lora": "c.safetensors:0.5", "lora_partial": "true", "size": "832x480", "frames": "81",
        "window": "0", "window_overlap": "0", "riflex": "false",
        "upscale": "2", "steps": "20", "guidance": "4.5", "shift": "3", "solver": "dpm++", "negative": "", "seed": "7",
        "device": "cpu", "dtype": "float32", "vae_dtype": "bfloat16", "attention": "sdpa", "compile": "off",
        "guidance_kind": "apg", "guidance_interval": "0.1-0.8",
        "guidance_gate": "0.5", "skip_layers": "7, 9", "skip_scale": "2", "nag": "0", "magcache": "0.1:3", "times": "",
    }  # fmt: skip
    values = {
        "references": [Path("b.png")], "context_scale": 0.5, "lora": [{"path": "c.safetensors", "strength": 0.5}],
        "video_start": 1.5, "sound": True, "lora_partial": True, "size": (832, 480), "frames": 81, "upscale": 2,
        "steps": 20, "guidance": 4.5, "shift": 3.0, "seed": 7, "guidance_gate": 0.5, "skip_layers": [7, 9],
        "skip_scale": 2.0, "nag": 0.0, "strength": 1.0, "window": 0, "window_overlap": 0, "riflex": False,
    }  # fmt: skip
    assert {*texts} == {*OPTIONS} - {"image", "last_image", "mask", "seconds"}
    assert Request.of(**texts) == Request.of(**texts | values)


@given(st.sampled_from(sorted(MODELS)), st.integers(-10, 2000), st.integers(-10, 2000), st.integers(-9, 400))
def test_the_nearest_valid_value_is_valid(name: str, width: int, height: int, frames: int) -> None:
    row = model(name)
    images = {"image": "a.png"} if "text" not in row.tasks else {}
    images |= {"last_image": "b.png"} if row.tasks == {"first-last"} else {}
    fields: dict[str, object] = {"prompt": "x", "model": name, "size": (width, height), "frames": frames, **images}
    for _ in range(3):
        try:
            request = Request.of(**fields)
            break
        except RequestError as error:
            fields[error.field] = error.nearest
    assert request.frames % 4 == 1
    assert request.size[0] % 16 == request.size[1] % 16 == 0


def test_a_request_survives_json() -> None:
    request = Request.of(prompt="a cat", image="a.png", seed=7)
    edit = Request.of(prompt="a cat", model="vace-14b", video="a.mp4", mask="b", references=["c.png"], fit="pad")
    assert Request.of(**Request.model_validate_json(edit.model_dump_json()).model_dump()) == edit
    assert Request.of(**Request.model_validate_json(request.model_dump_json()).model_dump()) == request

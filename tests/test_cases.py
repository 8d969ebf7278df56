"""Files and words that broke the program for others, typed one after the other, and the right answer to each.

Everything goes through the command line. Each input is made here: a clip with odd time stamps, a checkpoint of true
size that is a hole in the disk, numbered frames. What an entry stands for has tests beside its code, too.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lichtspiel.cli import app, errors
from lichtspiel.media.video import read_video
from lichtspiel.models import shapes
from lichtspiel.spec import MODELS

LONG = "視" * 90  # 270 bytes; a name may have 255
WIDTHS = {"BF16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1}


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Types a command in an empty folder. No answer may be a fault of the program, or fill the terminal."""
    monkeypatch.chdir(tmp_path)

    def typed(words: str, *more: str) -> Answer:
        line = [*shlex.split(words), *more]
        code = errors.run(lambda: app(line, prog_name="lichtspiel", standalone_mode=False))
        shown = capsys.readouterr()
        assert "a fault of Lichtspiel" not in shown.err, shown.err
        assert len(shown.err) < 2000
        return Answer(code, shown.out, shown.err)

    return typed


@pytest.fixture
def tiny(random_nano: Path) -> str:
    """The options of the shortest generation there is."""
    return f"--weights {random_nano} --steps 1 --frames 1 --seed 1"


def clip(path: str, stamps: list[int], *, sounds: tuple[str, ...] = (), rate: int = 30) -> None:
    """A video whose frames are shown at the given milliseconds, each a gray of its own, beside tracks of a second of
    sound."""
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"bf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        tracks: list[Any] = [file.add_stream(sound, rate=48000) for sound in sounds]
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + 8 * (number % 24), np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for track in tracks:
            for start in range(0, 48000, 1152):
                tone = np.sin(np.arange(start, start + 1152) / 20)[None].astype(np.float32)
                heard = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                heard.sample_rate, heard.pts = 48000, start
                file.mux(track.encode(heard))
            file.mux(track.encode(None))


def huge(path: str, tensors: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """A safetensors file of true size whose values are a hole in the disk."""
    header, end = {}, 0
    for name, (shape, precision) in tensors.items():
        size = WIDTHS[precision] * int(np.prod(shape))
        header[name] = {"dtype": precision, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    Path(path).parent.mkdir(exist_ok=True)
    with Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_a_video_of_13_seconds_is_sealed_and_verified(ask: Ask) -> None:
    clip("long.mp4", [i * 125 for i in range(106)], rate=8)
    assert ask("seal long.mp4 --made-with Wan2.1 -o sealed.mp4").code == 0
    answer = ask("verify sealed.mp4 --json")
    assert answer.code == 0
    assert answer.json()["credentials"]["state"] == "trusted"


def test_an_uneven_pace_is_kept_beside_sound_in_mp3(ask: Ask) -> None:
    stamps = [round(i * 1000 / 30) for i in range(12)] + [400 + i * 200 for i in range(4)]
    clip("uneven.mkv", stamps, sounds=("libmp3lame", "aac"))
    answer = ask("seal uneven.mkv --made-with Wan2.1 -o sealed.mp4 --json")
    assert answer.code == 0, answer.err
    assert "1 further sound track" in answer.out + answer.err
    with av.open("sealed.mp4") as file:
        assert float((file.duration or 0) / 1e6) == pytest.approx(1.03, abs=0.1)
        assert [stream.codec_context.codec.canonical_name for stream in file.streams.audio] == ["mp3"]
    assert len(list(read_video(Path("sealed.mp4")))) > 16


def test_a_picture_starts_the_video_in_the_colors_that_a_viewer_shows(ask: Ask, tiny: str) -> None:
    """The policy, the model and the preview get pixels through one reader; `tests/media/test_picture.py` has its
    numbers. Here: frames of a folder come in the order of their numbers."""
    Path("frames").mkdir()
    for number in (1, 2, 10):
        Image.fromarray(np.full((64, 64, 3), number * 20, np.uint8)).save(f"frames/frame_{number}.png")
    answer = ask("generate x --model vace-1.3b --video frames --frames 1 --preview p.png --size 64x64")
    assert answer.code == 0, answer.err
    shown = np.asarray(Image.open("p.png").convert("L"))
    assert 20 in shown
    assert 200 not in shown


@pytest.mark.parametrize(
    "words",
    [
        f"generate 'a whale' -o {LONG}.mp4",
        f"generate 'a whale' -o x.mp4 --sheet {LONG}.png",
        f"generate 'a whale' --image {LONG}.png",
        f"generate 'a whale' --lora {LONG}.safetensors",
        f"generate 'a whale' --weights {LONG}",
        f"generate 'a whale' --model vace-1.3b --video {LONG}",
        f"generate 'a whale' --model vace-1.3b --reference {LONG}.png",
        f"seal s.mp4 --made-with X -o {LONG}.mp4",
        f"seal {LONG}.mp4 --made-with X",
        f"decode {LONG}.safetensors",
        f"replay {LONG}.mp4",
        f"extend {LONG}.mp4 x --seconds 1 -o x.mp4",
        f"extend s.mp4 x --seconds 1 -o {LONG}.mp4",
        f"track {LONG}.mp4 --box 1,1,9,9 -o m.mp4",
        f"control {LONG}.mp4 --kind edges -o m.mp4",
        f"translate {LONG}.mp4 --to de",
        f"transcribe {LONG}.mp4",
        f"verify {LONG}.mp4",
        f"inspect {LONG}",
        f"plan --weights {LONG}",
        f"use nano {LONG}",
        f"lora inspect {LONG}.safetensors",
        f"lora convert {LONG}.safetensors --to diffusers -o l.safetensors",
        f"batch {LONG}.jsonl",
        "batch long.jsonl -o out",
        f"record export {LONG}.jsonl",
        f"toybox render --count 1 -o {LONG}",
        f"policy check x --policy {LONG}.toml",
        f"tune look {LONG} -o l",
        f"train vae {LONG} --out r",
        f"index {LONG}",
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(ask: Ask, words: str) -> None:
    clip("s.mp4", [0, 125])
    Path("long.jsonl").write_text(json.dumps({"prompt": "a whale", "out": f"{LONG}.mp4"}), encoding="utf-8")
    answer = ask(words)
    assert answer.code in {1, 2}
    assert answer.err.startswith("error: ")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_a_duration_that_is_none_is_refused(ask: Ask, seconds: str) -> None:
    answer = ask(f"generate x --seconds {seconds} -o x.mp4")
    assert answer.code == 2
    assert f"--seconds {seconds}" in answer.err


def test_a_list_with_a_number_that_is_none_or_endless_brackets_names_its_line(ask: Ask) -> None:
    lines = '{"prompt": "a whale", "seconds": NaN}', '{"prompt":' + "[" * 5000 + "]" * 5000 + "}"
    for number, line in enumerate(lines):
        Path(f"{number}.jsonl").write_text(line)
        answer = ask(f"batch {number}.jsonl -o out")
        assert answer.code == 2
        assert answer.err.startswith(f"error: {number}.jsonl, line 1: ")


def test_a_list_with_a_byte_order_mark_is_read(ask: Ask, tiny: str) -> None:
    Path("bom.jsonl").write_text('{"prompt": "a whale", "out": "a.mp4"}', encoding="utf-8-sig")
    assert ask(f"batch bom.jsonl -o out {tiny}").code == 0
    assert Path("out/a.mp4").is_file()


def test_a_prompt_that_is_too_long_or_empty_is_told(ask: Ask, tiny: str) -> None:
    long = "a whale swims to the left under water " * 8
    answer = ask(f"generate '{long}' {tiny} -o a.mp4 --json")
    assert "the end of the prompt is not read, from 'left under water" in answer.json()["notes"][0]
    for words in ("&nbsp;", "x" * 100_000):
        assert ask("generate", words).code == 2


def test_weights_that_nobody_uses_are_refused_and_a_lora_without_effect_is_told(ask: Ask, tiny: str) -> None:
    layer = "diffusion_model.blocks.0.self_attn.q"
    down = torch.randn(4, 192)
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": torch.randn(192, 4)}, "style.safetensors")
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": torch.zeros(192, 4)}, "idle.safetensors")
    answer = ask(f"generate 'a whale' {tiny} --weights style.safetensors -o x.mp4")
    assert (answer.code, Path("x.mp4").exists()) == (2, False)
    assert "name it with --lora instead of --weights" in answer.err
    answer = ask(f"generate 'a whale' {tiny} --lora idle.safetensors -o y.mp4")
    assert "it changes nothing" in answer.err + answer.out


def test_a_sheet_replaces_nothing_is_checked_first_and_is_marked(ask: Ask, tiny: str) -> None:
    assert "name the same file" in ask("generate 'a whale' -o same.png --sheet same.png").err
    Path("folder.png").mkdir()
    answer = ask("generate 'a whale' -o z.mp4 --sheet folder.png")
    assert (answer.code, Path("z.mp4").exists()) == (2, False)
    answer = ask(f"generate 'a whale' {tiny} -o z.mp4 --sheet s.png --upscale 1")
    assert answer.code == 0
    assert "128x128 is small in a player; --upscale 4 makes it 512x512" in answer.out
    assert ask("verify s.png --require trusted").code == 0


def test_checkpoints_of_true_size_are_told_from_their_headers(ask: Ask) -> None:
    dit = {name: (tuple(shape), "BF16") for name, shape in shapes(MODELS["t2v-1.3b"].dit).items()}
    vace = {name: (tuple(shape), "BF16") for name, shape in shapes(MODELS["vace-1.3b"].dit).items()}
    module = {name: value for name, value in vace.items() if name.startswith("vace_")}
    huge("linear.safetensors", dit | {"patch_embedding.weight": ((1536, 64), "BF16")})
    assert "fits t2v-1.3b" in ask("inspect linear.safetensors").out
    for prefix in ("pipe.dit.", "net.", "module.", "_orig_mod."):
        huge("prefix.safetensors", {prefix + name: value for name, value in dit.items()})
        assert "fits t2v-1.3b" in ask("inspect prefix.safetensors").out
    quantized: dict[str, tuple[tuple[int, ...], str]] = {}
    scaled: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, (shape, precision) in dit.items():
        if len(shape) == 2:
            quantized |= {f"{name}._data": (shape, "I8"), f"{name}._scale": ((shape[0], 1), "BF16")}
            scale = name.removesuffix("weight") + "weight_scale"
            scaled |= {name: (shape, "F8_E4M3"), scale: ((shape[0], shape[1] // 32), "U8")}
        else:
            quantized[name] = scaled[name] = (shape, precision)
    huge("quanto.safetensors", quantized)
    assert "quanto" in ask("inspect quanto.safetensors").out
    huge("mxfp8.safetensors", scaled)
    assert "but: mxfp8.safetensors: " in (shown := ask("inspect mxfp8.safetensors").out)
    assert "only one scale per tensor or per row can be read" in shown
    huge("one/module.safetensors", module)
    huge("two/base.safetensors", dit)
    assert "fits vace-1.3b" in ask("inspect one two").out


def test_one_file_larger_than_memory_is_looked_into(ask: Ask) -> None:
    memory = sum(int(line.split()[1]) << 10 for line in Path("/proc/meminfo").read_text().splitlines()[:1])
    dit = {name: (tuple(shape), "BF16") for name, shape in shapes(MODELS["t2v-1.3b"].dit).items()}
    huge("one.safetensors", dit | {"padding": ((2 * memory,), "U8")})
    answer = ask("inspect one.safetensors")
    Path("one.safetensors").unlink()
    assert answer.code == 0
    assert "diffusion transformer" in answer.out

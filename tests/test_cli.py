"""The command line as a person meets it: real files, what goes wrong in one line, and real processes where what is
between one and the next matters."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lichtspiel.cli.flags import terms
from lichtspiel.media.video import read_video
from lichtspiel.seal import verify
from lichtspiel.spec import MODELS
from tests.commands import PATIENCE, Done, begin, command, in_this_process
from tests.lora.files import keys, linear_layers, pairs, save

PROMPT = "a turtle walks on the beach at night"


def run(*words: str | Path, cwd: Path, check: int = 0) -> Done:
    """Run the command in a process of its own; `check` is the exit code that is expected."""
    return checked(command(*words, cwd=cwd), check)


def ask(*words: str | Path, cwd: Path, check: int = 0) -> Done:
    """Run the command in this process, which begins at once."""
    return checked(in_this_process(*words, cwd=cwd), check)


def checked(done: Done, code: int) -> Done:
    assert done.code == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, random_nano: Path) -> tuple[Path, dict[str, object]]:
    """One video from random weights, with what `--json` said of it."""
    folder = tmp_path_factory.mktemp("made")
    words = ("generate", PROMPT, "--weights", random_nano, "--steps", "2", "--seed", "5", "--upscale", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(folder / "home"))
        done = run(*words, "--sheet", "sheet.png", "-o", "turtle.mp4", "--json", cwd=folder)
    return folder, json.loads(done.stdout)


@pytest.fixture(autouse=True)
def same_home(made: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICHTSPIEL_HOME", str(made[0] / "home"))


def test_generate_says_what_it_did(made: tuple[Path, dict[str, object]]) -> None:
    folder, said = made
    assert said["seed"] == 5
    assert said["steps"] == 2
    assert said["size"] == [128, 128]
    assert (said["frames"], said["fps"], said["solver"], said["device"]) == (17, 8, "euler", "cpu")
    assert said["prompt"] == PROMPT
    assert said["unknown_words"] == []
    assert set(said["timings"]) == {"load", "encode", "denoise", "decode", "seal", "total"}
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.size[0] > 200
    assert sorted(path.name for path in folder.iterdir()) == ["home", "sheet.png", "turtle.mp4"]


def test_the_video_is_sealed_with_its_request_but_not_its_prompt(made: tuple[Path, dict[str, object]]) -> None:
    folder, said = made
    report = verify(folder / "turtle.mp4")
    assert report.credentials.here
    assert report.credentials.id == said["id"]
    assert report.credentials.generation["parameters"]["seed"] == 5
    assert PROMPT.encode() not in (folder / "turtle.mp4").read_bytes()


def test_verify_takes_files_and_folders_and_a_requirement(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, _ = made
    (tmp_path / "in" / "it").mkdir(parents=True)
    sealed = (folder / "turtle.mp4").read_bytes()
    (tmp_path / "in" / "it" / "turtle.mp4").write_bytes(sealed)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in" / "red.png")
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    shown = ask("verify", "in", "in/it/turtle.mp4", cwd=tmp_path, check=4).stdout
    assert shown.count("SEALED HERE") == 2
    assert "3 files: 2 proven (watermark), 1 not" in shown
    ask("verify", "in/it", "--require", "trusted", cwd=tmp_path)
    assert "choose one of" in ask("verify", "in/it", "--require", "all", cwd=tmp_path, check=2).stderr
    (tmp_path / "in" / "cut.mp4").write_bytes(sealed[:-100])
    said = json.loads(ask("verify", "in", "--json", cwd=tmp_path, check=2).stdout)["files"]
    assert [Path(row["path"]).name for row in said] == ["cut.mp4", "turtle.mp4", "red.png"]
    assert [row["exit_code"] for row in said] == [2, 0, 4]
    assert "ends early" in said[0]["error"]


def test_verify_prints_a_card_and_json(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, said = made
    assert "SEALED HERE" in run("verify", "turtle.mp4", cwd=folder).stdout
    report = json.loads(run("verify", "turtle.mp4", "--json", cwd=folder).stdout)
    assert report["credentials"]["id"] == said["id"]
    broken = bytearray((folder / "turtle.mp4").read_bytes())
    broken[-200] ^= 1
    (tmp_path / "broken.mp4").write_bytes(broken)
    assert "TAMPERED" in run("verify", "broken.mp4", cwd=tmp_path, check=5).stdout


def test_decode_finishes_from_latents(made: tuple[Path, dict[str, object]], random_nano: Path) -> None:
    folder, said = made
    done = run("decode", said["latents"], "--weights", random_nano, "-o", "again.mp4", "--json", cwd=folder)
    assert json.loads(done.stdout)["seed"] == 5
    first, again = (np.stack(list(read_video(folder / name))) for name in ("turtle.mp4", "again.mp4"))
    assert np.abs(first.astype(int) - again).mean() < 4  # each has a watermark of its own
    (folder / "again.mp4").unlink()


def test_image_to_video(made: tuple[Path, dict[str, object]], random_nano: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), "orange").save(tmp_path / "first.png")
    words = ("generate", PROMPT, "--image", "first.png", "--weights", random_nano, "--steps", "1", "--frames", "5")
    said = json.loads(ask(*words, "--upscale", "1", "-o", "v.mp4", "--json", cwd=tmp_path).stdout)
    assert said["image"] == "first.png"
    assert [given.role for given in verify(tmp_path / "v.mp4").credentials.ingredients] == ["first-frame"]


def test_a_picture_from_the_same_verb(random_nano: Path, tmp_path: Path) -> None:
    words = ("generate", PROMPT, "--weights", random_nano, "--steps", "1", "--upscale", "4", "-o", "turtle.png")
    shown = run(*words, cwd=tmp_path).stdout
    assert shown.startswith("picture  turtle.png\n")
    assert "size     512x512, made as 128x128\n" in shown
    assert ", upscale " in shown  # among the stages that took time
    assert "SEALED HERE" in run("verify", "turtle.png", cwd=tmp_path).stdout


def test_a_preview_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(5):
        Image.new("RGB", (64, 48), (40 * number, 90, 90)).save(tmp_path / "clip" / f"{number}.png")
    Image.new("RGB", (64, 48), "white").save(tmp_path / "mask.png")
    words = ("generate", PROMPT, "--model", "vace-1.3b", "--video", "clip", "--mask", "mask.png", "--preview", "p.png")
    assert "white is replaced" in ask(*words, cwd=tmp_path).stdout
    said = json.loads(ask(*words, "--reference", "mask.png", "--force", "--json", cwd=tmp_path).stdout)
    assert (said["size"], said["frames"], said["references"]) == ([64, 48], 5, ["mask.png"])
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.size == (5 * 328 + 8, 4 * 248 + 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", " "], "prompt"),
        (["generate", "x", "--frames", "5", "-o", "x.png"], "is one frame; try --frames 1"),
        (["generate", "x", "--model", "t2i-14b", "-o", "x.mp4"], "nearest valid name: x.png"),
        (["generate", "x", "--model", "vace-1.3b", "--mask", "text.png"], "add --video"),
        (["generate", "x", "--model", "t2v-1.3b", "--reference", "text.png"], "try --model vace-1.3b"),
        (["generate", "x", "--model", "t2v-1.3b", "--preview", "p.png"], "there is nothing to preview"),
        (["generate", "x", "--preview", "p.jpg"], "nearest valid name: p.png"),
        (["generate", "x", "--fit", "pad"], "no picture or video to fit"),
        (
            ["generate", "x", "--frames", "80"],
            "--frames 80 is not valid: nano makes 4n+1 frames, from 1 to 17; try ",
        ),
        (["generate", "x", "--size", "100x100"], "try --size 128x128"),
        (["generate", "x", "--model", "sora"], "known models are nano"),
        (["generate", "x", "-o", "missing/folder/x.mp4"], "mkdir -p"),
        (["generate", "x", "-o", "x.avi"], "nearest valid name: x.mp4"),
        (["generate", "x", "-o", "x.mp4", "--sheet", "missing/x.png"], "missing"),
        (["generate", "x", "-o", "x.mp4", "--sheet", "x.jpg"], "nearest valid name: x.png"),
        (["generate", "x", "--image", "text.png", "-o", "x.mp4"], "text.png"),
        (["generate", "x", "--image", "absent.png", "-o", "x.mp4"], "absent.png"),
        (["generate", "x", "--weights", "cut", "-o", "x.mp4"], "not a whole"),
        (["generate", "x", "--weights", "nowhere", "-o", "x.mp4"], "does not exist; name the file or folder"),
        (["generate", "x", "--model", "t2v-1.3b", "-o", "x.mp4"], "--weights"),
        (["generate", "x", "--device", "gpu", "-o", "x.mp4"], "device"),
        (["generate", "x", "--lora", "text.png:0.5", "-o", "x.mp4"], "text.png"),
        (["generate", "x", "--lora-partial", "-o", "x.mp4"], "there is no LoRA"),
        (["generate", "x", "--dtype", "int4", "-o", "x.mp4"], "dtype"),
        (["decode", "text.png"], "text.png"),
        (["inspect", "nowhere"], "does not exist"),
        (["plan", "--model", "t2v-1.3b", "--frames", "80"], "try --frames 81"),
        (["pull", "nano"], "ships with this package"),
        (["lora", "inspect", "text.png"], "text.png"),
        (["batch", "absent.jsonl", "-o", "out"], "absent.jsonl"),
        (["replay", "text.png"], "text.png"),
        (["show", "sora"], "known models are nano"),
        (["verify", "text.png"], "text.png"),
        (["toybox", "render", "--size", "7x7", "-o", "clips"], "try --size 16x16"),
        (["train", "dit", "--run", "nothing", "--steps", "1"], "nothing"),
        (["train", "vae", "--run", "run"], "--steps or --minutes"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_writes_nothing(
    words: list[str], message: str, tmp_path: Path, random_nano: Path
) -> None:
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "cut").mkdir()
    for file in random_nano.iterdir() if "cut" in words else ():
        (tmp_path / "cut" / file.name).write_bytes(
            file.read_bytes()[: 20_000 if file.name == "dit.safetensors" else None]
        )
    before = sorted(tmp_path.rglob("*"))
    done = ask(*words, cwd=tmp_path, check=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_message_and_no_file(
    sign: signal.Signals, tmp_path: Path, random_nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", PROMPT, "--weights", str(random_nano), "--steps", "1000", "-o", "long.mp4"]
    monkeypatch.setenv("TERM", "xterm")
    terminal, its = pty.openpty()  # where a bar says what is being done
    process = begin(*words, cwd=tmp_path, printed=(Path(os.devnull), Path(os.ttyname(its))))
    shown = b""
    while b"denoising" not in shown and process.exitcode is None:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096)
    os.close(its)
    assert process.exitcode is None, shown
    os.kill(process.pid or 0, sign)
    with contextlib.suppress(OSError):  # that is how the end of a terminal shows
        while more := os.read(terminal, 4096):
            shown += more
    os.close(terminal)
    process.join(PATIENCE)
    assert process.exitcode == 1
    assert b"stopped while denoising" in shown
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_models_and_show_cover_the_registry(tmp_path: Path) -> None:
    listed = json.loads(ask("models", "--json", cwd=tmp_path).stdout)
    assert [row["name"] for row in listed] == list(MODELS)
    assert "t2v-1.3b" in ask("models", cwd=tmp_path).stdout
    shown = json.loads(ask("show", "t2v-1.3b", "--json", cwd=tmp_path).stdout)
    assert shown["parameters"] == 1_418_996_800
    shown = ask("show", "nano", cwd=tmp_path).stdout
    assert "inside this package" in shown
    assert "  de  Katze, Hund, " in shown


def test_rendered_clips_are_captioned_and_sealed(tmp_path: Path) -> None:
    done = ask(
        "toybox", "render", "--count", "2", "--seed", "3", "--size", "64x48", "-o", "clips", "--json", cwd=tmp_path
    )
    rows = json.loads(done.stdout)
    assert len(rows) == 2
    for row in rows:
        assert set(row["captions"]) == {"en", "de", "zh"}
        report = verify(tmp_path / "clips" / row["path"])
        assert report.credentials.source_type.endswith("algorithmicMedia")
    lines = (tmp_path / "clips" / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no-marks", "a test", "--marks", "cn"], "--marks"),
        (["--no-marks", "a test", "--label"], "--label"),
        (["--no-marks", "a test", "--label-language", "de"], "--label-language"),
        (["--no-marks", "a test", "--label-corner", "top-left"], "--label-corner"),
        (["--no-marks", "a test", "--label-seconds", "3"], "--label-seconds"),
        (["--no-marks", "a test", "--embed-prompt"], "--embed-prompt"),
        (["--no-marks", "a test", "--timestamp", "http://127.0.0.1:9"], "--timestamp"),
        (["--no-marks", " "], "reason"),
        (["--guard-model", "x"], "--guard"),
        (["--guard-key", "key"], "--guard"),
        (["--guard", "ftp://x"], "guard"),
        (["--timestamp", "no address"], "timestamp"),
        (["--marks", "mars"], "one of eu, us, cn, all"),
        (["--label-corner", "top-left"], "label"),
    ],
    ids=" ".join,
)
def test_flags_that_could_not_be_obeyed_are_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    done = ask("generate", PROMPT, *flags, "-o", "x.mp4", cwd=tmp_path, check=2)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_flag_of_the_terms_arrives(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    chosen = terms(
        marks="us", label=True, label_language="de", label_corner="bottom-left", label_seconds=3.0,
        consent="Ada agreed", guard="http://127.0.0.1:9/v1/moderations", guard_model="m",
        guard_key=tmp_path / "key", embed_prompt=True, no_record_prompt=True, timestamp="http://127.0.0.1:9/",
    )  # fmt: skip
    marks = chosen.marks
    assert (marks.profile, marks.label, marks.language, marks.corner, marks.seconds) == (
        "us", True, "de", "bottom-left", 3.0,
    )  # fmt: skip
    assert (chosen.consent, chosen.embed_prompt, chosen.record_prompt) == ("Ada agreed", True, False)
    assert (chosen.guard.model, chosen.guard.key, chosen.timestamp) == ("m", "secret", "http://127.0.0.1:9/")


def test_the_verbs_of_provenance_print_what_they_know(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, said = made
    ask("seal", folder / "turtle.mp4", "--made-with", "Tool 7", "--marks", "cn", "--label-language", "zh",
        "-o", "again.mp4", cwd=tmp_path)  # fmt: skip
    report = verify(tmp_path / "again.mp4")
    assert (report.credentials.model, report.labels.aigc is not None) == ("Tool 7", True)
    listed = json.loads(ask("record", "list", "--limit", "1", "--json", cwd=tmp_path).stdout)
    assert [entry["model"] for entry in listed] == ["Tool 7"]
    ids = [json.loads(line)["id"] for line in ask("record", "export", cwd=tmp_path).stdout.splitlines()]
    assert said["id"] in ids
    assert "minors.sexual" in ask("policy", "show", cwd=tmp_path).stdout
    refused = ask("policy", "check", "a naked child", "--json", cwd=tmp_path, check=3)
    assert json.loads(refused.stdout)["decision"] == "refused"
    assert json.loads(ask("identity", "show", "--json", cwd=tmp_path).stdout)["origin"] == "self-made"


def test_inspect_and_plan_say_what_is_there(tmp_path: Path, random_nano: Path) -> None:
    found = json.loads(ask("inspect", random_nano, "--json", cwd=tmp_path).stdout)
    assert (found["kind"], found["complete"]) == ("checkpoint", ["nano"])
    assert "complete for nano; tasks: first-last, image, text" in ask("inspect", random_nano, cwd=tmp_path).stdout
    assert "nothing that this package can load" in ask("inspect", Path(__file__), cwd=tmp_path, check=2).stdout
    planned = ask("plan", "--model", "i2v-14b-480p", "--memory", "24", cwd=tmp_path).stdout
    assert "i2v-14b-480p, 832x480, 81 frames, on cpu" in planned
    assert "blocks are read from their file in every step" in planned
    said = json.loads(ask("plan", "--model", "t2v-14b", "--memory", "2", "--json", cwd=tmp_path, check=1).stdout)
    assert said["refusal"]
    named = ask("plan", "--gpu", "RTX 4090", "--device", "cpu", cwd=tmp_path, check=2).stderr
    assert "--gpu names the device" in named
    words = ("generate", "a fish", "--frames", "5", "--steps", "3", "--dry-run", "-o", "fish.mp4")
    assert "nano, 128x128, 5 frames, on cpu" in (dry := ask(*words, cwd=tmp_path).stdout)
    assert "for 3 steps" in dry
    assert not (tmp_path / "fish.mp4").exists()


def test_a_lora_is_inspected_converted_and_used(tmp_path: Path, random_nano: Path) -> None:
    spec = MODELS["nano"].dit
    save(tmp_path / "a.safetensors", keys("kohya", pairs(spec, linear_layers(spec), alphas=(2.0,))))
    assert "fits                  nano" in ask("lora", "inspect", "a.safetensors", cwd=tmp_path).stdout
    ask("lora", "convert", "a.safetensors", "--to", "diffusers", "-o", "b.safetensors", cwd=tmp_path)
    said = json.loads(ask("lora", "inspect", "b.safetensors", "--json", cwd=tmp_path).stdout)
    assert (said["dialect"], said["fits"]) == ("diffusers", ["nano"])
    done = ask(
        "generate", PROMPT, "--weights", random_nano, "--steps", "1", "--frames", "1", "--lora", "b.safetensors:0.5",
        "--upscale", "1", "-o", "x.mp4", cwd=tmp_path,
    )  # fmt: skip
    assert "note: b.safetensors: matched 80/80 layers" in done.stderr


def test_batch_and_replay(tmp_path: Path, random_nano: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text(
        json.dumps({"prompt": PROMPT, "steps": 1, "frames": 5, "upscale": 1, "seed": 8, "out": "night.mp4"})
    )
    words = ("batch", "jobs.jsonl", "-o", "out", "--weights", random_nano)
    assert "line 1    out/night.mp4\n" in run(*words, cwd=tmp_path).stdout
    assert json.loads(run(*words, "--json", cwd=tmp_path).stdout)["made"] is False
    again = run("replay", "out/night.mp4", "--weights", random_nano, "--json", cwd=tmp_path)
    said = json.loads(again.stdout)
    assert (said["seed"], said["prompt"], said["steps"], said["frames"]) == (8, PROMPT, 1, 5)
    assert (tmp_path / "replay.mp4").is_file()

"""What the command line says: help, examples and errors of every verb, without starting a process or loading torch."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import lichtspiel
from lichtspiel.cli import app, errors, sleep_soon
from lichtspiel.cli.common import print_result
from lichtspiel.cli.examples import EXAMPLES
from lichtspiel.cli.help import headings
from lichtspiel.errors import OutputError, RequestError

PROGRAM: Any = typer.main.get_command(app)


def walk(command: Any = PROGRAM, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with what is typed after `lichtspiel`, groups included."""
    for name, inner in getattr(command, "commands", {}).items():
        yield f"{path} {name}".strip(), inner
        yield from walk(inner, f"{path} {name}".strip())


COMMANDS = dict(walk())
VERBS = {path: command for path, command in COMMANDS.items() if path == "serve" or not hasattr(command, "commands")}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    code = errors.run(lambda: PROGRAM([*words], prog_name="lichtspiel", standalone_mode=False))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("path", COMMANDS)
def test_a_first_line_is_a_sentence_that_fits(path: str) -> None:
    first, _, rest = COMMANDS[path].help.strip().partition("\n")
    assert len(first) <= 60
    assert first.endswith(".")
    assert not rest or rest.startswith("\n"), "a longer text begins after an empty line"


@pytest.mark.parametrize("path", VERBS)
def test_help_shows_options_under_headings_and_examples(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, *path.split(), "--help")
    assert code == 0
    assert out.startswith(f"Usage: lichtspiel {path} [OPTIONS]")
    assert VERBS[path].help.strip().partition("\n")[0] in out
    assert len(EXAMPLES[path]) >= 1
    for example in EXAMPLES[path]:
        assert f"  {example}\n" in f"{out}\n"
    for title, rows in headings(VERBS[path]).items():
        assert f"\n{title}:\n" in out
        for names, about in rows:
            assert names.split(",")[0].split()[0] in out
            assert "VALUE" not in names, "each option says what its value is"
            assert "  " not in about


@pytest.mark.parametrize("path", VERBS)
def test_every_example_is_understood(path: str) -> None:
    for example in EXAMPLES[path]:
        words = shlex.split(example.partition(" > ")[0])
        assert words[: len(path.split()) + 1] == ["lichtspiel", *path.split()]
        VERBS[path].make_context(path, words[len(path.split()) + 1 :])


@pytest.mark.parametrize("path", VERBS)
def test_every_verb_can_print_json(path: str) -> None:
    assert "--json" in {name for parameter in VERBS[path].params for name in parameter.opts}


def test_no_option_is_called_by_two_names_in_two_verbs() -> None:
    assert {*EXAMPLES} == {*VERBS}
    assert not {"key", "keys", "jobs", "log", "worlds"} & {*PROGRAM.commands}


@pytest.mark.parametrize("path", ["", *(path for path in COMMANDS if path not in VERBS)])
def test_a_group_alone_shows_its_verbs(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *path.split())
    assert (code, err) == (0, "")
    for name, command in (COMMANDS[path] if path else PROGRAM).commands.items():
        line = next(line for line in out.splitlines() if line.strip().startswith(f"{name} "))
        assert line.endswith(command.help.strip().partition("\n")[0])


@pytest.mark.parametrize(("set_by_user", "spins"), [({}, "2000"), ({"OMP_WAIT_POLICY": "active"}, None),
                                                    ({"GOMP_SPINCOUNT": "7"}, "7")])  # fmt: skip
def test_threads_soon_sleep_unless_the_user_says_otherwise(
    set_by_user: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(set_by_user))
    sleep_soon()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"lichtspiel {lichtspiel.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "generate a cat",
            'unexpected words after the prompt: cat. Put the whole prompt in quotes: lichtspiel generate "a cat"',
        ),
        (
            "policy check a cat",
            'unexpected words after the prompt: cat. Put the whole prompt in quotes: lichtspiel policy check "a cat"',
        ),
        ("generate", "Missing argument 'PROMPT'; see `lichtspiel generate --help`"),
        ("generate x --frmes 5", "No such option: --frmes"),
        ("control x.mp4 --kind fish", "Invalid value for '--kind': 'fish' is not one of 'edges', 'scribble', 'gray'"),
        ("control x.mp4", "Missing option '--kind'. Choose from: edges, scribble, gray, flow, boxes, depth, pose; see"),
        ("extend x.mp4 x --seconds -1", "--seconds -1.0 is not valid: the new part lasts more than 0 and at most 60"),
        ("generat x", "No such command 'generat'. Did you mean 'generate'?; see `lichtspiel --help`"),
        (
            "generate x --device gpu",
            "--device gpu is not valid: it is auto, cpu, mps, cuda or cuda:N, such as cuda:1",
        ),
        (
            "generate x --seed abc",
            "--seed abc is not valid: it is a whole number from 0 to 9223372036854775807; leave it out for",
        ),
        ("generate x --seed -1", "leave it out for a random one; try --seed 0"),
        ("generate x --steps 0", "--steps 0 is not valid: it is a whole number from 1 to 1000; try --steps 1"),
        ("generate x --solver dpm", "--solver dpm is not valid: it is unipc, dpm++, euler or lcm; try --solver dpm++"),
        ("generate x --upscale 3", "--upscale 3 is not valid: it is 1, 2 or 4"),
        (
            "generate x --fit pad",
            "there is no picture or video to fit: add --image or --video, or drop it; try --fit crop",
        ),
        (
            "generate x --last-image b.png",
            "--last-image b.png is not valid: a last picture needs a first one: add --image",
        ),
        (
            "generate x --lora-partial",
            "--lora-partial is not valid: there is no LoRA that it could be about: add --lora or drop it",
        ),
        ("generate x --frames 5 --seconds 1", "set either --frames or --seconds, not both"),
        ("generate ''", "the prompt '' is not valid: say what the video shows, in at least one word"),
        ("generate x --marks xx", "--marks xx is not valid: it is one of eu, us, cn, all; try --marks eu"),
        (
            "generate x --label-language it --label",
            "--label-language it is not valid: it is one of en, de, zh, fr, es; try --label-language",
        ),
        ("generate x --label-seconds 1 --label", "--label-seconds 1.0 is not valid:"),
        (
            "generate x --label-corner left",
            "--label-corner left is not valid: it describes the visible label, which is off: add --label or drop it",
        ),
        (
            "generate x --no-marks ''",
            "--no-marks '' is not valid: a reason is recorded in place of the marks: it cannot be empty",
        ),
        ("generate x --no-marks test --label", "--label would have no effect: --no-marks leaves out all marks"),
        ("generate x --guard-model m", "--guard-model would have no effect: add --guard URL"),
        (
            "plan --dtype int4",
            "--dtype int4 is not valid: it is auto, float32, bfloat16, float16, int8 or fp8; try --dtype int8",
        ),
        ("serve --port 70000", "'--port'"),
        ("serve --port 9 key list", "--port would have no effect: write options after `serve key`"),
        ("serve --keep-days 0", "--keep-days 0 is not valid"),
        ("lora convert a --to b -o c", "a"),
    ],
    ids=lambda value: value if " " in value else "",
)  # fmt: skip
def test_an_error_names_the_flag_and_what_to_type(
    words: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, *shlex.split(words))
    assert (code, out) == (2, "")
    assert message in err
    assert re.fullmatch(r"error: .*\n", err), "one line"


def test_texts_of_others_never_reach_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OutputError("\x1b]0;title\x07 a\nb \x9b31m")

    assert errors.run(fail) == 2
    assert capsys.readouterr().err == "error:  ]0;title  a b  31m\n"
    assert errors.message(RequestError("solver", "\x1b[31m", "no")) == r"--solver '\x1b[31m' is not valid: no"
    assert len(errors.message(RequestError("prompt", "x" * 10**6, "no"))) < 200


RESULT: dict[str, Any] = {
    "path": "a b\n.mp4", "size": [64, 64], "upscale": 4, "frames": 17, "fps": 8, "model": "nano", "seed": 1, "steps": 2,
    "solver": "euler", "guidance": 3.0, "shift": 3.0, "dtype": "float32", "device": "cpu", "peak_bytes": 0,
    "timings": {"denoise": 1.0, "total": 2.0}, "unknown_words": ["\x1b[31m"], "latents": "x.safetensors",
    "seal": {"signer": "Ada", "timestamp": "none: connection refused"},
}  # fmt: skip


def test_a_result_says_what_failed_and_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(RESULT, None, as_json=False)
    out = capsys.readouterr().out
    assert "size     256x256, made as 64x64, 17 frames at 8 per second\n" in out
    assert "check with: lichtspiel verify 'a b .mp4'\n" in out
    print_result({**RESULT, "path": "-a.mp4"}, None, as_json=False)
    assert "check with: lichtspiel verify ./-a.mp4\n" in capsys.readouterr().out
    assert "time     none: connection refused\n" in out
    assert "nano does not know:  [31m\n" in out
    assert "latents" not in out


def test_a_fault_of_ours_is_one_line_and_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path))

    def fail() -> None:
        raise KeyError("x")

    assert errors.run(fail) == 1
    err = capsys.readouterr().err
    assert err == f"error: a fault of Lichtspiel: KeyError: 'x'. Please report it with {tmp_path / 'last-error.txt'}\n"
    assert "raise KeyError" in (tmp_path / "last-error.txt").read_text(encoding="utf-8")


def test_what_the_file_system_refuses_is_no_fault_of_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(*arguments)

    assert errors.run(lambda: fail(errno.ENOSPC, "No space left on device")) == 2
    assert capsys.readouterr().err.startswith("error: the disk is full; free some space")
    assert errors.run(lambda: fail(errno.EROFS, "Read-only file system", "/mnt/x")) == 2
    assert capsys.readouterr().err == "error: /mnt/x: this disk can only be read; choose a folder on another one\n"

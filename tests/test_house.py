"""House rules: the one door, budgets, what an import costs, and that texts agree with the code.

Most are read from syntax trees, so that they hold for lines that no test runs. Where a rule looks for something, its
search is tested, too: a search that finds nothing anywhere proves nothing.
"""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import lichtspiel
from lichtspiel.cli import app
from tests.sources import PACKAGE, ROOT, SOURCES, TEXTS, files, imports, tree

Function = ast.FunctionDef | ast.AsyncFunctionDef

ENVIRONMENT = {
    "lichtspiel/storage.py",
    "lichtspiel/serve/api/children.py",
    "lichtspiel/cluster.py",
    "lichtspiel/cli/__init__.py",
}
"""The first reads environment variables, which name paths; the others set one for the processes that they start, and
the last for PyTorch, which is not loaded yet."""

FILE_LINES, FUNCTION_LINES, PARAMETERS = 500, 60, 8
TABLES = {"lichtspiel/spec.py"}  # a table of constants may be longer than a file of code

FILE_BYTES, TREE_BYTES = 20_000_000, 66_000_000
FOREIGN = ("/work/", "/root/", "pypi.org", "pythonhosted.org", "npmjs.org")
"""Places that exist on somebody's machine only, and hosts that a file has no business to name."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, capture_output=True, text=True)


def test_only_the_front_imports_by_a_computed_name() -> None:
    computed = re.compile(r"import_module\(|__import__\(")
    users = [name for name in PACKAGE if computed.search((ROOT / name).read_text(encoding="utf-8"))]
    assert users == ["lichtspiel/__init__.py"]


def test_the_public_names_are_all_there_and_no_more() -> None:
    stub = ast.parse((ROOT / "lichtspiel" / "__init__.pyi").read_text(encoding="utf-8"))
    listed = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname  # without the "as" a type checker takes a name as private
    }
    assert len(listed) == len(stub.body) - 1, "each name stands there once, and __version__"
    assert listed == lichtspiel._HOMES
    assert set(lichtspiel.__all__) == {*listed, "__version__"}
    for name, home in listed.items():
        assert getattr(import_module(str(home)), name).__class__ is not ModuleType
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lichtspiel.nonsense  # type: ignore[attr-defined]


def test_a_caller_gets_types() -> None:
    assert (ROOT / "lichtspiel" / "py.typed").is_file()


def test_a_public_name_stays_what_it_is_whatever_was_imported_before() -> None:
    # Importing a submodule puts it on the package under its own name, and would hide a function that is called so.
    program = """
import json, lichtspiel
def kinds():
    return {name: type(getattr(lichtspiel, name)).__name__ for name in lichtspiel.__all__}
print(json.dumps([kinds(), kinds()]))
"""
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first == second
    assert "module" not in second.values()


WAYS_OUT = {"VideoWriter", "add_stream", "add_stream_from_template", "imwriteanimation", "mux"}
LIBRARIES = {"av.open", "ffmpeg", "imageio", "moviepy", "skvideo", "subprocess", "torchvision"}


# Programs that are started and get no frames: what signs in place of a key, eSpeak NG, Apertium, other processes of a
# group of GPUs. And the user's own program for lips, whose video is read back and leaves by the door.
STARTERS = {
    "lichtspiel/seal/certificates.py",
    "lichtspiel/serve/workers/group.py",
    "lichtspiel/translate/espeak.py",
    "lichtspiel/translate/sherpa.py",  # its library ends the process in which it fails
    "lichtspiel/translate/translators.py",
    "lichtspiel/workflows/lips.py",
}


def ways_out(module: ast.AST) -> list[str]:
    """Everything in a module by which a video could be written: containers opened for more than reading, writers of
    other libraries, animated pictures, and programs that are started."""
    found = [dotted for dotted in imports(module) if LIBRARIES & {dotted, dotted.split(".")[0]}]
    for node in ast.walk(module):
        name = getattr(node, "attr", getattr(node, "id", ""))
        if isinstance(node, ast.Attribute | ast.Name) and name in WAYS_OUT:
            found.append(name)
        if not isinstance(node, ast.Call):
            continue
        keywords = {word.arg: word.value for word in node.keywords}
        if "save_all" in keywords:
            found.append("save_all")
        target = ast.unparse(node.func)
        if target in {"av.open", "av.container.open"}:
            mode = node.args[1] if len(node.args) > 1 else keywords.get("mode", ast.Constant("r"))
            if not (isinstance(mode, ast.Constant) and mode.value == "r"):
                found.append(target)
        if target in {"os.system", "os.popen"} or target.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
            found.append(target)
    return found


WRITING = """
av.open(path, 'w')
av.open(path, mode='a')
av.open(path, mode)
import av.container; av.container.open(path, 'w')
from av import open
container.mux(packet)
container.add_stream('libx264')
cv2.VideoWriter('a.avi', 0, 8, (64, 64))
from cv2 import VideoWriter; VideoWriter('a.avi', 0, 8, (64, 64))
import imageio.v3
from torchvision.io import write_video
image.save('a.webp', save_all=True)
import subprocess
os.system('ffmpeg')
"""


def test_the_door_rule_sees_every_way_out_and_lets_reading_pass() -> None:
    assert [source for source in WRITING.strip().splitlines() if not ways_out(ast.parse(source))] == []
    reading = ["av.open(path)", "av.open(path, options={})", "av.open(path, 'r')", "file.open('w')"]
    assert [source for source in reading if ways_out(ast.parse(source))] == []


DOOR = {"lichtspiel/seal/export.py", "lichtspiel/seal/animation.py"}
"""The files of the door: the second one only draws what the first one signs, as `DRAFTS` says."""


def test_video_leaves_by_one_door() -> None:
    found: dict[str, set[str]] = {}
    for name in SOURCES:
        ways = set() if name.startswith("tests/") else set(ways_out(tree(name)))
        # Scripts outside the package may start it as a program, as a benchmark of cold starts does.
        if ways - (set() if name in PACKAGE and name not in STARTERS else {"subprocess"}):
            found[name] = ways
    assert found.keys() == DOOR, found


DRAFTS = {
    "_encode": {"seal"},
    "_copy": {"seal_copy"},
    "_container": {"_encode", "_copy"},
    "_animate": {"seal_animation"},
}
"""The functions that make an unmarked draft, and the only ones that may call them."""


def test_only_seal_makes_an_unmarked_draft() -> None:
    functions = [node for name in PACKAGE for node in ast.walk(tree(name)) if isinstance(node, Function)]
    inner = {node.name for made in functions if made.name in DRAFTS for node in ast.walk(made) if node is not made
             and isinstance(node, Function)}  # fmt: skip
    writers = {made.name for made in functions if set(ways_out(made)) - {"subprocess"}} - inner
    callers = {
        (node.func.id, made.name)
        for made in functions
        for node in ast.walk(made)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DRAFTS
    }
    assert writers == set(DRAFTS)
    assert callers == {(name, caller) for name, allowed in DRAFTS.items() for caller in allowed}


def test_files_are_short() -> None:
    lines = {name: (ROOT / name).read_text(encoding="utf-8").count("\n") for name in SOURCES if name not in TABLES}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


@cache
def flag_takers() -> set[str]:
    """The functions of the command line where one parameter is one flag: the verbs, and what makes the terms and the
    options of a tuning run of flags."""
    found, groups = {"terms", "data_flags", "run_flags", "training_flags"}, [typer.main.get_command(app)]
    while groups:
        group: Any = groups.pop()
        inner = [group, *group.commands.values()]
        found |= {command.callback.__name__ for command in inner if command.callback is not None}
        groups += [command for command in group.commands.values() if hasattr(command, "commands")]
    return found


def test_functions_are_short_and_take_few_parameters() -> None:
    found: list[str] = []
    functions = [(name, node) for name in SOURCES for node in ast.walk(tree(name)) if isinstance(node, Function)]
    for name, node in functions:
        assert node.end_lineno is not None
        takes_flags = name.startswith("lichtspiel/cli/") and node.name in flag_takers()
        first = node.body[0].lineno if takes_flags else node.lineno  # flags are a table of their own
        lines = node.end_lineno - first + 1
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(argument.arg not in {"self", "cls"} for argument in given)
        # A kernel of a GPU gets each pointer and each size by itself.
        kernel = [ast.unparse(decorator) for decorator in node.decorator_list] == ["triton.jit"]
        if lines > FUNCTION_LINES:
            found.append(f"{name}: {node.name} has {lines} lines")
        if count > PARAMETERS and not takes_flags and not kernel:
            found.append(f"{name}: {node.name} takes {count} parameters")
    assert found == []


def test_files_are_small() -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in files()}
    assert [name for name, size in sizes.items() if size > FILE_BYTES] == []
    assert sum(sizes.values()) <= TREE_BYTES


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("lichtspiel lichtspiel.cli lichtspiel.request lichtspiel.spec", "torch numpy av c2pa cv2 PIL safetensors"),
        (
            "lichtspiel.seal lichtspiel.media.video lichtspiel.tokenizer lichtspiel.workflows.toybox_clips "
            "lichtspiel.toybox.render",
            "torch",
        ),
    ],
)
def test_imports_load_nothing_heavy(modules: str, heavy: str) -> None:
    program = f"import sys, {', '.join(modules.split())}; print(*({set(heavy.split())} & set(sys.modules)))"
    done = run("-W", "error", "-c", program)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_opening_a_model_loads_no_compiler() -> None:
    program = (
        "import sys; from lichtspiel.models import shapes; from lichtspiel.spec import MODELS; model = MODELS['nano']; "
        "clip = MODELS['i2v-14b-480p'].clip; [*map(shapes, (model.dit, model.vae, model.umt5, clip))]; "
        "print(*({'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)))"
    )
    done = run("-W", "error", "-c", program)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_help_answers_at_once() -> None:
    # Processor time, because a busy machine stretches any other, and this one less; and caches are cold at first.
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("-m", "lichtspiel", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.returncode, "generate" in done.stdout) == (0, True), done.stderr
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert any(seconds() < 0.5 for _ in range(10))


def reads_environment(module: ast.AST) -> list[str]:
    found = [dotted for dotted in imports(module) if dotted in {"os.environ", "os.getenv"}]
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "putenv"}:
            found.append(node.attr)
        if isinstance(node, ast.keyword) and node.arg == "envvar":
            found.append("envvar")
    return found


def test_the_environment_rule_sees_every_reading() -> None:
    for source in ("os.environ['A']", "os.getenv('A')", "from os import environ", "typer.Option(envvar='A')"):
        assert reads_environment(ast.parse(source))


def test_the_environment_names_paths_only() -> None:
    assert {name for name in PACKAGE if reads_environment(tree(name))} <= ENVIRONMENT


def test_no_file_names_a_machine() -> None:
    found = [
        (name, word)
        for name in files()
        if ROOT / name != Path(__file__)
        for word in FOREIGN
        if word.encode() in (ROOT / name).read_bytes()
    ]
    assert found == []


def test_checks_are_strict() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["pytest"]["ini_options"]["filterwarnings"] == ["error"]
    assert tools["pytest"]["ini_options"]["xfail_strict"]
    assert tools["mypy"]["strict"]


def test_lint_and_types_find_nothing() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "scripts" / "lint"], env={**os.environ, "PATH": path}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", TEXTS)
def test_texts_name_what_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:\.ci|benchmarks|docs|lichtspiel|recipes|scripts|tests)/[^`\s]*)`", text)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    targets = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text, re.MULTILINE))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    verbs: Any = typer.main.get_command(app)
    for command in re.findall(r"(?:^|`|\$ )lichtspiel ((?:[a-z]+ ?)+)", text, re.MULTILINE):
        place = verbs
        for word in command.split():
            if hasattr(place, "commands"):
                assert word in place.commands, f"{name}: there is no command: lichtspiel {command}"
                place = place.commands[word]


def test_the_readme_has_the_two_commands_and_a_picture_and_the_changelog_this_version() -> None:
    readme, changelog = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md"))
    assert set(re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE)) >= {"demo", "test"}
    assert re.search(r"!\[[^\]]+\]\([^)]+\)", readme)
    assert f"## [{lichtspiel.__version__}]" in changelog

"""How many lines of the core rooms their own tests run: `python -m scripts.coverage`.

The floor is `fail_under` in pyproject.toml and only rises: less fails, and so do one and a half percent more, until the
floor is raised. It is a command of its own and not a part of the suite, because tracing slows tests down; the rooms
here are those whose tests take half a minute. Python 3.12 and newer count lines with `sys.monitoring`, which costs
little.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("errors", "flow", "lora", "options", "request", "spec", "storage", "tokenizer")
TESTS = (
    "lora", "models/test_dit.py", "test_flow.py", "test_options.py", "test_request.py", "test_storage.py",
    "test_tokenizer.py",
)  # fmt: skip


def main() -> None:
    floor = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["report"]["fail_under"]
    tests = [*(f"tests/{name}" for name in TESTS)]
    options = ["--cov-report=term-missing:skip-covered", *(f"--cov=lichtspiel.{room}" for room in ROOMS)]
    environment = dict(os.environ)
    if sys.version_info >= (3, 12):
        environment["COVERAGE_CORE"] = "sysmon"
    with tempfile.TemporaryDirectory() as folder:
        environment["COVERAGE_FILE"] = str(Path(folder) / "data")
        command = [sys.executable, "-m", "pytest", *tests, *options]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        total = [sys.executable, "-m", "coverage", "report", "--format=total", "--precision=1"]
        total.append("--fail-under=0")
        done = subprocess.run(total, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    covered = float(done.stdout)
    if covered < floor:
        sys.exit(f"{covered} % of the lines are tested, and the floor is {floor} %: test what is new")
    if covered >= floor + 1.5:
        sys.exit(f"{covered} % of the lines are tested: raise fail_under in pyproject.toml to {int(covered)}")
    print(f"{covered} % of the lines are tested; the floor is {floor} %")


if __name__ == "__main__":
    main()

"""`scripts/install`: which PyTorch is taken where, and how much it says was downloaded.

The script is run as `make` runs it, in a copy of its folder, with a Python that only notes what pip is asked for.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROCESSORS = "--index-url https://download.pytorch.org/whl/cpu"
has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()

PYTHON = """#!/bin/bash
# Stands for Python: makes an environment with itself inside, and notes what pip is asked for.
case "$*" in
  "-c "*) exit 0 ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *"config list") echo "$SETTINGS" ;;
  "-m pip "*) echo "$*" >> asked; echo "Downloading torch-2.whl (190.5 MB)"; [[ "$*" != *"$FAILS"* ]] ;;
  *) exec "$REAL" "$@" ;;
esac
"""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere PyPI's PyTorch has no CUDA in it"
)


def install(folder: Path, extra: str = "moderation", **environment: str) -> tuple[list[str], str]:
    """Runs the script; returns what pip was asked for, and what was printed."""
    (folder / "scripts").mkdir()
    for name in ("install", "downloads.py"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts" / name)
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    settings = {"PYTHON": str(folder / "python"), "REAL": sys.executable, "SETTINGS": "", "FAILS": "nothing fails"}
    done = subprocess.run(
        [folder / "scripts" / "install", extra], env={"PATH": os.environ["PATH"], **settings, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return (folder / "asked").read_text().splitlines(), done.stdout


@pytest.mark.skipif(has_gpu, reason="this computer has a GPU")
def test_without_a_gpu_the_build_for_processors_is_taken(tmp_path: Path) -> None:
    asked, said = install(tmp_path)
    assert PROCESSORS in asked[0]
    assert asked[1].endswith("-e .[moderation] opencv-python-headless<4.12")
    assert said.splitlines()[-1] == "Downloaded 381 MB."


def test_the_tests_run_with_the_newest_libraries(tmp_path: Path) -> None:
    asked, _ = install(tmp_path, "dev")
    assert asked[1].endswith("-e .[dev] opencv-python-headless>=4.12")


@pytest.mark.parametrize("settings", ["global.index-url='https://pip.example.org'", ":env:.find-links='/wheels'"])
def test_an_index_of_ones_own_is_used_as_it_is(tmp_path: Path, settings: str) -> None:
    asked, _ = install(tmp_path, SETTINGS=settings)
    assert "--index-url" not in asked[0]


def test_the_index_can_be_chosen_and_falls_back_to_pips_own(tmp_path: Path) -> None:
    asked, said = install(tmp_path, TORCH_INDEX="https://example.org/cu128", FAILS="example.org")
    assert "--index-url https://example.org/cu128" in asked[0]
    assert "--index-url" not in asked[1]
    assert "PyTorch comes from pip's own index" in said


def test_packages_that_were_here_already_are_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "torch-2.whl").write_bytes(b"0" * 2_000_000)
    log = f"""Looking in links: {tmp_path}
Processing {tmp_path}/torch-2.whl
Collecting numpy<3 (from lichtspiel==0.1.0)
  Downloading numpy-2.3.0-cp311.whl.metadata (62 kB)
  Using cached av-18.1.0.whl (3.5 MB)
  Using cached av-18.1.0.whl.metadata (5 kB)
Downloading https://example.org/numpy-2.3.0-cp311.whl (16.9 MB)
Obtaining file://{tmp_path}
"""
    script = runpy.run_path(str(ROOT / "scripts" / "downloads.py"))
    assert script["told"](log) == (
        "Downloaded 17 MB. Another 6 MB came from pip's cache or local folders: 22 MB on a fresh computer."
    )

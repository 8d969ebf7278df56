"""Say how much pip fetched, from its log: python scripts/downloads.py LOG.

What came from pip's cache or from a folder of this computer was not downloaded now, but it is on a fresh one, so it is
told as well. Uses nothing but the standard library: it runs while the package is being installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

UNITS = {"bytes": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}

_FETCHED = re.compile(r"^ *(Downloading|Using cached) \S+ \(([\d.]+) (bytes|B|kB|MB|GB)\)")
_LOCAL = re.compile(r"^ *Processing (/\S+\.(?:whl|tar\.gz|zip))")
_METADATA = ".metadata ("


def fetched(log: str) -> tuple[float, float]:
    """The bytes that were downloaded, and those of packages from pip's cache or local folders."""
    downloaded = other = 0.0
    for line in log.splitlines():
        if match := _FETCHED.match(line):
            size = float(match[2]) * UNITS[match[3]]
            if match[1] == "Downloading":
                downloaded += size
            elif _METADATA not in line:
                other += size
        elif (match := _LOCAL.match(line)) and (path := Path(match[1])).is_file():
            other += path.stat().st_size
    return downloaded, other


def told(log: str) -> str:
    """The same in a sentence."""
    downloaded, other = (size / 1e6 for size in fetched(log))
    if not other:
        return f"Downloaded {downloaded:.0f} MB."
    rest = f"Another {other:.0f} MB came from pip's cache or local folders"
    return f"Downloaded {downloaded:.0f} MB. {rest}: {downloaded + other:.0f} MB on a fresh computer."


if __name__ == "__main__":
    print(told(Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace")))

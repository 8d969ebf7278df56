"""Cold process, prompt to sealed MP4: how long the embedded model takes, stage by stage.

    python benchmarks/generate.py --runs 5

Every run is a new process, as a person at a shell meets it. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "a big turtle walks to the right on a beach at sunset, it is raining"
STAGES = ("load", "encode", "denoise", "decode", "seal", "total")


def once(folder: Path, extra: list[str]) -> dict[str, float]:
    """One cold run: seconds by stage as the program reports them, and of the whole process from outside."""
    out = folder / "video.mp4"
    command = [
        sys.executable,
        "-m",
        "lichtspiel",
        "generate",
        PROMPT,
        "-o",
        str(out),
        "--force",
        "--seed",
        "1",
        "--json",
        *extra,
    ]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - began
    usage = json.loads(done.stdout)["timings"]
    return {**{stage: usage[stage] for stage in STAGES}, "process": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    options, extra = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        once(Path(folder), extra)  # the first run makes the signing key and warms the disk's cache
        rows = [once(Path(folder), extra) for _ in range(options.runs)]
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {os.cpu_count()} processor cores, {options.runs} cold processes")
    print(f"\n`python benchmarks/generate.py {' '.join(sys.argv[1:])}`\n")
    print("| stage | median s | min s | max s |\n|---|---|---|---|")
    for stage in (*STAGES, "process"):
        values = [row[stage] for row in rows]
        print(f"| {stage} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()

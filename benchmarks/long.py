"""Memory of a long video in windows, beside a short one and a long one at once, on random weights of a tiny text model.

    python -m benchmarks.long

Each row is a process of its own: how far its peak is above what it had before denoising began, and before decoding; and
how many bytes of tensors lived at once. It fails where the long video in windows takes more of these than the short one
at once, beyond its longer latents.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from lichtspiel.inference.pipeline import load
from lichtspiel.models.dit import DiT
from lichtspiel.request import Request
from lichtspiel.spec import MODELS
from lichtspiel.tune.peaks import StorageCount

SIZE = (128, 128)
NANO = MODELS["nano"]
ROW = replace(
    NANO, name="tiny", tasks=frozenset({"text"}), dit=replace(NANO.dit, in_channels=16, layers=2),
    sampling=replace(NANO.sampling, sizes=(SIZE,), frames=81, max_frames=161, fps=16, steps=1, guidance=1.0),
)  # fmt: skip
CASES = {"81 at once": (81, 0), "161 in windows of 81": (161, 81), "161 at once": (161, 0)}

_COPIES = 9
"""How many tensors as large as the latents live at once at most: state, noise, velocity and the solver's memory."""


def weights(folder: Path) -> Path:
    """Random weights for the tiny row, with nano's own VAE and text encoder."""
    for file in (Path(sys.modules["lichtspiel"].__path__[0]) / "nano").glob("*.safetensors"):
        if not file.name.startswith("dit"):
            (folder / file.name).symlink_to(file)
    torch.manual_seed(0)
    dit = DiT(ROW.dit)
    dit.initialize()
    save_file(dit.state_dict(), folder / "dit.safetensors")
    return folder


def measure(frames: int, window: int, folder: Path) -> dict[str, float]:
    """Denoise and decode once in this process."""
    MODELS["tiny"] = ROW
    request = Request.of(prompt="a bee", model="tiny", frames=frames, window=window, dtype="float32", seed=1)
    pipeline = load(request, folder)
    conditions = pipeline.encode(request)
    pipeline._dit()
    pipeline._vae()
    result = {}
    for stage in ("denoise", "decode"):
        before, start = psutil.Process().memory_info().rss, time.perf_counter()
        with StorageCount() as count:
            if stage == "denoise":
                *_, step = pipeline.denoise(conditions, request)
            else:
                assert sum(1 for _ in pipeline.decode(step.latents)) == frames
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        result |= {stage: max(peak - before, 0) / 1e6, f"{stage}_s": time.perf_counter() - start}
        result[f"{stage}_tensors"] = count.peak / 1e6
    return result | {"latents": step.latents.numel() * 4 / 1e6}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(*CASES[arguments.case], arguments.weights)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = weights(Path(name))
        print(f"{SIZE[0]}x{SIZE[1]}, one step, float32, {torch.get_num_threads()} threads")
        rows = {}
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.long", "--case", case, "--weights", str(folder)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rows[case] = found
            for stage in ("denoise", "decode"):
                print(
                    f"{case:<22} {stage:<8} {found[stage]:6.1f} MB, of tensors {found[f'{stage}_tensors']:6.1f} MB, "
                    f"{found[f'{stage}_s']:6.1f} s"
                )
        check(*rows.values())


def check(short: dict[str, float], long: dict[str, float], _: dict[str, float]) -> None:
    """Exit with a message where a long video in windows takes more tensors than a short one and its longer latents."""
    room = _COPIES * (long["latents"] - short["latents"])
    for stage in ("denoise", "decode"):
        more = long[f"{stage}_tensors"] - short[f"{stage}_tensors"]
        print(f"{stage:<8} in windows takes {more:.2f} MB of tensors more; {_COPIES} times its latents: {room:.2f} MB")
        if more > room:
            raise SystemExit(f"{stage}: memory grows with the length")


if __name__ == "__main__":
    main()

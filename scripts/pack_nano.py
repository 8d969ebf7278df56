"""Pack a run's weights as the embedded model: `python -m scripts.pack_nano runs/nano/weights`.

Matrices of the DiT and of the text encoder become Q8_0 of GGUF, 8 bits with a scale for every 32 numbers, which halves
them; the VAE, whose errors everybody sees, stays as it is. The digests in `lichtspiel/spec.py` are set to the files'.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.torch import load_file
from torch import Tensor

from lichtspiel import spec
from lichtspiel.storage import file_sha256
from lichtspiel.weights.checkpoint import EMBEDDED
from lichtspiel.weights.gguf import SHAPE

AXES, BLOCK = 4, 32
"""The most axes that GGUF has, and how many numbers of Q8_0 share a scale."""


def pack(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a GGUF file: matrices in Q8_0 if their rows can be, whole numbers as they are, all else in
    float16."""
    writer = GGUFWriter(path, arch="wan")
    for name, tensor in sorted(tensors.items()):
        if not tensor.is_floating_point():
            writer.add_tensor(name, tensor.numpy())
            continue
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % BLOCK == 0:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
            continue
        if values.ndim > AXES:
            writer.add_array(SHAPE + name, list(values.shape))
            values = values.reshape(*values.shape[: AXES - 1], -1)
        writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace the embedded model's files and their digests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="folder that a recipe wrote weights to")
    parser.add_argument("--to", type=Path, default=EMBEDDED, help="folder to write to")
    options = parser.parse_args(arguments)
    for part in ("dit", "umt5"):
        shards = sorted(options.weights.glob(f"{part}*.safetensors"))
        tensors = {name: value for shard in shards for name, value in load_file(shard).items()}
        pack(tensors, options.to / f"{part}.gguf")
    for shard in sorted(options.weights.glob("vae*.safetensors")):
        if not (options.to / shard.name).exists() or not shard.samefile(options.to / shard.name):
            shutil.copyfile(shard, options.to / shard.name)
    packed = sorted([*options.to.glob("*.gguf"), *options.to.glob("vae*.safetensors")])
    lines = [f'        "{path.name}": "{file_sha256(path)}",\n' for path in packed]
    for path in packed:
        print(f"{path.stat().st_size:>12,}  {path}")
    if options.to == EMBEDDED:
        source = Path(spec.__file__)
        begun = re.compile(r"(    digests=\{\n)(?:        \"[^\n]*\n)+")
        source.write_text(begun.sub(lambda match: match[1] + "".join(lines), source.read_text(), count=1))


if __name__ == "__main__":
    main()

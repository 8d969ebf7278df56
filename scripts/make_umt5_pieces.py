"""Turn UMT5's published tokenizer.json into the small file that the package reads.

    python scripts/make_umt5_pieces.py tokenizer.json lichtspiel/data/umt5_pieces.safetensors

Only the pieces and their log probabilities are kept; nothing is lost in float32, which is asserted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SOURCE_DIGEST = "24568697871e6c50515a706cb0c62d059738bb4a903054abd1fc9db78a2eddd7"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="tokenizer.json of google/umt5-xxl")
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    raw = options.source.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SOURCE_DIGEST:
        parser.error(f"{options.source} is another tokenizer: its digest is {digest}")
    vocabulary = json.loads(raw)["model"]["vocab"]
    pieces = "\n".join(piece for piece, _ in vocabulary).encode()
    scores = np.array([score for _, score in vocabulary], dtype=np.float32)
    assert scores.astype(float).tolist() == [score for _, score in vocabulary]
    assert pieces.decode().split("\n") == [piece for piece, _ in vocabulary]
    tensors = {"pieces": np.frombuffer(pieces, np.uint8), "scores": scores}
    metadata = {"source": "google/umt5-xxl tokenizer.json", "sha256": digest, "licence": "Apache-2.0"}
    save_file(tensors, options.target, metadata=metadata)


if __name__ == "__main__":
    main()

import hashlib, json, sys
import numpy as np
from safetensors.numpy import save_file
raw = open(sys.argv[1], "rb").read()
digest = hashlib.sha256(raw).hexdigest()
assert digest == "24568697871e6c50515a706cb0c62d059738bb4a903054abd1fc9db78a2eddd7"
vocabulary = json.loads(raw)["model"]["vocab"]
pieces = "\n".join(piece for piece, _ in vocabulary).encode()
scores = np.array([score for _, score in vocabulary], dtype=np.float32)
assert scores.astype(float).tolist() == [score for _, score in vocabulary]
assert pieces.decode().split("\n") == [piece for piece, _ in vocabulary]
save_file({"pieces": np.frombuffer(pieces, np.uint8), "scores": scores}, sys.argv[2],
          metadata={"source": "google/umt5-xxl tokenizer.json", "sha256": digest, "licence": "Apache-2.0"})

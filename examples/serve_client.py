"""Ask a server for a video with the standard library alone: `lichtspiel serve` in one terminal, this in another."""

import json
import os
import time
from urllib.request import Request, urlopen

SERVER = os.environ.get("LICHTSPIEL_SERVER", "http://127.0.0.1:8000")


def call(path: str, body: dict[str, object] | None = None) -> bytes:
    """The answer to a GET, or to a POST of JSON. A server that requires a key wants `Authorization: Bearer KEY`."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(SERVER + path, data, {"Content-Type": "application/json"})) as answer:
        return answer.read()


video = json.loads(call("/v1/videos", {"prompt": "a dragon flies over a meadow", "steps": 2, "frames": 5}))
while video["status"] in {"queued", "in_progress"}:
    time.sleep(0.5)
    video = json.loads(call(f"/v1/videos/{video['id']}"))
    print(video["status"], video["progress"], video["stage"])

if video["status"] == "completed":
    with open("dragon.mp4", "wb") as file:
        file.write(call(f"/v1/videos/{video['id']}/content"))
else:
    print(video["error"])

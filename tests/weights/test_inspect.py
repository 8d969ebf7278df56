"""What `inspect` says of true-size files (headers of true size over holes) and of tiny, mixed and broken folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lichtspiel.errors import WeightsError
from lichtspiel.models import shapes
from lichtspiel.spec import MODELS, Part
from lichtspiel.weights.checkpoint import EMBEDDED, checkpoint
from lichtspiel.weights.inspect import inspect
from lichtspiel.weights.layouts import dialect
from lichtspiel.weights.match import spec_of
from tests.weights import layouts
from tests.weights.layouts import huge


def true_shapes(model: str, part: Part, layout: str = "official") -> dict[str, tuple[int, ...]]:
    spec = spec_of(MODELS[model], part)
    assert spec is not None
    table = dialect(part, layout)
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes(spec).items():
        theirs = table.names(name)
        for their in theirs:
            slot = table.slot(their)
            assert slot is not None
            found[their] = (shape[0] // len(theirs), *shape[1:])[slot.axes :]
    return found


def whole(folder: Path, model: str, layouts: dict[Part, str]) -> Path:
    for part, layout in layouts.items():
        subfolder = folder / str(part)
        subfolder.mkdir()
        huge(subfolder / "x.safetensors", true_shapes(model, part, layout), "F8_E4M3")
    return folder


def test_the_embedded_model_is_whole() -> None:
    found = inspect(EMBEDDED)
    assert (found.kind, found.complete, found.tasks) == ("checkpoint", ["nano"], ["first-last", "image", "text"])
    assert found.missing == {}
    assert {part.part: part.models for part in found.parts} == {part: ["nano"] for part in ("dit", "umt5", "vae")}


@pytest.mark.parametrize("layout", ["official", "diffusers"])
@pytest.mark.parametrize(
    ("model", "tensors", "names"),
    [
        ("t2v-1.3b", 825, ["t2v-1.3b"]),
        ("t2v-14b", 1095, ["t2v-14b", "t2i-14b"]),
        ("i2v-14b-720p", 1303, ["i2v-14b-480p", "i2v-14b-720p"]),
        ("flf2v-14b", 1304, ["flf2v-14b"]),
        ("vace-1.3b", 1264, ["vace-1.3b"]),
        ("vace-14b", 1331, ["vace-14b"]),
    ],
)
def test_a_transformer_of_true_size_is_known(
    model: str, tensors: int, names: list[str], layout: str, tmp_path: Path
) -> None:
    path = huge(tmp_path / "model.safetensors", true_shapes(model, "dit", layout), "F8_E4M3")
    found = inspect(path)
    (part,) = found.parts
    assert (part.layout, part.container, part.tensors, part.models) == (layout, "safetensors", tensors, names)
    assert part.parameters == MODELS[model].parameters
    assert part.precision == {"F8_E4M3": tensors}
    assert found.kind == "parts"
    assert set(found.missing) == set(names)
    assert "vae" in found.missing[names[0]]


def test_a_whole_checkpoint_is_complete_for_its_tasks_and_would_load(tmp_path: Path) -> None:
    folder = whole(
        tmp_path, "i2v-14b-480p",
        {"dit": "diffusers", "vae": "official", "umt5": "llama.cpp", "clip": "transformers"},
    )  # fmt: skip
    found = inspect(folder)
    assert (found.complete, found.tasks) == (["i2v-14b-480p", "i2v-14b-720p"], ["image"])
    assert found.missing == {}
    checkpoint(MODELS["i2v-14b-720p"], folder)
    with pytest.raises(WeightsError, match=r"holds the weights of another model: i2v-14b-480p or i2v-14b-720p; choose"):
        checkpoint(MODELS["t2v-14b"], folder)
    text = "\n".join(found.lines())
    assert "a whole checkpoint" in text
    assert "complete for i2v-14b-480p, i2v-14b-720p; tasks: image" in text


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    folder = whole(tmp_path, "t2v-1.3b", {"dit": "official", "vae": "official", "umt5": "official"})
    with pytest.raises(WeightsError, match=r"holds the weights of another model: t2v-1\.3b; choose one with --model"):
        checkpoint(MODELS["t2v-14b"], folder)


def test_an_encoder_alone_says_for_which_models_it_is(tmp_path: Path) -> None:
    found = inspect(huge(tmp_path / "x", true_shapes("t2v-14b", "umt5", "transformers")))
    (part,) = found.parts
    assert (part.part, part.layout, part.tensors) == ("umt5", "transformers", 242)
    assert part.parameters == 5_680_910_336
    assert part.models == [name for name in MODELS if name != "nano"]
    assert found.missing["t2v-1.3b"] == ["dit", "vae"]


def test_a_model_of_nobody_is_told_from_its_nearest(tmp_path: Path) -> None:
    shapes = true_shapes("t2v-1.3b", "dit")
    shapes["patch_embedding.weight"] = (1536, 48, 1, 2, 2)
    found = inspect(huge(tmp_path / "x", shapes))
    (part,) = found.parts
    assert part.models == []
    assert "fits no known model: nearest is t2v-1.3b" in "\n".join(found.lines())
    assert part.reason.startswith("nearest is t2v-1.3b, but ")
    assert "patch_embedding.weight has the shape [1536, 48, 1, 2, 2]" in part.reason


def test_an_incomplete_model_is_told_from_a_whole_one(tmp_path: Path) -> None:
    shapes = true_shapes("t2v-14b", "dit")
    half = dict(list(shapes.items())[:600])
    huge(tmp_path / "x-00001-of-00002.safetensors", half)
    found = inspect(tmp_path)
    assert found.parts[0].reason.startswith("nearest is t2v-14b, but ")
    assert found.parts[0].reason.endswith("incomplete download: shard 2 of 2 is not there")
    assert found.missing == {}


def test_adapters_foreign_and_damaged_files_are_listed(tmp_path: Path) -> None:
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    save_file({"model.layers.0.mlp.weight": torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"")
    (tmp_path / "d.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    found = inspect(tmp_path)
    assert [(Path(file.path).name, file.kind) for file in found.others] == [
        ("a.safetensors", "LoRA"), ("b.safetensors", "unknown"), ("c.safetensors", "unreadable"),
        ("d.gguf", "unreadable"),
    ]  # fmt: skip
    assert found.kind == "LoRA"
    assert "git lfs pull" in found.others[3].reason
    assert "LoRA: " in "\n".join(found.lines())


def test_what_cannot_be_read_makes_a_checkpoint_incomplete(tmp_path: Path) -> None:
    names = true_shapes("t2v-1.3b", "dit")
    save_file({name: torch.zeros(1, dtype=torch.int8) for name in names}, tmp_path / "x")
    (part,) = inspect(tmp_path / "x").parts
    assert "is stored as I8, which cannot be read" in part.reason


def test_the_answer_is_plain_data(tmp_path: Path) -> None:
    found = inspect(layouts.comfy(tmp_path))
    answer = json.loads(json.dumps(found.to_json()))
    assert answer["kind"] == "parts"
    assert {part["part"] for part in answer["parts"]} == {"dit", "vae", "umt5", "clip"}
    assert all(part["reason"] for part in answer["parts"])


def test_several_paths_are_looked_through_together(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = huge(tmp_path / "one" / "x", true_shapes("t2v-1.3b", "dit"))
    second = huge(tmp_path / "y", true_shapes("t2v-1.3b", "vae", "diffusers"))
    assert inspect([first, second]).missing == {"t2v-1.3b": ["umt5"]}


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        inspect(tmp_path / "nothing")

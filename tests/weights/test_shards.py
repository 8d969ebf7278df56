"""Whole weights on their way out, in the layout of Diffusers, whose own classes load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lichtspiel.weights.components import scan
from lichtspiel.weights.match import compare
from lichtspiel.weights.shards import write_shards
from tests.golden import relative_error
from tests.lora.files import IMAGE, TINY, VACE, build, inputs, run


def test_whole_weights_in_the_layout_of_diffusers_give_the_same_velocity(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel

    specs = {"text": TINY, "image": IMAGE, "vace": VACE}
    for name, spec in specs.items():
        kind: Any = WanVACETransformer3DModel if spec.vace_layers else WanTransformer3DModel
        dit, given, folder = build(spec), inputs(spec), tmp_path / name
        shard = sum(value.numel() * 4 for value in dit.state_dict().values()) // 2
        paths = write_shards(
            folder, dit.state_dict(), spec, torch.float32, {}, shard_bytes=shard, layout="diffusers"
        )  # fmt: skip
        assert len(paths) > 1
        theirs = kind.from_pretrained(folder)
        conditions: dict[str, Any] = {"encoder_hidden_states_image": given.get("image")}
        if spec.vace_layers:
            conditions |= {"control_hidden_states": given["vace"]}
        with torch.inference_mode():
            expected = theirs(
                given["latents"], given["timestep"], given["text"], **conditions, return_dict=False
            )[0]  # fmt: skip
        assert relative_error(run(dit, given), expected) < 1e-5
        (part,) = scan([folder]).parts
        assert not compare(part, spec)

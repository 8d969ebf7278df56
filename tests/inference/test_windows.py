"""Videos longer than what the network sees at once: windows, their blending, and RIFLEx."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lichtspiel import flow
from lichtspiel.inference.conditions import with_conditions
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.inference.windows import Windows, begins, ramps
from lichtspiel.models.attention import rotary_angles
from lichtspiel.request import Request
from lichtspiel.tune.peaks import StorageCount
from tests.golden import relative_error
from tests.inference.test_vace import files
from tests.inference.tiny import registered

TEXT = torch.zeros(1, 1, 1)


@pytest.fixture(scope="module")
def vace(random_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with registered(random_nano, tmp_path_factory.mktemp, ["tiny-vace"]) as folders:
        yield folders["tiny-vace"]


def asked(**fields: Any) -> Request:
    return Request.of(**{"prompt": "a turtle", "seed": 3, "steps": 2, "guidance": 1.0, "dtype": "float32", **fields})


def latents(pipeline: Pipeline, request: Request) -> Tensor:
    *_, last = pipeline.denoise(pipeline.encode(request), request)
    return last.latents


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpm++"])
def test_windows_leave_no_seam_on_a_linear_velocity(solver: Any) -> None:
    def velocity(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return 0.7 * latents + timestep[:, None, None, None, None] / 1000

    windows = Windows(lambda numbers: velocity, 7, 3)
    noise = torch.randn(1, 4, 41, 2, 3, generator=torch.Generator().manual_seed(1))
    grid = (solver, 6, 3.0)
    plain = [result for _, result in flow.sample(lambda x, t: velocity(x, t, TEXT), noise, *grid)]
    blended = [result for _, result in flow.sample(lambda x, t: windows(x, t, TEXT), noise, *grid)]
    assert windows.step == 5
    for one, other in zip(plain, blended, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("count", "length", "overlap"), [(41, 21, 4), (22, 21, 4), (241, 21, 4), (9, 3, 2), (5, 7, 2)])
def test_windows_cover_every_frame_and_share_the_overlap(count: int, length: int, overlap: int) -> None:
    seen = set()
    for step in range(16):
        starts = begins(count, length, overlap, step)
        seen.add(tuple(starts))
        assert starts[0] == 0
        assert starts[-1] == max(count - length, 0)
        assert all(later - start <= length - overlap for start, later in pairwise(starts))
        total = torch.zeros(max(count, length))
        for start, ramp in zip(starts, ramps(starts, length), strict=True):
            assert (ramp > 0).all()
            total[start : start + length] += ramp
        assert (total > 0).all()
    assert len(seen) > 1 or count <= length + 1 or length - overlap == 1


def test_a_window_of_the_whole_is_the_plain_way(random_nano: Path) -> None:
    request = asked(frames=17)
    pipeline = load(request, random_nano)
    conditions = pipeline.encode(request)
    dit = pipeline._dit()
    assert conditions.image_condition is not None
    noise = pipeline.noise(request)
    network = with_conditions(dit, conditions, request)
    timestep = torch.tensor([700.0])
    with torch.inference_mode():
        plain = network(noise, timestep, conditions.text)
        windows = Windows(lambda numbers: network, 5, 2)
        assert torch.equal(windows(noise, timestep, conditions.text), plain.float())


def test_the_network_never_sees_more_than_a_window(random_nano: Path) -> None:
    request = asked(frames=33, window=17)
    assert (request.seen, request.window_overlap) == (17, 8)
    pipeline = load(request, random_nano)
    assert pipeline.plan.frames == 17
    sizes: set[int] = set()
    hook = pipeline._dit().register_forward_pre_hook(lambda _, given: sizes.add(given[0].shape[2]))
    long = latents(pipeline, request)
    hook.remove()
    assert sizes == {5}
    assert long.shape == (1, 16, 9, 16, 16)
    assert len(list(pipeline.decode(long))) == 33
    other = latents(pipeline, asked(frames=33, window=17, window_overlap=4))
    assert relative_error(other, long) > 1e-3


def test_memory_grows_with_the_length_by_the_latents_alone(random_nano: Path) -> None:
    """Twice as many frames in windows take the memory of the short video, and room for longer latents: the state, the
    noise, the velocity and its weights, the picture's condition, and what the solver remembers of the steps before."""
    peaks, sizes = [], []
    for frames, window in ((17, 0), (33, 17)):
        request = asked(frames=frames, window=window)
        pipeline = load(request, random_nano)
        conditions = pipeline.encode(request)
        pipeline._dit()
        with StorageCount() as count:
            *_, last = pipeline.denoise(conditions, request)
        peaks.append(count.peak)
        sizes.append(last.latents.numel() * 4)
    assert sizes[1] == 9 / 5 * sizes[0]
    assert peaks[1] - peaks[0] <= 9 * (sizes[1] - sizes[0])
    assert peaks[1] < 1.1 * peaks[0]


def test_references_are_part_of_every_window(vace: Path, tmp_path: Path) -> None:
    hat = files(tmp_path / "hats", 1) / "000.png"
    film = files(tmp_path / "film", 21)
    fields = {"model": "tiny-vace", "references": [hat], "video": film, "frames": 21, "window": 9, "steps": 1}
    request = asked(**fields, pace="each")
    pipeline = load(request, vace)
    assert pipeline.encode(request).vace.shape[2] == 1 + 6  # type: ignore[union-attr]
    sizes: set[int] = set()
    hook = pipeline._dit().register_forward_pre_hook(lambda _, given: sizes.add(given[0].shape[2]))
    assert latents(pipeline, request).shape[2] == 6
    hook.remove()
    assert sizes == {1 + 3}


def test_riflex_changes_one_frequency_in_time() -> None:
    plain, slowed = (rotary_angles((60, 1, 2), 128, riflex=on) for on in (False, True))
    different = (plain != slowed).any(0).any(0)
    assert different.nonzero().flatten().tolist() == [5]  # the sixth of 22, as in WanVideoWrapper
    turned = torch.atan2(slowed[1, 2, 5], slowed[0, 2, 5])
    assert float(turned) == pytest.approx(0.9 * 2 * math.pi / 60, abs=1e-6)


def test_riflex_changes_the_result_and_leaves_nothing_behind(random_nano: Path) -> None:
    request = asked(frames=33, window=33, riflex=True)
    pipeline = load(request, random_nano)
    with_it = latents(pipeline, request)
    assert pipeline._dit().angles_fn is rotary_angles
    assert relative_error(latents(pipeline, asked(frames=33, window=33)), with_it) > 1e-4


def test_a_long_video_gets_its_windows_by_itself() -> None:
    request = asked(model="t2v-1.3b", seconds=20)
    assert (request.frames, request.window, request.window_overlap, request.seen) == (321, 81, 16, 81)
    assert asked(model="t2v-1.3b", seconds=10).window == 0
    assert asked(model="t2v-1.3b", seconds="60").frames == 961
    assert asked(**request.model_dump(exclude={"lora"})) == request

"""Networks in ONNX files of the user, here tiny graphs whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is in the extra dev")
pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra understand")

import onnx
from onnx import TensorProto, helper, numpy_helper

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.footage.selection import Selection
from lichtspiel.footage.skeleton import JOINTS
from lichtspiel.media.video import read_video
from lichtspiel.seal import record
from lichtspiel.workflows.control import make_control
from lichtspiel.workflows.plugs import depth_film, pose_film, segmenter_of
from lichtspiel.workflows.track import Look, track
from tests.footage.files import HEIGHT, WIDTH, clip, clip_file


def file(path: Path, inputs: dict[str, list[Any]], outputs: list[str], nodes: list[Any], **held: Any) -> Path:
    """An ONNX file of a graph; `held` are its constants."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "graph", given, found, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def depth_file(folder: Path) -> Path:
    """Says that what is brighter is nearer."""
    node = helper.make_node("ReduceMean", ["image"], ["depth"], axes=[1], keepdims=0)
    return file(folder / "depth.onnx", {"image": [1, 3, 28, 42]}, ["depth"], [node])


def segmenter_files(folder: Path) -> tuple[Path, Path]:
    """Says that all is the object that is to the right of the first point, or of a box's left edge."""
    encoder = file(
        folder / "encoder.onnx", {"image": [1, 3, 64, 64]}, ["features"],
        [helper.make_node("ReduceMean", ["image"], ["features"], axes=[1, 2, 3], keepdims=1)],
    )  # fmt: skip
    across = np.broadcast_to(np.arange(64, dtype=np.float32) + 0.5, (1, 1, 64, 64))
    nodes = [
        helper.make_node("Slice", ["point_coords", "begin", "end"], ["first"]),
        helper.make_node("Mul", ["image_embeddings", "nothing"], ["silent"]),
        helper.make_node("Add", ["silent", "across"], ["places"]),
        helper.make_node("Reshape", ["first", "scalar"], ["edge"]),
        helper.make_node("Sub", ["places", "edge"], ["masks"]),
    ]
    decoder = file(
        folder / "decoder.onnx",
        {"image_embeddings": [1, 1, 1, 1], "point_coords": [1, "n", 2], "point_labels": [1, "n"]}, ["masks"], nodes,
        across=across, begin=np.array([0, 0, 0]), end=np.array([1, 1, 1]), scalar=np.array([1]),
        nothing=np.zeros(1, np.float32),
    )  # fmt: skip
    return encoder, decoder


def test_depth_is_white_where_it_is_near_with_one_scale_for_the_clip(tmp_path: Path) -> None:
    frames = [np.full((60, 80, 3), level, np.uint8) for level in (40, 120)]
    frames[1][:, 40:] = 250
    dark, bright = depth_film(frames, depth_file(tmp_path))
    assert dark.shape == (60, 80, 3)
    assert dark.max() < 10
    assert 60 < bright[30, 10, 0] < 140
    assert bright[30, 70, 0] > 245


def test_people_are_drawn_once_where_their_joints_are(tmp_path: Path) -> None:
    places = np.zeros((1, 5 + 3 * JOINTS, 3), np.float32)
    for number, sure in enumerate((0.9, 0.6, 0.1)):
        places[0, :5, number] = (32, 32, 20, 40, sure)
        joints = np.stack([np.linspace(20, 44, JOINTS) + 3 * number, np.linspace(10, 54, JOINTS), np.full(JOINTS, 0.9)])
        places[0, 5:, number] = joints.T.reshape(-1)
    node = helper.make_node("Identity", ["held"], ["found"])
    network = file(tmp_path / "pose.onnx", {"images": [1, 3, 64, 64]}, ["found"], [node], held=places)
    (film,) = pose_film([np.zeros((128, 256, 3), np.uint8)], network)
    assert film.shape == (128, 256, 3)
    assert film[20, 80].any()  # the nose of the surest place, at the clip's size
    assert not film[20, 92].any()
    with pytest.raises(MediaError, match=r"a network for poses gives \[1, 56, n\]"):
        list(pose_film([np.zeros((64, 64, 3), np.uint8)], depth_file(tmp_path)))


def test_a_segmenter_gets_points_at_its_scale_and_its_mask_comes_back_at_the_clip_s(tmp_path: Path) -> None:
    segment = segmenter_of(*segmenter_files(tmp_path))
    frame = clip().frames[0]
    for selection in (Selection(box=(70, 20, 150, 90)), Selection(points=((70, 50, True), (10, 10, False)))):
        mask = segment(frame, selection)
        assert mask.shape == (HEIGHT, WIDTH)
        assert not mask[:, :66].any()
        assert mask[:, 76:].all()
    exact = Selection(polygon=((20, 20), (60, 20), (60, 50)))
    assert (segment(frame, exact) == exact.area(WIDTH, HEIGHT)).all()
    source = clip_file(tmp_path, frames=2)
    look = Look(segmenter=segmenter_files(tmp_path), keep_going=True)
    result = track(source, tmp_path / "mask.mp4", [Selection(box=(70, 20, 150, 90))], look=look)
    first = next(read_video(tmp_path / "mask.mp4"))[..., 0] > 127
    assert first[:, 80:].all()
    entry = record.find(result["seal"]["id"])
    assert entry is not None
    assert len(entry.request["segmenter"]) == 2  # type: ignore[arg-type]


def test_films_of_networks_and_layouts_are_sealed(tmp_path: Path) -> None:
    source, network = clip_file(tmp_path, frames=2), depth_file(tmp_path)
    result = make_control(source, tmp_path / "depth.mp4", "depth", network=network)
    entry = record.find(result["seal"]["id"])
    assert entry is not None
    assert len(str(entry.request["network"])) == 64
    make_control(source, tmp_path / "boxes.mp4", "boxes", selections=[Selection(box=(20, 20, 120, 100))])
    layout = next(read_video(tmp_path / "boxes.mp4"))
    assert np.median(layout) > 240
    assert (layout[..., 0].astype(int) - layout[..., 1]).max() > 150


def test_files_and_kinds_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    source, network = clip_file(tmp_path, frames=1), depth_file(tmp_path)
    box = Selection(box=(20, 20, 120, 100))
    for words, options in (
        ("depth is seen by a network of yours", {"kind": "depth"}),
        ("edges is drawn without one", {"kind": "edges", "network": network}),
        ("say what the layout shows", {"kind": "boxes"}),
        ("gray is drawn of the whole frame", {"kind": "gray", "selections": [box]}),
    ):
        with pytest.raises(RequestError, match=words):
            make_control(source, tmp_path / "out.mp4", **options)  # type: ignore[arg-type]
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(MediaError, match="is no ONNX file that can be run"):
        make_control(source, tmp_path / "out.mp4", "pose", network=tmp_path / "text.onnx")
    with pytest.raises(MediaError, match="is not a file"):
        segmenter_of(network, tmp_path / "none.onnx")
    with pytest.raises(MediaError, match="is no ONNX file that can be run"):
        segmenter_of(network, tmp_path / "text.onnx")
    with pytest.raises(MediaError, match="takes no point_coords and point_labels"):
        segmenter_of(network, network)

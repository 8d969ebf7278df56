"""What happens to a video on its way through the world, and what `verify` then says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lichtspiel.media.video import read_video
from lichtspiel.seal import Marks, Sealed, card, exit_code, seal, verify
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, sample
from lichtspiel.workflows.terms import Terms
from tests.seal.conftest import provenance
from tests.seal.test_verify import remuxed

Frame = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def clip() -> npt.NDArray[np.uint8]:
    return render(sample(3, FULL), 3, width=480, height=272, frames=17).frames


@pytest.fixture(scope="module")
def made(clip: npt.NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> tuple[Sealed, Path]:
    """A video that left under the usual terms, and the installation in whose record it is."""
    folder = tmp_path_factory.mktemp("made")
    terms, said = Terms(), provenance(parameters={"size": [480, 272], "frames": 17, "upscale": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(folder / "home"))
        inspection = terms.admit(said.prompt, [], has_image=False)
        sealed = seal(inspection.watch(clip, 16), said, folder / "fox.mp4", fps=16)
        inspection.remember(sealed, said)
    return sealed, folder / "home"


@pytest.fixture
def marked(made: tuple[Sealed, Path], tmp_path: Path) -> Sealed:
    """A copy of the video, which a test may change."""
    return replace(made[0], path=shutil.copy(made[0].path, tmp_path / "fox.mp4"))


@pytest.fixture(autouse=True)
def installation_of_its_own(
    made: tuple[Sealed, Path], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the installation: the record of one test is not that of another."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(made[1], folder, dirs_exist_ok=True)
    monkeypatch.setenv("LICHTSPIEL_HOME", str(folder))
    return folder


def encoded(frames: list[Frame], path: Path, crf: int) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=16, options={"crf": str(crf)})
        stream.height, stream.width, _ = frames[0].shape
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def test_everything_is_there_when_nothing_happened(marked: Sealed) -> None:
    report = verify(marked.path)
    assert (report.watermark.found, report.watermark.id, report.watermark.mirrored) == (True, marked.id[:8], False)
    assert report.labels.comment is not None
    assert marked.id in report.labels.comment
    assert report.labels.aigc is None  # is for the profile "cn"
    assert report.record is not None
    assert report.record.id == marked.id
    said = json.loads(json.dumps(report.to_json()))
    assert said["record"]["prompt"].startswith("a small red fox")
    assert "from the record on this machine" in " ".join(card(report).split())


UPLOADS: dict[str, Callable[[list[Frame]], list[Frame]]] = {
    "re-encoded": lambda frames: frames,
    "mirrored": lambda frames: [frame[:, ::-1] for frame in frames],
    "cropped": lambda frames: [frame[16:-16, 32:-32] for frame in frames],
    "every second frame": lambda frames: frames[::2],
}


@pytest.mark.parametrize("upload", UPLOADS)
def test_an_upload_is_recognised_by_its_watermark(marked: Sealed, tmp_path: Path, upload: str) -> None:
    frames = UPLOADS[upload](list(read_video(marked.path)))
    report = verify(encoded(frames, tmp_path / "upload.mp4", crf=26))
    assert (report.credentials.state, exit_code(report)) == ("none", 0)
    assert (report.watermark.id, report.watermark.mirrored) == (marked.id[:8], upload == "mirrored")
    assert report.record is not None
    assert report.record.id == marked.id
    assert "bears the mark of a video sealed here on" in report.verdict
    assert "can also be copied" in report.verdict
    assert ("this file 416x240" in report.verdict) == (upload == "cropped")
    assert ("17 frames, this file 9" in report.verdict) == (upload == "every second frame")
    assert "WATERMARK FOUND" in card(report)


def test_a_picture_of_it_is_recognised(marked: Sealed, tmp_path: Path) -> None:
    frame = list(read_video(marked.path))[8]
    Image.fromarray(frame).save(tmp_path / "shot.jpg", quality=90)
    report = verify(tmp_path / "shot.jpg")
    assert (report.watermark.id, exit_code(report)) == (marked.id[:8], 0)


def test_elsewhere_it_is_still_known_as_generated(
    marked: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = remuxed(marked.path, tmp_path / "copy.mkv", "matroska")
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "other"))
    report = verify(copy)
    assert (report.record, report.watermark.id) == (None, marked.id[:8])
    assert "AI-generated video, marked by Lichtspiel" in report.verdict
    assert "record has no video with its id" in report.verdict


def test_tampering_is_told_first(marked: Sealed) -> None:
    content = bytearray(marked.path.read_bytes())
    content[content.index(b"mdat") + 3000] ^= 1
    marked.path.write_bytes(content)
    report = verify(marked.path)
    assert (report.credentials.state, exit_code(report)) == ("tampered", 5)
    assert "changed since" in report.verdict
    assert "watermark says that it is AI-generated" in report.verdict


def test_a_damaged_record_does_not_end_a_verification(marked: Sealed, installation_of_its_own: Path) -> None:
    (installation_of_its_own / "record.sqlite").write_bytes(b"rubbish" * 1000)
    report = verify(marked.path)
    assert report.credentials.here
    assert report.record is None
    assert "record" in report.notes[0]
    assert "Note" in card(report)


def test_labels_alone_prove_nothing(clip: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    with av.open(str(tmp_path / "claims.mp4"), "w") as file:
        file.metadata["comment"] = "AI-generated by nano, marked by Lichtspiel 0.1.0, id 0123"
        stream = file.add_stream("libx264", rate=16)
        stream.height, stream.width, stream.pix_fmt = 272, 480, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(clip[0], format="rgb24")))
        file.mux(stream.encode(None))
    report = verify(tmp_path / "claims.mp4")
    assert (report.watermark.found, exit_code(report)) == (False, 4)
    assert report.labels.comment is not None


def test_the_profile_of_china_shows_and_writes_its_labels_once(clip: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    sealed = seal(clip, provenance(), tmp_path / "cn.mp4", fps=16, marks=Marks.of("cn"))
    report = verify(sealed.path)
    assert report.credentials.here
    assert report.labels.aigc is not None
    assert report.labels.aigc["Label"] == "1"
    assert report.labels.aigc["ProduceID"] == sealed.id
    assert sealed.path.read_bytes().count(b"ContentProducer") == 1
    plain = seal(clip, provenance(), tmp_path / "eu.mp4", fps=16)
    shown, bare = (next(read_video(path)).astype(int) for path in (sealed.path, plain.path))
    change = np.abs(shown - bare).max(axis=-1) > 40
    assert change.any()
    rows, columns = np.nonzero(change)
    assert rows.max() < 272 / 3
    assert columns.min() > 480 / 2


def test_without_marks_there_is_nothing_to_find(clip: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    sealed = seal(clip, provenance(), tmp_path / "plain.mp4", fps=16, marks=Marks.none("a test chart"))
    assert (sealed.marks, sealed.watermark, sealed.manifest, sealed.signer) == ("none", None, None, None)
    report = verify(sealed.path)
    assert (report.credentials.state, report.watermark.found, report.labels.comment) == ("none", False, None)
    assert exit_code(report) == 4


def test_a_stranger_cannot_claim_our_record(marked: Sealed, clip: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    """A video that shows something else, signed by somebody unknown under an id of ours, is not taken for ours."""
    from lichtspiel.seal import credentials, new_identity

    plain = seal(clip, provenance(), tmp_path / "plain.mp4", fps=16, marks=Marks.none("a test chart"))
    credentials.sign(plain.path, tmp_path / "forged.mp4", provenance(id=marked.id), new_identity())
    report = verify(tmp_path / "forged.mp4")
    assert report.credentials.state == "intact"
    assert not report.credentials.here
    assert report.record is None


def test_a_file_without_marks_is_known_by_its_digest(clip: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    terms, made = Terms(marks=Marks.none("a test chart")), provenance(prompt="find me")
    inspection = terms.admit(made.prompt, [], has_image=False)
    sealed = seal(inspection.watch(clip, 16), made, tmp_path / "plain.mp4", fps=16, marks=terms.marks)
    inspection.remember(sealed, made)
    report = verify(sealed.path)
    assert report.record is not None
    assert (report.record.id, report.record_match, exit_code(report)) == (made.id, "sha256", 0)
    assert "without marks (a test chart)" in report.verdict
    assert card(report).splitlines()[0] == "plain.mp4: IN THE RECORD"
    sealed.path.write_bytes(sealed.path.read_bytes() + bytes.fromhex("00000008") + b"free")
    assert (verify(sealed.path).record, exit_code(verify(sealed.path))) == (None, 4)


def test_a_report_for_strangers_tells_nothing_from_the_record(marked: Sealed, tmp_path: Path) -> None:
    copy = remuxed(marked.path, tmp_path / "copy.mkv", "matroska")
    report = verify(copy, with_record=False)
    assert (report.record, report.record_match, report.watermark.id) == (None, None, marked.id[:8])
    assert "record" not in report.verdict
    assert "sealed here" not in report.verdict


@pytest.mark.parametrize(("form", "frames"), [("GIF", 17), ("WEBP", 17), ("PNG", 17)])
def test_a_marked_animation_is_recognised(marked: Sealed, tmp_path: Path, form: str, frames: int) -> None:
    pictures = [Image.fromarray(frame) for frame in read_video(marked.path)]
    path = tmp_path / f"shared.{form.lower()}"
    pictures[0].save(path, format=form, save_all=True, append_images=pictures[1:], duration=60, quality=90)
    report = verify(path)
    assert (report.watermark.id, report.record_match, exit_code(report)) == (marked.id[:8], "watermark", 0)
    assert "picture" not in report.verdict

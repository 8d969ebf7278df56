from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lichtspiel.errors import LichtspielError, OutputError, RequestError
from lichtspiel.seal import Marks, Sealed, check_output, export, identity, new_identity, seal
from lichtspiel.seal.manifest import Reading
from tests.seal.conftest import frames, provenance


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def boxes(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8], content[at + 8 : at + size]))
        at += size
    return found


def test_a_player_finds_what_was_put_in(sealed: Sealed) -> None:
    with av.open(str(sealed.path)) as container:
        stream = container.streams.video[0]
        context: Any = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate, stream.frames) == ("h264", "yuv420p", 16, 9)
        assert (context.width, context.height) == (64, 48)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    for shown, given in zip(decoded(sealed.path), frames(), strict=True):
        error = np.mean((shown.astype(float) - given) ** 2)
        assert 10 * np.log10(255**2 / error) > 34


def test_it_plays_before_it_is_loaded(sealed: Sealed) -> None:
    names = [name for name, _ in boxes(sealed.path.read_bytes())]
    assert names.index(b"moov") < names.index(b"mdat")


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0)])
def test_colours_are_those_of_bt709(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    flat = np.full((32, 32, 3), colour, np.uint8)
    seal([flat], provenance(), tmp_path / "flat.mp4", fps=8, marks=Marks.none("only the colours matter"))
    red, green, blue = colour
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # ITU-R BT.709-6, item 3.2
    wanted = (16 + luma * 219 / 255, 128 + (blue - luma) / 1.8556 * 224 / 255, 128 + (red - luma) / 1.5748 * 224 / 255)
    with av.open(str(tmp_path / "flat.mp4")) as container:
        frame = next(container.decode(video=0))
        found = [np.frombuffer(plane, np.uint8)[0] for plane in frame.planes]
    assert np.allclose(found, wanted, atol=2)
    assert np.allclose(decoded(tmp_path / "flat.mp4")[0], colour, atol=4)


def test_the_receipt_is_true(sealed: Sealed) -> None:
    content = sealed.path.read_bytes()
    assert sealed.sha256 == hashlib.sha256(content).hexdigest()
    assert (sealed.bytes, sealed.frames, sealed.width, sealed.height, sealed.fps) == (len(content), 9, 64, 48, 16)
    assert sealed.manifest.encode() in content
    assert sealed.signer.startswith("Lichtspiel ")
    assert sealed.to_json()["path"] == str(sealed.path)


def test_the_picture_data_is_the_same_each_time(sealed: Sealed, tmp_path: Path) -> None:
    again = seal(frames(), provenance(id=sealed.id), tmp_path / "again.mp4", fps=16)
    assert again.sha256 != sealed.sha256
    assert dict(boxes(again.path.read_bytes()))[b"mdat"] == dict(boxes(sealed.path.read_bytes()))[b"mdat"]


ENCODE = """
import sys
from lichtspiel.seal import seal
from tests.seal.conftest import frames, provenance
seal(frames(), provenance(id="7b" * 16), sys.argv[1], fps=16)
"""


def test_the_picture_data_does_not_depend_on_what_was_in_memory_before(tmp_path: Path) -> None:
    found = set()
    for number in (0, 85, 170):  # glibc fills memory with it when it is handed out
        out = tmp_path / f"{number}.mp4"
        subprocess.run(
            [sys.executable, "-c", ENCODE, out], env={**os.environ, "MALLOC_PERTURB_": str(number)}, check=True
        )
        found.add(dict(boxes(out.read_bytes()))[b"mdat"])
    assert len(found) == 1


def test_one_frame_and_another_rate(tmp_path: Path) -> None:
    seal(frames(1), provenance(), tmp_path / "still.mp4", fps=8)
    with av.open(str(tmp_path / "still.mp4")) as container:
        assert (container.streams.video[0].frames, container.streams.video[0].average_rate) == (1, 8)


def test_frames_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def stream() -> Iterator[Any]:
        nonlocal most
        for frame in frames(60):
            fresh = frame.copy()
            alive.append(weakref.ref(fresh))
            most = max(most, sum(it() is not None for it in alive))
            yield fresh
            del fresh

    assert seal(stream(), provenance(), tmp_path / "long.mp4", fps=16).frames == 60
    assert most <= 3


def test_views_and_other_strides_are_encoded_as_they_look(tmp_path: Path) -> None:
    given = next(frames(1))[:, ::-1]
    seal([given], provenance(), tmp_path / "mirror.mp4", fps=8)
    assert np.abs(decoded(tmp_path / "mirror.mp4")[0].astype(int) - given).mean() < 4


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, OSError])
def test_whatever_stops_it_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    def broken() -> Iterator[Any]:
        yield from frames(5)
        raise stop("halfway")

    old = tmp_path / "fox.mp4"
    old.write_bytes(b"what was there")
    for out in (tmp_path / "new.mp4", old):
        with pytest.raises(stop, match="halfway"):
            seal(broken(), provenance(), out, fps=16)
    assert os.listdir(tmp_path) == ["fox.mp4"]
    assert old.read_bytes() == b"what was there"


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "fox.mp4").write_bytes(b"what was there")
    seal(frames(1), provenance(), tmp_path / "fox.mp4", fps=16)
    assert os.listdir(tmp_path) == ["fox.mp4"]
    assert len(decoded(tmp_path / "fox.mp4")) == 1


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # writing on is refused, as it is on a full disk
    try:
        with pytest.raises(LichtspielError, match=r"cannot be written|could not be signed"):
            seal(frames(), provenance(), tmp_path / "fox.mp4", fps=16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_a_seal_that_does_not_hold_is_not_let_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.manifest, "read", lambda *_: Reading("tampered", problems=("bent",)))
    with pytest.raises(LichtspielError, match=r"does not hold.*bent"):
        seal(frames(1), provenance(), tmp_path / "fox.mp4", fps=16)
    assert os.listdir(tmp_path) == []


def test_a_signer_that_cannot_sign_is_named(tmp_path: Path) -> None:
    mixed = identity.Identity(new_identity().chain, "no key")
    with pytest.raises(LichtspielError, match="could not be signed"):
        seal(frames(1), provenance(), tmp_path / "fox.mp4", fps=16, signer=mixed)
    assert os.listdir(tmp_path) == []


def refused(given: Any, tmp_path: Path, **changes: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        seal(given, provenance(), tmp_path / "fox.mp4", **{"fps": 16, **changes})
    assert os.listdir(tmp_path) == []
    return caught.value


def test_frames_that_cannot_be_encoded_are_refused(tmp_path: Path) -> None:
    assert refused([], tmp_path).field == "frames"
    odd = refused([np.zeros((33, 64, 3), np.uint8)], tmp_path)
    assert (odd.field, odd.nearest) == ("size", "64x32")
    assert "float64 [32, 32, 3]" in str(refused([np.zeros((32, 32, 3))], tmp_path))
    assert "uint8 [32, 32]" in str(refused([np.zeros((32, 32), np.uint8)], tmp_path))
    assert "list" in str(refused([[1, 2, 3]], tmp_path))
    unlike = refused([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)], tmp_path)
    assert unlike.nearest == (32, 32)
    assert refused(frames(1), tmp_path, fps=0).field == "fps"
    assert refused(frames(1), tmp_path, fps=16.5).field == "fps"


def test_check_output_writes_nothing(tmp_path: Path) -> None:
    assert check_output(tmp_path / "fox.mp4", pixels=64 * 64 * 17) == tmp_path / "fox.mp4"
    assert os.listdir(tmp_path) == []


def test_check_output_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"nearest valid name: .*fox\.mp4"):
        check_output(tmp_path / "fox.webm")
    with pytest.raises(OutputError, match="mkdir -p"):
        check_output(tmp_path / "nowhere" / "fox.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputError, match="is not a file"):
        check_output(tmp_path / "folder.mp4")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 << 20))
    check_output(tmp_path / "fox.mp4", pixels=1_000_000)
    with pytest.raises(OutputError, match="20 MiB are free on this disk and 108 MiB may be needed"):
        check_output(tmp_path / "fox.mp4", pixels=832 * 480 * 81)


def test_check_output_sees_protection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fox.mp4").touch()
    with monkeypatch.context() as patch:  # the tests may run as root, whom permissions do not stop
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(OutputError, match="write-protected"):
            check_output(tmp_path / "fox.mp4")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        check_output(tmp_path / "other.mp4")


def test_a_build_without_the_encoder_is_named_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr(av.codec, "Codec", missing)
    with pytest.raises(OutputError, match="pip install"):
        check_output(tmp_path / "fox.mp4")


def test_importing_it_is_cheap() -> None:
    heavy = "{'av', 'c2pa', 'cryptography', 'numpy', 'PIL', 'torch'}"
    code = f"import sys, lichtspiel.seal; sys.exit(' '.join({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""
    )

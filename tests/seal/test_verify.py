from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from lichtspiel.errors import MediaError, OutOfMemory
from lichtspiel.media import probe
from lichtspiel.seal import (
    Credentials,
    Labels,
    Marks,
    Report,
    Sealed,
    Signer,
    Watermark,
    card,
    exit_code,
    identity,
    new_identity,
    seal,
    verify,
)
from lichtspiel.seal import credentials as credentials_module
from lichtspiel.seal import manifest as reading_module
from lichtspiel.seal.verify import PROOFS, State
from tests.seal.conftest import PROMPT, frames, provenance

Alter = Callable[[bytes, int], Path]


def box(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


FTYP = box(b"ftyp", b"isom\0\0\0\0isom")


def credential_box(content: bytes) -> bytes:
    return box(b"uuid", probe._C2PA + b"\0\0\0\0manifest\0" + bytes(8) + content)


def find_credentials(content: bytes) -> tuple[int, int]:
    """Where the box with the credentials lies in a sealed video."""
    start = content.index(b"uuid" + probe._C2PA) - 4
    return start, start + int.from_bytes(content[start : start + 4], "big")


def remuxed(source: Path, target: Path, form: str) -> Path:
    with av.open(str(source)) as given, av.open(str(target), "w", format=form) as copy:
        stream = copy.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target


def test_our_own_is_sealed_here(sealed: Sealed) -> None:
    report = verify(sealed.path)
    assert (report.credentials.state, report.credentials.problems, exit_code(report)) == ("trusted", (), 0)
    assert report.verdict.startswith("This installation sealed")
    assert (report.credentials.id, report.credentials.manifest, report.credentials.model) == (
        sealed.id,
        sealed.manifest,
        "nano",
    )
    assert report.credentials.signer is not None
    assert (report.credentials.signer.name, report.credentials.signer.organisation) == (
        sealed.signer,
        identity.ORGANISATION,
    )
    assert (report.credentials.source_type, report.credentials.time) == ("trainedAlgorithmicMedia", None)


def test_the_report_is_json(sealed: Sealed) -> None:
    said = json.loads(json.dumps(verify(sealed.path).to_json()))
    assert said["credentials"]["generation"]["parameters"] == {
        "seed": 7,
        "size": [64, 48],
        "guidance": 3.0,
        "solver": "euler",
    }
    assert said["credentials"]["state"] == "trusted"


def test_it_holds_wherever_the_file_goes(sealed: Sealed, tmp_path: Path) -> None:
    moved = tmp_path / "some other name.MP4"
    moved.write_bytes(sealed.path.read_bytes())
    assert verify(moved).credentials.here


def test_another_installation_is_elsewhere(tmp_path: Path) -> None:
    seal(frames(1), provenance(), tmp_path / "theirs.mp4", fps=8, signer=new_identity())
    report = verify(tmp_path / "theirs.mp4")
    assert (report.credentials.state, exit_code(report)) == ("intact", 0)
    assert report.credentials.problems == ("signingCredential.untrusted: signing certificate untrusted",)
    assert "their own claim" in report.verdict


def test_borrowed_names_and_roots_do_not_help_a_forger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = identity.load_identity()
    monkeypatch.setattr(os, "urandom", lambda count: b"\1" * count)  # the same names as another installation's
    first, second = new_identity(), new_identity()
    monkeypatch.undo()
    leaf = second.chain.removesuffix(second.root)
    forged = identity.Identity(leaf + first.root, second.key)
    monkeypatch.setattr(identity, "anchors", lambda: first.root)
    for number, signer in enumerate((second, forged, ours)):
        out = tmp_path / f"{number}.mp4"
        # The door itself would notice a chain that does not hold, so the forger signs without it.
        seal(frames(1), provenance(), tmp_path / "ours.mp4", fps=8, signer=first)
        credentials_module.sign(
            remuxed(tmp_path / "ours.mp4", tmp_path / "plain.mp4", "mp4"), out, provenance(), signer
        )
        assert verify(out).credentials.state == "intact"
    assert verify(tmp_path / "ours.mp4").credentials.here


def test_without_an_installation_nothing_is_ours(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "fresh"))
    assert verify(sealed.path).credentials.state == "intact"
    assert not (tmp_path / "fresh").exists()


def test_signers_of_the_newest_kind_are_no_tampering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ExtendedKeyUsageOID, "EMAIL_PROTECTION", ObjectIdentifier("1.3.6.1.4.1.62558.2.1"))
        signer = new_identity()
    seal(frames(1), provenance(), tmp_path / "theirs.mp4", fps=8, signer=signer)
    assert verify(tmp_path / "theirs.mp4").credentials.state == "intact"


@pytest.mark.parametrize(
    ("landmark", "offset", "problem"),
    [
        (b"mdat", 1200, "assertion.bmffHash.mismatch"),  # the picture
        (b"moov", 60, "assertion.bmffHash.mismatch"),  # the table of contents
        (b'"seed": 7', 8, "assertion.hashedURI.mismatch"),  # the record
        (b"c2pa.created", 1, "assertion.hashedURI.mismatch"),
        (b"instanceID", 20, "claimSignature.mismatch"),  # the claim
    ],
)
def test_one_flipped_bit_is_tampering(altered: Alter, landmark: bytes, offset: int, problem: str) -> None:
    report = verify(altered(landmark, offset))
    assert (report.credentials.state, exit_code(report)) == ("tampered", 5)
    assert any(problem in entry for entry in report.credentials.problems)


def test_a_flipped_bit_in_the_signature_is_tampering(sealed: Sealed, tmp_path: Path) -> None:
    content = bytearray(sealed.path.read_bytes())
    # COSE_Sign1 ends in its signature: a CBOR byte string of 64 bytes (58 40), the last one before the padding.
    start, end = find_credentials(bytes(content))
    content[content.rindex(b"\x58\x40", start, end) + 10] ^= 1
    path = tmp_path / "altered.mp4"
    path.write_bytes(content)
    report = verify(path)
    assert report.credentials.state == "tampered"
    assert any("claimSignature.mismatch" in entry for entry in report.credentials.problems)


def test_credentials_moved_to_another_video_are_tampering(sealed: Sealed, tmp_path: Path) -> None:
    other = seal(frames(9, height=64), provenance(), tmp_path / "other.mp4", fps=16).path.read_bytes()
    ours = sealed.path.read_bytes()
    start, end = find_credentials(ours)
    before, after = find_credentials(other)
    (tmp_path / "moved.mp4").write_bytes(other[:before] + ours[start:end] + other[after:])
    report = verify(tmp_path / "moved.mp4")
    assert (report.credentials.state, report.credentials.id) == ("tampered", sealed.id)


@pytest.mark.parametrize("damage", ["twice", "unreadable", "empty"])
def test_credentials_that_make_no_sense_prove_nothing(sealed: Sealed, tmp_path: Path, damage: str) -> None:
    content = sealed.path.read_bytes()
    start, end = find_credentials(content)
    instead = {
        "twice": 2 * content[start:end],
        "unreadable": credential_box(b"\xff" * 500),
        "empty": box(b"uuid", probe._C2PA),
    }[damage]
    (tmp_path / "odd.mp4").write_bytes(content[:start] + instead + content[end:])
    report = verify(tmp_path / "odd.mp4")
    assert (report.credentials.state, report.credentials.generation, report.credentials.signer) == (
        "tampered",
        None,
        None,
    )
    assert "make no sense" in report.verdict


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
def test_a_remuxed_video_has_lost_its_credentials(sealed: Sealed, tmp_path: Path, form: str) -> None:
    report = verify(remuxed(sealed.path, tmp_path / f"copy.{form}", form))
    assert (report.credentials.state, report.watermark.id, exit_code(report)) == ("none", sealed.id[:8], 0)
    assert "Its credentials are gone" in report.verdict
    assert card(report).splitlines()[0] == f"copy.{form}: WATERMARK FOUND"


def test_a_video_without_anything_proves_nothing(tmp_path: Path) -> None:
    seal(frames(3), provenance(), tmp_path / "plain.mp4", fps=8, marks=Marks.none("a test"))
    report = verify(tmp_path / "plain.mp4")
    assert (report.credentials.state, exit_code(report)) == ("none", 4)
    assert "proves nothing" in report.verdict
    assert card(report).splitlines()[0] == "plain.mp4: NOTHING FOUND"


def test_a_truncated_file_is_an_error(sealed: Sealed, tmp_path: Path) -> None:
    content = sealed.path.read_bytes()
    path = tmp_path / "cut.mp4"
    for length in (1, 7, 20, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(MediaError, match=r"cut\.mp4: .*(copy or download it again|is neither)"):
            verify(path)


def test_what_is_no_video_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file.mp4"
    for content, message in (
        (b"", "is empty"),
        (b"just some words\n" * 100, "is neither a video nor a picture"),
        (b"#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n", "is neither a video nor a picture"),
        (bytes(5000), "is neither a video nor a picture"),
        (FTYP, "is no video that can be read"),
        (FTYP + b"12345", "foreign bytes"),
        (FTYP + struct.pack(">I4s", 4, b"free") + bytes(8), "smaller than its own header"),
    ):
        path.write_bytes(content)
        with pytest.raises(MediaError, match=message):
            verify(path)
    with pytest.raises(MediaError, match="is not a file"):
        verify(tmp_path)
    with pytest.raises(MediaError, match="No such file"):
        verify(tmp_path / "nowhere.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="is not a file"):
        verify(tmp_path / "pipe.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mov"
    with av.open(str(path), "w") as copy:
        stream = copy.add_stream("pcm_s16le", rate=44100)
        silence = av.AudioFrame(format="s16", layout="stereo", samples=1024)
        silence.sample_rate = 44100
        copy.mux(stream.encode(silence))
    with pytest.raises(MediaError, match="holds no video"):
        verify(path)


def nested(name: bytes, count: int) -> bytes:
    return b"".join(struct.pack(">I4s", 8 * (count - number), name) for number in range(count))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (box(b"free") * 100_000, "more than 8,192 boxes"),
        (box(b"moov", box(b"free") * 100_000), "more than 8,192 boxes"),
        (box(b"moov", box(b"trak") * 100_000), "more than 8,192 boxes"),
        (box(b"moov", box(b"udta", box(b"meta", bytes(4) + box(b"free") * 100_000))), "more than 8,192 boxes"),
        (nested(b"moov", 1000), "nested too deeply"),
        (credential_box(bytes(17 << 20)), "credentials take more than"),
    ],
)
def test_a_hostile_file_ends_at_once(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "hostile.mp4"
    path.write_bytes(FTYP + credential_box(b"") + content)
    started = time.process_time()
    with pytest.raises(MediaError, match=message):
        verify(path)
    assert time.process_time() - started < 2


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.mp4"
    path.write_bytes(FTYP)
    os.truncate(path, 5 << 30)  # sparse: takes no room
    with pytest.raises(MediaError, match="5,368,709,120 bytes; at most 4,294,967,296"):
        verify(path)


def test_boxes_of_every_length_are_walked(tmp_path: Path) -> None:
    path = tmp_path / "boxes.mp4"
    large = struct.pack(">I4sQ", 1, b"free", 16 + 5) + b"large"
    quicktime = box(b"moov", box(b"meta", box(b"hdlr", b"12345678")) + b"\0\0\0\0")
    beyond = box(b"moov", struct.pack(">I4s", 999, b"free"))
    to_the_end = struct.pack(">I4s", 0, b"mdat") + b"rest"
    path.write_bytes(FTYP + large + quicktime + beyond + box(b"uuid", bytes(16)) + credential_box(b"x") + to_the_end)
    assert probe.survey(path) == probe.Survey(path.stat().st_size, "video/mp4", sealed=True)


def test_the_card_says_what_matters(sealed: Sealed, tmp_path: Path) -> None:
    said = card(verify(sealed.path), width=80)
    assert max(map(len, said.splitlines())) <= 80
    for part in ("fox.mp4: SEALED HERE", "made by a generative model", "not stored; digest", "64x48", sealed.id):
        assert part in said
    seal(frames(1), provenance(embed_prompt=True), tmp_path / "theirs.mp4", fps=8, signer=new_identity())
    said = card(verify(tmp_path / "theirs.mp4"))
    for part in ("INTACT, UNKNOWN SIGNER", "calls itself", PROMPT):
        assert part in said
    assert "signingCredential.untrusted" not in said  # which says no more than the verdict


def test_the_card_leaves_out_what_is_usual_or_empty() -> None:
    parameters = {
        "seed": 0, "size": [64, 48], "lora": [], "nag": 0.0, "fit": "crop", "guidance": 5.0, "sound": False,
        "weights": {"dit": "ab"}, "skip_scale": 2.8,
    }  # fmt: skip
    report = Report(
        path="a.mp4", verdict="fine", credentials=Credentials(state="intact", generation={"parameters": parameters}),
        watermark=Watermark(found=False, id=None, score=0.0, mirrored=False),
        labels=Labels(aigc={"Label": "1", "ContentProducer": "me"}, comment=None), record=None,
    )  # fmt: skip
    rows = [
        " ".join(line.split())
        for line in card(report, usual={"nag": 0.0, "fit": "crop", "skip_scale": 2.8}).splitlines()
    ]
    assert rows[3:] == ["Seed 0", "Size 64x48", "Guidance 5.0", "AIGC label Label 1, ContentProducer me"]


def test_the_card_of_a_tampered_video_warns(altered: Alter) -> None:
    said = card(verify(altered(b"mdat", 1200)))
    assert "What the broken record claims:" in said
    assert "assertion.bmffHash.mismatch" in said


def test_the_card_obeys_nobody() -> None:
    parameters = {f"key {number}": number for number in range(100)} | {"\x1b[2J": "x"}
    report = Report(
        path="/folder/evil\x1b]0;title\x07.mp4",
        verdict="fine\x1b[2J",
        credentials=Credentials(
            state="intact",
            signer=Signer(name="Camera\x1b[31m\u202emaker", organisation=None, serial="1"),
            time="2026-01-01T00:00:00Z",
            source_type="unheard of",
            generation={"prompt": {"text": "a" * 1000 + "\n\r"}, "negative": 5, "parameters": parameters},
        ),
        watermark=Watermark(found=True, id=None, score=9.0, mirrored=True),
        labels=Labels(aigc={"Label": "1\x1b"}, comment="\x07ding"),
        record=None,
    )
    said = card(report)
    assert not set("\x1b\x07\r\u202e") & set(said)
    for part in ("(1,002 characters)", "more; --json shows all", "(time stamp)", "source type (unheard of)"):
        assert part in said


def test_strange_values_in_a_manifest_do_not_break_the_report(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = {
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": ["x", {"when": 5, "digitalSourceType": None}]}},
            {"label": "org.lichtspiel.generation", "data": {"id": [1], "model": {"a": 1}, "parameters": 5}},
        ],
        "claim_generator_info": "no list",
        "ingredients": [{"title": 5}],
        "signature_info": {"common_name": "x" * 20_000},
    }
    reading = reading_module.Reading("intact", manifest=strange)
    monkeypatch.setattr(reading_module, "read", lambda *_: reading)
    report = verify(sealed.path)
    assert (
        report.credentials.id,
        report.credentials.model,
        report.credentials.created,
        report.credentials.source_type,
        report.credentials.software,
    ) == (None,) * 5
    assert report.credentials.ingredients[0].role == "unnamed"
    assert report.credentials.signer is not None
    assert len(report.credentials.signer.name or "") == 10_000
    assert "INTACT, UNKNOWN SIGNER" in card(report)


def test_no_file_gets_another_error_through(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("a parser met something new")

    monkeypatch.setattr("lichtspiel.seal.labels.read", broken)
    with pytest.raises(MediaError, match="a parser met something new"):
        verify(sealed.path)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lichtspiel.seal.labels.read", full)
    with pytest.raises(OutOfMemory, match=r"fox\.mp4"):
        verify(sealed.path)


def test_each_message_names_the_file_once(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        verify(tmp_path)
    assert str(caught.value).count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    ("state", "found", "codes"), [("trusted", False, "000"), ("intact", True, "400"), ("none", True, "440"),
                                  ("none", False, "444"), ("tampered", True, "555")],
)  # fmt: skip
def test_what_is_required_decides_the_exit_code(state: State, found: bool, codes: str) -> None:
    report = Report(
        path="a.mp4", verdict="", credentials=Credentials(state=state), record=None,
        watermark=Watermark(found=found, id=None, score=9.0, mirrored=False), labels=Labels(aigc=None, comment=None),
    )  # fmt: skip
    assert "".join(str(exit_code(report, require)) for require in PROOFS) == codes


def test_an_address_is_told_from_a_file() -> None:
    with pytest.raises(MediaError, match="download the file first"):
        verify("https://example.org/fox.mp4")

"""The source type in XMP: an XML that any parser reads, in its place, and harmless when a stranger wrote it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from lichtspiel.media.probe import survey
from lichtspiel.seal import Marks, seal, verify
from lichtspiel.seal.xmp import append_box, packet, parse, read_box
from tests.seal.conftest import provenance

SAID = {"model": 'a "tool" <of> & others', "version": "1", "created": datetime(2026, 11, 28, 12, 0, tzinfo=UTC)}
EXIF = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def test_it_is_xml_that_says_what_was_meant() -> None:
    text = packet("compositeWithTrainedAlgorithmicMedia", **SAID)  # type: ignore[arg-type]
    (said,) = ElementTree.fromstring(text.split("?>", 1)[1].rsplit("<?", 1)[0]).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    address = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    assert said.attrib[f"{EXIF}DigitalSourceType"] == address
    assert said.attrib["{http://ns.adobe.com/xap/1.0/}CreatorTool"] == 'Lichtspiel 1, a "tool" <of> & others'
    assert said.attrib["{http://ns.adobe.com/xap/1.0/}CreateDate"] == "2026-11-28T12:00:00Z"
    assert parse(text.encode()) == "compositeWithTrainedAlgorithmicMedia"


def test_a_video_has_it_and_says_when_it_was_made(tmp_path: Path) -> None:
    frames = [np.full((64, 64, 3), level, np.uint8) for level in (40, 90)]
    said = provenance()
    sealed = seal(frames, said, tmp_path / "v.mp4", fps=8)
    report = verify(sealed.path)
    assert (report.credentials.state, report.labels.source_type) == ("trusted", said.source_type)
    with av.open(str(sealed.path)) as container:
        assert container.metadata["creation_time"].startswith(f"{said.created:%Y-%m-%dT%H:%M:%S}")
    plain = seal(frames, said, tmp_path / "plain.mp4", fps=8, marks=Marks.none("a test"))
    assert verify(plain.path).labels.source_type is None
    assert read_box(plain.path) == b""


@pytest.mark.parametrize("text", ["x" * 3_000_000, "DigitalSourceType>" * 100_000, "\0", ""])
def test_what_strangers_write_is_read_in_bounded_time(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes((16).to_bytes(4, "big") + b"ftypisom\0\0\0\0" + (8).to_bytes(4, "big") + b"free")
    append_box(path, text)
    assert survey(path).mp4
    assert parse(read_box(path)) is None
    assert parse(b'DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/\x1b[31m"') is None


def test_other_ways_to_write_it_are_understood() -> None:
    address = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    for text in (f"<x:DigitalSourceType>\n {address}</x:DigitalSourceType>", f"DigitalSourceType = '{address}'"):
        assert parse(text.encode()) == "digitalCapture"

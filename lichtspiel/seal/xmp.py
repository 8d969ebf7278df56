"""The IPTC digital source type in XMP, where photo and video programs look for it.

An MP4 holds the packet in a top-level box of its own, a PNG in the text XML:com.adobe.xmp. Like all tags it proves
nothing: the same statement is signed in the credentials. XMP is of ISO 16684-1, its place in MP4 of Adobe's "XMP
Specification, Part 3" (2020), 1.1.8, and the property of the IPTC Photo Metadata Standard.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import quoteattr

__all__ = ["KEYWORD", "SOURCE_TYPES", "append_box", "packet", "parse", "read_box"]

KEYWORD = "XML:com.adobe.xmp"
"""The keyword of a PNG's text that holds a packet."""

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"

_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MOST = 1 << 20  # bytes of a packet that are read
_TYPE = re.compile(
    rb"DigitalSourceType\s*(?:=\s*[\"']|>)\s*" + SOURCE_TYPES.replace(".", r"\.").encode() + rb"(\w{1,60})"
)


def packet(source_type: str, *, model: str, version: str, created: datetime) -> str:
    """An XMP packet that says how a file was made, with what, and when."""
    properties = {
        "xmp:CreatorTool": f"Lichtspiel {version}, {model}",
        "xmp:CreateDate": created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPES + source_type,
    }
    said = " ".join(f"{name}={quoteattr(text)}" for name, text in properties.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'{said}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def append_box(path: Path, packet: str) -> None:
    """Put a packet at the end of an MP4. Raises OSError."""
    content = packet.encode()
    with path.open("ab") as file:
        file.write((24 + len(content)).to_bytes(4, "big") + b"uuid" + _UUID + content)


def read_box(path: Path) -> bytes:
    """The packet of an MP4 whose boxes fit into it (`media.probe`); empty if there is none. Raises OSError."""
    end, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= end:
            file.seek(at)
            head = file.read(32)
            size, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
            if size == 1:
                size, header = int.from_bytes(head[8:16], "big"), 16
            size = size or end - at
            if kind == b"uuid" and head[header : header + 16] == _UUID:
                file.seek(at + header + 16)
                return file.read(min(max(size - header - 16, 0), _MOST))
            at += max(size, header)
    return b""


def parse(packet: bytes) -> str | None:
    """The digital source type that a stranger's packet names, without the address of its vocabulary."""
    match = _TYPE.search(packet[:_MOST])
    return match[1].decode("ascii", "replace") if match else None

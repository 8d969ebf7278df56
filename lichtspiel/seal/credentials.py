"""Content credentials (C2PA): build the manifest of a video and sign it.

Only this module and `manifest` use the `c2pa` library (loaded by `library`). Video files are written in `export`, not
here. Nothing here uses the network except to request a time stamp, if the user wants one: fetching remote manifests and
revocation lists is turned off.

The request is recorded in the assertion `org.lichtspiel.generation`:

    {"id", "software": {"name", "version"}, "model", "created", "parameters": "{...}",
     "prompt": {"digest", "text"?}, "negative": {"digest", "text"?}, "inputs": [{"role", "digest"}],
     "digest_rule": "sha256(id + ':' + text in UTF-8), hex; the text of a file is the hex of its sha256"}

The parameters are JSON inside a string because the library treats any list of numbers as bytes when it prints a
manifest: [832, 480] comes back as "QOA=", with each number cut to 8 bits.

Digests are salted with the video's id, so equal prompts or pictures cannot be matched across videos. The salt is
public, so anyone who guesses a prompt can check the guess: a digest proves which text was used, but hides it only if
the text is hard to guess.
"""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from lichtspiel.errors import LichtspielError, MediaError, RequestError
from lichtspiel.media.probe import survey
from lichtspiel.seal import certificates, library
from lichtspiel.seal.xmp import SOURCE_TYPES
from lichtspiel.storage import file_sha256

if TYPE_CHECKING:
    from lichtspiel.seal.identity import Identity

__all__ = [
    "GENERATION",
    "JSON",
    "SETTINGS",
    "TRUST",
    "WATERMARK",
    "Change",
    "Input",
    "Provenance",
    "SourceType",
    "digest",
    "sign",
]

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

SourceType = Literal[
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "algorithmicMedia",
    "compositeSynthetic",
    "humanEdits",
]
"""How the video was made (IPTC digital source type): by a trained model, partly by one, by an algorithm, partly by
one, or by a person's edits alone."""

WATERMARK = "org.lichtspiel.tile.1"
"""The algorithm name of our watermark (`watermark`) in the soft binding, whose value is the embedded id in 8 hex
digits."""

GENERATION = "org.lichtspiel.generation"
DIGEST_RULE = "sha256(id + ':' + text in UTF-8), hex; the text of a file is the hex of its sha256"

MAX_RECORD = 64 << 10
"""Limit in bytes for a record's parameters and texts together: every verifier has to read the whole manifest."""

# By default the library rejects valid seals whose certificate has the newest purpose, c2pa-kp-claimSigning.
_PURPOSES = (*certificates.PURPOSES, "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.9")  # the last: timeStamping, OCSPSigning
TRUST = {"trust_config": "\n".join(_PURPOSES)}
SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    # `export` reads back every file it signs, so the library need not verify it again.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "trust": TRUST,
}


@dataclass(frozen=True)
class Input:
    """A picture or video that the result was made from. `role` is how it was used: "first-frame", "last-frame", ...

    The digest is computed when the object is created, so the record describes what was read even if the file changes
    later. The `parent` is the one input of which the result is a new version.
    """

    role: str
    path: Path
    sha256: str
    parent: bool = False

    @classmethod
    def of(cls, path: str | Path, role: str, *, parent: bool = False) -> Input:
        """Describe an input file in its current state. Raises MediaError when it cannot be read."""
        path = Path(path)
        survey(path)
        return cls(role, path, file_sha256(path), parent)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A part of a video that was changed: its first and last frame, and the box around it (left, top, right, bottom in
    pixels, right and bottom excluded) if it is not the whole picture."""

    description: str
    frames: tuple[int, int]
    box: tuple[int, int, int, int] | None = None

    def to_json(self) -> dict[str, JSON]:
        """A region of interest as C2PA 2.2 defines it."""
        region: list[JSON] = [{"type": "frame", "frame": {"start": self.frames[0], "end": self.frames[1]}}]
        if self.box is not None:
            left, top, right, bottom = self.box
            shape: JSON = {
                "type": "rectangle", "unit": "pixel", "origin": {"x": left, "y": top}, "width": right - left,
                "height": bottom - top, "inside": True,
            }  # fmt: skip
            region.append({"type": "spatial", "shape": shape})
        return {"description": self.description, "region": region}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The signed statement about a video: how it was made, with what software, and from which inputs.

    `version` is the version of this package and `parameters` are the effective values of the request, without the
    texts. `synthesized` names what was made, such as "voice in Spanish", where that is not the whole video, and
    `changes` which parts of the parent were changed. `prompt` and `negative` are recorded as digests, and as text only
    with `embed_prompt`. `export` sets `watermarked` when the picture carries `mark`. Raises RequestError for values
    that a manifest cannot hold, so create it before the work begins.
    """

    model: str
    version: str
    source_type: SourceType
    prompt: str = field(repr=False)
    negative: str = field(repr=False)
    parameters: Mapping[str, JSON]
    inputs: tuple[Input, ...] = ()
    embed_prompt: bool = False
    watermarked: bool = False
    synthesized: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        for name in ("prompt", "negative"):
            if name in self.parameters:
                raise RequestError("parameters", name, f"it belongs in Provenance.{name}, where it is not published")
            try:
                getattr(self, name).encode()
            except UnicodeEncodeError as error:
                raise RequestError(name, getattr(self, name), "it holds characters that are no Unicode text") from error
        try:
            text = json.dumps([dict(self.parameters), self.prompt, self.negative], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RequestError("parameters", dict(self.parameters), f"it cannot be recorded: {error}") from error
        if len(text) > MAX_RECORD:
            raise RequestError("parameters", f"{len(text):,} characters", f"at most {MAX_RECORD} can be recorded")
        assert self.source_type in get_args(SourceType)
        assert self.created.tzinfo is not None, "a time without a zone is no time"
        assert len({item.role for item in self.inputs}) == len(self.inputs), "each input needs a role of its own"
        assert sum(item.parent for item in self.inputs) <= 1, "a video is a version of one other at most"

    @property
    def mark(self) -> int:
        """The number that the watermark carries: the first 32 bits of the id."""
        return int(self.id[:8], 16)


def digest(id: str, text: str) -> str:
    """The salted digest of a text in a record: the SHA-256 of the video's id, a colon and the text.

    For a file, the text is the hex of its SHA-256. Anyone who knows the prompt can use the digest to prove that the
    video was made from it.
    """
    return hashlib.sha256(f"{id}:{text}".encode()).hexdigest()


def sign(
    source: Path,
    target: Path,
    provenance: Provenance,
    identity: Identity,
    timestamp: str | None = None,
    *,
    format: str = "video/mp4",
) -> str | None:
    """Copy `source`, a file of type `format`, to `target` with its provenance embedded and signed.

    An input whose file is missing or has changed, or which the library cannot embed, is still listed by role and
    digest. `timestamp` is the URL of an RFC 3161 authority. Returns None when no time stamp was requested, "stamped"
    when the file has one, and "none: " plus the reason when the authority sent none within 30 s: the finished work must
    not be lost because of that.
    """
    c2pa = library.load()

    if timestamp is not None:
        try:
            _sign((source, target, format), provenance, identity, timestamp)
            return "stamped"
        except c2pa.C2paError as error:
            reason = f"none: {timestamp} gave no time stamp ({error})"
            target.unlink(missing_ok=True)
    try:
        _sign((source, target, format), provenance, identity, None)
    except c2pa.C2paError as error:
        raise LichtspielError(f"the result could not be signed: {error}") from error
    return None if timestamp is None else reason


def _sign(files: tuple[Path, Path, str], provenance: Provenance, identity: Identity, timestamp: str | None) -> None:
    c2pa = library.load()

    source, target, format = files
    leaf, failures = certificates.parse_chain(identity.chain.encode())[0], list[BaseException]()

    def ask(data: bytes) -> bytes:
        try:
            return certificates.ask(str(identity.command), leaf, data)
        except BaseException as error:  # the library does not pass on exceptions, not even Ctrl-C
            failures.append(error)
            return b""

    algorithm = c2pa.C2paSigningAlg[str(certificates.algorithm(leaf))]
    chain, key, url = identity.chain.encode(), identity.key.encode(), timestamp.encode() if timestamp else None
    try:
        with (
            c2pa.Context.from_dict(SETTINGS) as context,
            c2pa.Builder(_manifest(provenance, format), context) as builder,
            c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, url))
            if identity.command is None
            else c2pa.Signer.from_callback(ask, algorithm, identity.chain, timestamp) as signer,
        ):
            for item in provenance.inputs:
                _add(builder, item)
            with source.open("rb") as file, target.open("x+b") as signed:
                builder.sign(signer, format, file, signed)
    except c2pa.C2paError:
        if failures:
            raise failures[0] from None
        raise


def _manifest(provenance: Provenance, format: str) -> dict[str, Any]:
    actions = _actions(provenance)
    if provenance.watermarked:
        actions.append({"action": "c2pa.watermarked.bound", "when": actions[0]["when"]})

    def text(content: str) -> dict[str, str]:
        entry = {"digest": digest(provenance.id, content)}
        return {**entry, "text": content} if provenance.embed_prompt else entry

    software = {"name": "Lichtspiel", "version": provenance.version}
    request = {
        "id": provenance.id,
        "software": software,
        "model": provenance.model,
        "created": actions[0]["when"],
        "parameters": json.dumps(dict(provenance.parameters), allow_nan=False),
        "prompt": text(provenance.prompt),
        "negative": text(provenance.negative),
        "inputs": [{"role": item.role, "digest": digest(provenance.id, item.sha256)} for item in provenance.inputs],
        "digest_rule": DIGEST_RULE,
    }
    assertions: list[dict[str, Any]] = [
        {"label": "c2pa.actions.v2", "data": {"actions": actions}, "created": True},
        {"label": GENERATION, "data": request, "created": True},
    ]
    if provenance.watermarked:
        block = {"scope": {}, "value": f"{provenance.mark:08x}"}
        assertions.append({"label": "c2pa.soft-binding", "data": {"alg": WATERMARK, "blocks": [block]}})
    return {
        "claim_generator_info": [software],
        "title": provenance.id,  # not the file's name, which may be private and can change anyway
        "format": format,
        "assertions": assertions,
    }


def _actions(provenance: Provenance) -> list[dict[str, Any]]:
    """The C2PA actions. The first says how the picture came about: created from scratch, or opened from its parent."""
    creation: dict[str, Any] = {
        "action": "c2pa.created",
        "when": provenance.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "digitalSourceType": SOURCE_TYPES + provenance.source_type,
        "softwareAgent": {"name": provenance.model, "version": provenance.version},
    }
    used = [item.role for item in provenance.inputs if not item.parent]
    if used:
        creation["parameters"] = {"ingredientIds": used}
    parent = [item.role for item in provenance.inputs if item.parent]
    if not parent:
        return [creation]
    opened = {"action": "c2pa.opened", "when": creation["when"], "parameters": {"ingredientIds": parent}}
    if provenance.synthesized:
        creation["description"] = f"synthesized: {', '.join(provenance.synthesized)}"
    if provenance.changes:
        creation["changes"] = [change.to_json() for change in provenance.changes]
    return [opened, {**creation, "action": "c2pa.edited"}]


def _add(builder: Any, item: Input) -> None:
    """Add an input as a C2PA ingredient, with its own credentials nested when it has any."""
    c2pa = library.load()

    relationship = "parentOf" if item.parent else "inputTo"
    described = json.dumps({"title": item.role, "relationship": relationship, "label": item.role})
    kind = mimetypes.guess_type(item.path.name)[0] or "application/octet-stream"
    try:
        survey(item.path)
        with item.path.open("rb") as file:
            if file_sha256(file) == item.sha256:
                file.seek(0)
                builder.add_ingredient(described, kind, file)
                return
    except (OSError, MediaError, c2pa.C2paError):
        pass  # the video is finished by now: do not lose it because an input file has disappeared
    builder.add_ingredient(described, "application/octet-stream", io.BytesIO())

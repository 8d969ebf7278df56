"""Content credentials (C2PA): what is said about a video, signing it, and reading it back.

It knows the manifest and the `c2pa` library, which nothing else in the package touches. It does not know how a video is
made (`door`) or how a reading is worded (`verify`). Nothing here uses the network: remote manifests, revocation lists
and time stamps are off.

The request is recorded in the assertion `org.lichtspiel.generation`:

    {"id", "software": {"name", "version"}, "model", "created", "parameters": "{...}",
     "prompt": {"digest", "text"?}, "negative": {"digest", "text"?}, "inputs": [{"role", "digest"}],
     "digest_rule": "sha256(id + ':' + text in UTF-8), hex; the text of a file is the hex of its sha256"}

The parameters are JSON in a string, because the library takes any list of numbers for bytes when it prints a manifest:
[832, 480] comes back as "QOA=", cut to 8 bits each.

Digests are salted with the video's id, so equal prompts or pictures cannot be matched across videos. The salt is
public: whoever guesses a prompt can check the guess. A digest proves a text; it hides it only as well as the text is
hard to guess.
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

from lichtspiel.container import survey
from lichtspiel.errors import LichtspielError, MediaError, RequestError

if TYPE_CHECKING:
    from lichtspiel.seal.keys import Identity

__all__ = [
    "GENERATION",
    "JSON",
    "Input",
    "Provenance",
    "Reading",
    "SourceType",
    "digest",
    "ingredient_state",
    "read",
    "record",
    "sign",
]

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

SourceType = Literal["trainedAlgorithmicMedia", "algorithmicMedia"]
"""How the pixels came to be (IPTC digital source type): by a trained model, or drawn by a procedure."""

GENERATION = "org.lichtspiel.generation"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGEST_RULE = "sha256(id + ':' + text in UTF-8), hex; the text of a file is the hex of its sha256"

MAX_RECORD = 64 << 10
"""Bytes of a record's parameters and texts together; a manifest is read whole by everyone who checks it."""

# Extended key usages of signers (c2pa-rs, sdk/src/crypto/cose/valid_eku_oids.cfg). Unless told, the library takes a
# sound seal under the newest of them, c2pa-kp-claimSigning, for an invalid one.
_PURPOSES = (
    "1.3.6.1.5.5.7.3.4",  # emailProtection
    "1.3.6.1.5.5.7.3.36",  # documentSigning
    "1.3.6.1.5.5.7.3.8",  # timeStamping
    "1.3.6.1.5.5.7.3.9",  # OCSPSigning
    "1.3.6.1.4.1.311.76.59.1.9",  # Microsoft C2PA signing
    "1.3.6.1.4.1.62558.2.1",  # c2pa-kp-claimSigning
)
_TRUST = {"trust_config": "\n".join(_PURPOSES)}
_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    # The door reads back what it signed, so the library need not.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "trust": _TRUST,
}


@dataclass(frozen=True)
class Input:
    """A picture or video that the result was made from. `role` says as what: "first-frame", "last-frame", ...

    The bytes' digest is taken when this is made, so that the record tells what was read even if the file changes.
    """

    role: str
    path: Path
    sha256: str

    @classmethod
    def of(cls, path: str | Path, role: str) -> Input:
        """Describe an input file as it is now. Raises MediaError when it cannot be read."""
        path = Path(path)
        survey(path)
        with path.open("rb") as file:
            return cls(role, path, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is said, under signature, about a video: how it was made, by what, from what.

    `version` is this package's, `parameters` are the effective values of the request without the texts, `prompt` and
    `negative` are recorded as digests and only with `embed_prompt` as text. Raises RequestError for what a manifest
    cannot hold, so make it before the work begins.
    """

    model: str
    version: str
    source_type: SourceType
    prompt: str = field(repr=False)
    negative: str = field(repr=False)
    parameters: Mapping[str, JSON]
    inputs: tuple[Input, ...] = ()
    embed_prompt: bool = False
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
        assert len({given.role for given in self.inputs}) == len(self.inputs), "each input needs a role of its own"


@dataclass(frozen=True)
class Reading:
    """What a file's credentials say and whether that holds.

    `state` is "intact" (signature, record and picture agree), "tampered" or "none"; `ours` is true when the signature
    leads to the given root. `manifest` is the active manifest as the C2PA library prints it, `problems` its findings.
    """

    state: Literal["intact", "tampered", "none"]
    ours: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def digest(id: str, text: str) -> str:
    """The salted digest by which a record names a text, or a file by the hex of its sha256: sha256 of the video's id,
    a colon and the text. With it, who knows a prompt can prove that a video was made from it."""
    return hashlib.sha256(f"{id}:{text}".encode()).hexdigest()


def sign(source: Path, target: Path, provenance: Provenance, identity: Identity) -> None:
    """Write a copy of the MP4 `source` to `target` with its provenance embedded and signed.

    An input whose file is gone or changed, or which the library cannot take in, is still named by role and digest.
    """
    import c2pa

    signer_info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain.encode(), identity.key.encode(), None)
    try:
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Builder(_manifest(provenance), context) as builder,
            c2pa.Signer.from_info(signer_info) as signer,
        ):
            for given in provenance.inputs:
                _add(builder, given)
            with source.open("rb") as file, target.open("x+b") as signed:
                builder.sign(signer, "video/mp4", file, signed)
    except c2pa.C2paError as error:
        raise LichtspielError(f"the video could not be signed: {error}") from error


def read(path: Path, root: str | None = None) -> Reading:
    """Read and check the credentials of an MP4, without the network. `root` is the certificate (PEM) of ours.

    Only the positive counts: "intact" needs a validated signature, a matching picture and no complaint except about
    who signed. Raises MediaError when the file is damaged, hostile or no MP4.
    """
    import c2pa

    found = survey(path)
    if not found.mp4:
        raise MediaError(f"{path}: is no MP4 or MOV video, so it cannot hold content credentials that can be read")
    if not found.sealed:
        return Reading("none")
    settings = _SETTINGS if root is None else {**_SETTINGS, "trust": {**_TRUST, "user_anchors": root}}
    try:
        with (
            path.open("rb") as file,
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader("video/mp4", file, context=context) as reader,
        ):
            store = json.loads(reader.json())
    except (c2pa.C2paError, ValueError) as error:
        # The box is there, so this was sealed once; what is in it no longer makes sense.
        return Reading("tampered", problems=(f"the credentials cannot be read: {error}",))
    return _judge(store)


def record(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recorded request in a manifest, its parameters as values again; None when another product made it."""
    for entry in manifest.get("assertions") or ():
        data = entry.get("data")
        if entry.get("label") == GENERATION and isinstance(data, dict):
            try:
                return {**data, "parameters": json.loads(data["parameters"])}
            except (KeyError, TypeError, ValueError, RecursionError):
                return data
    return None


def ingredient_state(entry: Mapping[str, Any]) -> Literal["intact", "tampered", "none"]:
    """What an input's own credentials said when the video was signed, from its entry in the manifest: "none" when it
    had none. It is the signer's word, under the video's signature."""
    if not entry.get("active_manifest"):
        return "none"
    results = entry.get("validation_results")
    if results is None:  # claims of the first version list only what failed
        return "tampered" if _grave(entry.get("validation_status")) else "intact"
    active = results.get("activeManifest") or {}
    signed = "claimSignature.validated" in _codes(active.get("success"))
    return "intact" if signed and not _grave(active.get("failure")) else "tampered"


def _judge(store: Mapping[str, Any]) -> Reading:
    results = store.get("validation_results") or {}
    active = results.get("activeManifest") or {}
    deltas = [delta.get("validationDeltas") or {} for delta in results.get("ingredientDeltas") or ()]
    failures = [entry for part in (active, *deltas) for entry in part.get("failure") or ()]
    proven = {"claimSignature.validated", "assertion.bmffHash.match"} <= _codes(active.get("success"))
    intact = proven and not _grave(failures)
    return Reading(
        state="intact" if intact else "tampered",
        ours=intact and store.get("validation_state") == "Trusted" and results.get("trustListUri") == "user_anchors",
        manifest=(store.get("manifests") or {}).get(store.get("active_manifest")) or {},
        problems=tuple(f"{entry.get('code')}: {entry.get('explanation', '')}" for entry in failures),
    )


def _codes(entries: Sequence[Mapping[str, Any]] | None) -> set[str]:
    return {str(entry.get("code")) for entry in entries or ()}


def _grave(failures: Sequence[Mapping[str, Any]] | None) -> set[str]:
    """The failures that speak about the video; an unknown or expired signer says nothing about what was signed."""
    return {code for code in _codes(failures) if not code.startswith("signingCredential.")} - {"timeStamp.untrusted"}


def _manifest(provenance: Provenance) -> dict[str, Any]:
    action: dict[str, Any] = {
        "action": "c2pa.created",
        "when": provenance.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "digitalSourceType": SOURCE_TYPES + provenance.source_type,
        "softwareAgent": {"name": provenance.model, "version": provenance.version},
    }
    if provenance.inputs:
        action["parameters"] = {"ingredientIds": [given.role for given in provenance.inputs]}

    def text(content: str) -> dict[str, str]:
        said = {"digest": digest(provenance.id, content)}
        return {**said, "text": content} if provenance.embed_prompt else said

    software = {"name": "Lichtspiel", "version": provenance.version}
    request = {
        "id": provenance.id,
        "software": software,
        "model": provenance.model,
        "created": action["when"],
        "parameters": json.dumps(dict(provenance.parameters), allow_nan=False),
        "prompt": text(provenance.prompt),
        "negative": text(provenance.negative),
        "inputs": [{"role": it.role, "digest": digest(provenance.id, it.sha256)} for it in provenance.inputs],
        "digest_rule": DIGEST_RULE,
    }
    return {
        "claim_generator_info": [software],
        "title": provenance.id,  # not the file's name, which may say something private and changes anyway
        "format": "video/mp4",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}, "created": True},
            {"label": GENERATION, "data": request, "created": True},
        ],
    }


def _add(builder: Any, given: Input) -> None:
    """Add an input as a C2PA ingredient, with its own credentials nested when it has any."""
    import c2pa

    described = json.dumps({"title": given.role, "relationship": "inputTo", "label": given.role})
    kind = mimetypes.guess_type(given.path.name)[0] or "application/octet-stream"
    try:
        survey(given.path)
        with given.path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == given.sha256:
                file.seek(0)
                builder.add_ingredient(described, kind, file)
                return
    except (OSError, MediaError, c2pa.C2paError):
        pass  # the work is done by now: an input that got lost must not cost the result
    builder.add_ingredient(described, "application/octet-stream", io.BytesIO())

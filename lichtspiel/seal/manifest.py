"""Read content credentials (C2PA) and judge whether they are valid.

This module knows the results of the `c2pa` library and whose certificates count; `verify` puts them into words. Nothing
here uses the network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lichtspiel.errors import MediaError
from lichtspiel.media.probe import survey
from lichtspiel.seal import library
from lichtspiel.seal.credentials import GENERATION, SETTINGS, TRUST

__all__ = ["Reading", "ingredient_state", "read", "record"]

_STAMPS = "time stamps"
_BOXES, _DATA = "assertion.bmffHash.match", "assertion.dataHash.match"
"""What the library finds in an MP4, and in other formats, where the picture is the one that was signed."""


def _trusting(signing: str | None, stamping: str | None = None) -> dict[str, Any]:
    """Settings that trust these certificates (PEM): a signer's own for what it signed, an authority's for all that it
    issued. Those for time stamps must be told apart by the trustListUri of a result: the library takes signers under
    them for trusted, too. Certificates that are themselves signers' come first and are reported with an empty one."""
    anchors = []
    if signing:
        listed = {"trust_kind": "manifest", "trust_uri": "signers", "trust_anchors": signing}
        anchors.append({**listed, "allowed_list": signing})
    if stamping:
        anchors.append({"trust_kind": "tsa", "trust_uri": _STAMPS, "trust_anchors": stamping})
    return {**SETTINGS, "trust": {**TRUST, "anchors": anchors}}


@dataclass(frozen=True)
class Reading:
    """What a file's credentials say, and whether they are valid.

    `state` is "intact" (signature, record and picture agree), "tampered" or "none"; `ours` is true when the signature
    leads to our own roots, `trusted` when it leads to them or to others that are trusted, `stamped` when a
    trusted authority stamped the time. `manifest` is the active manifest as the C2PA library prints it, `problems` its
    findings.
    """

    state: Literal["intact", "tampered", "none"]
    ours: bool = False
    trusted: bool = False
    stamped: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read(path: Path, ours: str | None = None, trusted: str | None = None) -> Reading:
    """Read and check the credentials of an MP4, PNG, GIF or WebP, without the network. `ours` and `trusted` are the
    certificates (PEM, one after the other) of this installation, and of those it trusts.

    Only the positive counts: "intact" needs a validated signature, a matching picture and no complaint except about
    who signed. Raises MediaError when the file is damaged, hostile or none of them.
    """
    layout = survey(path)
    if layout.mime is None:
        raise MediaError(
            f"{path}: is no MP4 or MOV video, PNG, GIF or WebP, so it cannot hold content credentials that can be read"
        )
    if not layout.sealed:
        return Reading("none")
    kind = layout.mime
    reading = _check(path, kind, ours, trusted)
    if reading.ours or reading.state != "intact" or trusted is None:
        return dataclasses.replace(reading, trusted=reading.ours)
    other = _check(path, kind, trusted, None)  # apart: of a certificate in both lists the library names one by chance
    return dataclasses.replace(other, ours=False, trusted=True) if other.ours else reading


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
    if results is None:  # version 1 claims list only failures
        return "tampered" if _grave(entry.get("validation_status")) else "intact"
    active = results.get("activeManifest") or {}
    signed = "claimSignature.validated" in _codes(active.get("success"))
    return "intact" if signed and not _grave(active.get("failure")) else "tampered"


def _check(path: Path, kind: str, signing: str | None, stamping: str | None) -> Reading:
    """The credentials of a sealed file as the library reads them; `ours` says that they lead to one of `signing`."""
    c2pa = library.load()

    try:
        with (
            path.open("rb") as file,
            c2pa.Context.from_dict(_trusting(signing, stamping)) as context,
            c2pa.Reader(kind, file, context=context) as reader,
        ):
            store = json.loads(reader.json())
    except (c2pa.C2paError, ValueError) as error:
        # The box is there, so this was sealed once; what is in it no longer makes sense.
        return Reading("tampered", problems=(f"the credentials cannot be read: {error}",))
    return _judge(store, _BOXES if kind == "video/mp4" else _DATA)


def _judge(store: Mapping[str, Any], match: str = _BOXES) -> Reading:
    results = store.get("validation_results") or {}
    active = results.get("activeManifest") or {}
    deltas = [delta.get("validationDeltas") or {} for delta in results.get("ingredientDeltas") or ()]
    failures = [entry for part in (active, *deltas) for entry in part.get("failure") or ()]
    proven = {"claimSignature.validated", match} <= _codes(active.get("success"))
    intact = proven and not _grave(failures)
    return Reading(
        state="intact" if intact else "tampered",
        ours=intact and store.get("validation_state") == "Trusted" and results.get("trustListUri") != _STAMPS,
        stamped=intact and "timeStamp.trusted" in _codes(active.get("success")),
        manifest=(store.get("manifests") or {}).get(store.get("active_manifest")) or {},
        problems=tuple(f"{entry.get('code')}: {entry.get('explanation', '')}" for entry in failures),
    )


def _codes(entries: Sequence[Mapping[str, Any]] | None) -> set[str]:
    return {str(entry.get("code")) for entry in entries or ()}


def _grave(failures: Sequence[Mapping[str, Any]] | None) -> set[str]:
    """The failures that speak about the video; an unknown or expired signer says nothing about what was signed."""
    return {code for code in _codes(failures) if not code.startswith("signingCredential.")} - {"timeStamp.untrusted"}

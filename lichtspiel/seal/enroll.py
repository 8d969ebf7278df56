"""Import certificates from elsewhere as the identity of this installation, after a trial signature.

This module knows how to try out an identity; `identity` stores it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.seal import certificates, credentials, manifest
from lichtspiel.seal.identity import Identity, install

__all__ = ["import_identity"]

# The smallest file that the C2PA library takes for an MP4: it is signed when an identity is tried out.
_SMALLEST = b"\0\0\0\x18ftypisom\0\0\2\0isommp42" + b"\0\0\0\x10mdat" + b"\0" * 8


def import_identity(certificate: Path, key: Path | None, command: str | None) -> Identity:
    """Make certificates from elsewhere the identity of this installation, with their private key (PEM, not encrypted)
    or with a signer command (see `certificates`) in its place.

    Everything is checked first, including a trial signature. The previous identity is moved to a folder
    identity-<date>, and its seals are still recognized. Raises InvalidInput for certificates or keys that cannot sign,
    and LichtspielError when the command fails or the folder cannot be written; nothing has changed then.
    """
    if (key is None) == (command is None):
        raise InvalidInput("an identity has either a private key or a signer command: give one of the two")
    chain = certificates.read_certificates(certificate)
    if reason := certificates.flaw(chain):
        raise InvalidInput(f"{certificate}: {reason}")
    if key is not None:
        identity = Identity(certificates.pem(chain), certificates.read_key(key, chain[0]))
    else:
        assert command is not None
        certificates.ask(command, chain[0], b"a trial")
        identity = Identity(certificates.pem(chain), command=command)
    _try(identity, certificate)
    install(identity)
    return identity


def _try(identity: Identity, certificate: Path) -> None:
    """Sign a file the way videos are signed and read it back, so that any objections of the C2PA library show now."""
    trial = credentials.Provenance(
        model="trial", version="0", source_type="algorithmicMedia", prompt="", negative="", parameters={}
    )
    with tempfile.TemporaryDirectory() as folder:
        plain, signed = Path(folder) / "plain.mp4", Path(folder) / "signed.mp4"
        plain.write_bytes(_SMALLEST)
        try:
            credentials.sign(plain, signed, trial, identity)
        except LichtspielError as error:
            raise InvalidInput(f"{certificate}: a trial with it failed, and nothing was changed: {error}") from error
        reading = manifest.read(signed, identity.root)
    if not reading.ours:
        raise InvalidInput(
            f"{certificate}: a trial signature does not hold, and nothing was changed: {'; '.join(reading.problems)}; "
            "check that every certificate after the first is an authority's and may issue the one before"
        )

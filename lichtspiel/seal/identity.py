"""The signing identity of this installation: a key and its certificates, created on first use or imported.

This module knows where identities are stored and who may read them. It does not know what is signed, or what a
certificate has to look like (`certificates`). The layout is

    $LICHTSPIEL_HOME/identity/              mode 0700
        chain.pem                           the leaf certificate, then the one that issued it, and so on
        key.pem                             mode 0600, PKCS#8, the only secret; or
        command                             mode 0600, the program that signs in place of a key
    $LICHTSPIEL_HOME/identity-2026-08-02/   the identity before an import; its seals are still recognized
    $LICHTSPIEL_HOME/trust/*.pem            certificates of others that are trusted

An identity created here has a P-256 key. The root's key signs once and is thrown away, so the leaf is the only
certificate that will ever chain to the root: "signed under this root" and "signed by this installation" mean the same.
The certificates name no person and no computer. An imported certificate shares its issuers with strangers, so only its
leaf identifies this installation.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import LichtspielError
from lichtspiel.seal import certificates
from lichtspiel.storage import home

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "Identity",
    "anchors",
    "describe",
    "find_identity",
    "install",
    "load_identity",
    "new_identity",
    "trusted_anchors",
]

YEARS = 30
"""Validity of certificates created here. It is long because a seal without a time stamp expires with its
certificate."""

ORGANISATION = "Self-signed Lichtspiel installation"

_WAITING = ".identity-next"


@dataclass(frozen=True)
class Identity:
    """Certificates (PEM, leaf first) and what signs with them: a key, which `repr` never shows, or a command."""

    chain: str
    key: str = field(default="", repr=False)
    command: str | None = None

    @property
    def root(self) -> str:
        """The last certificate of the chain, in PEM: the trust anchor for checking a new seal. It may be an
        intermediate, so an imported chain does not need to include its root."""
        return certificates.pem(certificates.parse_chain(self.chain.encode())[-1:])


def load_identity() -> Identity:
    """Load the identity of this installation; the first call creates it, safely even if several processes do so.

    Raises LichtspielError when the folder cannot be written, others can read the key, or the files are damaged.
    """
    folder = home() / "identity"
    try:
        if not _exists(folder):
            _finish(folder)
        if not _exists(folder):
            _store(new_identity(), folder)
        return _load(folder)
    except OSError as error:
        raise _unusable(folder, error) from error


def find_identity() -> Identity | None:
    """The identity of this installation, or None if it has none yet. Creates nothing; raises like `load_identity`."""
    folder = home() / "identity"
    try:
        return _load(folder) if _exists(folder) else None
    except OSError as error:
        raise _unusable(folder, error) from error


def install(identity: Identity) -> None:
    """Install an identity. The previous one is moved aside, unless it is the same.

    Raises LichtspielError when the folder cannot be written; nothing has changed then.
    """
    folder = home() / "identity"
    try:
        with contextlib.suppress(LichtspielError):  # a damaged one is replaced
            if _exists(folder) and _load(folder) == identity:
                return
        _replace(identity, folder)
    except OSError as error:
        raise _unusable(folder, error) from error


def anchors() -> str | None:
    """The certificates (PEM) that identify seals of this installation, including those of former identities.

    Returns None if this installation has never sealed anything; creates nothing. An identity created here contributes
    its root, an imported one only its leaf. Raises LichtspielError when a file is damaged.
    """
    trusted_certificates = []
    for folder in (home() / "identity", *sorted(home().glob("identity-*"))):
        _check_private(folder)
        chain = _read(folder / "chain.pem")
        trusted_certificates += chain if _self_made(chain) else chain[:1]
    return certificates.pem(list(dict.fromkeys(trusted_certificates))) or None


def trusted_anchors() -> str | None:
    """The certificates (PEM) of others that the owner of this installation trusts; None if there are none.

    The owner puts them into the folder `trust`. They may belong to certificate authorities, signers or time-stamping
    authorities. Raises LichtspielError when a file is damaged, because an unreadable certificate must not count as an
    untrusted one, and when others can write to the folder, because then anybody could add their own.
    """
    trusted_certificates: list[x509.Certificate] = []
    _check_private(home() / "trust")
    for path in sorted((home() / "trust").glob("*.pem")):
        _check_private(path)
        trusted_certificates += _read(path)
    return certificates.pem(list(dict.fromkeys(trusted_certificates))) or None


def describe(shown: Identity) -> dict[str, Any]:
    """Describe an identity as plain values for `json.dumps`, without the key.

    The serial number is formatted as in a report of `verify`; the fingerprint is the SHA-256 of the leaf certificate in
    DER.
    """
    from cryptography.hazmat.primitives.hashes import SHA256

    chain = certificates.parse_chain(shown.chain.encode())
    leaf = chain[0]
    return {
        "subject": leaf.subject.rfc4514_string(),
        "issuer": leaf.issuer.rfc4514_string(),
        "serial": str(leaf.serial_number),
        "valid_from": f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "valid_to": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "algorithm": certificates.algorithm(leaf),
        "purposes": certificates.purposes(leaf),
        "origin": "self-made" if _self_made(chain) else "imported",
        "key": None if shown.command is not None else str(home() / "identity" / "key.pem"),
        "command": shown.command,
        "fingerprint": leaf.fingerprint(SHA256()).hex(),
    }


def new_identity() -> Identity:
    """Create a new key and certificates in memory.

    They follow the profile of the C2PA specification 2.x for claim signers: X.509 v3, key usage digitalSignature, an
    extended key usage (every reader accepts emailProtection), an organization, and an issuer with a different key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    label = os.urandom(4).hex()
    root_name, leaf_name = f"Lichtspiel root {label}", f"Lichtspiel {label}"
    root = _certificate(root_name, root_name, root_key, root_key, authority=True)
    leaf = _certificate(leaf_name, root_name, leaf_key, root_key, authority=False)
    chain = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in (leaf, root))
    key = leaf_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(chain.decode("ascii"), key.decode("ascii"))


def _certificate(
    name: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def distinguished(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    now = datetime.now(UTC).replace(microsecond=0)
    usage = x509.KeyUsage(
        digital_signature=not authority, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=authority, crl_sign=authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(distinguished(name))
        .issuer_name(distinguished(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # other computers' clocks may be slow
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _exists(folder: Path) -> bool:
    # An empty folder counts as absent: renaming onto it works and replaces it.
    return folder.is_dir() and any(folder.iterdir())


def _write(identity: Identity, parent: Path) -> Path:
    """Write a complete identity folder under a temporary name, ready to be renamed."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".identity-", dir=parent))  # mkdtemp makes it 0700
    secret = ("key.pem", identity.key) if identity.command is None else ("command", identity.command)
    try:
        for name, text in (secret, ("chain.pem", identity.chain)):
            descriptor = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return draft


def _store(identity: Identity, folder: Path) -> None:
    """Store an identity atomically: write a complete folder next to its destination, then rename it.

    Renaming onto a folder that is not empty fails, so exactly one of several processes wins and the others load what it
    wrote.
    """
    draft = _write(identity, folder.parent)
    try:
        os.rename(draft, folder)
    except OSError:
        if not _exists(folder):
            raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(draft)


def _replace(identity: Identity, folder: Path) -> None:
    """Replace an identity, moving the previous one aside.

    Two folders cannot be swapped atomically, so the new one is first written in full under a name of its own. A process
    that finds no identity, between the two renames or after a crash there, installs that one (`_finish`).
    """
    waiting, former = folder.with_name(_WAITING), _name_for_former(folder)
    draft = _write(identity, folder.parent)
    try:
        os.rename(draft, waiting)
    except OSError as error:
        shutil.rmtree(draft)
        if not _exists(waiting):
            raise
        raise LichtspielError(
            f"another import is under way, or was cut off; if none is, delete {waiting} and try again"
        ) from error
    try:
        if _exists(folder):
            os.rename(folder, former)
        _finish(folder)
    except OSError:
        if former.exists() and not _exists(folder):
            os.rename(former, folder)
        shutil.rmtree(waiting, ignore_errors=True)
        raise


def _finish(folder: Path) -> None:
    """Install the identity that an interrupted import left behind, if there is one."""
    if (waiting := folder.with_name(_WAITING)).is_dir():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.rename(waiting, folder)


def _name_for_former(folder: Path) -> Path:
    day = f"{folder.name}-{datetime.now(UTC):%F}"
    names = (folder.with_name(f"{day}-{number}" if number > 1 else day) for number in count(1))
    return next(name for name in names if not name.exists())


def _check_private(path: Path) -> None:
    """Raise LichtspielError when anyone but the owner can write a file or folder that decides who is trusted."""
    if os.name != "posix" or not path.exists():
        return
    if (mode := path.stat().st_mode & 0o777) & 0o022:
        raise LichtspielError(
            f"{path} has mode {mode:o}, so others could decide whose seals are trusted here; run: chmod go-w {path}"
        )


def _load(folder: Path) -> Identity:
    _check_private(folder)
    held = folder / "command"
    held = held if held.exists() else folder / "key.pem"
    if os.name == "posix" and (mode := held.stat().st_mode & 0o777) & 0o077:
        raise LichtspielError(
            f"{held} has mode {mode:o}, so others could sign in your name; run: chmod 600 {held} "
            "(on a file system without permissions, set LICHTSPIEL_HOME to a folder on another one)"
        )
    try:
        chain, secret = (folder / "chain.pem").read_text("utf-8"), held.read_text("utf-8")
        loaded = Identity(chain, command=secret) if held.name == "command" else Identity(chain, secret)
        reason = _flaw(loaded)
    except ValueError as error:
        reason = f"its files are damaged ({error})"
    if reason:
        raise LichtspielError(
            f"the signing identity in {folder} cannot be used: {reason}; restore it from a backup, import another one "
            "(lichtspiel identity import), or move the folder away and a new one is made (under a name like "
            f"{folder.name}-old beside it, what it sealed is still recognised)"
        )
    return loaded


def _flaw(loaded: Identity) -> str:
    from cryptography.hazmat.primitives import serialization

    leaf = certificates.parse_chain(loaded.chain.encode())[0]
    if loaded.command is None:
        key = serialization.load_pem_private_key(loaded.key.encode(), password=None)
        if key.public_key() != leaf.public_key():
            return "the key does not belong to the certificate"
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        return f"its certificate holds from {leaf.not_valid_before_utc:%F} to {leaf.not_valid_after_utc:%F}, not today"
    return ""


def _self_made(chain: Sequence[x509.Certificate]) -> bool:
    from cryptography.x509.oid import NameOID

    return any(
        name.value == ORGANISATION
        for certificate in chain[:1]
        for name in certificate.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    )


def _read(path: Path) -> list[x509.Certificate]:
    """The certificates in a file; an empty list if the file does not exist."""
    try:
        return certificates.parse_chain(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise LichtspielError(
            f"{path}: its certificates cannot be read: {error}; restore it from a backup, or move it elsewhere"
        ) from error


def _unusable(folder: Path, error: OSError) -> LichtspielError:
    return LichtspielError(
        f"the signing identity in {folder} cannot be used: {error.strerror or error}; "
        "make the folder readable and writable for you, or set LICHTSPIEL_HOME to another one"
    )

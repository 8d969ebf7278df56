"""The signing identity of this installation: one ES256 key and its certificates, made on first use.

It knows where identities lie and who may read them; it does not know what is signed. The layout is

    $LICHTSPIEL_HOME/identity/      mode 0700
        key.pem                     mode 0600, PKCS#8, the only secret
        chain.pem                   leaf certificate, then the root that issued it

The root's key signs once and is thrown away, so the leaf is the only certificate that will ever chain to it: "signed
under this root" and "signed by this installation" mean the same. The certificates name no person and no computer.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.errors import LichtspielError
from lichtspiel.paths import home

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["Identity", "anchor", "identity", "new_identity"]

YEARS = 30
"""How long certificates hold. A seal without a time stamp cannot outlive its certificate, so this is long."""

ORGANISATION = "Self-signed Lichtspiel installation"

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True)
class Identity:
    """A key that can sign and its certificates (PEM, leaf first, root last). The key stays out of `repr`."""

    chain: str
    key: str = field(repr=False)

    @property
    def root(self) -> str:
        """The root certificate in PEM: the trust anchor by which this identity's seals are recognised."""
        return _root(self.chain)


def identity() -> Identity:
    """The identity of this installation; the first call makes it. Safe when several processes make it at once.

    Raises LichtspielError when the folder cannot be written, others may read the key, or the files are damaged.
    """
    folder = home() / "identity"
    try:
        if not _exists(folder):
            _store(new_identity(), folder)
        return _load(folder)
    except OSError as error:
        raise LichtspielError(
            f"the signing identity in {folder} cannot be used: {error.strerror or error}; "
            "make the folder readable and writable for you, or set LICHTSPIEL_HOME to another one"
        ) from error


def anchor() -> str | None:
    """The root certificate of this installation in PEM, or None when nothing was sealed here yet. Makes nothing."""
    try:
        return _root((home() / "identity" / "chain.pem").read_text("ascii"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise LichtspielError(f"this installation's certificates cannot be read: {error}") from error


def new_identity() -> Identity:
    """Make a fresh key and certificates; writes nothing.

    The profile is the one of the C2PA specification 2.x for claim signers: X.509 v3, key usage digitalSignature, an
    extended key usage (emailProtection is the one every reader accepts), an organisation, issued by another key.
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
        .not_valid_before(now - timedelta(days=1))  # clocks of other computers may be behind
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


def _store(made: Identity, folder: Path) -> None:
    """Put the identity in place in one step: a whole folder is written beside it and renamed. Renaming onto a folder
    that has files in it fails, so of several processes exactly one wins and the others load what it wrote."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".identity-", dir=folder.parent))  # mkdtemp makes it 0700
    try:
        for name, text in (("key.pem", made.key), ("chain.pem", made.chain)):
            descriptor = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        try:
            os.rename(draft, folder)
        except OSError:
            if not _exists(folder):
                raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(draft)


def _load(folder: Path) -> Identity:
    key_file = folder / "key.pem"
    if os.name == "posix" and (mode := key_file.stat().st_mode & 0o777) & 0o077:
        raise LichtspielError(
            f"{key_file} has mode {mode:o}, so others could sign in your name; run: chmod 600 {key_file} "
            "(on a file system without permissions, set LICHTSPIEL_HOME to a folder on another one)"
        )
    try:
        loaded = Identity((folder / "chain.pem").read_text("ascii"), key_file.read_text("ascii"))
        reason = _flaw(loaded)
    except ValueError as error:
        reason = f"its files are damaged ({error})"
    if reason:
        raise LichtspielError(
            f"the signing identity in {folder} cannot be used: {reason}; restore it from a backup, or move the folder "
            "away and a new one is made (what the old one sealed is then recognised as sealed elsewhere)"
        )
    return loaded


def _flaw(loaded: Identity) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    leaf = x509.load_pem_x509_certificate(loaded.chain.encode())
    key = serialization.load_pem_private_key(loaded.key.encode(), password=None)
    if key.public_key() != leaf.public_key():
        return "the key does not belong to the certificate"
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        return f"its certificate holds from {leaf.not_valid_before_utc:%F} to {leaf.not_valid_after_utc:%F}, not today"
    return ""


def _root(chain: str) -> str:
    certificates = _CERTIFICATE.findall(chain)
    if not certificates:
        raise ValueError("chain.pem holds no certificate")
    return str(certificates[-1])

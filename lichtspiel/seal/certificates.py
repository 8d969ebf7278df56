"""Which certificates and keys can sign for C2PA, and how a program that keeps a key to itself is asked to sign.

It knows X.509 and the profile of the C2PA specification 2.x (section 14.5); it does not know where identities lie
(`keys`) or the C2PA library (`credentials`).

A signer command serves keys that never leave a KMS, an HSM or a smart card. It is split like a shell command and run
without a shell, in the root folder, so its paths are absolute. It reads the bytes to sign (a few kilobytes) from its
standard input and prints the signature, binary or in base64, within SECONDS:

    P-256, P-384, P-521     ECDSA with SHA-256, SHA-384, SHA-512; in DER, or the two numbers one after the other
    RSA                     RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of 32 bytes
    Ed25519                 64 bytes

Whatever it prints is checked against the certificate, so a wrong answer never gets into a video.
"""

from __future__ import annotations

import base64
import binascii
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lichtspiel.errors import InvalidInput, LichtspielError, RequestError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "PURPOSES",
    "SECONDS",
    "algorithm",
    "ask",
    "check_timestamp",
    "flaw",
    "parse_chain",
    "pem",
    "purposes",
    "read_certificates",
    "read_key",
]

SECONDS = 30.0
"""How long a signer command may take; long enough to touch a smart card."""

PURPOSES = {
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "1.3.6.1.5.5.7.3.36": "documentSigning",
    "1.3.6.1.4.1.311.76.59.1.9": "Microsoft C2PA signing",
    "1.3.6.1.4.1.62558.2.1": "c2pa-kp-claimSigning",
}
"""Extended key usages of claim signers (c2pa-rs, sdk/src/crypto/cose/valid_eku_oids.cfg)."""

# Purposes that must stand alone (C2PA 2.x, 14.5.1), so that a certificate with one of them is none of a claim signer.
_EXCLUSIVE = {
    "1.3.6.1.5.5.7.3.8": "timeStamping",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}
_CURVES = {"secp256r1": ("ES256", 32), "secp384r1": ("ES384", 48), "secp521r1": ("ES512", 66)}
_MIN_RSA_BITS = 2048
_HASHES = ("sha256", "sha384", "sha512")


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file, in its order. Raises InvalidInput when there is none."""
    content = _read(path)
    try:
        return parse_chain(content)
    except ValueError as error:
        raise InvalidInput(
            f"{path}: holds no certificate in PEM ({error}); convert a DER file with: openssl x509 -inform der -in "
            f"{path} -out chain.pem"
        ) from error


def parse_chain(chain: bytes) -> list[x509.Certificate]:
    """The certificates in PEM text, in its order; raises ValueError when there is none or one is damaged."""
    from cryptography import x509

    return x509.load_pem_x509_certificates(chain)


def pem(certificates: Sequence[x509.Certificate]) -> str:
    """Certificates as PEM text."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates).decode("ascii")


def read_key(path: Path, leaf: x509.Certificate) -> str:
    """The private key of a certificate, from a PEM file, as PKCS#8 text. Raises InvalidInput when it is encrypted,
    is no key, or belongs to another certificate."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise InvalidInput(
            f"{path}: is encrypted; make an open copy with: openssl pkey -in {path} -out open.pem, import that and "
            "delete it, or leave the key where it is and give a signer command"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"{path}: holds no private key in PEM; convert one with: openssl pkey -in {path} -out key.pem"
        ) from error
    if key.public_key() != leaf.public_key():
        raise InvalidInput(
            f"{path}: does not belong to the certificate of {_name(leaf)}; give the key that this certificate was "
            "requested for, and put that certificate first in the file"
        )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def algorithm(leaf: x509.Certificate) -> str | None:
    """The C2PA signing algorithm of a certificate's key, by the library's name; None when C2PA has none for it."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key = leaf.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, (None, 0))[0]
    if isinstance(key, rsa.RSAPublicKey):
        return "PS256" if key.key_size >= _MIN_RSA_BITS else None
    return "ED25519" if isinstance(key, ed25519.Ed25519PublicKey) else None


def purposes(leaf: x509.Certificate) -> list[str]:
    """What a certificate may be used for, by name; what has none here, by number."""
    from cryptography import x509

    try:
        usages = [use.dotted_string for use in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value]
    except x509.ExtensionNotFound:
        return []
    return [{**PURPOSES, **_EXCLUSIVE}.get(number, number) for number in usages]


def flaw(chain: Sequence[x509.Certificate]) -> str | None:
    """Why a chain (leaf first) cannot sign for C2PA, with the remedy; None when it can."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return next(_flaws(chain), None)
    except (UnsupportedAlgorithm, ValueError) as error:  # parts of a certificate are parsed when they are asked for
        return f"a certificate is damaged, or of a kind that is not known here ({error}); have it issued again"


def _flaws(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    from cryptography import x509

    leaf, now = chain[0], datetime.now(UTC)
    for certificate in chain:
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not since <= now <= until:
            yield f"the certificate of {_name(certificate)} holds from {since:%F} to {until:%F}, not today; renew it"
    kinds = {extension.oid: extension.value for extension in leaf.extensions}
    basic, usage = kinds.get(x509.BasicConstraints.oid), kinds.get(x509.KeyUsage.oid)
    if isinstance(basic, x509.BasicConstraints) and basic.ca:
        yield (
            f"the first certificate, of {_name(leaf)}, is an authority's, which signs certificates and not videos; "
            "put the signer's own certificate first, then the one that issued it, and so on"
        )
    if algorithm(leaf) is None:
        yield (
            f"the key of {_name(leaf)} is of a kind that C2PA does not take; have a certificate issued for a key on "
            f"P-256, P-384 or P-521, for Ed25519, or for RSA with {_MIN_RSA_BITS} bits or more"
        )
    if not (isinstance(usage, x509.KeyUsage) and usage.digital_signature):
        yield "the certificate lacks the key usage digitalSignature; have it issued with it"
    may = purposes(leaf)
    if not set(PURPOSES.values()) & set(may) or set(_EXCLUSIVE.values()) & set(may):
        yield (
            f"the certificate is for {', '.join(may) or 'no named purpose'} (extended key usage); have it issued for "
            f"one or more of {', '.join(PURPOSES.values())}, and for none of {', '.join(_EXCLUSIVE.values())}"
        )
    if x509.AuthorityKeyIdentifier.oid not in kinds:
        yield "the certificate does not name its issuer's key (authority key identifier); have it issued with that"
    if (used := leaf.signature_hash_algorithm) is not None and used.name not in _HASHES:
        yield f"the certificate is signed with {used.name}; have it issued with {', '.join(_HASHES)} or Ed25519"
    if len(chain) == 1 and not _issued(leaf, leaf):
        yield f"the certificate that issued the one of {_name(leaf)} is missing; add it below, and those above it"
    for issued, issuer in pairwise(chain):
        if not _issued(issued, issuer):
            yield (
                f"the certificate of {_name(issued)} was not issued by the next one, of {_name(issuer)}; put the "
                "signer's own certificate first, then the one that issued it, and so on, and nothing else"
            )


def _issued(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def ask(command: str, leaf: x509.Certificate, data: bytes) -> bytes:
    """Have a signer command sign; the signature comes back as COSE wants it (ECDSA: both numbers, no DER).

    Raises LichtspielError when the program does not start, fails, takes more than SECONDS, or prints anything but a
    signature by the certificate's key, and InvalidInput when the command cannot be split.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"the signer command {command!r} cannot be split into words: {error}") from error
    if not words:
        raise InvalidInput("the signer command is empty; name a program that signs its standard input")
    try:
        done = subprocess.run(words, input=data, capture_output=True, check=False, timeout=SECONDS, cwd=os.sep)
    except (OSError, ValueError) as error:
        raise LichtspielError(
            f"the signer command cannot be started: {words[0]}: {getattr(error, 'strerror', None) or error}; "
            "it is run in the root folder, so give absolute paths"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LichtspielError(
            f"the signer command gave no signature within {SECONDS:g} s; check that it needs no answer from you and "
            "can reach the key"
        ) from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it did not say why")
        shown = "".join(letter if letter.isprintable() else " " for letter in last[:200]).strip()
        raise LichtspielError(f"the signer command failed with exit code {done.returncode}: {shown}")
    for answer in (done.stdout, _base64_decoded(done.stdout)):
        for der, raw in _encodings(leaf, answer):
            if _verifies(leaf, der, data):
                return raw
    raise LichtspielError(
        f"the signer command printed {len(done.stdout):,} bytes that are no signature by the certificate's key; it "
        f"must sign its standard input as {algorithm(leaf)} with the key of {_name(leaf)} and print only the signature"
    )


def _base64_decoded(answer: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(answer.split()), validate=True)
    except binascii.Error:
        return b""


def _encodings(leaf: x509.Certificate, answer: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The ways to understand an answer: as `cryptography` checks it, and as COSE wants it."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        yield answer, answer
        return
    size = _CURVES[key.curve.name][1]
    if len(answer) == 2 * size:
        yield encode_dss_signature(int.from_bytes(answer[:size]), int.from_bytes(answer[size:])), answer
    try:
        numbers = decode_dss_signature(answer)
        yield answer, b"".join(number.to_bytes(size) for number in numbers)
    except (ValueError, OverflowError):
        pass


def _verifies(leaf: x509.Certificate, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    key, sha256 = leaf.public_key(), hashes.SHA256()
    digests = {"ES256": sha256, "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(digests[_CURVES[key.curve.name][0]]))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PSS(padding.MGF1(sha256), sha256.digest_size), sha256)
        else:
            assert isinstance(key, ed25519.Ed25519PublicKey)
            key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def check_timestamp(url: str) -> str:
    """The address of a time-stamping authority, if it can be one; raises RequestError before any work is done."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isascii() and len(url.split()) == 1
    except ValueError:
        good = False
    if not good:
        raise RequestError("timestamp", url, "it is the address of an RFC 3161 service, from http:// or https:// on")
    return url


def _name(certificate: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(common_names[0].value) if common_names else certificate.subject.rfc4514_string()
    return repr(name[:80])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror or error}") from error

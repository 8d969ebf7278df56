"""Which certificates and keys can sign for C2PA, and how to sign with a key that only another program can use.

This module knows X.509 and the certificate profile of the C2PA specification 2.x (section 14.5). It does not know where
identities are stored (`identity`), and it does not use the C2PA library (`credentials`).

A signer command is for keys that never leave a KMS, an HSM or a smart card. The command line is split as a shell would
split it, but runs without a shell and in the root folder, so its paths must be absolute. The program reads the bytes to
sign (a few kilobytes) from standard input and prints the signature, binary or base64, within SECONDS:

    P-256, P-384, P-521     ECDSA with SHA-256, SHA-384, SHA-512; DER, or the two numbers concatenated
    RSA                     RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of 32 bytes
    Ed25519                 64 bytes

Its output is verified against the certificate, so a wrong signature never ends up in a video.
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
"""Time limit for a signer command, in seconds: long enough for a person to touch a smart card."""

PURPOSES = {
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "1.3.6.1.5.5.7.3.36": "documentSigning",
    "1.3.6.1.4.1.311.76.59.1.9": "Microsoft C2PA signing",
    "1.3.6.1.4.1.62558.2.1": "c2pa-kp-claimSigning",
}
"""Extended key usages of claim signers (c2pa-rs, sdk/src/crypto/cose/valid_eku_oids.cfg)."""

# Purposes that exclude all others (C2PA 2.x, 14.5.1): a certificate with one of them cannot be a claim signer's.
_EXCLUSIVE = {
    "1.3.6.1.5.5.7.3.8": "timeStamping",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}
_CURVES = {"secp256r1": ("ES256", 32), "secp384r1": ("ES384", 48), "secp521r1": ("ES512", 66)}
_MIN_RSA_BITS = 2048
_HASHES = ("sha256", "sha384", "sha512")


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates in a PEM file, in file order. Raises InvalidInput when it contains none."""
    content = _read(path)
    try:
        return parse_chain(content)
    except ValueError as error:
        raise InvalidInput(
            f"{path}: holds no certificate in PEM ({error}); convert a DER file with: openssl x509 -inform der -in "
            f"{path} -out chain.pem"
        ) from error


def parse_chain(chain: bytes) -> list[x509.Certificate]:
    """Parse the certificates in PEM text, in order. Raises ValueError when there are none or one is damaged."""
    from cryptography import x509

    return x509.load_pem_x509_certificates(chain)


def pem(certificates: Sequence[x509.Certificate]) -> str:
    """Certificates as PEM text."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates).decode("ascii")


def read_key(path: Path, leaf: x509.Certificate) -> str:
    """Read a certificate's private key from a PEM file and return it as PKCS#8 text.

    Raises InvalidInput when the key is encrypted, is not a key, or belongs to another certificate.
    """
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
    """The C2PA signing algorithm for a certificate's key, named as in the C2PA library; None if C2PA has none."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key = leaf.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, (None, 0))[0]
    if isinstance(key, rsa.RSAPublicKey):
        return "PS256" if key.key_size >= _MIN_RSA_BITS else None
    return "ED25519" if isinstance(key, ed25519.Ed25519PublicKey) else None


def purposes(leaf: x509.Certificate) -> list[str]:
    """A certificate's extended key usages: by name where we have one, otherwise as a dotted OID."""
    from cryptography import x509

    try:
        usages = [use.dotted_string for use in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value]
    except x509.ExtensionNotFound:
        return []
    return [{**PURPOSES, **_EXCLUSIVE}.get(number, number) for number in usages]


def flaw(chain: Sequence[x509.Certificate]) -> str | None:
    """Explain why a chain (leaf first) cannot sign for C2PA, and what to do about it; None when it can sign."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return next(_flaws(chain), None)
    except (UnsupportedAlgorithm, ValueError) as error:  # parts of a certificate are parsed lazily
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
    """Have a signer command sign `data`; return the signature in COSE format (ECDSA: both numbers, no DER).

    Raises LichtspielError when the program does not start, fails, takes longer than SECONDS, or prints anything but a
    signature by the certificate's key, and InvalidInput when the command line cannot be split.
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
    """Each way to interpret a signer's output, as a pair: the form `cryptography` verifies and the form COSE needs."""
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
    """Return the URL of a time-stamping authority. Raises RequestError, before any work is done, if it is invalid."""
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

"""Certificates for tests of identities: a root, an intermediate and any leaf, as a certification authority issues them.

It knows how to make good and bad ones, and what the C2PA library alone says of a file signed with them.
"""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lichtspiel.seal import certificates, credentials, enroll, identity
from tests.seal.conftest import provenance

EMAIL, STAMPING = ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.TIME_STAMPING
CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
Form = serialization.PrivateFormat


def distinguished(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def certificate(
    names: tuple[str, str], key: Any, issuer_key: Any, *, ca: bool, uses: tuple[Any, ...] = (EMAIL,), **changes: Any
) -> x509.Certificate:
    """A certificate of the name `names[0]`, issued by `names[1]`. `changes`: since, until (datetime), signs (the key
    usage digitalSignature; None leaves the extension out), linked (whether it names its issuer's key), bent (purposes
    that cannot be parsed), hash."""
    now, signs = datetime.now(UTC), changes.get("signs", not ca)
    builder = (
        x509.CertificateBuilder()
        .subject_name(distinguished(names[0]))
        .issuer_name(distinguished(names[1]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(changes.get("since", now - timedelta(days=9)))
        .not_valid_after(changes.get("until", now + timedelta(days=99)))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if signs is not None:
        builder = builder.add_extension(
            x509.KeyUsage(signs, not signs, False, False, False, ca, ca, False, False), critical=True
        )
    if changes.get("linked", True):
        of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(of_issuer, critical=False)
    if uses and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=uses == (STAMPING,))
    if changes.get("bent"):
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ExtendedKeyUsage.oid, b"!"), critical=False)
    return builder.sign(issuer_key, changes.get("hash", hashes.SHA256()))


ROOT_KEY, MIDDLE_KEY, KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
ROOT = certificate(("Root", "Root"), ROOT_KEY, ROOT_KEY, ca=True)
MIDDLE = certificate(("Middle", "Root"), MIDDLE_KEY, ROOT_KEY, ca=True)


def leaf(key: Any = KEY, **changes: Any) -> x509.Certificate:
    return certificate(("Leaf", "Middle"), key, MIDDLE_KEY, **{"ca": False, **changes})


@functools.cache
def keys_of_all_kinds() -> dict[str, Any]:
    return {
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "PS256": rsa.generate_private_key(65537, 2048),
        "ED25519": ed25519.Ed25519PrivateKey.generate(),
    }


def pem_key(key: Any, form: Form = Form.PKCS8, password: bytes | None = None) -> bytes:
    lock: Any = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    data = key.private_bytes(serialization.Encoding.PEM, form, lock)
    assert isinstance(data, bytes)
    return data


def put(folder: Path, *chain: x509.Certificate, key: bytes | None = None) -> tuple[Path, Path]:
    """A chain and a key (by default that of `leaf`) as files."""
    folder.mkdir(exist_ok=True)
    (folder / "chain.pem").write_text("Bag Attributes\n" + certificates.pem(chain))  # as openssl pkcs12 writes it
    (folder / "key.pem").write_bytes(key or pem_key(KEY))
    return folder / "chain.pem", folder / "key.pem"


def signed(folder: Path, identity: identity.Identity, timestamp: str | None = None) -> tuple[Path, str | None]:
    """The smallest video, signed."""
    plain, out = folder / "plain.mp4", folder / "signed.mp4"
    plain.write_bytes(enroll._SMALLEST)
    out.unlink(missing_ok=True)
    return out, credentials.sign(plain, out, provenance(), identity, timestamp)


def plainly(path: Path, settings: dict[str, Any] | None = None) -> tuple[str, str | None, set[str], dict[str, Any]]:
    """What the C2PA library alone says: state, which list was trusted, all codes, the signature."""
    with c2pa.Context.from_dict(settings or {}) as context, c2pa.Reader(str(path), context=context) as reader:
        store = json.loads(reader.json())
    results = store["validation_results"]
    active = results["activeManifest"]
    codes = {entry["code"] for kind in ("success", "informational", "failure") for entry in active[kind]}
    return (
        store["validation_state"],
        results.get("trustListUri"),
        codes,
        store["manifests"][store["active_manifest"]]["signature_info"],
    )

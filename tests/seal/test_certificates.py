from __future__ import annotations

import http.server
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from lichtspiel.errors import InvalidInput, LichtspielError, RequestError
from lichtspiel.seal import certificates, enroll, identity, manifest
from tests.seal.certificates import (
    CLAIM_SIGNING,
    EMAIL,
    KEY,
    MIDDLE,
    MIDDLE_KEY,
    ROOT,
    ROOT_KEY,
    STAMPING,
    Form,
    certificate,
    keys_of_all_kinds,
    leaf,
    pem_key,
    plainly,
    put,
    signed,
)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "lichtspiel"
    monkeypatch.setenv("LICHTSPIEL_HOME", str(folder))
    return folder


@pytest.mark.parametrize("kind", ["ES256", "ES384", "ES512", "PS256", "ED25519"])
def test_every_kind_of_key_signs_for_every_reader(kind: str, fresh: Path, tmp_path: Path) -> None:
    key = keys_of_all_kinds()[kind]
    form = Form.PKCS8 if kind == "ED25519" else Form.TraditionalOpenSSL  # the older form is taken, too
    made = enroll.import_identity(*put(tmp_path / "in", leaf(key), MIDDLE, ROOT, key=pem_key(key, form)), None)
    assert identity.load_identity() == made
    assert identity.describe(made)["algorithm"] == kind
    video, _ = signed(tmp_path, made)
    state, _, codes, signature = plainly(video)
    assert (state, signature["alg"].upper()) == ("Valid", kind)
    said = {code for code in codes if code.startswith("signingCredential.")}
    assert said == {"signingCredential.untrusted", "signingCredential.ocsp.skipped"}
    assert plainly(video, manifest._trusting(certificates.pem([ROOT])))[0] == "Trusted"
    assert plainly(video, manifest._trusting(identity.anchors()))[:2] == ("Trusted", "")
    assert manifest.read(video, made.root).ours  # as the door reads back what it signed


@pytest.mark.parametrize("chain", [(leaf(), MIDDLE), (leaf(uses=(CLAIM_SIGNING,)), MIDDLE, ROOT)])
def test_a_chain_may_lack_its_root_and_have_the_newest_purpose(
    chain: tuple[x509.Certificate, ...], fresh: Path, tmp_path: Path
) -> None:
    made = enroll.import_identity(*put(tmp_path / "in", *chain), None)
    assert made.root == certificates.pem(chain[-1:])
    video, _ = signed(tmp_path, made)
    for anchor in (*chain, ROOT):
        assert plainly(video, manifest._trusting(certificates.pem([anchor])))[0] == "Trusted"


def test_a_certificate_that_issued_itself_is_its_own_chain(fresh: Path, tmp_path: Path) -> None:
    alone = certificate(("Alone", "Alone"), KEY, KEY, ca=False)
    made = enroll.import_identity(*put(tmp_path / "in", alone), None)
    assert made.root == identity.anchors() == certificates.pem([alone])


def test_others_under_the_same_authority_are_not_this_installation(fresh: Path, tmp_path: Path) -> None:
    other_key = ec.generate_private_key(ec.SECP256R1())
    stranger = identity.Identity(certificates.pem([leaf(other_key), MIDDLE, ROOT]), pem_key(other_key).decode())
    enroll.import_identity(*put(tmp_path / "in", leaf(), MIDDLE, ROOT), None)
    video, _ = signed(tmp_path, stranger)
    assert plainly(video, manifest._trusting(identity.anchors()))[0] == "Valid"
    # Its library takes who signs under an authority of time stamps for trusted, but says under which list.
    assert plainly(video, manifest._trusting(identity.anchors(), certificates.pem([ROOT])))[1] == manifest._STAMPS
    assert plainly(video, manifest._trusting(certificates.pem([MIDDLE])))[:2] == ("Trusted", "signers")


PAST, SOON = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
K1 = ec.generate_private_key(ec.SECP256K1())
SHORT = rsa.generate_private_key(65537, 1024)
OLD_MIDDLE = certificate(("Middle", "Root"), MIDDLE_KEY, ROOT_KEY, ca=True, until=PAST)
NO_AUTHORITY = certificate(("Middle", "Root"), MIDDLE_KEY, ROOT_KEY, ca=False)


@pytest.mark.parametrize(
    ("chain", "key", "message"),
    [
        ([leaf(until=PAST), MIDDLE, ROOT], KEY, r"'Leaf' holds from .* not today; renew it"),
        ([leaf(since=SOON), MIDDLE, ROOT], KEY, r"'Leaf' holds from .* not today; renew it"),
        ([leaf(), OLD_MIDDLE, ROOT], KEY, "'Middle' holds from"),
        ([leaf(ca=True, signs=True), MIDDLE, ROOT], KEY, "signs certificates and not videos"),
        ([leaf(uses=()), MIDDLE], KEY, r"is for no named purpose.* for one or more of emailProtection"),
        ([leaf(uses=(ExtendedKeyUsageOID.SERVER_AUTH,)), MIDDLE], KEY, r"is for 1\.3\.6\.1\.5\.5\.7\.3\.1 \(ext"),
        ([leaf(uses=(EMAIL, STAMPING)), MIDDLE], KEY, "is for emailProtection, timeStamping"),
        ([leaf(signs=None), MIDDLE], KEY, "lacks the key usage digitalSignature"),
        ([leaf(signs=False), MIDDLE], KEY, "lacks the key usage digitalSignature"),
        ([leaf(linked=False), MIDDLE], KEY, "does not name its issuer's key"),
        ([leaf(hash=hashes.SHA224()), MIDDLE], KEY, "is signed with sha224"),
        ([leaf(uses=(), bent=True), MIDDLE], KEY, "is damaged, or of a kind that is not known here"),
        ([leaf(K1), MIDDLE], K1, r"the key of 'Leaf' is of a kind.* P-256, P-384 or P-521"),
        ([leaf(SHORT), MIDDLE], SHORT, r"the key of 'Leaf' is of a kind.* 2048 bits"),
        ([leaf(), ROOT, MIDDLE], KEY, "'Leaf' was not issued by the next one, of 'Root'; put the signer's own"),
        ([ROOT, MIDDLE, leaf()], KEY, "first certificate, of 'Root', is an authority's"),
        ([leaf(), ROOT], KEY, "'Leaf' was not issued by the next one"),
        ([leaf()], KEY, "issued the one of 'Leaf' is missing; add it below"),
        ([leaf(), NO_AUTHORITY, ROOT], KEY, r"does not hold, and nothing was changed: signingCredential\.untrusted"),
        ([leaf(), MIDDLE, ROOT], K1, r"key\.pem: does not belong to the certificate of 'Leaf'"),
    ],
)
def test_what_cannot_sign_is_refused_with_a_remedy(
    chain: list[x509.Certificate], key: Any, message: str, fresh: Path, tmp_path: Path
) -> None:
    before = identity.load_identity()
    with pytest.raises(InvalidInput, match=message) as caught:
        enroll.import_identity(*put(tmp_path / "in", *chain, key=pem_key(key)), None)
    assert "\n" not in str(caught.value)
    assert identity.load_identity() == before
    assert os.listdir(fresh) == ["identity"]


def test_what_the_library_minds_and_we_do_not_know_shows_in_the_trial(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "flaw", lambda _: None)
    with pytest.raises(
        InvalidInput, match=r"a trial with it failed, and nothing was changed: .*certificate is invalid"
    ):
        enroll.import_identity(*put(tmp_path / "in", leaf(uses=()), MIDDLE), None)
    assert not fresh.exists()


def test_files_that_are_something_else_are_refused_with_a_remedy(fresh: Path, tmp_path: Path) -> None:
    chain, key = put(tmp_path / "in", leaf(), MIDDLE)
    locked, der = tmp_path / "locked.pem", tmp_path / "chain.der"
    locked.write_bytes(pem_key(KEY, password=b"secret"))
    der.write_bytes(leaf().public_bytes(serialization.Encoding.DER))
    for given, message in (
        ((chain, locked, None), r"locked\.pem: is encrypted; make an open copy with: openssl pkey"),
        ((chain, chain, None), "holds no private key in PEM"),
        ((der, key, None), r"holds no certificate in PEM.*openssl x509 -inform der"),
        ((tmp_path / "none.pem", key, None), r"none\.pem: cannot be read: No such file"),
        ((chain, key, "sign"), "give one of the two"),
        ((chain, None, None), "give one of the two"),
    ):
        with pytest.raises(InvalidInput, match=message):
            enroll.import_identity(*given)
    assert not fresh.exists()


SIGN = """
import base64, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
key = serialization.load_pem_private_key(open(sys.argv[1], "rb").read(), None)
data, sha256 = sys.stdin.buffer.read(), hashes.SHA256()
if isinstance(key, rsa.RSAPrivateKey):
    made = key.sign(data, padding.PSS(padding.MGF1(sha256), 32), sha256)
elif isinstance(key, ec.EllipticCurvePrivateKey):
    made = key.sign(data, ec.ECDSA(sha256 if key.key_size == 256 else hashes.SHA384()))
else:
    made = key.sign(data)
if "raw" in sys.argv:
    made = b"".join(number.to_bytes(key.key_size // 8, "big") for number in decode_dss_signature(made))
if "base64" in sys.argv:
    made = base64.encodebytes(made)
sys.stdout.buffer.write(made)
"""


def program(folder: Path, source: str, *arguments: object) -> str:
    path = folder / "signs for me.py"
    path.write_text(source)
    return shlex.join([sys.executable, str(path), *map(str, arguments)])


@pytest.mark.parametrize(
    ("kind", "how"), [("ES256", ""), ("ES384", "raw"), ("PS256", ""), ("PS256", "base64"), ("ED25519", "")]
)
def test_a_command_signs_in_place_of_a_key(kind: str, how: str, fresh: Path, tmp_path: Path) -> None:
    key = keys_of_all_kinds()[kind]
    chain, held = put(tmp_path / "in", leaf(key), MIDDLE, ROOT, key=pem_key(key))
    command = program(tmp_path, SIGN, held, how)
    made = enroll.import_identity(chain, None, command)
    assert identity.load_identity() == made
    assert (made.key, made.command) == ("", command)
    video, _ = signed(tmp_path, made)
    assert plainly(video, manifest._trusting(certificates.pem([ROOT])))[0] == "Trusted"
    assert sorted(os.listdir(fresh / "identity")) == ["chain.pem", "command"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.stderr.write('no card\\x1b[2J here\\n\\n'); sys.exit(7)", r"exit code 7: no card \[2J here$"),
        ("import sys; sys.exit(7)", "failed with exit code 7: it did not say why"),
        ("import time; time.sleep(60)", r"gave no signature within 0\.5 s"),
        ("print('rubbish')", r"printed 8 bytes that are no signature .* as ES256 with the key of 'Leaf'"),
        ("pass", "printed 0 bytes"),
        (SIGN, "bytes that are no signature"),  # with another's key
    ],
)
def test_a_command_that_does_not_sign_is_named(
    source: str, message: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in source:
        monkeypatch.setattr(certificates, "SECONDS", 0.5)
    chain, key = put(tmp_path / "in", leaf(), MIDDLE, key=pem_key(MIDDLE_KEY))
    with pytest.raises(LichtspielError, match=message) as caught:
        enroll.import_identity(chain, None, program(tmp_path, source, key))
    assert "\n" not in str(caught.value)
    assert not fresh.exists()


def test_a_command_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    chain, _ = put(tmp_path / "in", leaf(), MIDDLE)
    for command, message in (
        ("here/no-such-program --x", r"cannot be started: here/no-such-program: No such file.*absolute paths"),
        ("sign 'with", "cannot be split into words: No closing quotation"),
        (" ", "the signer command is empty"),
    ):
        with pytest.raises(LichtspielError, match=message):
            enroll.import_identity(chain, None, command)


def test_a_command_that_fails_later_says_so_in_its_own_words(
    fresh: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = identity.Identity(certificates.pem([leaf(), MIDDLE]), command=program(tmp_path, "exit('the token is gone')"))
    with pytest.raises(LichtspielError, match="exit code 1: the token is gone"):
        signed(tmp_path, made, "http://127.0.0.1:1/")  # it is not asked again without the time stamp

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        signed(tmp_path, made)
    assert capfd.readouterr().err == ""


OPENSSL = """
[tsa]
default_tsa = here
[here]
serial = serial
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
signer_digest = sha256
ess_cert_id_alg = sha256
"""


def reply(folder: Path, query: bytes) -> bytes:
    (folder / "query").write_bytes(query)
    words = "openssl ts -reply -config conf -queryfile query -signer tsa.pem -inkey key.pem -out reply"
    subprocess.run(words.split(), cwd=folder, check=True, capture_output=True)
    return (folder / "reply").read_bytes()


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """The address of a time-stamping authority on this computer, made of openssl, that behaves as the path says."""
    folder, key = tmp_path / "tsa", keys_of_all_kinds()["PS256"]
    folder.mkdir()
    own = certificate(("Clock", "Root"), key, ROOT_KEY, ca=False, uses=(STAMPING,))
    for name, content in (("tsa.pem", certificates.pem([own])), ("conf", OPENSSL), ("serial", "01\n")):
        (folder / name).write_text(content)
    (folder / "key.pem").write_bytes(pem_key(key))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            bodies: dict[str, Callable[[], bytes]] = {
                "/rubbish": lambda: b"rubbish",
                "/refusal": lambda: bytes.fromhex("30053003020102"),  # PKIStatus 2, no token
                "/other": lambda: reply(
                    folder, query[: (at := query.index(b"\x04\x20") + 2)] + bytes(32) + query[at + 32 :]
                ),
            }
            body = bodies.get(self.path, lambda: reply(folder, query))()
            self.send_response(500 if self.path == "/500" else 200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield lambda path: f"http://127.0.0.1:{server.server_port}{path}"
        server.shutdown()
        thread.join()


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="a time-stamping authority needs openssl")


@needs_openssl
def test_a_time_stamp_keeps_a_seal_beyond_its_certificate(
    authority: Callable[[str], str], fresh: Path, tmp_path: Path
) -> None:
    brief = leaf(until=datetime.now(UTC) + timedelta(seconds=6))
    made = enroll.import_identity(*put(tmp_path / "in", brief, MIDDLE), None)
    plain, nothing = signed(tmp_path, made)
    plain = plain.rename(tmp_path / "without.mp4")
    video, said = signed(tmp_path, made, authority("/"))
    assert (nothing, said) == (None, "stamped")
    state, _, codes, signature = plainly(video)
    assert (state, signature["time"][:4]) == ("Valid", str(datetime.now(UTC).year))
    assert {"timeStamp.validated", "timeStamp.untrusted"} <= codes
    time.sleep(max(0.0, (brief.not_valid_after_utc - datetime.now(UTC)).total_seconds()) + 1)
    ours = identity.anchors()
    assert plainly(plain, manifest._trusting(ours, certificates.pem([ROOT])))[0] == "Invalid"
    assert plainly(video, manifest._trusting(ours))[0] == "Invalid"
    state, trusted, codes, _ = plainly(video, manifest._trusting(ours, certificates.pem([ROOT])))
    assert (state, trusted, "timeStamp.trusted" in codes) == ("Trusted", "", True)


@needs_openssl
@pytest.mark.parametrize("path", ["/500", "/rubbish", "/refusal", "/other", None])
def test_a_broken_authority_does_not_cost_the_video(
    path: str | None, authority: Callable[[str], str], tmp_path: Path
) -> None:
    address = authority(path) if path else "http://127.0.0.1:1/"
    video, said = signed(tmp_path, identity.new_identity(), address)
    assert str(said).startswith(f"none: {address} gave no time stamp (")
    state, _, codes, signature = plainly(video)
    assert (state, "time" in signature) == ("Valid", False)
    assert not any(code.startswith("timeStamp") for code in codes)


def test_a_command_may_have_its_time_stamped(authority: Callable[[str], str], tmp_path: Path) -> None:
    _, key = put(tmp_path / "in", leaf())
    made = identity.Identity(certificates.pem([leaf(), MIDDLE]), command=program(tmp_path, SIGN, key))
    assert signed(tmp_path, made, authority("/"))[1] == "stamped"


def test_only_addresses_are_asked_for_the_time() -> None:
    good = ["http://time.example/tsr", "https://[::1]:8443/x?y=1"]
    assert [certificates.check_timestamp(url) for url in good] == good
    for url in ("time.example", "ftp://time.example", "http://", "http://[", "https://ti me.example", "https://zeit.ä"):
        with pytest.raises(RequestError, match="an RFC 3161 service"):
            certificates.check_timestamp(url)

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from lichtspiel.errors import LichtspielError
from lichtspiel.seal import enroll, identity, manifest
from lichtspiel.seal.certificates import parse_chain, pem
from tests.seal.certificates import KEY, MIDDLE, ROOT, leaf, pem_key, plainly, put, signed


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "lichtspiel"
    monkeypatch.setenv("LICHTSPIEL_HOME", str(folder))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_is_made_once_and_kept(fresh: Path) -> None:
    before = os.umask(0)  # the modes must not depend on it
    try:
        first = identity.load_identity()
    finally:
        os.umask(before)
    assert identity.load_identity() == first
    assert (mode(fresh / "identity"), mode(fresh / "identity" / "key.pem")) == (0o700, 0o600)
    assert os.listdir(fresh) == ["identity"]
    assert identity.anchors() == first.chain
    assert "PRIVATE" not in repr(first)


def test_certificates_have_the_profile_of_claim_signers() -> None:
    leaf, root = x509.load_pem_x509_certificates(identity.new_identity().chain.encode())
    leaf.verify_directly_issued_by(root)
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    extension = leaf.extensions.get_extension_for_class
    assert list(extension(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.EMAIL_PROTECTION]
    assert extension(x509.KeyUsage).value.digital_signature
    assert not extension(x509.BasicConstraints).value.ca
    assert "O=Self-signed Lichtspiel installation" in leaf.subject.rfc4514_string()
    assert leaf.not_valid_after_utc.year - datetime.now(UTC).year >= 20


def test_eight_first_uses_at_once_agree(fresh: Path) -> None:
    made: list[identity.Identity] = []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        made.append(identity.load_identity())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert os.listdir(fresh) == ["identity"]


def test_who_comes_second_takes_the_first_ones(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = identity.new_identity()

    def while_another_process_is_faster() -> identity.Identity:
        identity._store(theirs, fresh / "identity")
        return identity.Identity("mine", "mine")

    monkeypatch.setattr(identity, "new_identity", while_another_process_is_faster)
    assert identity.load_identity() == theirs
    assert os.listdir(fresh) == ["identity"]


def test_a_key_that_others_can_read_is_refused(fresh: Path) -> None:
    identity.load_identity()
    (fresh / "identity" / "key.pem").chmod(0o644)
    with pytest.raises(LichtspielError, match=r"mode 644.*chmod 600"):
        identity.load_identity()


def test_damage_is_named_with_its_remedy(fresh: Path) -> None:
    identity.load_identity()
    key, chain = fresh / "identity" / "key.pem", fresh / "identity" / "chain.pem"
    kept = key.read_text()
    key.write_text(identity.new_identity().key)
    with pytest.raises(LichtspielError, match=r"does not belong to the certificate.*move the folder away"):
        identity.load_identity()
    key.write_text("nonsense")
    with pytest.raises(LichtspielError, match="files are damaged"):
        identity.load_identity()
    key.write_text(kept)
    chain.write_text("nonsense")
    with pytest.raises(LichtspielError, match="files are damaged"):
        identity.load_identity()
    with pytest.raises(LichtspielError, match="certificates cannot be read"):
        identity.anchors()
    key.unlink()
    with pytest.raises(LichtspielError, match="cannot be used: No such file"):
        identity.load_identity()


def test_an_identity_that_has_expired_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "YEARS", 0)
    with pytest.raises(LichtspielError, match="its certificate holds from"):
        identity.load_identity()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "file" / "data"))
    with pytest.raises(LichtspielError, match="set LICHTSPIEL_HOME to another"):
        identity.load_identity()
    assert identity.anchors() is None


def test_looking_makes_nothing(fresh: Path) -> None:
    assert identity.anchors() is None
    assert not fresh.exists()


def test_a_failed_first_use_leaves_no_key_behind(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(LichtspielError, match="No space left"):
        identity.load_identity()
    assert os.listdir(fresh) == []


def handed_in(folder: Path, *, fresh_key: bool = False) -> tuple[Path, Path]:
    """A chain and its key as files, as an authority hands them out."""
    key = ec.generate_private_key(ec.SECP256R1()) if fresh_key else KEY
    return put(folder / "in", leaf(key), MIDDLE, ROOT, key=pem_key(key))


def test_an_import_moves_the_former_identity_aside(fresh: Path, tmp_path: Path) -> None:
    before = identity.load_identity()
    video, _ = signed(tmp_path, before)
    mask = os.umask(0)
    try:
        made = enroll.import_identity(*handed_in(tmp_path), None)
    finally:
        os.umask(mask)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    assert identity.load_identity() == made
    assert sorted(os.listdir(fresh)) == ["identity", f"identity-{day}"]
    for folder in ("identity", f"identity-{day}"):
        assert (mode(fresh / folder), mode(fresh / folder / "key.pem")) == (0o700, 0o600)
    assert (fresh / f"identity-{day}" / "key.pem").read_text() == before.key
    assert identity.anchors() == pem([leaf_of(made)]) + before.chain
    assert manifest.read(video, identity.anchors()).ours
    again = enroll.import_identity(*handed_in(tmp_path, fresh_key=True), None)
    assert sorted(os.listdir(fresh)) == ["identity", f"identity-{day}", f"identity-{day}-2"]
    assert str(identity.anchors()).count("BEGIN CERTIFICATE") == 4
    assert identity.load_identity() == again
    assert manifest.read(video, identity.anchors()).ours


def leaf_of(identity: identity.Identity) -> x509.Certificate:
    return parse_chain(identity.chain.encode())[0]


def test_an_import_may_be_the_first_identity(fresh: Path, tmp_path: Path) -> None:
    made = enroll.import_identity(*handed_in(tmp_path), None)
    assert identity.load_identity() == made
    assert os.listdir(fresh) == ["identity"]
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_import_that_fails_leaves_everything_as_it_was(
    failing: int, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, calls = identity.load_identity(), os.rename, 0

    def stubborn(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", stubborn)
        with pytest.raises(LichtspielError, match="No space left"):
            enroll.import_identity(*handed_in(tmp_path), None)
    assert os.listdir(fresh) == ["identity"]
    assert identity.load_identity() == before


def test_a_full_disk_leaves_no_key_behind(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LichtspielError, match="No space left"):
        enroll.import_identity(*handed_in(tmp_path), None)
    assert os.listdir(fresh) == []


def test_an_import_that_was_cut_off_is_finished_by_the_next_use(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity.load_identity()

    def killed(_: Path) -> None:
        raise KeyboardInterrupt  # what no handler for errors catches

    with monkeypatch.context() as patch:
        patch.setattr(identity, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            enroll.import_identity(*handed_in(tmp_path), None)
    assert not (fresh / "identity").exists()
    assert identity.load_identity() == identity.load_identity()
    assert identity.describe(identity.load_identity())["origin"] == "imported"
    assert sorted(name[:10] for name in os.listdir(fresh)) == ["identity", "identity-2"]


def test_two_imports_do_not_mix(fresh: Path, tmp_path: Path) -> None:
    before = identity.load_identity()
    waiting = fresh / ".identity-next"
    waiting.mkdir()
    (waiting / "chain.pem").write_text("somebody else's")
    with pytest.raises(LichtspielError, match=r"another import is under way.*delete .*\.identity-next"):
        enroll.import_identity(*handed_in(tmp_path), None)
    assert identity.load_identity() == before
    assert sorted(os.listdir(fresh)) == [".identity-next", "identity"]


def test_a_command_that_others_could_change_is_refused(fresh: Path) -> None:
    identity._store(identity.Identity(identity.new_identity().chain, command="/bin/true"), fresh / "identity")
    assert mode(fresh / "identity" / "command") == 0o600
    assert identity.load_identity().command == "/bin/true"
    (fresh / "identity" / "command").chmod(0o620)
    with pytest.raises(LichtspielError, match=r"mode 620.*chmod 600"):
        identity.load_identity()


def test_what_there_is_to_know_is_told_and_the_key_is_not(fresh: Path, tmp_path: Path) -> None:
    made = identity.load_identity()
    said = identity.describe(made)
    assert json.loads(json.dumps(said)) == said
    assert said["origin"] == "self-made"
    assert said["subject"] == leaf_of(made).subject.rfc4514_string()
    assert said["issuer"].startswith("CN=Lichtspiel root ")
    assert (said["algorithm"], said["purposes"], said["command"]) == ("ES256", ["emailProtection"], None)
    assert said["key"] == str(fresh / "identity" / "key.pem")
    assert said["fingerprint"] == hashlib.sha256(leaf_of(made).public_bytes(Encoding.DER)).hexdigest()
    assert said["valid_from"] < f"{datetime.now(UTC):%FT%TZ}" < said["valid_to"]
    assert not any(line in str(said) for line in made.key.splitlines())
    video, _ = signed(tmp_path, made)
    assert plainly(video)[3]["cert_serial_number"] == said["serial"]
    imported = enroll.import_identity(*handed_in(tmp_path), None)
    assert identity.describe(imported)["origin"] == "imported"
    by_command = identity.describe(identity.Identity(imported.chain, command="/opt/sign --slot 1"))
    assert (by_command["key"], by_command["command"]) == (None, "/opt/sign --slot 1")


def test_others_are_trusted_by_a_folder(fresh: Path, tmp_path: Path) -> None:
    assert identity.trusted_anchors() is None
    identity.load_identity()
    ours = identity.anchors()
    theirs = identity.new_identity()
    (fresh / "trust").mkdir()
    assert identity.trusted_anchors() is None
    (fresh / "trust" / "friend.pem").write_text(theirs.chain)
    (fresh / "trust" / "authority.pem").write_text("# said on the phone\n" + pem([MIDDLE, ROOT]))
    (fresh / "trust" / "authority again.pem").write_text(pem([ROOT]))
    (fresh / "trust" / "notes.txt").write_text("no certificate")
    assert identity.trusted_anchors() == pem([ROOT, MIDDLE]) + theirs.chain
    assert identity.anchors() == ours
    video, _ = signed(tmp_path, theirs)
    assert plainly(video, manifest._trusting(identity.trusted_anchors()))[0] == "Trusted"
    assert plainly(video, manifest._trusting(identity.anchors()))[0] == "Valid"
    (fresh / "trust" / "friend.pem").write_text("nonsense")
    with pytest.raises(LichtspielError, match=r"friend\.pem: its certificates cannot be read"):
        identity.trusted_anchors()


def test_a_folder_moved_aside_by_hand_is_recognised_and_damage_in_it_named(fresh: Path) -> None:
    chain = identity.load_identity().chain
    (fresh / "identity").rename(fresh / "identity-old")
    (fresh / "identity-notes").write_text("no folder")
    assert identity.anchors() == chain
    (fresh / "identity-old" / "chain.pem").write_text("nonsense")
    with pytest.raises(LichtspielError, match=r"identity-old/chain\.pem: its certificates cannot be read"):
        identity.anchors()


def test_showing_makes_no_identity(fresh: Path) -> None:
    assert identity.find_identity() is None
    assert not fresh.exists()
    made = identity.load_identity()
    assert identity.find_identity() == made


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_folders_that_others_may_write_are_refused(fresh: Path, mode: int) -> None:
    made = identity.load_identity()
    trust = fresh / "trust"
    trust.mkdir()
    (trust / "friend.pem").write_text(made.chain)
    assert identity.trusted_anchors() is not None
    asked = [
        (trust, identity.trusted_anchors),
        (trust / "friend.pem", identity.trusted_anchors),
        (fresh / "identity", identity.anchors),
        (fresh / "identity", identity.load_identity),
    ]
    for path, ask in asked:
        before = path.stat().st_mode & 0o777
        path.chmod(mode)
        with pytest.raises(LichtspielError, match=rf"mode {mode:o}.*chmod go-w {path}"):
            ask()
        path.chmod(before)

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from lichtspiel import paths
from lichtspiel.errors import LichtspielError
from lichtspiel.seal import keys


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
        first = keys.identity()
    finally:
        os.umask(before)
    assert keys.identity() == first
    assert (mode(fresh / "identity"), mode(fresh / "identity" / "key.pem")) == (0o700, 0o600)
    assert os.listdir(fresh) == ["identity"]
    assert keys.anchor() == first.root
    assert "PRIVATE" not in repr(first)


def test_certificates_have_the_profile_of_claim_signers() -> None:
    leaf, root = x509.load_pem_x509_certificates(keys.new_identity().chain.encode())
    leaf.verify_directly_issued_by(root)
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    extension = leaf.extensions.get_extension_for_class
    assert list(extension(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.EMAIL_PROTECTION]
    assert extension(x509.KeyUsage).value.digital_signature
    assert not extension(x509.BasicConstraints).value.ca
    assert "O=Self-signed Lichtspiel installation" in leaf.subject.rfc4514_string()
    assert leaf.not_valid_after_utc.year - datetime.now(UTC).year >= 20


def test_eight_first_uses_at_once_agree(fresh: Path) -> None:
    made: list[keys.Identity] = []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        made.append(keys.identity())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert os.listdir(fresh) == ["identity"]


def test_who_comes_second_takes_the_first_ones(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = keys.new_identity()

    def while_another_process_is_faster() -> keys.Identity:
        keys._store(theirs, fresh / "identity")
        return keys.Identity("mine", "mine")

    monkeypatch.setattr(keys, "new_identity", while_another_process_is_faster)
    assert keys.identity() == theirs
    assert os.listdir(fresh) == ["identity"]


def test_a_key_that_others_can_read_is_refused(fresh: Path) -> None:
    keys.identity()
    (fresh / "identity" / "key.pem").chmod(0o644)
    with pytest.raises(LichtspielError, match=r"mode 644.*chmod 600"):
        keys.identity()


def test_damage_is_named_with_its_remedy(fresh: Path) -> None:
    keys.identity()
    key, chain = fresh / "identity" / "key.pem", fresh / "identity" / "chain.pem"
    kept = key.read_text()
    key.write_text(keys.new_identity().key)
    with pytest.raises(LichtspielError, match=r"does not belong to the certificate.*move the folder away"):
        keys.identity()
    key.write_text("nonsense")
    with pytest.raises(LichtspielError, match="files are damaged"):
        keys.identity()
    key.write_text(kept)
    chain.write_text("nonsense")
    with pytest.raises(LichtspielError, match="files are damaged"):
        keys.identity()
    with pytest.raises(LichtspielError, match="certificates cannot be read"):
        keys.anchor()
    key.unlink()
    with pytest.raises(LichtspielError, match="cannot be used: No such file"):
        keys.identity()


def test_an_identity_that_has_expired_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "YEARS", 0)
    with pytest.raises(LichtspielError, match="its certificate holds from"):
        keys.identity()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "file" / "data"))
    with pytest.raises(LichtspielError, match="set LICHTSPIEL_HOME to another"):
        keys.identity()
    assert keys.anchor() is None


def test_looking_makes_nothing(fresh: Path) -> None:
    assert keys.anchor() is None
    assert not fresh.exists()


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LICHTSPIEL_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert paths.home() == tmp_path / ".local" / "share" / "lichtspiel"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert paths.home() == tmp_path / "xdg" / "lichtspiel"
    monkeypatch.setenv("LICHTSPIEL_HOME", "~/mine")
    assert paths.home() == tmp_path / "mine"


def test_no_home_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LICHTSPIEL_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)

    def unknown() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(LichtspielError, match="set LICHTSPIEL_HOME"):
        paths.home()


def test_a_failed_first_use_leaves_no_key_behind(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(LichtspielError, match="No space left"):
        keys.identity()
    assert os.listdir(fresh) == []

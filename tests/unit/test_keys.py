"""Keys: whole or not at all, never over another file, and refused without being quoted."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from halftone.publish.keys import generate_key, read_public_key, read_signing_key
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from tests.commands import files_of, halftone

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def private_pem(password: bytes | None = None, curve: ec.EllipticCurve | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return key.private_bytes(PEM, PKCS8, encryption)


def refused(path: Path) -> str:
    with pytest.raises(RefusedInput) as caught:
        read_signing_key(path)
    assert caught.value.reason is Reason.KeyUnusable
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.message


def test_keygen_makes_a_pair_on_p256_in_pem(tmp_path: Path) -> None:
    ended = halftone("keygen", tmp_path / "key")

    key = serialization.load_pem_private_key((tmp_path / "key").read_bytes(), None)
    assert ended.code == 0
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert (tmp_path / "key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert (tmp_path / "key.pub").read_bytes() == public
    assert sorted(files_of(tmp_path)) == ["key", "key.pub"]


def test_keygen_does_not_print_the_private_key(tmp_path: Path) -> None:
    ended = halftone("keygen", tmp_path / "key")

    secret = (tmp_path / "key").read_text().splitlines()[1]
    assert secret not in ended.out + ended.err


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o177])
def test_only_the_owner_may_read_the_private_key_whatever_the_umask(
    mask: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        generate_key(tmp_path / "key")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key.pub").stat().st_mode) == 0o644


@pytest.mark.parametrize("existing", ["key", "key.pub"])
def test_keygen_overwrites_neither_file(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("precious")

    ended = halftone("keygen", tmp_path / "key")

    assert ended.code == 2
    assert f"{existing}' exists, and a key is never overwritten" in ended.err
    assert files_of(tmp_path) == {existing: b"precious"}


def test_keygen_follows_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")

    assert halftone("keygen", tmp_path / "key").code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_not_there_gets_no_key(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="choose a directory that exists"):
        generate_key(tmp_path / "none" / "key")

    assert files_of(tmp_path) == {}


def test_what_keygen_made_can_sign(tmp_path: Path) -> None:
    made = generate_key(tmp_path / "key")

    assert read_signing_key(tmp_path / "key") == made
    assert read_public_key(tmp_path / "key.pub") == made.public_pem


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_curves_can_sign(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    assert read_signing_key(written(tmp_path / "key", private_pem(curve=curve))).public_pem


def test_a_group_may_read_the_key_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    secret = written(tmp_path / "..data", private_pem(), 0o440)
    (tmp_path / "key").symlink_to(secret)

    assert read_signing_key(tmp_path / "key").public_pem


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_a_key_that_everybody_may_reach_is_refused(mode: int, tmp_path: Path) -> None:
    assert "chmod 600" in refused(written(tmp_path / "key", private_pem(), mode))


def test_an_encrypted_key_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    assert "is encrypted" in refused(written(tmp_path / "key", private_pem(b"hunter2")))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"swordfish-not-a-key",
        b"-----BEGIN PRIVATE KEY-----\nc3dvcmRmaXNo\n-----END PRIVATE KEY-----\n",
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            PEM, PKCS8, serialization.NoEncryption()
        ),
        private_pem(curve=ec.SECP256K1()),
    ],
    ids=["empty", "text", "damaged", "ed25519", "another curve"],
)
def test_what_is_no_ec_key_is_refused_without_being_quoted(content: bytes, tmp_path: Path) -> None:
    message = refused(written(tmp_path / "key", content))

    assert "make one with `halftone keygen`" in message
    assert not any(line and line in message for line in content.decode().splitlines())


def test_a_large_file_is_no_key(tmp_path: Path) -> None:
    assert "too large" in refused(written(tmp_path / "key", b"x" * 70_000))


@pytest.mark.parametrize("name", ["absent", "."])
def test_what_cannot_be_read_is_no_key(name: str, tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / name)


def test_a_private_key_is_no_public_one(tmp_path: Path) -> None:
    generate_key(tmp_path / "key")

    with pytest.raises(RefusedInput, match="holds no public key") as caught:
        read_public_key(tmp_path / "key")

    assert caught.value.reason is Reason.KeyUnusable

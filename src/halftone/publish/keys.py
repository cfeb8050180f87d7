"""Keys that sign and verify artifacts: made and read.

Called by `keygen`, `verify` and `publish`. A private key is an elliptic-curve key in an unencrypted
PEM file that not everybody may read. What such a file holds never reaches a message: errors of the
library that parses it are not chained.
"""

import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from halftone.spec.documents import sync_directory
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

# The curves that OpenSSF model-signing knows.
_CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})
# No key file comes near; more means that another file was named.
_MAX_KEY_BYTES: Final = 65_536
_PUBLIC_SUFFIX: Final = ".pub"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that was found usable: where it lies, and its public half in PEM."""

    path: Path
    public_pem: bytes

    @property
    def identifier(self) -> str:
        """SHA-256 of the public half, as signatures name their key."""
        return key_identifier(self.public_pem)


def key_identifier(public_pem: bytes) -> str:
    """SHA-256 of a public key in PEM, as OpenSSF model-signing writes it into signatures."""
    return hashlib.sha256(public_pem).hexdigest()


def generate_key(path: Path) -> SigningKey:
    """Make a P-256 key at `path` (mode 0600) and its public half at `path`.pub.

    Neither is ever half there, and neither replaces a file. Raises RefusedInput(KeyUnusable) when
    one of them exists, EnvironmentFault when they cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public_path = path.with_name(path.name + _PUBLIC_SUFFIX)
    for existing in (path, public_path):
        if os.path.lexists(existing):
            _exists(existing)
    try:
        # The public half first: where the private key is, everything is.
        _write_new(public_path, public_pem, 0o644)
        try:
            _write_new(path, private_pem, 0o600)
        except BaseException:
            public_path.unlink()
            raise
    except FileExistsError as error:  # another keygen was quicker
        _exists(Path(error.filename2 or error.filename))
    except OSError as error:
        raise EnvironmentFault(
            Reason.StorageFailed,
            str(path),
            f"'{path}' could not be written ({error.strerror}); choose a directory that exists, "
            "that you may write, and whose file system keeps permissions.",
        ) from error
    return SigningKey(path, public_pem)


def read_signing_key(path: Path) -> SigningKey:
    """The private key at `path`; raises RefusedInput(KeyUnusable) for anything else."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    data = _read(path, "private key")
    # Kubernetes mounts Secrets readable by a group (fsGroup), so only everybody is too many.
    if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
        _unusable(
            str(path),
            f"'{path}' holds a private key that every user of this machine may reach; run "
            f"`chmod 600 '{path}'` (in a pod: mount its Secret with `defaultMode: 0440`).",
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        _unusable(
            str(path),
            f"'{path}' is encrypted, and nobody can be asked for its password here; give a key "
            "without one, such as `halftone keygen` makes.",
        )
    except Exception:  # what the parser says may quote what it read
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        _unusable(
            str(path),
            f"'{path}' holds no private key on the curve P-256, P-384 or P-521 in PEM; make one "
            "with `halftone keygen`.",
        )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return SigningKey(path, public_pem)


def read_public_key(path: Path) -> bytes:
    """The public key at `path` in its canonical PEM; RefusedInput(KeyUnusable) for another file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    data = _read(path, "public key")
    try:
        key = serialization.load_pem_public_key(data)
    except Exception:  # a private key given by mistake must not be quoted
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        _unusable(
            str(path),
            f"'{path}' holds no public key on the curve P-256, P-384 or P-521 in PEM; give the "
            f"`{_PUBLIC_SUFFIX}` file that `halftone keygen` wrote beside the private key.",
        )
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _read(path: Path, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        _unusable(
            str(path),
            f"The {kind} '{path}' cannot be read ({error.strerror}); correct the path or its "
            "permissions.",
        )
    if len(data) > _MAX_KEY_BYTES:
        _unusable(str(path), f"'{path}' is too large to be a {kind}; correct the path.")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """A whole file with `mode` under a name that was free; raises FileExistsError otherwise."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:
                raise PermissionError(0, "its file system keeps no permissions", str(path))
        os.link(temporary, path)  # unlike a rename, this never replaces a file
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def _exists(path: Path) -> NoReturn:
    _unusable(
        str(path),
        f"'{path}' exists, and a key is never overwritten: artifacts that it signed could no "
        "longer be verified. Choose another path.",
    )


def _unusable(subject: str, message: str) -> NoReturn:
    raise RefusedInput(Reason.KeyUnusable, subject, message) from None

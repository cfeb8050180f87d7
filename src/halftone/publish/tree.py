"""A tree of links that becomes an artifact: built whole under a temporary name, checked and signed.

Called by `halftone.publish.preparing`, which says what is in it. A file is linked where the file
system allows it and copied otherwise; every one is hashed where it lies in the tree.
"""

import errno
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, NoReturn

from halftone.checkpoint.digests import file_sha256
from halftone.publish.capacity_cards import is_capacity, signature_path
from halftone.publish.keys import SigningKey
from halftone.publish.signing import WHOLE_FILE, require_signature, sign
from halftone.spec.artifacts import SHORT_DIGEST
from halftone.spec.documents import WrittenFile, sha256_hex, sync_directory, write_atomically
from halftone.spec.errors import CheckFailed
from halftone.spec.names import CHECKPOINT_FILE, SIGNATURE_FILE, Reason

# What a link cannot do: another file system, one without links, or too many of them.
_NO_LINKS: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})
_HASHING_THREADS: Final = 4


class Content(NamedTuple):
    """One file of the tree: what it must be, and what it is made of (a file or bytes)."""

    written: WrittenFile
    origin: Path | bytes


def is_reusable(
    tree: Path,
    contents: Mapping[str, Content],
    cards: Mapping[str, bytes],
    key: SigningKey | None,
) -> bool:
    """Whether `tree` holds exactly what would be put there now, with signatures that verify."""
    if not tree.is_dir():
        return False
    sealed = {SIGNATURE_FILE, *map(signature_path, cards)} if key is not None else set()
    found = {p.relative_to(tree).as_posix() for p in tree.rglob("*") if not p.is_dir()}
    if found != contents.keys() | cards.keys() | sealed:
        return False
    try:
        _require_digests(tree, contents)
        for path, data in cards.items():
            if (tree / path).read_bytes() != data:
                return False
        if key is not None:
            for path, digests in _to_sign(contents, cards).items():
                require_signature(digests, (tree / path).read_bytes(), key.public_pem, path)
    except CheckFailed:
        return False
    return True


def build(
    tree: Path,
    contents: Mapping[str, Content],
    cards: Mapping[str, bytes],
    key: SigningKey | None,
) -> None:
    """Make the tree under a temporary name, check every file of it, sign it, and rename it."""
    partial = tree.with_name(f".{tree.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for path, content in contents.items():
            _put(partial / path, content.origin)
        for path, data in cards.items():
            _put(partial / path, data)
        _require_digests(partial, contents)
        if key is not None:
            for path, digests in _to_sign(contents, cards).items():
                sign(digests, _name(contents, path), key, partial / path)
        if tree.exists():
            shutil.rmtree(tree)
        partial.rename(tree)
        sync_directory(tree.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _to_sign(
    contents: Mapping[str, Content], cards: Mapping[str, bytes]
) -> dict[str, dict[str, str]]:
    """What each signature is over, by the signature's path."""
    over = {SIGNATURE_FILE: {path: c.written.sha256 for path, c in contents.items()}}
    for path, data in cards.items():
        over[signature_path(path)] = {WHOLE_FILE: sha256_hex(data)}
    return over


def _name(contents: Mapping[str, Content], signature: str) -> str:
    """What a signature calls the thing that it covers; for people."""
    if is_capacity(signature):
        return PurePosixPath(signature).stem
    return f"halftone-{contents[CHECKPOINT_FILE].written.sha256[:SHORT_DIGEST]}"


def _put(path: Path, origin: Path | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(origin, bytes):
        write_atomically(path, origin)
        return
    real = Path(os.path.realpath(origin, strict=True))
    try:
        os.link(real, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(real, path)


def _require_digests(tree: Path, contents: Mapping[str, Content]) -> None:
    """Raise CheckFailed(DigestDiffers) for the first file of `tree` that is not what it must be."""
    wanted = [content.written for content in contents.values()]
    for file in wanted:
        if (tree / file.path).stat().st_size != file.sizeBytes:
            refuse_changed(file.path, "its size")
    largest_first = sorted(wanted, key=lambda file: -file.sizeBytes)
    with ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="hash") as pool:
        found = list(pool.map(file_sha256, [tree / file.path for file in largest_first]))
    for file, sha256 in zip(largest_first, found, strict=True):
        if sha256 != file.sha256:
            refuse_changed(file.path, "its SHA-256")


def refuse_changed(path: str, what: str) -> NoReturn:
    """Raise CheckFailed(DigestDiffers) for a file that a document lists and that is another."""
    raise CheckFailed(
        Reason.DigestDiffers,
        path,
        f"'{path}' of the work directory is not the file that was written ({what} differs from "
        "what its document says), so nothing is published; run the stage that writes it again, in "
        "a new work directory if it is a file of the checkpoint.",
    )

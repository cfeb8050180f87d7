"""Make a directory the exact copy of an artifact's files, each proven by its digest.

Called by `halftone.stores.directory_target` for the directory that it then exchanges. A file is
read once: hashed while it is copied. Where the file system can share blocks between files (XFS,
Btrfs) nothing is copied at all; the digest is then taken from the new file.
"""

import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import IO, Final

from halftone.spec.documents import WrittenFile, sync_directory
from halftone.spec.publishing import Progress
from halftone.stores.recorded import MISSING, OTHER_DIGEST, differs

_CHUNK: Final = 4 * 2**20
_FICLONE: Final = 0x40049409  # from <linux/fs.h>


def stage_files(
    tree: Path, staged: Path, files: tuple[WrittenFile, ...], progress: Progress
) -> None:
    """Let `staged` hold `files` of `tree`, flushed to disk, and nothing else.

    Copies that an earlier run left are kept if their digest is right. Raises
    CheckFailed(DigestDiffers) for a file of `tree` that is not what `files` says, and OSError.
    """
    staged.mkdir(exist_ok=True)
    _remove_strays(staged, {file.path for file in files})
    for file in files:
        copy = staged / file.path
        if _is_there(copy, file):
            progress(file.sizeBytes)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        source = tree / file.path
        if not source.is_file():
            raise differs(file, MISSING)
        if _copy_hashed(source, copy, progress) != file.sha256:
            raise differs(file, OTHER_DIGEST)
    for folder, _, _ in os.walk(staged):
        sync_directory(Path(folder))


def _remove_strays(staged: Path, wanted: set[str]) -> None:
    """Take away what another publisher, or the end of an earlier run, left among the copies."""
    for path in sorted(staged.rglob("*"), reverse=True):  # what lies in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()) or path.relative_to(staged).as_posix() in wanted:
                shutil.rmtree(path)
        elif path.is_symlink() or path.relative_to(staged).as_posix() not in wanted:
            path.unlink()


def _is_there(copy: Path, file: WrittenFile) -> bool:
    if not copy.is_file() or copy.stat().st_size != file.sizeBytes:
        return False
    with copy.open("rb", buffering=0) as kept:
        os.fsync(kept.fileno())  # whoever wrote it may have been killed before
        return _hashed(kept, lambda _: None) == file.sha256


def _copy_hashed(source: Path, copy: Path, progress: Progress) -> str:
    """Copy, flush to disk, and return the SHA-256 of what was copied."""
    with source.open("rb", buffering=0) as read, copy.open("w+b") as written:
        if _cloned(read, written):
            digest = _hashed(written, progress)
        else:
            digest = _hashed(read, progress, written)
        written.flush()
        os.fsync(written.fileno())
    return digest


def _cloned(read: IO[bytes], written: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
    except OSError:  # another file system, or one that shares no blocks
        return False
    return True


def _hashed(file: IO[bytes], progress: Progress, written: IO[bytes] | None = None) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        if written is not None:
            written.write(chunk)
        progress(len(chunk))
    return digest.hexdigest()

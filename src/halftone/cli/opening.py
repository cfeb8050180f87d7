"""Open a source and read its headers: the first step of every verb."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.spec.files import FileSource
from halftone.spec.job import Source
from halftone.stores import open_source
from halftone.stores.credentials import GivenFor, given


@contextmanager
def opened(place: str | Source) -> Iterator[FileSource]:
    """The files at `place`, a URI or a job's `spec.source`; closed on the way out.

    A directory becomes absolute, so that a plan means the same source from wherever it is read.
    """
    source = _open_uri(place) if isinstance(place, str) else _open_member(place)
    try:
        yield source
    finally:
        source.close()


@contextmanager
def opened_checkpoint(place: str | Source) -> Iterator[Checkpoint]:
    """The checkpoint at `place` with every header read; closed on the way out."""
    with opened(place) as source:
        yield read_checkpoint(source)


def pinned(uri: str, revision: str | None) -> str:
    """The source `uri` as it can be opened again: on the Hub at `revision`, for a branch moves."""
    if uri.startswith("hf://") and revision is not None:
        return f"{uri.partition('@')[0]}@{revision}"
    return uri


def _open_uri(uri: str) -> FileSource:
    return open_source(uri if "://" in uri else Path(uri).absolute())


def _open_member(source: Source) -> FileSource:
    """Whichever of its members a validated source has."""
    if source.huggingFace is not None:
        hub, field = source.huggingFace, "source.huggingFace.tokenSecretRef"
        credentials = given(GivenFor.Source, hub.tokenSecretRef, field)
        return open_source(f"hf://{hub.repository}@{hub.revision}", credentials=credentials)
    if source.s3 is not None:
        s3, field = source.s3, "source.s3.credentialsSecretRef"
        credentials = given(GivenFor.Source, s3.credentialsSecretRef, field)
        return open_source(s3.uri, endpoint_url=s3.endpointUrl, credentials=credentials)
    if source.directory is not None:
        return open_source(Path(source.directory.path).absolute())
    raise AssertionError("a validated source has a member. This is a bug. Please report.")

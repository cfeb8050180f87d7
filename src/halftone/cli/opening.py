"""Open a source and read its headers: the first step of every verb."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.spec.job import DirectorySource, Source
from halftone.stores import open_source


@contextmanager
def opened_checkpoint(uri: str) -> Iterator[Checkpoint]:
    """The checkpoint at `uri` with every header read; closed on the way out.

    A directory becomes absolute, so that a plan means the same source from wherever it is read.
    """
    source = open_source(uri if "://" in uri else Path(uri).absolute())
    try:
        yield read_checkpoint(source)
    finally:
        source.close()


def source_uri(source: Source) -> str:
    """A job's `spec.source` as the URI that the command line would take."""
    match source:
        case Source(huggingFace=hub) if hub is not None:
            return f"hf://{hub.repository}@{hub.revision}"
        case Source(s3=bucket) if bucket is not None:
            return bucket.uri
        case Source(directory=DirectorySource(path=path)):
            return path
    raise AssertionError("a validated source has one member. This is a bug. Please report.")

"""From what the user wrote to a source: the scheme decides which store is opened.

Called by the command line and by every stage. Clients of remote stores are imported only when such
a source is asked for; a client that is not installed is named together with its extra.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import Reason
from halftone.stores.directory import DirectorySource

_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def open_source(uri: str | Path, *, endpoint_url: str | None = None) -> FileSource:
    """Open and pin a directory, `s3://bucket/prefix` or `hf://org/name[@revision]`.

        source = open_source("hf://Qwen/Qwen3.5-27B")
        source.revision  # the commit that it was pinned to

    `endpoint_url` is where an S3 server other than the environment's answers.

    The files are listed here, once. Raises RefusedInput for a source that is malformed, absent or
    closed to us, EnvironmentFault when the store does not answer or its client is not installed.
    """
    match = _SCHEME.match(str(uri)) if isinstance(uri, str) else None
    if match is None:
        return DirectorySource(Path(uri))
    if match[1] == "s3":
        with _extra("s3", "boto3"):
            from halftone.stores.s3 import S3Source
        return S3Source(str(uri), endpoint_url)
    if match[1] == "hf":
        with _extra("hub", "huggingface_hub"):
            from halftone.stores.hub import HubSource
        return HubSource(str(uri))
    raise RefusedInput(
        Reason.InvalidJob,
        str(uri),
        f"A source cannot begin with `{match[1]}://`; give a directory, `s3://bucket/prefix` or "
        "`hf://org/name@revision`.",
    )


@contextmanager
def _extra(extra: str, package: str) -> Iterator[None]:
    """Name the extra when `package` is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("halftone"):
            raise
        raise EnvironmentFault(
            Reason.MissingDependency,
            package,
            f"This source needs {package}, which is not installed; run "
            f"`pip install 'halftone[{extra}]'`.",
        ) from error

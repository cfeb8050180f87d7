"""From what the user wrote to a source or a target: the scheme decides which store is opened.

Called by the command line and by every stage. Clients of remote stores are imported only when such
a store is asked for; a client that is not installed is named together with its extra.
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from halftone.spec.errors import RefusedInput
from halftone.spec.extras import extra
from halftone.spec.files import FileSource
from halftone.spec.names import Reason
from halftone.spec.publishing import ArtifactTarget
from halftone.spec.targets import (
    DirectoryTarget,
    HuggingFaceTarget,
    Publish,
    S3Target,
)
from halftone.stores.credentials import Credential, GivenFor, given
from halftone.stores.directory import DirectorySource

_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def open_source(
    uri: str | Path, *, endpoint_url: str | None = None, credentials: Credential | None = None
) -> FileSource:
    """Open and pin a directory, `s3://bucket/prefix` or `hf://org/name[@revision]`.

        source = open_source("hf://Qwen/Qwen3.5-27B")
        source.revision  # the commit that it was pinned to

    `endpoint_url` is where an S3 server other than the environment's answers, `credentials` what
    a pod was given for it; without them the environment's own are used. Where an artifact
    was published under `s3://bucket/prefix`, the source is the folder that its `artifact.json`
    names, pinned like any other.

    The files are listed here, once. Raises RefusedInput for a source that is malformed, absent or
    closed to us, EnvironmentFault when the store does not answer or its client is not installed.
    """
    match = _SCHEME.match(str(uri)) if isinstance(uri, str) else None
    if match is None:
        return DirectorySource(Path(uri))
    if match[1] == "s3":
        with extra("s3", "This source"):
            from halftone.stores.s3 import S3Source
        return S3Source(str(uri), endpoint_url, credentials=credentials)
    if match[1] == "hf":
        with extra("hub", "This source"):
            from halftone.stores.hub import HubSource
        return HubSource(str(uri), credentials=credentials)
    raise RefusedInput(
        Reason.InvalidJob,
        str(uri),
        f"A source cannot begin with `{match[1]}://`; give a directory, `s3://bucket/prefix` or "
        "`hf://org/name@revision`.",
    )


def open_target(publish: Publish, *, dead_after: timedelta | None = None) -> ArtifactTarget:
    """The one target that `publish` names, with the credentials that this process was given for it.

    Nothing is asked of it yet. `dead_after` is how long a bucket's unfinished uploads are left to
    whoever began them, by default a day. Raises RefusedInput for an address, endpoint or credential
    that is none, EnvironmentFault when the store's client is not installed.
    """
    if publish.s3 is not None:
        with extra("s3", "This target"):
            from halftone.stores.s3_target import S3ArtifactTarget
        ref = publish.s3.credentialsSecretRef
        credentials = given(GivenFor.Publish, ref, "publish.s3.credentialsSecretRef")
        patience = {} if dead_after is None else {"dead_after": dead_after}
        return S3ArtifactTarget(
            publish.s3.uri, publish.s3.endpointUrl, credentials=credentials, **patience
        )
    if publish.huggingFace is not None:
        with extra("hub", "This target"):
            from halftone.stores.hub_target import HubArtifactTarget
        hub = publish.huggingFace
        field = "publish.huggingFace.tokenSecretRef"
        credentials = given(GivenFor.Publish, hub.tokenSecretRef, field)
        return HubArtifactTarget(
            hub.repository, hub.visibility, hub.transfer, credentials=credentials
        )
    from halftone.stores.directory_target import DirectoryArtifactTarget

    assert publish.directory is not None
    return DirectoryArtifactTarget(Path(publish.directory.path))


def open_target_uri(uri: str) -> ArtifactTarget:
    """The target at `s3://bucket/prefix`, `hf://org/name` or a path, as `halftone gc` gets it.

    S3's endpoint comes from the environment. Raises as `open_target` does.
    """
    match = _SCHEME.match(uri)
    if match is None:
        return open_target(Publish(directory=DirectoryTarget(path=uri)))
    try:
        if match[1] == "s3":
            return open_target(Publish(s3=S3Target(uri=uri)))
        if match[1] == "hf":
            repository = uri.removeprefix("hf://")
            return open_target(Publish(huggingFace=HuggingFaceTarget(repository=repository)))
    except ValidationError:
        pass  # told below, in words of the command line
    raise RefusedInput(
        Reason.InvalidJob,
        ascii(uri),
        f"{uri!r} is no place to publish to; give a directory, `s3://bucket/prefix` or "
        "`hf://org/name`.",
    )

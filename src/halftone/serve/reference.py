"""Which artifact an endpoint names: directly, or in the file of whoever waited for its job.

Called by replicas, and by `halftone serve` before Ray starts, so it must not import ray.
"""

from pathlib import Path

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import ArtifactReference, Endpoint


def reference_of(endpoint: Endpoint) -> ArtifactReference:
    """The one that is named, or that whoever waited for a job wrote down.

    Raises RefusedInput(InvalidEndpoint) for an `artifactFile` that holds none.
    """
    if endpoint.artifact is not None:
        return endpoint.artifact
    assert endpoint.artifactFile is not None, "the schema wants one of both"
    path = Path(endpoint.artifactFile)
    try:
        return ArtifactReference.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            "artifactFile",
            f"`artifactFile` names '{path}', which holds no reference to an artifact; whatever "
            "waits for the job must have written it.",
        ) from error

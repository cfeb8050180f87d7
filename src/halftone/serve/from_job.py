"""Waits in a pod until a QuantizationJob has published, and writes down where its artifact lies.

    python -m halftone.serve.from_job --job NAME --namespace NAMESPACE --output FILE

Called by the init containers that the chart `halftone-endpoint` renders for `artifact.fromJob`. The
file is an `ArtifactReference` as JSON, which `Endpoint.artifactFile` names. The service account
needs `get` on that one job and nothing else. It waits for as long as it takes: an API server that
is away, a job that is not there yet and rights that come a moment later are told once a minute and
asked again. It must not read the artifact: whoever serves it verifies it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pydantic import ValidationError

from halftone.scaling.acting.api_server import ACCOUNT, HOST, ApiError, ApiServer, in_cluster
from halftone.spec.cluster import GROUP, PLURAL, VERSION, Condition
from halftone.spec.errors import CheckFailed, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import ArtifactReference
from halftone.spec.status import ConditionStatus

_NOT_FOUND: Final = 404
_SECONDS: Final = 5.0
_TOLD_EVERY: Final = 60.0

Object = Mapping[str, Any]


class NotYet(Exception):
    """The job has no artifact yet; the message says what is waited for."""


def reference(job: Object, claim_place: str | None) -> ArtifactReference:
    """Where the artifact of a finished job lies.

    `claim_place` is where the claim that the job published into is mounted in pods that serve.
    Raises NotYet while there is something left to do, CheckFailed with the job's own sentence when
    it has failed, RefusedInput when it succeeded without an artifact that can be served from here.
    """
    name = job["metadata"]["name"]
    rows = job.get("status", {}).get("conditions", ())
    summary = next((row for row in rows if row["type"] == Condition.Succeeded), None)
    if summary is None:
        raise NotYet(f"the QuantizationJob '{name}' is there, and nobody has looked at it yet")
    said = f"{summary['reason']}: {summary['message']}"
    if summary["status"] == ConditionStatus.FALSE:
        raise CheckFailed(
            Reason.RequirementNotMet, name, f"The QuantizationJob '{name}' has failed. {said}"
        )
    if summary["status"] != ConditionStatus.TRUE:
        raise NotYet(f"the QuantizationJob '{name}' is at work ({said})")
    artifact = job["status"].get("artifact")
    if artifact is None:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            "artifact.fromJob",
            f"The QuantizationJob '{name}' succeeded without publishing anything; give it a "
            "`spec.publish`, or set `artifact.uri` in place of `artifact.fromJob`.",
        )
    s3 = job["spec"].get("publish", {}).get("s3") or {}
    found = {
        "uri": _place(name, str(artifact["uri"]), claim_place),
        "revision": artifact.get("revision"),
        "digest": artifact["digest"],
        "endpointUrl": s3.get("endpointUrl"),
    }
    return ArtifactReference.model_validate(found)


def _place(job: str, uri: str, claim_place: str | None) -> str:
    """The artifact's address here: what is no URI is a path in the claim of the job."""
    if "://" in uri:
        return uri
    if claim_place is None:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            "artifact.claimName",
            f"The QuantizationJob '{job}' published into a claim, at '{uri}'; set "
            "`artifact.claimName` to that claim.",
        )
    return str(PurePosixPath(claim_place, uri.lstrip("/")))


def wait(
    found: Callable[[], Object],
    claim_place: str | None,
    tell: Callable[[str], None],
    *,
    seconds: float = _SECONDS,
    told_every: float = _TOLD_EVERY,
) -> ArtifactReference:
    """Look until the job has an artifact, `seconds` apart; tell what is waited for, when that is
    something new and once in `told_every` seconds. Raises as `reference` does.
    """
    last, told_at = "", 0.0
    while True:
        try:
            return reference(found(), claim_place)
        except NotYet as error:
            now = time.monotonic()
            if str(error) != last or now - told_at >= told_every:
                tell(f"Waiting: {error}.")
                last, told_at = str(error), now
        time.sleep(seconds)


def ask(api: ApiServer, namespace: str, name: str) -> Object:
    """The QuantizationJob. Raises NotYet for whatever may be otherwise in a moment."""
    try:
        return api.get(f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}")
    except ApiError as error:
        if error.code != _NOT_FOUND:
            raise NotYet(
                f"the API server does not give the QuantizationJob '{name}' ({error})"
            ) from error
        raise NotYet(
            f"there is no QuantizationJob '{name}' in the namespace '{namespace}'; if it was "
            "there and is deleted, set `artifact.uri` and `artifact.digest` to what it "
            "published"
        ) from error


def write(path: Path, found: ArtifactReference) -> None:
    """Write the reference; whoever looks meanwhile sees nothing or all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = found.model_dump_json(exclude_none=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    # The pod's other containers may run as somebody else.
    Path(file.name).chmod(0o444)
    Path(file.name).rename(path)


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(prog="halftone.serve.from_job", description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--claim-place", default=None)
    parser.add_argument("--account", default=ACCOUNT, type=Path)
    parser.add_argument("--every", default=_SECONDS, type=float, help="seconds")
    given = parser.parse_args(arguments)
    try:
        _require_pod()
        api = ApiServer(lambda: in_cluster(given.account))
        found = wait(
            lambda: ask(api, given.namespace, given.job),
            given.claim_place,
            _tell,
            seconds=given.every,
        )
        write(given.output, found)
    except HalftoneError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    except ValidationError as error:
        sys.stderr.write(f"The artifact of '{given.job}' cannot be served: {error}\n")
        return RefusedInput.exit_code
    _tell(f"The QuantizationJob '{given.job}' published {found.uri}, digest {found.digest}.")
    return 0


def _require_pod() -> None:
    if HOST not in os.environ:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            HOST,
            f"`{HOST}` is not set; this runs in a pod of a cluster.",
        )


def _tell(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

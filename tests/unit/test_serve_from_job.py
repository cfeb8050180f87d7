"""Where a QuantizationJob published, as a pod that waits for it reads it.

We test these aspects:
- a job at work, or one that nobody has looked at, is waited for, and it is told what for;
- a job that succeeded gives an `ArtifactReference`, of a bucket, the Hub or a claim;
- one that failed, published nothing, or into a claim that is not mounted ends the waiting with a
  sentence;
- the same thing is told again only after a minute;
- an API server that is away, says no or is none, a job that is not there yet: waited for; a process
  outside of a cluster: refused;
- the file appears whole, for every user of the pod, and the endpoint that names it reads it.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from halftone.scaling.acting.api_server import ApiServer, Connection, in_cluster
from halftone.serve.from_job import NotYet, ask, main, reference, wait, write
from halftone.serve.reference import reference_of
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.serving import ArtifactReference, Endpoint, Signatures, Trust, WeightsCache
from tests.doubles.exporters import AnsweringServer
from tests.servers.ports import free_port

DIGEST = "d" * 64
ARTIFACT = {"uri": "s3://models/out", "digest": DIGEST, "sizeBytes": 5}
S3 = {"publish": {"s3": {"uri": "s3://models/out", "endpointUrl": "https://s3.test"}}}


def job(status: str | None, artifact: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A job whose summary has a status, as the API server gives it."""
    row = {"type": "Succeeded", "status": status, "reason": "Because", "message": "It is so."}
    rows = [{"type": "Accepted", "status": "True"}, *([row] if status else [])]
    found: dict[str, Any] = {"conditions": rows}
    if artifact is not None:
        found["artifact"] = artifact
    return {"metadata": {"name": "small"}, "spec": spec, "status": found}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"metadata": {"name": "small"}, "spec": {}}, "is there, and nobody has looked at it yet"),
        (job(None), "is there, and nobody has looked at it yet"),
        (job("Unknown"), r"the QuantizationJob 'small' is at work \(Because: It is so\.\)"),
    ],
)
def test_a_job_at_work_is_waited_for(found: dict[str, Any], told: str) -> None:
    with pytest.raises(NotYet, match=told):
        reference(found, None)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (
            job("True", ARTIFACT, **S3),
            ArtifactReference(
                uri="s3://models/out", digest=DIGEST, endpointUrl="https://s3.test"
            ),
        ),
        (
            job("True", ARTIFACT | {"uri": "hf://org/name", "revision": "abc"}),
            ArtifactReference(uri="hf://org/name", digest=DIGEST, revision="abc"),
        ),
        (
            job("True", ARTIFACT | {"uri": "/out/small"}),
            ArtifactReference(uri="/claim/out/small", digest=DIGEST),
        ),
        (
            job("True", ARTIFACT | {"uri": "out/small"}),
            ArtifactReference(uri="/claim/out/small", digest=DIGEST),
        ),
    ],
)  # fmt: skip
def test_a_job_that_succeeded_says_where_it_published(
    found: dict[str, Any], wanted: ArtifactReference
) -> None:
    assert reference(found, "/claim") == wanted


def test_a_job_that_failed_ends_it_with_its_own_sentence() -> None:
    with pytest.raises(CheckFailed) as error:
        reference(job("False"), None)
    assert error.value.message == "The QuantizationJob 'small' has failed. Because: It is so."


def test_a_job_without_an_artifact_that_can_be_served_is_refused() -> None:
    with pytest.raises(RefusedInput, match=r"give it a `spec\.publish`, or set `artifact\.uri`"):
        reference(job("True"), None)
    with pytest.raises(RefusedInput, match=r"at 'out'; set `artifact\.claimName` to that claim"):
        reference(job("True", ARTIFACT | {"uri": "out"}), None)


def test_what_is_waited_for_is_told_when_it_is_another_and_from_time_to_time() -> None:
    told: list[str] = []
    answers: Iterator[Any] = iter([job(None), job(None), job("Unknown"), job("True", ARTIFACT)])
    found = wait(lambda: next(answers), None, told.append, seconds=0)
    assert found.digest == DIGEST
    assert [sentence.split()[-1] for sentence in told] == ["yet.", "so.)."]
    answers = itertools.chain([job(None)] * 3, [job("True", ARTIFACT)])
    wait(lambda: next(answers), None, told.append, seconds=0, told_every=0)
    assert len(told) == 2 + 3


def test_an_api_server_that_is_away_is_waited_for() -> None:
    with pytest.raises(NotYet, match=r"does not give the .*The API server gives no answer"):
        asked(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, b"{}", "there is no QuantizationJob 'small' in the namespace 'jobs'; if it was"),
        (
            403,
            b'{"message": "forbidden: no right"}',
            r"does not give the QuantizationJob 'small' \(403: forbidden: no right\)",
        ),
        (200, b"<html>a page of somebody", "does not give the .*gives no answer"),
    ],
)
def test_what_may_be_otherwise_in_a_moment_is_waited_for(
    status: int, body: bytes, told: str
) -> None:
    server = AnsweringServer(lambda _: (status, body))
    server.start()
    try:
        with pytest.raises(NotYet, match=told):
            asked(server.origin)
    finally:
        server.stop()


def asked(url: str) -> Any:
    """The job 'small' of the namespace 'jobs', from a server at `url`."""
    with closing(ApiServer(lambda: Connection(url, True, "a-token"))) as api:
        return ask(api, "jobs", "small")


def test_an_account_whose_files_are_not_there_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    with pytest.raises(NotYet, match="No such file"):
        ask(ApiServer(lambda: in_cluster(tmp_path)), "jobs", "small")


def test_outside_of_a_cluster_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    output = tmp_path / "artifact.json"
    assert main(["--job", "small", "--namespace", "jobs", "--output", str(output)]) == 2
    assert "this runs in a pod of a cluster" in capsys.readouterr().err
    assert not output.exists()


def test_the_file_is_read_by_every_user_and_is_what_was_found(tmp_path: Path) -> None:
    found = ArtifactReference(uri="s3://models/out", digest=DIGEST)
    path = tmp_path / "below" / "artifact.json"
    for _ in range(2):
        write(path, found)
    assert ArtifactReference.model_validate_json(path.read_text()) == found
    assert json.loads(path.read_text()) == {"uri": "s3://models/out", "digest": DIGEST}
    assert path.stat().st_mode & 0o777 == 0o444
    assert list(path.parent.iterdir()) == [path]


def test_what_was_written_down_is_what_the_endpoint_names(tmp_path: Path) -> None:
    path = tmp_path / "artifact.json"
    endpoint = Endpoint(
        servedModelName="small",
        artifactFile=str(path),
        trust=Trust(signature=Signatures.NotRequired),
        cache=WeightsCache(directory="/cache"),
        engineArguments={},
    )
    with pytest.raises(RefusedInput, match="which holds no reference to an artifact"):
        reference_of(endpoint)
    found = ArtifactReference(uri="s3://models/out", digest=DIGEST)
    write(path, found)
    assert reference_of(endpoint) == found
    named = endpoint.model_copy(update={"artifact": found, "artifactFile": None})
    assert reference_of(named) == found

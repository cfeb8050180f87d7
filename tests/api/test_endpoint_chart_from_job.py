"""`artifact.fromJob` on a real API server: what the init container runs, with its account's token.

We test these aspects:
- it waits for a job that is not there, then for one that runs, and writes what was published;
- it ends with the job's own sentence when the job has failed;
- its account may read that one job: another is told as refused, and nothing is written;
- the job's other namespace works as its own does.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest
import yaml

from halftone.spec.serving import ArtifactReference
from tests.api.crd_objects import WHOLE
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.endpoint_chart import ray_service, render, templates
from tests.conftest import ROOT

Object = dict[str, Any]
FROM_JOB = ("--set", "artifact.uri=,artifact.digest=,artifact.fromJob=small")


class Waiting:
    """The init container of a pod, as a process of this machine."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self.output = output

    def says(self, pattern: str) -> None:
        """Return once it says so; raise with its error if it ends before."""
        for line in _lines(self.process.stdout):
            if re.search(pattern, line):
                return
        _, error = self.process.communicate()
        raise AssertionError(f"it ended before it said {pattern!r}: {error}")


def _lines(stream: IO[str] | None) -> Iterator[str]:
    assert stream is not None
    yield from iter(stream.readline, "")


@contextmanager
def waiting(
    cluster: ControlPlane, namespace: str, folder: Path, *options: str, job: str | None = None
) -> Iterator[Waiting]:
    """Apply the chart's accounts and rights, and run what a replica's pod runs first.

    `job` is another one than the chart's.
    """
    objects = render(namespace, *FROM_JOB, *options)
    rights = [
        one for one in objects if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")
    ]  # fmt: skip
    cluster.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(rights))
    (container,) = templates(ray_service(objects))["replica"]["spec"]["initContainers"]
    account = folder / "account"
    account.mkdir()
    token = cluster.kubectl("create", "token", "small-replica", "-n", namespace)
    (account / "token").write_text(token)
    (account / "ca.crt").write_bytes((cluster.authority.folder / "ca.crt").read_bytes())
    output = folder / "artifact.json"
    arguments = [
        {"--output": f"--output={output}", "--job": f"--job={job}" if job else one}.get(
            one.partition("=")[0], one
        )
        for one in container["args"]
    ]
    server = urlsplit(cluster.url)
    around = {"KUBERNETES_SERVICE_HOST": server.hostname, "KUBERNETES_SERVICE_PORT": server.port}
    process = subprocess.Popen(
        [
            sys.executable,
            *container["command"][1:],
            *arguments,
            "--every=0.1",
            f"--account={account}",
        ],
        env=os.environ | {name: str(value) for name, value in around.items()},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Waiting(process, output)
    finally:
        process.kill()
        process.communicate()


def observed(status: str, **changes: Any) -> Object:
    """The status of a job whose summary is so."""
    found: Object = deepcopy(WHOLE["observed"]["status"])
    row = {"type": "Succeeded", "status": status, "reason": "Because", "message": "It is so."}
    found["conditions"].append(found["conditions"][0] | row)
    return found | changes


def submit(client: Client, namespace: str) -> str:
    """Make the job; returns its path."""
    job = deepcopy(WHOLE["observed"])
    job.pop("status")
    client.create(jobs_path(namespace), job)
    return f"{jobs_path(namespace)}/small"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["its namespace", "another"])
def test_it_waits_for_the_job_and_writes_what_was_published(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path, elsewhere: bool
) -> None:
    place = client.namespace(f"{namespace}-jobs") if elsewhere else namespace
    there = ("--set", f"artifact.fromJobNamespace={place}") if elsewhere else ()
    with waiting(cluster, namespace, tmp_path, *there) as here:
        here.says(f"there is no QuantizationJob 'small' in the namespace '{place}'")
        path = submit(client, place)
        here.says("nobody has looked at it yet")
        running = observed("Unknown")
        running.pop("artifact")
        client.patch(f"{path}/status", {"status": running})
        here.says(r"is at work \(Because: It is so\.\)")
        assert not here.output.exists()
        client.patch(f"{path}/status", {"status": observed("True")})
        here.says("published s3://models/prefix, digest dddd")
        assert here.process.wait(timeout=60) == 0
        found = ArtifactReference.model_validate_json(here.output.read_text())
    assert found == ArtifactReference(
        uri="s3://models/prefix",
        revision="v1",
        digest="d" * 64,
        endpointUrl="https://storage.example:9000",
    )


def test_it_ends_with_the_sentence_of_a_job_that_failed(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    path = submit(client, namespace)
    client.patch(f"{path}/status", {"status": observed("False")})
    with waiting(cluster, namespace, tmp_path) as here:
        _, error = here.process.communicate(timeout=60)
        assert here.process.returncode == 1
        assert error == "The QuantizationJob 'small' has failed. Because: It is so.\n"
        assert not here.output.exists()


def test_its_account_may_read_no_other_job(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    path = submit(client, namespace)
    client.patch(f"{path}/status", {"status": observed("True")})
    with waiting(cluster, namespace, tmp_path, job="other") as here:
        here.says(r"does not give the QuantizationJob 'other' \(403: .* is forbidden")
        assert not here.output.exists()

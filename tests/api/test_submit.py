"""`halftone submit` against a real API server.

We test these aspects:
- what is applied is the file; applied again it is unchanged; a changed field is changed;
- `--dry-run` says what would happen and leaves nothing;
- refusals are the server's sentences: an immutable field, a policy, a namespace that is not there,
  a field that somebody else set, rights that are missing (verb and account are named);
- claims are looked at before: one that is not there is a warning, one that one node alone can
  mount is refused for several workers; who may not read claims may submit;
- two different namespaces are refused, as by kubectl;
- every example for a cluster is taken as it is.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.answers import TARGET_URI, job
from tests.cluster.chart import render
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.verbs import verb, write_job
from tools import examples

MAY_SUBMIT = ("get", "create", "patch")
EXAMPLES = [path for path in examples.jobs() if path.name[:2] not in examples.HERE]


def test_what_is_applied_is_the_file(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    wanted = job("small", namespace)
    file = write_job(tmp_path / "job.yaml", wanted)
    dry = verb(cluster, "submit", file, "--dry-run")
    assert (dry.code, client.items(jobs_path(namespace))) == (0, [])
    assert f"quantizationjob {namespace}/small would be created; nothing was changed" in dry.out
    assert f"plan, target, [calibrate], quantize, validate, publish; published to {TARGET_URI}" in (
        dry.out
    )
    first = verb(cluster, "submit", file)
    assert (first.code, first.err) == (0, "")
    assert f"quantizationjob {namespace}/small created" in first.out
    assert f"halftone watch small -n {namespace} --kubeconfig {cluster.kubeconfig}" in first.out
    made = client.job(namespace, "small")["spec"]
    defaults = {"parallelism": 1, "suspend": False, "runner": "Jobs"}
    assert made == {**defaults, **wanted["spec"]}
    assert "is there already, unchanged" in verb(cluster, "submit", file).out
    changed = write_job(tmp_path / "changed.yaml", job("small", namespace, parallelism=2))
    assert "would be changed" in verb(cluster, "submit", changed, "--dry-run").out
    assert f"{namespace}/small changed" in verb(cluster, "submit", changed).out
    assert client.job(namespace, "small")["spec"]["parallelism"] == 2


def test_the_server_says_what_it_refuses(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    file = write_job(tmp_path / "job.yaml", job("small", namespace))
    assert verb(cluster, "submit", file).code == 0
    other = {"s3": {"uri": "s3://models/other"}}
    moved = write_job(tmp_path / "moved.yaml", job("small", namespace, publish=other))
    found = verb(cluster, "submit", moved)
    assert found.code == 2
    assert "`publish` may not change after creation; create a new QuantizationJob" in found.err
    client.patch(f"{jobs_path(namespace)}/small", {"spec": {"parallelism": 3}})
    taken = write_job(tmp_path / "taken.yaml", job("small", namespace, parallelism=2))
    found = verb(cluster, "submit", taken)
    assert (found.code, ".spec.parallelism" in found.err) == (2, True)
    assert "kubectl apply --server-side --force-conflicts" in found.err
    nowhere = write_job(tmp_path / "nowhere.yaml", job("small", "not-there"))
    found = verb(cluster, "submit", nowhere)
    assert (found.code, found.err) == (2, 'halftone: namespaces "not-there" not found.\n')
    found = verb(cluster, "submit", taken, "-n", "elsewhere")
    assert found.code == 2
    assert f"`metadata.namespace` is '{namespace}', and `--namespace` is 'elsewhere'" in found.err


def test_a_policy_is_heard_before_anything_is_made(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    objects = render(namespace, "--set", "policy.enabled=true", "--set", "crds.enabled=false")
    wanted = [one for one in objects if one["kind"].startswith("ValidatingAdmissionPolicy")]
    assert len(wanted) == 2
    cluster.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(wanted))
    source = {"s3": {"uri": "s3://models/source", "endpointUrl": "http://elsewhere:9000"}}
    file = write_job(tmp_path / "job.yaml", job("small", namespace, source=source))

    def refused() -> bool:  # a policy holds soon after it was made, not at once
        found = verb(cluster, "submit", file, "--dry-run")
        return found.code == 2 and "denied request: `endpointUrl` must" in found.err

    client.wait("the policy", refused)
    assert client.items(jobs_path(namespace)) == []


def test_missing_rights_are_named(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    file = write_job(tmp_path / "job.yaml", job("small", namespace))
    nobody = _account(cluster, namespace, tmp_path, "nobody", ())
    found = verb(nobody, "submit", file)
    account = f"system:serviceaccount:{namespace}:nobody"
    assert found.code == 2
    assert f'User "{account}" cannot get resource "quantizationjobs"' in found.err
    reader = _account(cluster, namespace, tmp_path, "reader", ("get",))
    found = verb(reader, "submit", file)
    assert (found.code, 'cannot patch resource "quantizationjobs"' in found.err) == (2, True)
    # The claim that is named cannot be read with these rights, so it is left to the operator.
    claim = job("small", namespace, workVolume={"claimName": "not-there"})
    writer = _account(cluster, namespace, tmp_path, "writer", MAY_SUBMIT)
    found = verb(writer, "submit", write_job(file, claim))
    assert (found.code, found.err) == (0, "")


def test_claims_are_looked_at_before(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    work: dict[str, Any] = {"workVolume": {"claimName": "work"}, "parallelism": 2}
    file = write_job(tmp_path / "job.yaml", job("small", namespace, **work))
    missing = verb(cluster, "submit", file, "--dry-run")
    assert missing.code == 0
    assert missing.err.startswith("halftone: warning: the job will wait: The claim 'work'")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "work"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    client.create(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", claim)
    alone = verb(cluster, "submit", file)
    assert (alone.code, client.items(jobs_path(namespace))) == (2, [])
    assert "can be mounted by one node only (ReadWriteOnce)" in alone.err


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_for_a_cluster_is_taken(
    cluster: ControlPlane, client: Client, namespace: str, example: Path
) -> None:
    found = verb(cluster, "submit", example, "-n", namespace)
    assert found.code == 0
    # Of what is not there in an empty namespace, claims are told of.
    assert all("the job will wait: The claim" in line for line in found.err.splitlines())
    document = yaml.safe_load(example.read_text())
    wanted, made = document["spec"], client.job(namespace, document["metadata"]["name"])["spec"]
    assert {name: made[name] for name in wanted} == wanted


def _account(
    cluster: ControlPlane, namespace: str, folder: Path, name: str, verbs: tuple[str, ...]
) -> Path:
    """A kubeconfig of a service account that may do this to QuantizationJobs."""
    cluster.kubectl("create", "serviceaccount", name, "-n", namespace)
    if verbs:
        rules = [f"--verb={','.join(verbs)}", "--resource=quantizationjobs.halftone.dev"]
        cluster.kubectl("create", "role", name, "-n", namespace, *rules)
        whom = f"--serviceaccount={namespace}:{name}"
        cluster.kubectl("create", "rolebinding", name, "-n", namespace, f"--role={name}", whom)
    return cluster.write_token_kubeconfig(folder / f"{name}.kubeconfig", namespace, name)

"""What Kubeflow keeps, and what its pods and servers say, holds no value of a job's Secrets.

Kubeflow stores much: specifications of runs in MariaDB, facts about tasks in ML Metadata, pages in
its object store, workflows in the API server. This runs after the other files of the folder, whose
runs it searches. Each place has to show a name or an id of one of them: else nothing was searched.
"""

from collections.abc import Iterator

from tests.e2e.judging import values_of
from tests.kubeflow.back_end import BackEnd
from tests.kubeflow.test_pipeline import NAME, SECRETS
from tests.node.jobs import BUCKET, SOURCE_PREFIX

_KINDS = "pods,workflows,configmaps,events"


def _stored(up: BackEnd) -> Iterator[tuple[str, bytes]]:
    """What lies in Kubeflow's databases and object store, in our work areas and artifacts."""
    folder = up.kubeflow.metadata.parent
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            where = path.relative_to(folder).as_posix()
            yield where, where.encode() + path.read_bytes()
    for key in up.s3.keys(BUCKET):
        if not key.startswith(f"{SOURCE_PREFIX}/"):
            body = up.s3.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            yield f"s3/{key}", key.encode() + body


def _said(up: BackEnd) -> Iterator[tuple[str, bytes]]:
    """Logs of pods and servers, and objects that are no Secrets."""
    for path in sorted((up.cluster.folder / "logs").glob("*.log")):
        yield f"log/{path.name}", path.read_bytes()
    for pod in up.cluster.get("pods", "-n", up.namespace)["items"]:
        name = pod["metadata"]["name"]
        logs = up.cluster.kubectl("logs", "-n", up.namespace, name, "--all-containers")
        yield f"pods/{name}", logs.encode()
    objects = up.cluster.kubectl("get", _KINDS, "-n", up.namespace, "-o", "json")
    yield "API", objects.encode()


def test_no_value_of_a_secret_is_stored_or_said(up: BackEnd) -> None:
    secrets = up.cluster.get("secrets", "-n", up.namespace)["items"]
    ours = set().union(*SECRETS.values())
    planted = values_of(one for one in secrets if one["metadata"]["name"] in ours)
    assert up.s3.secret_key in planted
    runs = up.cluster.get("workflows", "-n", up.namespace)["items"]
    marks = {NAME, *(run["metadata"]["name"] for run in runs)}
    marks |= {run["metadata"]["labels"]["pipeline/runid"] for run in runs}
    searched: set[str] = set()
    found = []
    for place, data in (*_stored(up), *_said(up)):
        if any(mark.encode() in data for mark in marks):
            searched.add(place.partition("/")[0])
        found += [place for value in planted if value.encode() in data]
    stored = {"database", "metadata.sqlite", "objects", "s3"}
    assert searched == stored | {"log", "pods", "API"}
    assert found == []

"""The chart taken away and put back.

We test these aspects:
- uninstalling ends the operator, says that it keeps the CRD, and keeps it with every job;
- installing again takes them over as they are.
"""

from tests.cluster.client import jobs_path
from tests.node.conftest import Up
from tests.node.jobs import job

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/quantizationjobs.halftone.dev"


def test_uninstalling_keeps_the_crd_and_the_jobs(up: Up) -> None:
    up.client.create(jobs_path(up.namespace), job(up.s3, "kept", suspend=True))
    up.client.wait_for(up.namespace, "kept", "Succeeded", "Unknown")
    said = up.helm("uninstall", "halftone", "--wait")
    assert "quantizationjobs.halftone.dev" in said
    deployment = f"/apis/apps/v1/namespaces/{up.namespace}/deployments/halftone"
    assert up.client.find(deployment) is None
    assert up.client.find(CRD) is not None
    before = up.client.job(up.namespace, "kept")
    assert before["status"]["conditions"]
    up.helm.install()
    path = f"{jobs_path(up.namespace)}/kept"
    assert up.client.get(path)["metadata"]["uid"] == before["metadata"]["uid"]
    up.client.delete(path)
    up.client.wait("the operator lets it go", lambda: up.client.find(path) is None)

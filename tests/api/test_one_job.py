"""A whole life of a job on a real API server, with pods answered by the stand-in.

We test these aspects:
- a data-free job with two workers goes through all its conditions to `Succeeded`.
"""

from pathlib import Path

from tests.api.conftest import Start
from tests.cluster.answers import TARGET_URI, all_well, job
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn


def test_a_job_goes_all_the_way(
    cluster: ControlPlane, client: Client, namespace: str, operator: Start, tmp_path: Path
) -> None:
    with operator(), KubeletStandIn(cluster, all_well, namespace=namespace):
        client.create(jobs_path(namespace), job("small", namespace))
        done = client.wait_for(namespace, "small", "Succeeded", "True")
    told = [(row["type"], row["status"]) for row in done["status"]["conditions"]]
    order = ("Accepted", "Quantized", "Validated", "Published", "Succeeded")
    assert told == [(name, "True") for name in order]
    assert done["status"]["artifact"]["uri"] == TARGET_URI

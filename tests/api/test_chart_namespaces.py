"""The operator with the rights that the chart gives it for several namespaces, and for all.

We test these aspects:
- jobs in every watched namespace go all the way, with the stages' own accounts or the default one;
- a job in another namespace is left alone.
"""

import pytest

from tests.api.conftest import Start
from tests.cluster.answers import all_well, job
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn


@pytest.mark.parametrize("everywhere", [False, True])
def test_jobs_of_other_namespaces_are_carried_out(
    cluster: ControlPlane, client: Client, namespace: str, operator: Start, everywhere: bool
) -> None:
    places = [client.namespace(f"{namespace}-{letter}") for letter in "ab"]
    watched = f"watchNamespaces={{{','.join(places)}}}"
    options = (
        ("--set-json", "watchNamespaces=[]", "--set", "serviceAccounts.create=false")
        if everywhere
        else ("--set", watched)
    )
    with operator(options=options), KubeletStandIn(cluster, all_well):
        client.create(jobs_path(namespace), job("mine", namespace))
        for place in places:
            client.create(jobs_path(place), job("mine", place))
        for place in places:
            client.wait_for(place, "mine", "Succeeded", "True")
        if everywhere:
            client.wait_for(namespace, "mine", "Succeeded", "True")
        else:
            assert "status" not in client.job(namespace, "mine")

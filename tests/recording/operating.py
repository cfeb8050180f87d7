"""The page of an operator that has carried out jobs, in a real API server.

Called by the recorder. Pods end as kubelets and Argo would end them: one job succeeds, one fails
while it is measured, one cannot publish, one runs in Kubeflow Pipelines (a double of it answers),
and one is still being measured; another one succeeds after each moment.
"""

from pathlib import Path
from typing import Final

from halftone.spec.cluster import ChildStage
from tests.api.kubeflow_world import kubeflow_world
from tests.api.world import ends, refused, stops
from tests.cluster.chart import install_crd
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer
from tests.recording.moments import taken

ABOUT: Final = {
    "operator": "The operator, which carries out jobs in a real API server; stand-ins for kubelets "
    "and for Kubeflow Pipelines say how stages end."
}

_GATE: Final = {"name": "weights", "metric": "WeightError", "maximum": "0.12"}


def record(folder: Path) -> dict[str, list[str]]:
    """Its page at every moment; takes two minutes."""
    with (
        ControlPlane(folder / "cluster") as cluster,
        Client(cluster) as client,
    ):
        install_crd(cluster)
        with kubeflow_world(cluster, client, "jobs", folder) as world:
            lost = Answer(exit_code=137, reason="OOMKilled")
            denied = refused(ChildStage.Publish, "AccessDenied", "The bucket is not ours.", 2)
            # A score is shown beside a limit alone.
            world.apply("good", validation={"gates": [_GATE]})
            world.apply("large", ends(ChildStage.Validate, lost))
            world.apply("denied", ends(ChildStage.Publish, denied))
            world.apply("measured", stops(ChildStage.Validate))
            world.apply_run("run")
            for name, status in (("good", "True"), ("large", "False"), ("run", "True")):
                world.wait_for(name, "Succeeded", status)
            world.wait_for("denied", "Published", "False")
            world.wait_for("measured", "Validated", "Unknown")

            def go_on(number: int) -> None:
                world.apply(f"good-{number}")

            return taken({"operator": world.operator.url("/metrics")}, between=go_on)

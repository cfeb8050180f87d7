"""What the tests of this tier see of a run: its pods by stage, and what their stages told.

Called by the tests of this folder and by the benchmark.
"""

from typing import Any

from halftone.spec.cluster import JOB_LABEL, STAGE_LABEL
from halftone.spec.pipelines import RUN_ANNOTATION
from halftone.spec.stage_results import StageResult
from tests.cluster.client import Object, pods_path
from tests.kubeflow.back_end import BackEnd


def pods(up: BackEnd, job: str) -> list[Object]:
    """Every pod of a task for the job called `job`, of any run."""
    return up.client.items(pods_path(up.namespace), labelSelector=f"{JOB_LABEL}={job}")


def runs(up: BackEnd, job: str) -> dict[str, dict[str, list[Object]]]:
    """Those pods by the name of their run, then by their stage."""
    found: dict[str, dict[str, list[Object]]] = {}
    for pod in pods(up, job):
        meta = pod["metadata"]
        stages = found.setdefault(meta["annotations"][RUN_ANNOTATION], {})
        stages.setdefault(meta["labels"][STAGE_LABEL], []).append(pod)
    return found


def told(pod: Object) -> StageResult:
    """What a stage left in its container's termination message."""
    statuses: list[Any] = pod["status"]["containerStatuses"]
    main = next(one for one in statuses if one["name"] == "main")
    return StageResult.model_validate_json(main["state"]["terminated"]["message"])

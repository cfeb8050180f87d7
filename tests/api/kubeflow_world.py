"""A namespace with an operator whose jobs are runs: a double of Kubeflow, real pods in a real API.

Called by the tests of the Kubeflow runner in the API tier. The double says how a run goes on; its
tasks' pods are made here in the API server as Argo makes them, and end as a kubelet ends them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from halftone.spec.cluster import JOB_LABEL, STAGE_LABEL
from halftone.spec.pipelines import JOB_UID_LABEL, RUN_ANNOTATION, Task
from halftone.spec.stage_results import StageResult
from tests.api.world import World
from tests.cluster.answers import all_well, job
from tests.cluster.client import Client, Object, jobs_path, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer, KubeletStandIn
from tests.cluster.operator_process import OperatorProcess
from tests.doubles.kubeflow import KubeflowDouble, Step, StoredRun
from tests.kubeflow_cases import TASKS, told_by

# Short, for a test waits for a claim of an operator that was killed to be given up.
CLAIM_SECONDS: Final = 9
_DONE: Final = "SUCCEEDED"


def script(*ends: Task, last: str = "SUCCEEDED") -> list[Step]:
    """A run whose tasks are done up to each of `ends`, one after the other, and then all of it."""
    found = [
        Step("RUNNING", dict.fromkeys((t.value for t in TASKS[: TASKS.index(end) + 1]), _DONE))
        for end in ends
    ]
    return [*found, Step(last, found[-1].tasks)]


GOOD: Final = script(Task.Target, Task.Assemble, Task.Validate, Task.Publish)


class KubeflowWorld(World):
    """`results` has what a task says other than when all went well."""

    def __init__(self, cluster: ControlPlane, client: Client, namespace: str) -> None:
        super().__init__(cluster, client, namespace)
        self.kubeflow = KubeflowDouble()
        self.kubeflow.script = GOOD
        self.kubeflow.moved = self._make_pods
        self.results: dict[tuple[str, Task], StageResult] = {}
        self.errors: list[str] = []

    def answer(self, pod: Mapping[str, Any]) -> Answer | None:
        """Pods of child Jobs, which clean up or are stages of a job that is no run; those of runs
        end by `_make_pods`.
        """
        labels = pod["metadata"]["labels"]
        if JOB_UID_LABEL in labels:
            return None
        return self.answers.get(labels[JOB_LABEL], all_well)(pod)

    def apply_run(self, name: str, **spec: Any) -> Object:
        """Create a job that is carried out by a run."""
        body = job(name, self.namespace, runner="KubeflowPipelines", **spec)
        return self.client.create(jobs_path(self.namespace), body)

    def names_made(self, name: str) -> list[str]:
        """Names of the runs that were made for the job `name`, in order."""
        made = [str(body["display_name"]) for body in self.kubeflow.created]
        return [one for one in made if one.startswith(f"{self.namespace}.{name}-")]

    def status(self, name: str) -> dict[str, Any]:
        """The job's."""
        found: dict[str, Any] = (self.find(name) or {}).get("status", {})
        return found

    def _make_pods(self, run: StoredRun) -> None:
        try:
            for name, state in run.tasks.items():
                if name in set(Task) and state in (_DONE, "FAILED"):
                    self._make_pod(run, Task(name), failed=state == "FAILED")
        except Exception as error:
            self.errors.append(repr(error))
            raise

    def _make_pod(self, run: StoredRun, task: Task, *, failed: bool) -> None:
        config = run.body["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
        about = config["deploymentSpec"]["executors"][f"exec-{task}"]["podMetadata"]
        pod = f"{run.run_id}-{task}"
        path = f"{pods_path(self.namespace)}/{pod}"
        if self.client.find(path) is not None:
            return
        assert about["labels"][STAGE_LABEL] == task
        containers = [{"name": name, "image": "i"} for name in ("main", "wait")]
        body = {
            "metadata": {"name": pod, **about},
            "spec": {"containers": containers, "automountServiceAccountToken": False},
        }
        assert RUN_ANNOTATION in about["annotations"]
        self.client.create(pods_path(self.namespace), body)
        said = self.results.get((about["labels"][JOB_LABEL], task), told_by(task))
        ended = {"exitCode": int(failed), "reason": "Completed"}
        states = {"main": {**ended, "message": said.to_bytes().decode()}, "wait": ended}
        rows = [
            {
                "name": one["name"],
                "image": "i",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": states[one["name"]]},
            }
            for one in containers
        ]
        phase = "Failed" if failed else "Succeeded"
        self.client.patch(f"{path}/status", {"status": {"phase": phase, "containerStatuses": rows}})


def start_options(world: KubeflowWorld) -> list[str]:
    """Of the chart."""
    endpoint = f"kubeflowPipelines.endpoint={world.kubeflow.endpoint}"
    return ["--set", endpoint, "--set", "progressSeconds=1"]


def shorten_claims(folder: Path) -> None:
    """Before an operator is started whose settings lie in `folder`."""
    path = folder / "settings.yaml"
    found = yaml.safe_load(path.read_text())
    found["kubeflowPipelines"]["claimSeconds"] = CLAIM_SECONDS
    path.write_text(yaml.safe_dump(found))


@contextmanager
def kubeflow_world(
    cluster: ControlPlane, client: Client, namespace: str, folder: Path, **options: Any
) -> Iterator[KubeflowWorld]:
    """A running one. Options are those of the operator's process."""
    found = KubeflowWorld(cluster, client, client.namespace(namespace))
    with found.kubeflow:
        place = folder / "operator"
        found.operator = OperatorProcess(
            cluster, namespace, place, options=start_options(found), **options
        )
        with (
            found.operator,
            KubeletStandIn(cluster, found.answer, namespace=namespace) as stand_in,
        ):
            yield found
    assert not stand_in.errors
    assert not found.errors

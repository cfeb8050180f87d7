"""The chain from Serve's target to a node, looked at as a whole, and what happened in it when.

Called by the tests of this tier. One look reads what comes last in the chain first: what it shows
is then never without its cause, and the times of a cause and of its effect have the right order.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import httpx

from halftone.scaling.acting.ray_application import RayApplication, RayPlace
from halftone.scaling.acting.targets import Observed, TargetError
from halftone.serve.application import APPLICATION, DEPLOYMENT
from tests.cluster.client import Client, Object, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kuberay import RAY_API
from tests.cluster.node_pool import NodePool, is_simulated, is_unschedulable
from tests.cluster.worker_twins import WorkerTwins, is_twin

NAMESPACE: Final = "models"
NAME: Final = "small"
GROUP: Final = "worker group"
SERVE: Final = "Serve"
NO_NODE: Final = "pending, for no node has room"
# A machine of two cores may be busy with other things.
PATIENCE_S: Final = 900.0
_DASHBOARD: Final = 8265
_LOOK_S: Final = 0.5


class Event(NamedTuple):
    """What a subject came to be, and when: seconds from the beginning of the run."""

    at: float
    subject: str
    state: str


@dataclass
class Scene:
    """A cluster with the endpoint's chart, a pool of nodes, and twins of its workers."""

    cluster: ControlPlane
    client: Client
    pool: NodePool
    twins: WorkerTwins
    begun: float
    events: list[Event] = field(default_factory=list)
    _states: dict[str, str] = field(default_factory=dict)
    _ray: RayApplication | None = None

    def tell(self, subject: str, state: str) -> None:
        """Note an event, and print it."""
        self._note(time.monotonic(), subject, state)

    def _note(self, now: float, subject: str, state: str) -> None:
        event = Event(now - self.begun, subject, state)
        self.events.append(event)
        print(f"{event.at:7.1f} s  {subject}: {state}", flush=True)

    def set_target(self, replicas: int) -> int:
        """Tell Serve how many replicas there should be, as `halftone autoscale --ray` does it.

        Returns where the events that follow begin.
        """
        mark = len(self.events)
        ray = self._application()
        ray.scale(replicas, ray.observe())
        self.tell(f"{SERVE}'s target", str(replicas))
        return mark

    def close(self) -> None:
        """Forget the connection to Serve."""
        if self._ray is not None:
            self._ray.close()
            self._ray = None

    def observed(self) -> Observed | None:
        """What Serve says; None while it says nothing."""
        try:
            return self._application().observe()
        except (TargetError, LookupError, subprocess.SubprocessError):
            self.close()  # another head has another address
            return None

    def running(self) -> int:
        """How many replicas run, by Serve's word; -1 while it says nothing."""
        found = self.observed()
        return -1 if found is None else found.counts.ready

    def look(self) -> None:
        """Read everything, and tell what has changed: at one time, and causes first."""
        running = self.running()
        serve = {SERVE: f"{running} running"} if running >= 0 else {}
        pods = {f"pod {_name(one)}": said(one) for one in self.pods()}
        nodes = {f"node {name}": "there" for name in self.nodes()}
        states = {**self._group(), **nodes, **pods, **serve}
        now = time.monotonic()
        for subject in [*states, *sorted(self._states.keys() - states.keys(), reverse=True)]:
            state = states.get(subject, "gone")
            if self._states.get(subject) != state:
                self._note(now, subject, state)
        self._states = states

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Look until it holds; nobody's error may have passed unseen meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            self._try_to_look()
            assert (self.pool.errors, self.twins.errors) == ([], [])
            if holds():
                self.look()  # it may have come after the last one
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come in {seconds:.0f} s: {self._states}")
            time.sleep(_LOOK_S)

    def _try_to_look(self) -> None:
        try:
            self.look()
        except httpx.HTTPError:
            return  # a server that is busy is asked again

    def pods(self) -> list[Object]:
        """Of the endpoint: its head and its workers."""
        found = self.client.items(pods_path(NAMESPACE))
        return [one for one in found if not is_twin(one)]

    def workers(self) -> list[Object]:
        """Of the endpoint, those with replicas."""
        return [one for one in self.pods() if _kind(one) == "worker"]

    def ready_on_pool(self, component: str) -> list[str]:
        """Names of a component's pods that are ready on a simulated node."""
        states = {ready_on(name) for name in self.nodes()}
        return [
            _name(one)
            for one in self.pods()
            if one["metadata"]["labels"].get("app.kubernetes.io/component") == component
            and said(one) in states
        ]

    def head(self) -> Object:
        """Raises LookupError while there is none with an address."""
        for one in self.pods():
            if _kind(one) == "head" and "podIP" in one["status"]:
                return one
        raise LookupError("Ray has no head yet")

    def nodes(self) -> list[str]:
        """The simulated ones."""
        found = self.client.items("/api/v1/nodes")
        return [_name(one) for one in found if is_simulated(one)]

    def ready_nodes(self) -> list[str]:
        """Those of them that the scheduler takes pods to."""
        found = self.client.items("/api/v1/nodes")
        return [_name(one) for one in found if is_simulated(one) and _is_open(one)]

    def on(self, node: str) -> list[Object]:
        """All pods there, of all namespaces."""
        return self.client.items("/api/v1/pods", fieldSelector=f"spec.nodeName={node}")

    def at(self, mark: int, subject: str, state: str) -> float:
        """When it came to that, after `mark`. Raises LookupError if it never did."""
        for event in self.events[mark:]:
            if (event.subject, event.state) == (subject, state):
                return event.at
        raise LookupError(f"{subject} never was '{state}'")

    def subjects(self, mark: int, kind: str, state: str) -> list[str]:
        """Which of a kind came to that, after `mark`, in this order."""
        return [
            event.subject
            for event in self.events[mark:]
            if event.subject.startswith(f"{kind} ") and event.state == state
        ]

    def _group(self) -> dict[str, str]:
        found = self.client.items(f"{RAY_API}/namespaces/{NAMESPACE}/rayclusters")
        counts = [one["spec"]["workerGroupSpecs"][0]["replicas"] for one in found]
        return {GROUP: f"{sum(counts)} pods"} if counts else {}

    def _application(self) -> RayApplication:
        if self._ray is None:
            head = self.head()
            url = f"http://{head['status']['podIP']}:{_DASHBOARD}"
            self._ray = RayApplication(RayPlace(url, APPLICATION, DEPLOYMENT, self._token(head)))
        return self._ray

    def _token(self, head: Object) -> str:
        """What KubeRay has the head ask everybody for."""
        variables = {one["name"]: one for one in head["spec"]["containers"][0]["env"]}
        reference = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        template = f"{{{{index .data {_quoted(reference['key'])} | base64decode}}}}"
        words = ("secret", reference["name"], "-n", NAMESPACE, "-o", f"go-template={template}")
        return self.cluster.kubectl("get", *words)


def said(pod: Object) -> str:
    """How a pod is, in few words, and where."""
    where = pod["spec"].get("nodeName")
    if "deletionTimestamp" in pod["metadata"]:
        return "going"
    if where is None:
        return NO_NODE if is_unschedulable(pod) else "pending"
    rows = pod["status"].get("containerStatuses", [])
    if rows and all(row["ready"] for row in rows):
        return ready_on(where)
    return f"{pod['status']['phase'].lower()} on {where}"


def ready_on(node: str) -> str:
    """The state of a pod that is ready there."""
    return f"ready on {node}"


def _is_open(node: Object) -> bool:
    """Whether it is ready, and the controllers have taken note of it."""
    taints = {one["key"] for one in node["spec"].get("taints", [])}
    ready = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
    return ready.get("Ready") == "True" and "node.kubernetes.io/not-ready" not in taints


def _quoted(word: str) -> str:
    return f'"{word}"'


def _name(one: Object) -> str:
    name: str = one["metadata"]["name"]
    return name


def _kind(pod: Object) -> Any:
    return pod["metadata"].get("labels", {}).get("ray.io/node-type")

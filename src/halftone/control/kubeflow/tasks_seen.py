"""How the tasks of one run are doing, by the server's account and by their pods'.

Called by `running`. Loops, drivers and the parts of a retried task are in the account too, under
other names. A task that was taken from the cache has no pod; a pod that ended is often seen before
the account says so.
"""

from collections.abc import Iterable
from typing import Final

from halftone.control.failures import own_result
from halftone.control.judging import newest_result
from halftone.control.observed import ObservedPod, RunPod
from halftone.spec.pipelines import CONDITION_OF, Run, RunState, Task, TaskDetail
from halftone.spec.stage_results import StageResult

_DONE: Final = frozenset({RunState.Succeeded, RunState.Cached})
_BEGUN: Final = frozenset({RunState.Running, RunState.Failed, *_DONE})
# Several of these are one step; that one of them is done says nothing of the others.
_ONE_OF_SEVERAL: Final = frozenset({Task.Quantize})
# With which the kubelet says why a pod ended; `failures.of_pod` has sentences for them.
_KUBELETS_WORDS: Final = frozenset({"OOMKilled", "Evicted"})
ORDER: Final = tuple(CONDITION_OF)


class TasksSeen:
    """Of `run`; `pods` may be of other runs too."""

    def __init__(self, run: Run, pods: Iterable[RunPod]) -> None:
        self._details: dict[str, list[TaskDetail]] = {}
        for detail in run.run_details.task_details:
            self._details.setdefault(detail.display_name, []).append(detail)
        self._pods: dict[Task, list[ObservedPod]] = {}
        for one in pods:
            if one.run in (run.display_name, run.run_id):
                self._pods.setdefault(one.task, []).append(one.pod)

    def pods(self, task: Task) -> list[ObservedPod]:
        """In the order in which they were made."""
        return sorted(self._pods.get(task, ()), key=lambda pod: (pod.created, pod.name))

    def details(self, task: Task) -> list[TaskDetail]:
        """What the server says of it; several in a loop."""
        return self._details.get(task.value, [])

    def result(self, task: Task) -> StageResult | None:
        """What it found, if a pod of it that ended well says so."""
        good = [pod for pod in self.pods(task) if _ended_well(pod)]
        return newest_result(good, task.value)

    def silent(self, task: Task) -> str | None:
        """The name of a pod that ended well and left nothing that can be read."""
        good = [pod for pod in self.pods(task) if _ended_well(pod)]
        return good[-1].name if good else None

    def is_done(self, task: Task) -> bool:
        """Whether it succeeded, now or when it was cached."""
        states = [detail.state for detail in self.details(task)]
        if states and all(state in _DONE for state in states):
            return True
        result = None if task in _ONE_OF_SEVERAL else self.result(task)
        return result is not None and result.failure is None

    def has_begun(self, task: Task) -> bool:
        """Whether it works or has worked."""
        return bool(self.pods(task)) or any(d.state in _BEGUN for d in self.details(task))

    def has_failed(self, task: Task) -> bool:
        """Whether it failed, so far as one can see: it may yet be tried again."""
        if any(detail.state is RunState.Failed for detail in self.details(task)):
            return True
        return bool(self.failed_pods(task)) and not self.is_done(task)

    def failed_pods(self, task: Task) -> list[ObservedPod]:
        """In the order in which they were made; those that say why come last, and those that were
        taken away first.
        """
        ended = [pod for pod in self.pods(task) if pod.phase == "Failed" or pod.exit_code]
        return sorted(ended, key=lambda pod: (not pod.disrupted, _says_why(task, pod)))

    def failing(self) -> Task | None:
        """The first that failed."""
        return next((task for task in ORDER if self.has_failed(task)), None)


def _says_why(task: Task, pod: ObservedPod) -> bool:
    if pod.terminated_reason in _KUBELETS_WORDS:
        return True
    result = own_result(task.value, pod)
    return result is not None and result.failure is not None


def _ended_well(pod: ObservedPod) -> bool:
    return pod.exit_code == 0 or (pod.phase == "Succeeded" and not pod.exit_code)

"""What goes wrong around a write of a job's life, for every runner's chaos tests.

Called by `test_chaos` and `test_kubeflow_chaos`. Requests are cut by the proxy of `tests.doubles`;
a killed operator is started anew, as a kubelet does it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.cluster.operator_process import OperatorProcess
from tests.doubles.api_proxy import ApiProxy, Moment, Seen

# The states in which every job ends, whatever happened to it.
ENDED = [
    ("Accepted", "True", "Accepted"),
    ("Quantized", "True", "Quantized"),
    ("Validated", "True", "Validated"),
    ("Published", "True", "Published"),
    ("Succeeded", "True", "Published"),
]
# What a write says, which of several that say it, and when it is cut.
Point = tuple[str, int, Moment]
# Whether a request that is about the job is the write in question.
Says = Callable[[str, str, Seen], bool]


class BehindProxy:
    """Of a world: its operator reaches the API server through `proxy`, and can be killed."""

    operator: OperatorProcess
    proxy: ApiProxy
    kills = 0

    def kill(self) -> None:
        """As a lost node does; `kept_alive` starts it anew."""
        self.kills += 1
        process = self.operator.process
        assert process is not None
        process.kill()


@contextmanager
def kept_alive(operator: OperatorProcess) -> Iterator[None]:
    """Whatever ends the operator meanwhile, it is started anew."""
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(0.05):
            process = operator.process
            if process is not None and process.poll() is not None:
                operator.start()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()


def is_of(name: str, seen: Seen) -> bool:
    """Whether a request writes something about the job `name`."""
    return seen.is_write and name in str(seen) + seen.body


def begin_lives(
    proxy: ApiProxy,
    apply: Callable[[str], object],
    points: Sequence[Point],
    writes: Sequence[tuple[str, int]],
    prefix: str,
    then: Callable[[], None],
    says: Says,
) -> list[str]:
    """A job for each point, whose write is cut there, and what comes `then`; their names."""
    names = []
    for what, number, moment in points:
        place = writes.index((what, number)) + 1
        names.append(f"{prefix}-{place:02}-{moment.name.lower()}")
        proxy.cut(_Nth(names[-1], what, number, says), moment, then=then)
        apply(names[-1])
    return names


class _Nth:
    """Picks the `number`th request, from 1, that says `what` about the job `name`."""

    def __init__(self, name: str, what: str, number: int, says: Says) -> None:
        self._name, self._what, self._number, self._says = name, what, number, says
        self._count = 0

    def __call__(self, seen: Seen) -> bool:
        if not is_of(self._name, seen) or not self._says(self._name, self._what, seen):
            return False
        self._count += 1
        return self._count == self._number

    def __str__(self) -> str:
        return f"{self._what} {self._number} of {self._name}"

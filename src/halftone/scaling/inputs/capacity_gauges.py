"""What replicas say that one of them can do: their gauges become a capacity.

Called by `prometheus` with the answer to `queries.capacity`, and by tests with recorded ones. Pure;
standard library only. Series of replicas that are gone are not in an answer: they vanish with what
exported them.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from halftone.scaling.capacity_fields import Stated, stated
from halftone.scaling.inputs.parsing import Sample

# Of `halftone.telemetry.endpoint`, which may not be imported here; through Ray with its prefix.
SERIES: Final = "halftone_endpoint_capacity"
MODEL: Final = "model"
FIELD: Final = "field"
# Replicas are compared by a request like most; no physics.
_PROMPT, _OUTPUT = 1000.0, 250.0


def capacity(samples: Iterable[Sample]) -> Stated | None:
    """Of one replica of those in `samples`; None where none told all of it.

    Where they differ, as while one artifact replaces another, it is the smallest: the one that
    takes longest for a request. The longest warm-up counts.
    """
    replicas: dict[frozenset[tuple[str, str]], dict[str, float]] = defaultdict(dict)
    for sample in samples:
        whose = {name: value for name, value in sample.labels.items() if name != FIELD}
        replicas[frozenset(whose.items())][sample.labels.get(FIELD, "")] = sample.value
    found = [said for said in map(stated, replicas.values()) if said is not None]
    if not found:
        return None
    smallest = max(found, key=_need)
    return Stated(smallest.capacity, max(said.warm_up_s for said in found))


def _need(said: Stated) -> tuple[float, int]:
    able = said.capacity
    return able.work_s(_PROMPT, _OUTPUT), -able.kv_blocks

"""How many replicas there are, from whoever starts them; the other half of a reading.

Made by Ray's policy class and by the external controller, for `prometheus`. Standard library only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """What the orchestrator says at this moment.

    `names` are the ready ones as their series name them (Ray's replica ids, or pods); None where
    they are not known. `held` are requests that wait in front of the replicas.
    """

    ready: int
    starting: int = 0
    draining: int = 0
    names: frozenset[str] | None = None
    held: float = 0.0

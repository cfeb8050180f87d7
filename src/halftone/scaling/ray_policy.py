"""The law of replicas as Ray Serve's autoscaling policy.

    autoscaling_config:
      policy:
        policy_function: halftone.scaling.ray_policy:KVPressurePolicy
        policy_kwargs: {prometheus: "http://prometheus:9090", model: qwen, card: {...}}

Ray Serve makes one object of the class in its controller, and calls it ten times a second. An
exception or a wait there would hurt every application of the cluster, so there is neither:
`acting.ray_carrier` does the work, and a thread of it reads. Standard library only. Ray pickles
this module by value, so it holds as little as possible.
"""

import weakref
from collections.abc import Mapping
from typing import Any

from halftone.scaling.acting.ray_carrier import RayCarrier
from halftone.scaling.acting.reloading import ReloadingDecider


class KVPressurePolicy:
    """Wants what the law wants; every argument is JSON.

    `prometheus` is the URL of the server and `model` the name that the endpoint serves. `card` is a
    capacity card, or the path of one; without it replicas say what they can do, of the card that
    their artifact has. `lead_s` is the lead until leads were measured, by default what the card
    says that warming up takes. `settings` are other fields of `halftone.scaling.policy.Settings`.
    With `observe_only` it decides and tells, and changes nothing. `interval_s` lies between two
    looks, 60 at most. `selector` are labels that all series have, `token_file` and `ca_file` are
    for a Prometheus that asks for a token or has a certificate of one's own.

    `file` is the path of a JSON object with any of these, which then do not stand beside it. It is
    read again at each look, so that they change in place, where Ray would start every replica anew.

    Arguments that cannot be used do not raise, as Ray would try its whole configuration again: the
    count holds, and the state says why.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = dict(arguments)
        decider = ReloadingDecider(self._arguments)
        self._carrier = RayCarrier(decider, lambda: decider.manner, decider.tell)
        # Ray drops the object when its configuration changes; the thread must not outlive it.
        weakref.finalize(self, self._carrier.end)

    def __reduce__(self) -> tuple[Any, ...]:
        # A thread and a lock cannot travel; what is made of the same arguments decides alike.
        return _made, (type(self), self._arguments)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """What Ray is to set, and what it shows as the policy's state."""
        return self._carrier(context)


def _made(kind: type[KVPressurePolicy], arguments: Mapping[str, Any]) -> KVPressurePolicy:
    return kind(**arguments)

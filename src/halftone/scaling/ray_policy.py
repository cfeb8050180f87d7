"""The law of replicas as Ray Serve's autoscaling policy.

    autoscaling_config:
      policy:
        policy_function: halftone.scaling.ray_policy:KVPressurePolicy
        policy_kwargs: {prometheus: "http://prometheus:9090", model: qwen, card: {...}}

Ray Serve makes one object of the class in its controller, and calls it ten times a second. An
exception or a wait there would hurt every application of the cluster, so there is neither:
`acting.ray_carrier` does the work, and a thread of it reads. Standard library only. Ray pickles
this module by value, so it holds nothing but the class.
"""

import json
import logging
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halftone.scaling.acting.deciding import Decider, Deciding, Judgement
from halftone.scaling.acting.learning import ASSUMED_LEAD_S, LearningDecider
from halftone.scaling.acting.ray_carrier import RayCarrier
from halftone.scaling.acting.ray_metrics import tell_ray
from halftone.scaling.capacity import Capacity
from halftone.scaling.follower import Follower
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.prometheus import Access, PrometheusReader
from halftone.scaling.policy import Settings


class KVPressurePolicy:
    """Wants what the law wants; every argument is JSON.

    `prometheus` is the URL of the server and `model` the name that the endpoint serves. `card` is a
    capacity card, or the path of one; without it replicas say what they can do, of the card that
    their artifact has. `lead_s` is the lead until leads were measured, by default what the card
    says that warming up takes. `settings` are other fields of `halftone.scaling.policy.Settings`.
    With `observe_only` it decides and tells, and changes nothing. `interval_s` lies between two
    looks. `selector` are labels that all series have, `token_file` and `ca_file` are for a
    Prometheus that asks for a token or has a certificate of one's own.

    Arguments that cannot be used do not raise, as Ray would try its whole configuration again: the
    count holds, and the state says why.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = dict(arguments)
        self._carrier: RayCarrier | None = None
        self._problem = ""
        try:
            self._carrier = _carrier(**arguments)
        except Exception as error:
            self._problem = f"The policy cannot be used: {type(error).__name__}: {error}."
            logging.getLogger("ray.serve").error("halftone: %s", self._problem)
            counts = ReplicaCounts(0, 0, 0, None)
            model = str(arguments.get("model", ""))
            tell_ray(model, observe_only=False)(Judgement(counts, None, self._problem, 0.0))
        else:
            # Ray drops the object when its configuration changes; the thread must not outlive it.
            weakref.finalize(self, self._carrier.end)

    def __reduce__(self) -> tuple[Any, ...]:
        # A thread and a lock cannot travel; what is made of the same arguments decides alike.
        return _made, (type(self), self._arguments)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """What Ray is to set, and what it shows as the policy's state."""
        if self._carrier is None:
            return int(context.target_num_replicas), {"held": self._problem}
        return self._carrier(context)


def _made(kind: type[KVPressurePolicy], arguments: Mapping[str, Any]) -> KVPressurePolicy:
    return kind(**arguments)


def _carrier(
    *,
    prometheus: str,
    model: str,
    card: Mapping[str, Any] | str | None = None,
    settings: Mapping[str, Any] | None = None,
    lead_s: float | None = None,
    observe_only: bool = False,
    interval_s: float = 5.0,
    selector: Mapping[str, str] | None = None,
    token_file: str | None = None,
    ca_file: str | None = None,
) -> RayCarrier:
    stated = json.loads(Path(card).read_text()) if isinstance(card, str) else card
    assumed_s = ASSUMED_LEAD_S if stated is None else stated["warmUpSeconds"]
    prior_s = float(assumed_s if lead_s is None else lead_s)
    law = Settings(**{**(settings or {}), "lead_s": prior_s})
    access = Access({}, _path(token_file), _path(ca_file))
    reader = PrometheusReader(
        prometheus, model, selector=selector, access=access, stale_s=law.stale_s
    )  # fmt: skip
    decider: Deciding = (
        LearningDecider(reader, law, lead_s, interval_s)
        if stated is None
        else Decider(reader, Follower(Capacity.from_card(stated), law, interval_s), prior_s)
    )
    return RayCarrier(
        decider,
        interval_s,
        # Reading may take three timeouts; an answer that old is still a late one, not a lost one.
        law.stale_s + interval_s,
        observe_only=observe_only,
        told=tell_ray(model, observe_only=observe_only),
    )


def _path(named: str | None) -> Path | None:
    return None if named is None else Path(named)

"""The metrics of scaling as Ray exports them, from inside Serve's controller.

Called by `ray_policy`. Ray is imported here alone and only where it runs: elsewhere, as in a test
of the policy, nothing is told, and nothing fails.
"""

import logging
from collections.abc import Callable, Mapping

from halftone.scaling.acting.deciding import Judgement
from halftone.scaling.acting.telling import tell_judgement
from halftone.scaling.policy import Term
from halftone.telemetry.scaling import ScalingMetrics, Set

log = logging.getLogger("ray.serve")

# Ray's policy has no rivals that it could see, and no leader: Serve's controller is one.
TOLD = (
    "halftone_scaling_arguments_refused",
    "halftone_scaling_asked_replicas",
    "halftone_scaling_capacity_ratio",
    "halftone_scaling_decision_info",
    "halftone_scaling_desired_replicas",
    "halftone_scaling_held",
    "halftone_scaling_lead_seconds",
    "halftone_scaling_max_replicas",
    "halftone_scaling_observe_only",
    "halftone_scaling_ready_replicas",
    "halftone_scaling_starting_replicas",
)


def tell_ray(model: str, *, observe_only: bool) -> Callable[[Judgement], None]:
    """What tells Ray's metrics of a judgement; it never raises. Without Ray it does nothing."""
    try:
        from ray.util.metrics import Gauge
    except ImportError:
        return _nothing

    def make(name: str, description: str, labels: tuple[str, ...]) -> Set:
        gauge = Gauge(name, description=description, tag_keys=labels)

        def set_to(value: float, by: Mapping[str, str]) -> None:
            gauge.set(value, tags=dict(by))

        return set_to

    metrics = ScalingMetrics(model, [str(term) for term in Term], make, TOLD)

    def tell(judgement: Judgement) -> None:
        try:
            metrics.set_observe_only(observe_only=observe_only)
            tell_judgement(metrics, judgement)
        except Exception:  # a metric is not worth a wrong count
            log.exception("halftone: metrics of scaling could not be told")

    return tell


def _nothing(_: Judgement) -> None:
    """Where there is no Ray."""

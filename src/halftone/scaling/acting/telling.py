"""What every carrier of the law tells of a look, in metrics.

Called by `ray_metrics` and `controlling`. Standard library only.
"""

from halftone.scaling.acting.deciding import Judgement
from halftone.telemetry.scaling import ScalingMetrics


def tell_judgement(metrics: ScalingMetrics, judgement: Judgement) -> None:
    """Counts, their bound, lead, whether the count holds and arguments were refused, and what the
    law said.
    """
    metrics.set_counts(judgement.counts.ready, judgement.counts.starting)
    if judgement.most is not None:
        metrics.set_most(judgement.most)
    metrics.set_held(held=judgement.is_held)
    metrics.set_lead(judgement.lead_s)
    metrics.set_arguments_refused(refused=bool(judgement.refused))
    if (decision := judgement.decision) is not None:
        metrics.set_decision(decision.wanted, str(decision.term), decision.asked)
        if (ratio := decision.inputs.get("capacity_ratio")) is not None:
            metrics.set_capacity_ratio(ratio)

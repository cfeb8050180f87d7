"""What Ray Serve's own rule makes of ongoing requests; run in the serving environment.

    python ray_ongoing_requests.py CASES.json ANSWERS.json

A case has `target`, `start` and `rows` of (second, mean ongoing requests of all replicas). What is
decided runs at once. ANSWERS gets the count after each row. Bounds are applied as Serve does around
its policies: at least one replica.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    _core_replica_queue_length_policy,
)
from ray.serve.config import AutoscalingConfig


def decided(case: dict[str, Any]) -> list[int]:
    """The counts of one case."""
    config = AutoscalingConfig(
        min_replicas=1, max_replicas=1000, target_ongoing_requests=case["target"]
    )
    count, counts = case["start"], []
    state: dict[str, Any] = {}
    for time_s, ongoing in case["rows"]:
        context: Any = SimpleNamespace(
            current_num_replicas=count,
            target_num_replicas=count,
            total_num_requests=ongoing,
            config=config,
        )
        desired, _ = _core_replica_queue_length_policy(context)
        wanted = max(1, _apply_scaling_factors(desired, count, config))
        count, state = _apply_delay_logic(wanted, count, config, state, _now=time_s)
        counts.append(count)
    return counts


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([decided(case) for case in cases]))

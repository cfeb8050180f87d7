"""The baseline `ray-ongoing` beside Ray's own code.

We test these aspects: on loads that wander, burst and vanish it decides as Ray Serve's rule with
Ray's default delays does.
"""

from pathlib import Path

import numpy as np
import pytest

from halftone.scaling.baselines.ongoing import LOOK_BACK_S, OngoingRequests
from tests.environments import ask
from tests.scaling_readings import alike

pytestmark = pytest.mark.serve_env

# No mean is a multiple of it, where rounding would decide.
TARGET = 9.7
START = 4


def wandering(seed: int) -> list[tuple[float, float]]:
    """Seconds, and requests in flight: an hour of a random walk with bursts and silence."""
    chance = np.random.default_rng(seed)
    level = 40 * np.exp(np.cumsum(chance.normal(0, 0.08, 360)))
    burst = np.repeat(chance.choice([0.0, 1.0, 1.0, 3.0], 36), 10)
    return [(10.0 * turn, round(float(each))) for turn, each in enumerate(level * burst)]


def ours(rows: list[tuple[float, float]]) -> list[int]:
    policy, count, counts = OngoingRequests(TARGET), START, []
    for time_s, ongoing in rows:
        count = policy(alike(time_s, count, running=ongoing / count))
        counts.append(count)
    return counts


def averaged(rows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What Ray's controller hands its rule: the mean of the time that it looks back."""
    return [
        (now, float(np.mean([x for t, x in rows if now - LOOK_BACK_S <= t <= now])))
        for now, _ in rows
    ]


@pytest.mark.timeout(200)
def test_ray_decides_the_same(tmp_path: Path) -> None:
    loads = [wandering(seed) for seed in range(8)]
    cases = [{"target": TARGET, "start": START, "rows": averaged(rows)} for rows in loads]
    answers = ask("serve", "ray_ongoing_requests.py", cases, work=tmp_path, timeout_s=90)
    assert [ours(rows) for rows in loads] == answers
    assert len({count for counts in answers for count in counts}) > 10

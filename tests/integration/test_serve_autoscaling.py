"""Our policy inside a real Ray Serve, with a real Prometheus, and Ray scaled from outside.

We test these aspects:
- Ray takes the policy by its name, at rest the count stays, and under load replicas come
- other arguments in the policy's file take effect, and the replicas that are there stay
- without a card it learns from the replicas what they can do
- what it decides is exported by Ray under the names of `telemetry.scaling`
- a deployment of an application that allows it is scaled through REST, another one is refused
- without a replica a request is held until one has come, or gets 503 with Retry-After, and no 404

The replicas count as vLLM's do and compute nothing (`tests/peers/ray_autoscaling.py`,
`ray_from_zero.py`).
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halftone.telemetry.scaling import GAUGES
from tests.acting_cases import CARD
from tests.environments import ask
from tests.servers.ports import free_port
from tests.servers.prometheus import Job, Prometheus

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("autoscaling")
    metrics = free_port()
    with (
        # Ray's sockets lie below it, and the path of a socket is short.
        tempfile.TemporaryDirectory(prefix="ht-", ignore_cleanup_errors=True) as short,
        Prometheus(folder, {"ray": Job([f"127.0.0.1:{metrics}"])}) as prometheus,
    ):
        request = {
            "prometheus": prometheus.url,
            "metrics_port": metrics,
            "dashboard_port": free_port(),
            "card": CARD,
            "directory": f"{short}/ray",
            "seconds": 60,
        }
        yield ask("serve", "ray_autoscaling.py", request, work=folder, timeout_s=180)


def test_replicas_follow_the_load_inside_ray_serve(seen: dict[str, Any]) -> None:
    assert seen["read"]
    assert (seen["idle"], seen["allowed"], seen["loaded"]) == (1, 2, 3)
    assert seen["stayed"]
    assert seen["desired"] == 3


def test_replicas_say_what_they_can_do(seen: dict[str, Any]) -> None:
    # The lead that is reckoned with is the card's, and no longer the one that is assumed.
    assert seen["lead"] == float(CARD["warmUpSeconds"])


def test_ray_exports_what_was_decided(seen: dict[str, Any]) -> None:
    assert set(seen["metrics"]) <= set(GAUGES)
    assert {"halftone_scaling_decision_info", "halftone_scaling_held"} <= set(seen["metrics"])


def test_ray_is_scaled_from_outside_where_it_allows_that(seen: dict[str, Any]) -> None:
    assert (seen["before"], seen["outside"]) == (1, [2, 2])
    assert "deploy it with `external_scaler_enabled: true`" in seen["refused"]


def test_without_a_replica_requests_are_held_or_told_when_to_come_again(tmp_path: Path) -> None:
    request = {"port": free_port(), "card": CARD, "directory": str(tmp_path / "cache")}
    found = ask("serve", "ray_from_zero.py", request, work=tmp_path, timeout_s=120)
    replicas, status, after, text = found["nothing"]
    assert (replicas, status, after) == (0, 503, "5")
    assert json.loads(text)["error"]["code"] == "model_not_ready"
    assert found["zero"] == [0, 200, None, '"served"']
    assert found["one"] == [1, 200, None, '"served"']

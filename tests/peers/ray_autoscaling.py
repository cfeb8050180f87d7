"""A Ray Serve whose replicas say what vLLM's say, scaled by our policy and from outside.

    python ray_autoscaling.py REQUEST_JSON ANSWER_JSON

The request has `prometheus` (a URL), `metrics_port`, `dashboard_port`, `card` (a capacity card,
which the replicas tell and the policy is not given), `directory` and `seconds` to wait at most for
each step. The answer has, of the policy, `idle`, `allowed` and `loaded` (replicas: at rest, with
work for more than its file allows, and after another file), `stayed` (whether those of before were
still there then), `lead` (seconds that it reckoned with at rest) and `metrics` (names that Ray
exports of it); and of the external interface `outside` (replicas that were asked for and came) and
`refused`.

The replicas compute nothing: a file says how many requests a second each has answered, and they
count as vLLM does, through Ray's metrics.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from halftone.scaling.acting.ray_application import RayApplication, RayPlace
from halftone.scaling.acting.targets import TargetError
from halftone.scaling.capacity import Capacity
from halftone.scaling.capacity_fields import Stated
from halftone.scaling.capacity_fields import told as told_fields
from halftone.serve.application import POLICY
from halftone.serve.local.leftovers import MARK
from halftone.telemetry.endpoint import EndpointMetrics

PROMPT, OUTPUT = 1000, 100
MODEL = "model"


class Counting:
    """The series of one replica, which grow as the file `level` says."""

    def __init__(self, level: str, able: dict[str, float]) -> None:
        from ray import serve
        from ray.util.metrics import Counter, Gauge, Histogram

        self._level = Path(level)
        self._able = able
        self._endpoint = EndpointMetrics(MODEL, Counter, Gauge)
        self._labels = {
            "model_name": MODEL,
            "engine": "0",
            "ReplicaId": serve.get_replica_context().replica_id.unique_id,
        }
        names = tuple(self._labels)
        self._gauges = {
            name: Gauge(f"vllm_{name}", tag_keys=names)
            for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        }
        self._counters = {
            name: Counter(f"vllm_{name}", tag_keys=names)
            for name in (
                *("request_success", "prompt_tokens", "prompt_tokens_cached"),
                *("generation_tokens", "num_preemptions"),
            )
        }
        self._sums = {
            name: Histogram(f"vllm_{name}", boundaries=[float(size)], tag_keys=names)
            for name, size in (
                ("request_prompt_tokens", 2 * PROMPT),
                ("request_generation_tokens", 2 * OUTPUT),
            )
        }
        threading.Thread(target=self._run, daemon=True).start()

    def __call__(self) -> str:
        return "nothing is computed here"

    def _run(self) -> None:
        while True:
            requests = int(self._level.read_text())
            self._endpoint.set_capacity(self._able, is_exact=True)
            for gauge in self._gauges.values():
                gauge.set(0.01 * requests, tags=self._labels)
            for _ in range(requests):
                self._count("request_success", 1)
                self._count("prompt_tokens", PROMPT)
                self._count("generation_tokens", OUTPUT)
                self._sums["request_prompt_tokens"].observe(PROMPT, tags=self._labels)
                self._sums["request_generation_tokens"].observe(OUTPUT, tags=self._labels)
            time.sleep(1.0)

    def _count(self, name: str, by: float) -> None:
        self._counters[name].inc(by, tags=self._labels)


def until(seconds: float, question: Callable[[], Any]) -> Any:
    """The first answer that is not empty; the last one after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := question()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def start(request: dict[str, Any]) -> None:
    """A Ray of our own, with its dashboard and without a proxy."""
    import ray
    from ray import serve

    ray.init(
        address="local",
        _temp_dir=request["directory"],
        _node_ip_address="127.0.0.1",
        _metrics_export_port=request["metrics_port"],
        include_dashboard=True,
        dashboard_port=request["dashboard_port"],
        log_to_driver=False,
        logging_level="ERROR",
        num_cpus=8,
        object_store_memory=100 * 1024 * 1024,
    )
    serve.start(proxy_location="Disabled")


def by_policy(request: dict[str, Any], level: Path) -> dict[str, Any]:
    """An application that our policy scales, at rest and then with work for several replicas."""
    from ray import serve

    file = level.with_name("policy.json")

    def allow(most: int) -> None:
        """As a kubelet brings a changed ConfigMap."""
        said = {"prometheus": request["prometheus"], "model": MODEL, "interval_s": 1}
        new = file.with_suffix(".new")
        new.write_text(json.dumps({**said, "settings": {"max_replicas": most}}))
        new.rename(file)

    allow(2)
    scaling = {
        "min_replicas": 1,
        "max_replicas": 3,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "policy": {"policy_function": POLICY, "policy_kwargs": {"file": str(file)}},
    }
    deployment = serve.deployment(Counting, name="replica", autoscaling_config=scaling)
    level.write_text("1")
    card = request["card"]
    able = told_fields(Stated(Capacity.from_card(card), float(card["warmUpSeconds"])))
    serve.run(deployment.bind(str(level), able), name="followed", route_prefix="/a", blocking=False)

    def running() -> int:
        states = serve.status().applications["followed"].deployments["replica"].replica_states
        return int(states.get("RUNNING", 0))

    def replicas() -> set[str]:
        """The replicas, as Ray's REST interface names them."""
        url = f"http://127.0.0.1:{request['dashboard_port']}/api/serve/applications/"
        token = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
        found = httpx.get(url, headers=token, timeout=10).json()
        each = found["applications"]["followed"]["deployments"]["replica"]["replicas"]
        return {str(one["replica_id"]) for one in each}

    metrics = f"http://127.0.0.1:{request['metrics_port']}/metrics"

    def told(name: str) -> float | None:
        text = httpx.get(metrics, timeout=10).text
        found = re.search(rf"^ray_halftone_scaling_{name}{{.*}} (\S+)$", text, re.MULTILINE)
        return None if found is None else float(found[1])

    is_read = until(request["seconds"], lambda: told("held") == 0)
    idle, lead = running(), told("lead_seconds")
    level.write_text("6")
    until(request["seconds"], lambda: running() == 2)
    allowed, before = running(), replicas()
    allow(3)
    until(request["seconds"], lambda: running() == 3)
    text = httpx.get(metrics, timeout=10).text
    names = sorted(set(re.findall(r"^ray_(halftone_scaling_\w+){", text, re.MULTILINE)))
    return {
        "read": bool(is_read),
        "idle": idle,
        "lead": lead,
        "allowed": allowed,
        "loaded": running(),
        "stayed": len(before) == 2 and before <= replicas(),
        "metrics": names,
        "desired": told("desired_replicas"),
    }


def from_outside(request: dict[str, Any], level: Path) -> dict[str, Any]:
    """An application that is scaled through REST, and the one that may not be."""
    from ray import serve

    level.write_text("0")
    deployment = serve.deployment(Counting, name="replica", num_replicas=1)
    serve.run(
        deployment.bind(str(level), {}),
        name="outside",
        route_prefix="/b",
        external_scaler_enabled=True,
    )
    url = f"http://127.0.0.1:{request['dashboard_port']}"
    token = os.environ["RAY_AUTH_TOKEN"]
    target = RayApplication(RayPlace(url, "outside", "replica", token))
    before = target.observe()
    target.scale(2, before)
    came = until(request["seconds"], lambda: target.observe().counts.ready == 2)
    seen = target.observe()
    target.close()
    other = RayApplication(RayPlace(url, "followed", "replica", token))
    try:
        other.scale(2, before)
        refused = ""
    except TargetError as error:
        refused = str(error)
    other.close()
    return {
        "before": before.counts.ready,
        "outside": [seen.wanted, seen.counts.ready],
        "came": came,
        "refused": refused,
    }


def main(asked: str, answered: str) -> None:
    request = json.loads(Path(asked).read_text())
    mark = secrets.token_hex(8)
    os.environ |= {
        MARK: mark,
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    directory = Path(request["directory"])
    directory.mkdir()
    command = [sys.executable, "-m", "halftone.serve.local.leftovers", mark, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        import ray

        start(request)
        level = directory.with_name("level")
        try:
            found = by_policy(request, level) | from_outside(request, level)
            Path(answered).write_text(json.dumps(found))
        finally:
            ray.shutdown()  # before its processes are ended, or this one would wait for them


if __name__ == "__main__":
    main(*sys.argv[1:])

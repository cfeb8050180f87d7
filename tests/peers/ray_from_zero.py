"""What clients get while no replica runs: of a Ray Serve as `halftone serve` starts it.

    python ray_from_zero.py REQUEST_JSON ANSWER_JSON

The request has `port`, `card` and `directory`. The answer has, by moment (`nothing` is deployed,
`zero` replicas run, then `one`), the status, `Retry-After` and text of an answer, and `replicas`
that ran before each. The replica computes nothing; our policy has no Prometheus, so it holds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from halftone.serve.application import APPLICATION, POLICY
from halftone.serve.local.cluster import Address, LocalRay
from halftone.spec.serving import Endpoint

# A model takes longer; so long that nobody could take it for an answer that was there.
_LOADING_S = 3


def deploy(card: dict[str, Any]) -> None:
    from fastapi import FastAPI
    from ray import serve

    application = FastAPI()
    kwargs = {"prometheus": "http://127.0.0.1:9", "model": "model", "card": card}
    scaling = {
        "min_replicas": 0,
        "max_replicas": 1,
        "upscale_delay_s": 0,
        "policy": {"policy_function": POLICY, "policy_kwargs": kwargs},
    }

    class Loading:
        def __init__(self) -> None:
            time.sleep(_LOADING_S)

    application.get("/v1/models")(lambda: "served")
    replica = serve.ingress(application)(Loading)
    deployment = serve.deployment(replica, name="endpoint", autoscaling_config=scaling)
    serve.run(deployment.bind(), name=APPLICATION, route_prefix="/", blocking=False)


def running() -> int:
    from ray import serve

    found = serve.status().applications.get(APPLICATION)
    if found is None:
        return 0
    return sum(int(one.replica_states.get("RUNNING", 0)) for one in found.deployments.values())


def main(asked: str, answered: str) -> None:
    request = json.loads(Path(asked).read_text())
    endpoint = Endpoint.model_validate(
        {
            "servedModelName": "model",
            "artifact": {"uri": "/nowhere"},
            "trust": {"signature": "NotRequired"},
            "cache": {"directory": request["directory"]},
            "accelerator": "CPU",
        }
    )
    found: dict[str, Any] = {}

    def look(moment: str) -> None:
        replicas = running()
        told = httpx.get(f"http://127.0.0.1:{request['port']}/v1/models", timeout=120)
        after = told.headers.get("Retry-After")
        found[moment] = [replicas, told.status_code, after, told.text]

    with LocalRay(endpoint, Address("127.0.0.1", request["port"])):
        look("nothing")
        deploy(request["card"])
        look("zero")
        look("one")
    Path(answered).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""An endpoint on this machine, and what a test asks of it, one JSON line each.

    python endpoint.py ENDPOINT_JSON PORT MOST_REPLICAS

`{"deploy": {...}}` replaces what is served, `{"wait": true}` returns when it answers or says why it
does not, `{"state": true}` says how it stands and how many replicas do what, `{"metrics": true}`
gives what Prometheus would see, and `{"metricsPort": true}` where, `{"replicas": true}` the process
ids of the replicas, `{"haproxy": true}` its configuration. End of input ends it.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from halftone.serve.application import APPLICATION, DEPLOYMENT
from halftone.serve.local.cluster import Address, LocalRay, told
from halftone.serve.local.leftovers import MARK, marked
from halftone.spec.errors import HalftoneError
from halftone.spec.serving import Endpoint


def answer(ray: LocalRay, request: dict[str, Any]) -> Any:
    if "deploy" in request:
        ray.deploy(Endpoint.model_validate(request["deploy"]))
        return None
    if "wait" in request:
        try:
            ray.wait_until_running()
        except HalftoneError as error:
            return error.message
        return None
    if "state" in request:
        state = ray.state()
        return {"status": state.status, "told": told(state), "replicas": states()}
    if "metrics" in request:
        return httpx.get(f"http://127.0.0.1:{ray.metrics_port}/metrics", timeout=30).text
    if "metricsPort" in request:
        return ray.metrics_port
    if "replicas" in request:
        return replicas(os.environ[MARK])
    (configuration,) = ray.log_directory.parents[1].glob("h/*/haproxy.cfg")
    return configuration.read_text()


def states() -> dict[str, int]:
    """How many replicas are in each of Ray Serve's states; none while it builds an application."""
    from ray import serve  # which reads its variables now

    found = serve.status().applications[APPLICATION].deployments.get(DEPLOYMENT)
    return {} if found is None else {str(k): n for k, n in found.replica_states.items()}


def replicas(mark: str) -> list[int]:
    """Processes of Ray's that hold a replica of vLLM, not the router's."""
    found = []
    for process in marked(mark):
        name = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0]
        if b"EndpointServer" in name:
            found.append(process)
    return found


def main(document: str, port: str, most: str) -> None:
    endpoint = Endpoint.model_validate_json(document)
    with LocalRay(endpoint, Address("127.0.0.1", int(port)), most_replicas=int(most)) as ray:
        print(json.dumps({"answer": "up", "at": time.monotonic()}), flush=True)
        for line in sys.stdin:
            print(json.dumps({"answer": answer(ray, json.loads(line))}), flush=True)
    sys.stdout.flush()
    os._exit(0)


main(*sys.argv[1:])

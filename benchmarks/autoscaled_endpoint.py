"""An endpoint on this machine whose Ray exports metrics as often as it is told to.

    python -P autoscaled_endpoint.py ENDPOINT_JSON PORT MOST_REPLICAS EXPORT_MILLISECONDS

Runs in the environment that has Ray and vLLM, for `autoscaling`. It says `{"mark", "metricsPort"}`
when Ray is up, and answers a JSON line each: `{"deploy": {...}, "most": N}` replaces what is served
by at most so many replicas, `{"wait": true}` returns when it answers or says why it does not,
`{"replicas": true}` says how many replicas are in which of Ray Serve's states. End of input ends
it.
"""

import json
import os
import sys
from typing import Any

from halftone.serve.application import APPLICATION, DEPLOYMENT, described
from halftone.serve.local.cluster import Address, LocalRay
from halftone.serve.local.leftovers import MARK
from halftone.spec.errors import HalftoneError
from halftone.spec.serving import Endpoint


class Exporting(LocalRay):
    """A Ray for which the interval of exports is given: on one machine it is shorter than usual."""

    export_ms = ""

    def deploy_at_most(self, endpoint: Endpoint, most: int) -> None:
        """Ray's own bound, while the policy's arguments stay: other ones replace every replica."""
        from ray import serve
        from ray.serve.schema import ServeDeploySchema

        application = described(endpoint)
        application["deployments"][0]["autoscaling_config"]["max_replicas"] = most
        serve.context._get_global_client().deploy_apps(
            ServeDeploySchema.model_validate({"applications": [application]})
        )

    def _variables(self) -> dict[str, str]:
        return super()._variables() | {"RAY_metrics_report_interval_ms": self.export_ms}


def answer(ray: Exporting, request: dict[str, Any]) -> Any:
    """What the last line asked for."""
    if "deploy" in request:
        ray.deploy_at_most(Endpoint.model_validate(request["deploy"]), request["most"])
        return None
    if "wait" in request:
        try:
            ray.wait_until_running()
        except HalftoneError as error:
            return error.message
        return None
    return states()


def states() -> dict[str, int]:
    """How many replicas are in each of Ray Serve's states; none while it builds an application."""
    from ray import serve  # which reads its variables now

    found = serve.status().applications[APPLICATION].deployments.get(DEPLOYMENT)
    return {} if found is None else {str(k): n for k, n in found.replica_states.items()}


def main(document: str, port: str, most: str, export_ms: str) -> None:
    """Serve until the input ends."""
    endpoint = Endpoint.model_validate_json(document)
    ray = Exporting(endpoint, Address("127.0.0.1", int(port)), most_replicas=int(most))
    ray.export_ms = export_ms
    with ray:
        told = {"mark": os.environ[MARK], "metricsPort": ray.metrics_port}
        print(json.dumps({"answer": told}), flush=True)
        for line in sys.stdin:
            print(json.dumps({"answer": answer(ray, json.loads(line))}), flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

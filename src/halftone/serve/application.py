"""The Ray Serve application: an `Endpoint` becomes a deployment of vLLM behind HAProxy.

`serveConfigV2` names `halftone.serve.application:build` as its import path, with an `Endpoint` as
`args`; `halftone serve` does the same. It runs in a process that has ray and vllm, on the head. It
must not look at weights: each replica does, on its own node.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from halftone.serve.arguments.settable import refuse_unsettable
from halftone.serve.ray_environment import longest_wait_s
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import Accelerator, Endpoint, Routing, Strategy

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION: Final = "halftone"
IMPORT_PATH: Final = "halftone.serve.application:build"
# As Ray names it: the class and the name that `configuration` gives.
DEPLOYMENT: Final = "EndpointServer:endpoint"
POLICY: Final = "halftone.scaling.ray_policy:KVPressurePolicy"
# Where a replica finds its endpoint in the configuration that Ray hands it.
ENDPOINT_KEY: Final = "halftone_endpoint"
_ROUTERS: Final = {
    # Ray's default, the one that it takes where HAProxy chooses and no router is asked.
    Routing.RoundRobin: "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter",
    Routing.Session: "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
    Routing.Prefix: (
        "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router:"
        "PrefixCacheAffinityRouter"
    ),
}


def build(arguments: Mapping[str, Any]) -> "Application":
    """The application that serves the endpoint in `arguments`, its fields as JSON gives them.

    Raises RefusedInput with a sentence for each field that is wrong, and for an engine argument
    that does not exist or is another field's.
    """
    from ray.llm._internal.serve.constants import RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING
    from ray.serve.llm import LLMConfig, build_openai_app

    endpoint = read_endpoint(arguments)
    refuse_unsettable(endpoint.engineArguments)
    if not RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING",
            "`RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING` and the other variables of "
            "`halftone.serve.ray_environment` must be set where Ray was started, on every node.",
        )
    application = build_openai_app({"llm_configs": [LLMConfig(**configuration(endpoint))]})
    if endpoint.routing is Routing.RoundRobin:
        # HAProxy chooses by itself. Ray's router would be a process more, asked before every
        # request, and gone for a moment whenever the application changes.
        application._with_ingress_request_router(None)
    return application


def described(endpoint: Endpoint) -> dict[str, Any]:
    """The endpoint's entry among `applications` of a Ray Serve configuration.

    Ray starts every replica anew when `args` change, and how many there are is no reason to: their
    number stands beside the arguments, which Ray changes in place. Ray also takes changed arguments
    of a policy for another application, so the chart puts them into a file.
    """
    fixed = endpoint.model_copy(update={"replicas": 1, "autoscaling": None})
    return {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": fixed.model_dump(mode="json"),
        "deployments": [
            {
                "name": DEPLOYMENT,
                **_count(endpoint),
                "max_surge_percent": _surge_percent(endpoint),
            }
        ],
    }


def _count(endpoint: Endpoint) -> dict[str, Any]:
    """How many replicas, or who says so.

    Ray begins with the least, or with as many as there are; `initial_replicas` would go back to
    them whenever the configuration changes. The law has its own patience, so Ray adds none.
    """
    wished = endpoint.autoscaling
    if wished is None:
        return {"num_replicas": endpoint.replicas}
    card = wished.cardFile if wished.card is None else wished.card
    return {
        "autoscaling_config": {
            "min_replicas": wished.minReplicas,
            "max_replicas": wished.maxReplicas,
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "policy": {
                "policy_function": POLICY,
                "policy_kwargs": {
                    "prometheus": wished.prometheusUrl,
                    "model": endpoint.servedModelName,
                    "selector": wished.selector,
                    "token_file": wished.prometheusTokenFile,
                    "ca_file": wished.prometheusCaFile,
                    "card": card,
                    "settings": wished.law(),
                    "lead_s": wished.leadSeconds,
                    "observe_only": wished.observeOnly,
                    "interval_s": wished.intervalSeconds,
                },
            },
        }
    }


def read_endpoint(arguments: Mapping[str, Any]) -> Endpoint:
    """The endpoint that `arguments` describe.

    Raises RefusedInput(InvalidEndpoint) that says for each wrong field what is wrong with it.
    """
    try:
        return Endpoint.model_validate(dict(arguments))
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        first = ".".join(str(part) for part in error.errors()[0]["loc"]) or "args"
        raise RefusedInput(Reason.InvalidEndpoint, first, " ".join(problems)) from error


def _sentence(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"`{where}` is no field of an endpoint."
    what = str(problem["msg"]).removeprefix("Value error, ")
    return f"`{where}`: {what}." if where else f"{what[:1].upper()}{what[1:]}."


def configuration(endpoint: Endpoint) -> dict[str, Any]:
    """The arguments of Ray's `LLMConfig`. Pure, but for the names in it, which Ray imports.

    The engine's arguments but the parallel sizes, which decide the placement, are added by each
    replica, which knows the artifact and the device.
    """
    return {
        "model_loading_config": {
            "model_id": endpoint.servedModelName,
            # A replica puts the verified directory here. Nothing is looked up under this name.
            "model_source": "/nonexistent/until-verified",
        },
        "accelerator_config": {"kind": "cpu" if endpoint.accelerator is Accelerator.CPU else "gpu"},
        "engine_kwargs": {
            "tensor_parallel_size": endpoint.tensorParallel,
            "pipeline_parallel_size": endpoint.pipelineParallel,
        },
        "deployment_config": _deployment(endpoint),
        "server_cls": "halftone.serve.replica:EndpointServer",
        "experimental_configs": {ENDPOINT_KEY: endpoint.model_dump(mode="json")},
        "log_engine_metrics": True,
    }


def _deployment(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": "endpoint",
        "num_replicas": endpoint.replicas,
        "max_surge_percent": _surge_percent(endpoint),
        # A replica that is to go finishes what it has begun.
        "graceful_shutdown_timeout_s": float(longest_wait_s(endpoint)),
        "request_router_config": {"request_router_class": _ROUTERS[endpoint.routing]},
    }


def _surge_percent(endpoint: Endpoint) -> int:
    """The least that lets one replica more start while the others serve; Ray rounds up."""
    if endpoint.strategy is Strategy.Recreate:
        return 0
    wished = endpoint.autoscaling
    return max(1, 100 // (endpoint.replicas if wished is None else wished.maxReplicas))

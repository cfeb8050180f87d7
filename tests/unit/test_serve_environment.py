"""We test these aspects of what every Ray process of an endpoint is told, and of the application:

- one value, `maxRequestSeconds`, sets everything that could cut an answer, and all wait longer;
- direct streaming through HAProxy is on; prefix routing hands the router the body;
- what no replica answered with a byte is asked once more, unless the buffer is the router's;
- no variable holds a secret;
- a wrong field is a sentence with its name; several give several;
- surge lets one replica more start, `Recreate` none; a number of replicas restarts none;
- autoscaling stands beside the arguments too, as Ray reads it and as the policy does.
"""

import importlib
import json
from typing import Any

import pytest

from halftone.serve.application import ENDPOINT_KEY, configuration, described, read_endpoint
from halftone.serve.ray_environment import environment, longest_wait_s
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import Endpoint
from tests.acting_cases import CARD, Context

MINIMAL: dict[str, Any] = {
    "servedModelName": "model",
    "artifact": {"uri": "s3://bucket/model"},
    "trust": {"publicKeyFile": "/keys/key.pub"},
    "cache": {"directory": "/cache"},
}


def endpoint(**changes: Any) -> Endpoint:
    return read_endpoint({**MINIMAL, **changes})


def test_all_that_could_cut_an_answer_waits_longer() -> None:
    served = endpoint(limits={"maxRequestSeconds": 300})
    variables = environment(served)
    # How long a proxy may take to be ready, or to choose a replica, cuts no answer.
    cutting = ("HARD_STOP", "TIMEOUT_SERVER", "TIMEOUT_CLIENT")
    waits = [value for name, value in variables.items() if any(one in name for one in cutting)]
    assert len(waits) == 3
    assert {int(value) for value in waits} == {longest_wait_s(served)}
    assert longest_wait_s(served) > 300
    deployment = configuration(served)["deployment_config"]
    assert deployment["graceful_shutdown_timeout_s"] == longest_wait_s(served)


def test_answers_stream_from_vllm_through_haproxy() -> None:
    variables = environment(endpoint())
    assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert variables["RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"] == "1"
    assert "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY" not in variables


def test_prefix_routing_sees_the_prompt() -> None:
    variables = environment(endpoint(routing="Prefix"))
    assert variables["RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY"] == "1"


def test_what_got_no_byte_is_asked_once_more() -> None:
    variables = environment(endpoint())
    assert variables["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure empty-response"
    assert variables["RAY_SERVE_HAPROXY_RETRIES"] == "1"
    prefix = environment(endpoint(routing="Prefix"))
    assert not [name for name in prefix if "RETR" in name or "BUFSIZE" in name]


def test_the_compile_cache_lies_where_it_is_told() -> None:
    variables = environment(endpoint(compileCacheDirectory="/compiled/"))
    assert variables["VLLM_CACHE_ROOT"] == "/compiled"
    assert variables["TRITON_CACHE_DIR"] == "/compiled/triton"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"replica": 2}, "`replica` is no field of an endpoint."),
        ({"limits": {"maxRequestSeconds": 0}}, "`limits.maxRequestSeconds`:"),
        ({"artifactFile": "/x"}, "exactly one of `artifact` and `artifactFile` must be set."),
        ({"trust": {"signature": "Required"}}, "`trust`: `publicKeyFile` must name"),
    ],
)
def test_a_wrong_field_is_a_sentence(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        endpoint(**changes)
    assert refused.value.reason is Reason.InvalidEndpoint
    assert told.casefold() in refused.value.message.casefold()


def test_every_wrong_field_is_told() -> None:
    with pytest.raises(RefusedInput) as refused:
        endpoint(replicas=0, modes=[], nonsense=1)
    for name in ("replicas", "modes", "nonsense"):
        assert f"`{name}`" in refused.value.message


@pytest.mark.parametrize(("replicas", "percent"), [(1, 100), (2, 50), (3, 33), (100, 1), (250, 1)])
def test_surge_lets_one_replica_more_start(replicas: int, percent: int) -> None:
    deployment = configuration(endpoint(replicas=replicas))["deployment_config"]
    assert deployment["max_surge_percent"] == percent
    more = (percent * replicas + 99) // 100  # as Ray rounds
    assert more == max(1, -(-replicas // 100)) if replicas > 100 else more == 1


def test_recreate_needs_no_room() -> None:
    deployment = configuration(endpoint(strategy="Recreate", replicas=4))["deployment_config"]
    assert deployment["max_surge_percent"] == 0


def test_a_replica_gets_the_whole_endpoint_and_no_weights_by_name() -> None:
    served = endpoint(tensorParallel=2, modes=["text", "tools"])
    made = configuration(served)
    assert Endpoint.model_validate(made["experimental_configs"][ENDPOINT_KEY]) == served
    assert made["engine_kwargs"]["tensor_parallel_size"] == 2
    assert made["model_loading_config"]["model_source"].startswith("/nonexistent/")


def test_the_number_of_replicas_is_no_reason_to_start_them_anew() -> None:
    one, three = described(endpoint()), described(endpoint(replicas=3))
    assert one["args"] == three["args"]
    (deployment,) = three["deployments"]
    assert (deployment["num_replicas"], deployment["max_surge_percent"]) == (3, 33)
    assert described(endpoint(maxModelLen=1024))["args"] != one["args"]


def test_no_secret_is_in_the_variables() -> None:
    assert not [name for name in environment(endpoint()) if "KEY" in name or "TOKEN" in name]


AUTOSCALING: dict[str, Any] = {
    "prometheusUrl": "http://prometheus:9090",
    "minReplicas": 2,
    "maxReplicas": 40,
    "thetaPercent": 72,
    "leadSeconds": 277,
    "card": CARD,
}


@pytest.mark.parametrize("card", [CARD, None])
def test_autoscaling_restarts_no_replica_and_reaches_the_policy(card: Any) -> None:
    served = endpoint(autoscaling={**AUTOSCALING, "card": card})
    application = described(served)
    assert application["args"] == described(endpoint(replicas=5))["args"]
    (deployment,) = application["deployments"]
    assert "num_replicas" not in deployment
    assert deployment["max_surge_percent"] == 2
    config = deployment["autoscaling_config"]
    assert (config["min_replicas"], config["max_replicas"]) == (2, 40)
    # Ray would wait on top of the law, or go back to where it began at each new artifact.
    assert (config["upscale_delay_s"], config["downscale_delay_s"]) == (0, 0)
    assert "initial_replicas" not in config
    module, name = config["policy"]["policy_function"].split(":")
    policy = getattr(importlib.import_module(module), name)
    arguments = json.loads(json.dumps(config["policy"]["policy_kwargs"]))
    wanted, state = policy(**arguments)(Context(3, 3))
    assert wanted == 3
    assert "cannot be used" not in state["held"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"minReplicas": 0}, "minReplicas"),
        ({"maxReplicas": 1}, "`minReplicas`, 2, must not be more than `maxReplicas`, 1"),
        ({"cardFile": "/card.json"}, "`card` and `cardFile` must not both be set"),
        ({"thetaPercent": 96}, "thetaPercent"),
        ({"prometheusUrl": "prometheus:9090"}, "prometheusUrl"),
        ({"theta": 0.8}, "`autoscaling.theta` is no field of an endpoint"),
    ],
)
def test_autoscaling_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        endpoint(autoscaling={**AUTOSCALING, **changes})
    assert said in refused.value.message

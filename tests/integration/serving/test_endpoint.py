"""We test these aspects of a served artifact, with the official client and one Ray for all of them:

- chat, completion, streaming, a forced tool, an answer by JSON schema, log-probabilities;
- log-probabilities are those of vLLM alone, started with the same arguments;
- 503 while loading, 400, 401, 404, 429 with Retry-After, each as OpenAI's client expects it;
- nothing but the API is open, and with a key not even that;
- a client that leaves gives its place back, and vLLM generates no more for it, also where it
  waited for a whole answer;
- HAProxy's own answers are mended in the configuration that this Ray writes;
- listed models name the artifact's digest, and not where it lies;
- what a replica can do is exported, of the artifact's capacity card;
- an artifact that was tampered with, one without a signature, one of another key and one that was
  not measured do not replace a good one: the old serves on, the reason is in status and metrics;
  another good one does.
"""

import http.client
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from halftone.publish.keys import generate_key
from halftone.serve.http.middleware import LEFT
from halftone.spec.artifacts import Artifact
from halftone.spec.reports import Verdict
from tests.endpoints import (
    KEY,
    LENGTH,
    MODEL,
    RUNNING,
    TOOLS,
    WAITING,
    Served,
    described,
    pocket_artifact,
)
from tests.environments import ask

QUESTION: Any = [{"role": "user", "content": "What is 12 + 30?"}]
PROMPTS = ["12 + 30 =", "The capital of", "1 2 3 4 5 6"]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}

# A grammar binds the answer, not the thoughts before it, and this model would only think.
AT_ONCE = {"chat_template_kwargs": {"enable_thinking": False}}

# Far more than is ever read.
ENDLESS: dict[str, Any] = {
    "stream": True,
    "max_tokens": LENGTH - 64,
    "extra_body": {"ignore_eos": True},
}
TOKENS = "ray_vllm_generation_tokens"
FAILURES = "ray_halftone_endpoint_load_failures"
MEASURED = {"verdicts": ["Passed", "Emulated"]}

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(300)]


def chat(served: Served, **options: Any) -> Any:
    asked = {"model": MODEL, "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    return served.client().chat.completions.create(**{**asked, **options})


def eventually(holds: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether `holds` comes true. A limit for a hang, not a measurement."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_chat(served: Served) -> None:
    answer = chat(served)
    message = answer.choices[0].message
    assert message.content or message.reasoning
    assert answer.usage.completion_tokens > 0
    assert answer.model == MODEL


def test_completion(served: Served) -> None:
    answer = served.client().completions.create(
        model=MODEL, prompt=PROMPTS[0], max_tokens=4, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_says_what_a_whole_answer_says(served: Served) -> None:
    whole = served.client().completions.create(
        model=MODEL, prompt=PROMPTS[2], max_tokens=24, temperature=0
    )
    stream = served.client().completions.create(
        model=MODEL, prompt=PROMPTS[2], max_tokens=24, temperature=0, stream=True
    )
    assert "".join(event.choices[0].text for event in stream) == whole.choices[0].text


def test_a_stream_begins_before_its_answer_is_whole(served: Served) -> None:
    """However busy the machine is: an answer as long as this one does not come in one piece."""
    with chat(served, **ENDLESS) as stream:
        first = next(event for event in stream if event.choices)
        assert first.choices[0].finish_reason is None


def test_a_forced_tool_is_called_by_its_schema(served: Served) -> None:
    function = {"name": "weather", "parameters": WEATHER, "strict": True}
    tool = {"type": "function", "function": function}
    answer = chat(
        served,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        extra_body=AT_ONCE,
        max_tokens=256,
    )
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")


def test_an_answer_by_json_schema(served: Served) -> None:
    schema = {"name": "weather", "schema": WEATHER, "strict": True}
    answer = chat(
        served,
        response_format={"type": "json_schema", "json_schema": schema},
        extra_body=AT_ONCE,
        max_tokens=64,
    )
    assert json.loads(answer.choices[0].message.content)["city"] in ("Paris", "Rome")


def test_log_probabilities_are_those_of_vllm_alone(
    served: Served, artifact: Path, tmp_path: Path
) -> None:
    ours = [
        served.client()
        .completions.create(model=MODEL, prompt=prompt, max_tokens=8, temperature=0, logprobs=5)
        .choices[0]
        .logprobs
        for prompt in PROMPTS
    ]
    endpoint = described(artifact, **TOOLS)
    alone = ask(
        "serve", "vllm_logprobs.py", [endpoint, PROMPTS, 8, 5], work=tmp_path, timeout_s=250
    )
    for said, expected in zip(ours, alone, strict=True):
        assert said is not None
        assert said.tokens == expected["tokens"]
        assert said.token_logprobs == pytest.approx(expected["chosen"], abs=1e-4)
        for place, candidates in zip(said.top_logprobs or [], expected["top"], strict=True):
            assert place == pytest.approx(candidates, abs=1e-4)


def test_while_it_loads_clients_are_told_to_come_again(served: Served) -> None:
    answer = served.while_loading
    assert answer is not None
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert answer.json()["error"]["code"] == "model_not_ready"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_tokens": 2 * LENGTH}, openai.BadRequestError, str(LENGTH)),
        (
            {"messages": [{"role": "user", "content": "a " * 4 * LENGTH}]},
            openai.BadRequestError,
            "",
        ),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "`temperature`"),
        ({"model": "another"}, openai.NotFoundError, "another"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
    ],
)
def test_a_wrong_request_is_refused(
    served: Served, options: dict[str, Any], error: type[openai.APIStatusError], says: str
) -> None:
    with pytest.raises(error) as refused:
        chat(served, **options)
    assert says in str(refused.value.body)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["message"]


def test_a_wrong_key_is_refused(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError):
        served.client("wrong").models.list()


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json", "/version", "/invocations"])
def test_nothing_but_the_api_is_open(served: Served, path: str) -> None:
    assert httpx.get(served.url + path, timeout=60).status_code == httpx.codes.UNAUTHORIZED
    headers = {"authorization": f"Bearer {KEY}"}
    known = httpx.get(served.url + path, headers=headers, timeout=60)
    assert known.status_code == httpx.codes.NOT_FOUND
    assert known.json()["error"]["code"] == "not_found"


def test_what_haproxy_answers_of_its_own_is_mended(served: Served) -> None:
    text = served.haproxy()
    own = [line for line in text.splitlines() if "http-request return" in line]
    assert len([line for line in own if "model_not_ready" in line]) == 1
    bare = [line for line in own if "text/plain" in line]
    assert all("if healthcheck" in line or "if routes" in line for line in bare)
    assert "500.http" not in text
    assert "wait-for-body time 60s if METH_POST\n" in text
    assert "retry-on conn-failure empty-response\n    retries 1\n" in text
    assert "router" not in "".join(line for line in text.splitlines() if "#" not in line)
    assert "mode 600 level admin" in text
    assert "bind *" not in text
    assert "bind :" not in text


def test_models_name_the_artifact_and_not_its_place(served: Served, artifact: Path) -> None:
    listed = httpx.get(
        f"{served.url}/v1/models", headers={"authorization": f"Bearer {KEY}"}, timeout=60
    )
    assert digest_of(artifact) in listed.json()["data"][0]["root"]
    assert str(artifact) not in listed.text
    assert served.client().models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        served.client().models.retrieve("another")


def test_a_replica_says_what_its_artifacts_card_says_it_can_do(served: Served) -> None:
    name = "ray_halftone_endpoint_capacity"
    assert eventually(lambda: served.counted(name, 'field="groups"') > 0)
    # Costs are the card's; it was measured with another engine, and blocks are this one's.
    assert served.counted(name, 'field="prefill_tokens_per_second"') == 1.0
    assert served.counted(name, 'field="warm_up_s"') == 3.5
    told = httpx.get(f"{served.url}/halftone/engine", headers={"Authorization": f"Bearer {KEY}"})
    blocks = told.json()["engine"]["kvBlocks"]
    assert served.counted(name, 'field="kv_blocks"') == blocks - 1
    assert f"{name}_exact" in served.metrics()
    assert served.counted(f"{name}_exact") == 0


def test_who_leaves_before_a_whole_answer_ends_its_generation(served: Served) -> None:
    """So many tokens that nobody who is slow to see them begin misses their end."""
    tokens, left = served.counted(TOKENS), answers(served, LEFT)
    asked: dict[str, Any] = {
        "model": MODEL,
        "prompt": PROMPTS[0],
        "n": RUNNING,
        "max_tokens": LENGTH - 64,
        "ignore_eos": True,
    }
    address = httpx.URL(served.url)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    connection = http.client.HTTPConnection(address.host, address.port)
    try:
        connection.request("POST", "/v1/completions", json.dumps(asked), headers)
        assert eventually(lambda: served.counted(TOKENS) > tokens)
    finally:
        connection.close()
    assert eventually(lambda: answers(served, LEFT) > left)
    assert chat(served).choices  # vLLM says how many run when it has worked
    assert eventually(lambda: served.counted("ray_vllm_num_requests_running") == 0)
    assert served.counted(TOKENS) - tokens < asked["n"] * asked["max_tokens"]


def test_beyond_the_queue_clients_are_told_when_to_come_again_and_leaving_gives_room(
    served: Served,
) -> None:
    before = answers(served, LEFT)
    streams: list[Any] = []
    try:
        with pytest.raises(openai.RateLimitError) as refused:
            fill(served, streams)
        assert len(streams) >= RUNNING + WAITING
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert refused.value.code == "rate_limit_exceeded"
    finally:
        for stream in streams:
            stream.close()
    # Those that waited when the next was refused have left, and were not answered to the end.
    assert eventually(lambda: answers(served, LEFT) >= before + WAITING)
    assert eventually(lambda: in_flight(served) == 0)
    assert chat(served).choices


def fill(served: Served, streams: list[Any]) -> None:
    """Ask for more, until it is too much; a slow machine may have answered the first by then."""
    while len(streams) < 20 * (RUNNING + WAITING):
        streams.append(chat(served, **ENDLESS))


def answers(served: Served, status: int) -> float:
    """How many the replicas counted with this status."""
    return served.counted("ray_halftone_endpoint_requests", f'status="{status}"')


def in_flight(served: Served) -> float:
    name = "ray_halftone_endpoint_requests_in_flight{"
    lines = [line for line in served.metrics().splitlines() if line.startswith(name)]
    assert lines, "a replica that has answered says how many it answers"
    return sum(float(line.split()[-1]) for line in lines)


def digest_of(artifact: Path) -> str:
    return Artifact.load(artifact / "artifact.json").checkpointDigest


def tampered(artifact: Path, folder: Path) -> dict[str, Any]:
    copy = Path(shutil.copytree(artifact, folder / "tampered"))
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    return described(copy, **TOOLS)


def unsigned(artifact: Path, folder: Path) -> dict[str, Any]:
    generate_key(folder / "ours")
    return described(artifact, trust={"publicKeyFile": str(folder / "ours.pub"), **MEASURED})


def signed_by_another(artifact: Path, folder: Path) -> dict[str, Any]:
    for name in ("ours", "theirs"):
        generate_key(folder / name)
    signed = pocket_artifact(folder / "signed", key=folder / "theirs")
    return described(signed, trust={"publicKeyFile": str(folder / "ours.pub"), **MEASURED})


def unmeasured(artifact: Path, folder: Path) -> dict[str, Any]:
    return described(pocket_artifact(folder / "unmeasured", verdict=Verdict.Unmeasured))


@pytest.mark.parametrize(
    ("made", "reason", "said"),
    [
        (tampered, "DigestDiffers", "model.safetensors"),
        # By hand: Ray tries each three times, and test_weights_trust.py has the sentences.
        pytest.param(
            *(unsigned, "SignatureInvalid", "`trust.signature` is 'Required'"),
            marks=pytest.mark.soak,
        ),
        pytest.param(
            *(signed_by_another, "SignatureInvalid", "is not what the key of `trust.public"),
            marks=pytest.mark.soak,
        ),
        pytest.param(
            *(unmeasured, "RequirementNotMet", "Unmeasured, and `trust.verdicts` accepts Passed"),
            marks=pytest.mark.soak,
        ),
    ],
)
def test_what_may_not_be_served_replaces_nothing(
    served: Served,
    artifact: Path,
    tmp_path: Path,
    made: Callable[[Path, Path], dict[str, Any]],
    reason: str,
    said: str,
) -> None:
    before = chat(served).choices[0].message
    counted = f'reason="{reason}"'
    already = served.counted(FAILURES, counted)
    served.deploy(made(artifact, tmp_path))
    told = served.wait()
    assert told is not None
    assert said in told
    assert said in served.state()["told"]
    assert chat(served).choices[0].message == before
    assert eventually(lambda: served.counted(FAILURES, counted) > already)


def test_a_good_artifact_takes_its_place(served: Served, tmp_path: Path) -> None:
    other = pocket_artifact(tmp_path / "other", recipe="fp8-block")
    served.deploy(described(other, **TOOLS))
    assert served.wait() is None
    listed = served.client().models.list().data[0]
    assert digest_of(other) in str(listed.model_extra)
    assert chat(served).choices

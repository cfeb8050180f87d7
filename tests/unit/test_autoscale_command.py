"""The command line of `halftone autoscale`, and Ray's REST interface as it is asked.

We test these aspects:
- what is wrong with an option is refused with a sentence that names it and the way out
- a card and a profile give the law what it needs; without either it waits for replicas to say it
- replicas of Ray are counted by their states, also those that Ray has not begun to start
- what Ray refuses is told in a sentence, and its token is shown to it
- a token that cannot be sent is refused, and in no sentence
- metrics of Ray that listen on loopback are handed on, and nothing else
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from click.testing import CliRunner

from halftone.cli.autoscale import autoscale
from halftone.cli.autoscale_options import Wishes, decider, law, unelected
from halftone.scaling.acting.api_server import ApiError, ApiServer, Connection
from halftone.scaling.acting.ray_application import RayApplication, RayPlace, observed
from halftone.scaling.acting.targets import TargetError
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.serve.local.metrics_door import metrics_door
from halftone.spec.errors import RefusedInput
from tests.artifacts import capacity_card
from tests.doubles.loopback import LoopbackHandler, LoopbackServer
from tests.servers.ports import free_port

ENDPOINT = "EndpointServer:endpoint"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.json"
    path.write_bytes(capacity_card("c" * 64).to_bytes())
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--profile x --card CARD --deployment a/b", "`--card` and `--profile` both say what"),
        ("--card CARD", "Exactly one of `--ray` and `--deployment` must be given"),
        ("--card CARD --ray http://x --deployment a/b", "Exactly one of `--ray`"),
        ("--card CARD --deployment b", "`--deployment b` must be NAMESPACE/NAME"),
        ("--card CARD --ray http://x --lease b", "`--lease b` must be NAMESPACE/NAME"),
        ("--card CARD --ray head:8265", "`--ray head:8265` must be a URL"),
        ("--card CARD --ray http://[::1", "`--ray http://[::1` must be a URL"),
        ("--card CARD --ray http://x:99999", "`--ray http://x:99999` must be a URL"),
        ("--card CARD --ray http://x --selector model_name=y", "is set by Halftone"),
        ("--card CARD --ray http://me:secret@x", "`--ray` must hold no user name"),
        ("--card CARD --deployment a/b --min 0", "`--min` must be 1 or more: with no replica"),
        ("--card CARD --deployment a/b --min 3 --max 2", "`--max`, 2, is less than `--min`, 3"),
        ("--card CARD --ray http://x --selector pool", "`--selector pool` must be LABEL=VALUE"),
        ("--card OTHER --ray http://x", "is not a capacity card"),
        ("--profile no-such --ray http://x", "There is no profile and no file 'no-such'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(
    options: str, said: str, card: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.json").write_text("{}")
    given = options.replace("CARD", str(card)).replace("OTHER", str(tmp_path / "other.json"))
    command = ["--prometheus", "http://prometheus:9090", "--model", "m", *given.split()]
    found = CliRunner().invoke(autoscale, command)
    assert isinstance(found.exception, RefusedInput), found
    assert said in found.exception.message
    assert "secret" not in found.exception.message


def test_a_prometheus_that_is_no_url_is_refused(card: Path) -> None:
    command = ["--prometheus", "prometheus:9090", "--model", "m", "--card", str(card)]
    found = CliRunner().invoke(autoscale, [*command, "--ray", "http://x"])
    assert isinstance(found.exception, RefusedInput)
    assert found.exception.subject == "--prometheus"


def wishes(**changes: Any) -> Wishes:
    """Those of a card, with the other options as they are by default."""
    known = dict.fromkeys(Wishes.__annotations__)
    known |= {"least": 1, "most": 8, "theta": 0.8, "slo_ttft": 2.5, "slo_itl": 0.1}
    return Wishes(**{**known, "slo_prompt_rate": 4000.0, **changes})


def test_a_card_gives_capacity_and_lead(card: Path) -> None:
    capacity, settings = law(wishes(card=card))
    assert capacity is not None
    assert (capacity.kv_blocks, capacity.max_sequences) == (999, 64)
    assert (settings.lead_s, settings.max_replicas, settings.theta) == (3.5, 8, 0.8)
    _, told = law(wishes(card=card, lead_seconds=277.0))
    assert told.lead_s == 277


def test_a_profile_gives_capacity_and_a_lead_that_is_assumed() -> None:
    capacity, settings = law(wishes(profile="dense-27b"))
    assert capacity is not None
    assert capacity.prefill_tokens_per_second > 0
    assert settings.lead_s == 300


def test_without_a_card_the_law_waits_for_replicas_to_say_what_they_can_do() -> None:
    unheard = f"http://127.0.0.1:{free_port()}"
    given = wishes(prometheus=unheard, model="m", interval=5.0, selector=())
    judgement = decider(given).decide(ReplicaCounts(3))
    assert judgement.is_held
    assert "The count holds until it is known what a replica can do" in judgement.reason
    assert f"Prometheus at {unheard} does not answer" in judgement.reason
    assert judgement.lead_s == 300


def test_where_nobody_is_elected_it_is_said() -> None:
    said = unelected(wishes(ray="http://x", leader_election=True))
    assert said == "Without `--lease` nobody is elected; run one of these alone."
    for changes in (
        {"ray": "http://x", "leader_election": False},
        {"ray": "http://x", "leader_election": True, "lease": "a/b"},
        {"deployment": "a/b", "leader_election": True},
    ):
        assert unelected(wishes(**changes)) is None


def details(wanted: int, *states: str) -> dict[str, Any]:
    """As Ray tells of one deployment."""
    replicas = [{"replica_id": f"r{at}", "state": state} for at, state in enumerate(states)]
    deployment = {"target_num_replicas": wanted, "replicas": replicas}
    return {"applications": {"halftone": {"deployments": {ENDPOINT: deployment}}}}


@pytest.mark.parametrize(
    ("wanted", "states", "counts"),
    [
        (2, ("RUNNING", "RUNNING"), (2, 0, 0)),
        (3, ("RUNNING", "STARTING"), (1, 2, 0)),  # Ray has not begun to start the third
        (1, ("RUNNING", "STOPPING"), (1, 0, 1)),
        (2, ("PENDING_MIGRATION", "RUNNING", "STARTING"), (2, 1, 0)),
        (2, ("RECOVERING", "UPDATING"), (0, 2, 0)),
    ],
)
def test_replicas_of_ray_are_counted_by_their_states(
    wanted: int, states: tuple[str, ...], counts: tuple[int, int, int]
) -> None:
    found = observed(details(wanted, *states), "halftone", ENDPOINT)
    ready = frozenset(
        f"r{at}" for at, state in enumerate(states) if state in ("RUNNING", "PENDING_MIGRATION")
    )
    assert found.wanted == wanted
    assert found.counts == ReplicaCounts(*counts, ready)


def test_names_that_ray_does_not_have_are_told_with_those_that_it_has() -> None:
    with pytest.raises(TargetError, match="no application 'other'; there is halftone"):
        observed(details(1), "other", ENDPOINT)
    with pytest.raises(TargetError, match=f"no deployment 'other'; there is {ENDPOINT}"):
        observed(details(1), "halftone", "other")
    with pytest.raises(TargetError, match="no application 'halftone'; there is none"):
        observed({"applications": {}}, "halftone", ENDPOINT)
    others: tuple[dict[str, Any], ...] = (
        {"applications": 1},
        {"applications": {"halftone": []}},
        {"applications": {"halftone": {"deployments": {ENDPOINT: {"replicas": 1}}}}},
        details(float("inf")),  # type: ignore[arg-type]
    )
    for other in others:
        with pytest.raises(TargetError, match="what is not understood"):
            observed(other, "halftone", ENDPOINT)


class Dashboard(LoopbackHandler):
    """Ray's dashboard, as far as a target asks it; the token is `right`."""

    answers: ClassVar[dict[str, tuple[int, Any]]] = {}
    posted: ClassVar[list[tuple[str, Any]]] = []

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        self._answer()

    def do_POST(self) -> None:  # noqa: N802
        length = int(self.headers["Content-Length"])
        self.posted.append((self.path, json.loads(self.rfile.read(length))))
        self._answer()

    def _answer(self) -> None:
        status, body = self.answers[self.path]
        if self.headers["Authorization"] != "Bearer right":
            status, body = 401, {"error": "who are you"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


SCALE = f"/api/v1/applications/halftone/deployments/{ENDPOINT}/scale"
SEEN = observed(details(1, "RUNNING"), "halftone", ENDPOINT)


@pytest.fixture
def dashboard() -> Iterator[str]:
    Dashboard.answers.clear()
    Dashboard.posted.clear()
    Dashboard.answers["/api/serve/applications/"] = 200, details(2, "RUNNING", "RUNNING")
    Dashboard.answers[SCALE] = 200, {"message": "Scaling request received."}
    server = LoopbackServer(Dashboard)
    server.start()
    yield server.origin
    server.stop()


@contextmanager
def target(url: str, token: str | None = "right") -> Iterator[RayApplication]:
    found = RayApplication(RayPlace(url, "halftone", ENDPOINT, token))
    try:
        yield found
    finally:
        found.close()


def test_ray_is_asked_with_its_token_and_told_a_count(dashboard: str) -> None:
    with target(dashboard) as ray:
        assert ray.observe().wanted == 2
        ray.scale(5, SEEN)
    assert Dashboard.posted == [(SCALE, {"target_num_replicas": 5})]


def test_a_token_that_cannot_be_sent_is_in_no_sentence(dashboard: str) -> None:
    with pytest.raises(RefusedInput, match="more than one line of text") as refusal:
        RayApplication(RayPlace(dashboard, "halftone", ENDPOINT, "s3cret\nright"))
    assert "s3cret" not in refusal.value.message
    api = ApiServer(lambda: Connection(dashboard, True, "s3cret\nright"))
    with pytest.raises(ApiError, match="the token is more than one line of text") as silence:
        api.get("/version")
    assert "s3cret" not in str(silence.value)


def refused(url: str, token: str = "right") -> str:
    """What is said when neither reading nor setting is possible."""
    with target(url, token) as ray:
        for ask in (ray.observe, lambda: ray.scale(5, SEEN)):
            try:
                ask()
            except TargetError as error:
                return str(error)
    return ""


def test_what_ray_refuses_is_a_sentence(dashboard: str) -> None:
    assert "does not know its token; see `--ray-token-file`" in refused(dashboard, "wrong")
    Dashboard.answers[SCALE] = 412, {"error": "external scaling is off"}
    assert "deploy it with `external_scaler_enabled: true`" in refused(dashboard)
    Dashboard.answers["/api/serve/applications/"] = 500, {"error": "no controller"}
    assert "answered 500: no controller" in refused(dashboard)
    Dashboard.answers["/api/serve/applications/"] = 200, b"<html>"
    assert "answered 200: <html>" in refused(dashboard)
    assert "gives no answer" in refused(f"http://127.0.0.1:{free_port()}")


class Metrics(LoopbackHandler):
    """What Ray tells on loopback."""

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        body = b"ray_vllm_num_requests_running 1\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_metrics_on_loopback_are_handed_on_and_nothing_else() -> None:
    server = LoopbackServer(Metrics)
    server.start()
    with metrics_door("127.0.0.1", 0, int(server.server_address[1])) as port:
        url = f"http://127.0.0.1:{port}"
        answer = httpx.get(f"{url}/metrics")
        assert answer.text == "ray_vllm_num_requests_running 1\n"
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
        assert httpx.get(f"{url}/api/version").status_code == 404
        server.stop()
        assert httpx.get(f"{url}/metrics").status_code == 503

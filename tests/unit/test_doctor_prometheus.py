"""`halftone doctor` against HTTP servers that answer as Prometheus does, and against others.

We test these aspects:
- everything there passes; what is missing, old or without a label is told with its age and counts;
- labels and the model are asked for of endpoints' series alone;
- models are told apart; a group of rules that does not run, a rule that is missing or fails, and
  a model of which nothing is recorded are told of with the way out;
- a token is sent; a server that lets us not in is exit 2, one that does not answer is exit 3;
- what goes on looking exports what it found, by family, and takes back what it no longer knows.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from halftone.doctor.prometheus import Chosen, seen_in
from halftone.scaling.inputs.asking import Access, Asking
from halftone.telemetry.contract import Source, load_contract, load_groups
from halftone.telemetry.doctor import DoctorMetrics
from tests.commands import Outcome, halftone
from tests.doubles.exporters import AnsweringServer
from tests.expositions import Answers, Metric, needs_of, scraped

EVERYTHING = (Source.VllmServer, Source.Prometheus)
KV = "vllm:kv_cache_usage_perc"


@pytest.fixture
def answers() -> Answers:
    return Answers(scraped(*EVERYTHING))


@pytest.fixture
def server(answers: Answers) -> Iterator[AnsweringServer]:
    server = AnsweringServer(answers)
    server.start()
    yield server
    server.stop()


def doctor(server: AnsweringServer, *options: str | Path) -> Outcome:
    return halftone("doctor", "--prometheus", server.origin, *options)


def test_everything_there_passes_with_its_age(server: AnsweringServer) -> None:
    found = doctor(server)
    assert (found.code, found.err) == (0, "")
    (row,) = [text for text in found.out.splitlines() if "vLLM's own server" in text]
    assert row.split()[-5:] == [str(len(needs_of(Source.VllmServer))), "0", "0", "5", "s"]


def test_a_metric_that_is_not_there_is_named(server: AnsweringServer, answers: Answers) -> None:
    del answers.metrics[KV]
    found = doctor(server)
    assert (found.code, f"missing `{KV}`: needed by" in found.out) == (1, True)


def test_one_that_was_there_lately_is_old(server: AnsweringServer, answers: Answers) -> None:
    answers.metrics[KV].age_s = 1800
    found = doctor(server)
    assert (found.code, f"old `{KV}` (for 30 min): needed by" in found.out) == (1, True)
    assert "`up == 0`" in found.out
    answers.metrics[KV].age_s = 200
    assert doctor(server).code == 1
    assert doctor(server, "--max-age", "240").code == 0


def test_labels_that_series_lack_are_counted(server: AnsweringServer, answers: Answers) -> None:
    answers.metrics[KV] = Metric(series=3, lacking={"model_name": 1})
    found = doctor(server)
    assert found.code == 1
    assert f"label missing `{KV}` (`model_name` in 1 of 3 series)" in found.out


def test_series_of_endpoints_are_chosen_by_labels_and_model(
    server: AnsweringServer, answers: Answers
) -> None:
    assert doctor(server, "--selector", "namespace=models", "--model", 'q"').code == 0
    (kv,) = [query for query in answers.queries if f"timestamp({KV}" in query]
    assert f'{KV}{{namespace="models", model_name="q\\""}}' in kv
    (up,) = [query for query in answers.queries if "timestamp(up" in query]
    assert "namespace=" not in up


def test_each_label_is_asked_for_and_what_may_be_absent_is_not(answers: Answers) -> None:
    server = AnsweringServer(answers)
    server.start()
    (need,) = [each for each in needs_of(Source.VllmServer) if each.name == KV]
    seen_in(Asking(server.origin, Access()), [need], Chosen())
    server.stop()
    (query,) = answers.queries
    asked = re.findall(rf'count\({KV}{{(\w+)=""}}\)', query)
    assert asked == ["instance", "job", "model_name"]


def test_models_are_told_apart_with_their_namespaces(
    server: AnsweringServer, answers: Answers
) -> None:
    for name in answers.metrics:
        answers.metrics[name] = Metric(models=("qwen", "gemma"))
    answers.recorded = ("qwen", "gemma")
    answers.metrics[KV] = Metric(models=("qwen",))
    found = doctor(server)
    assert f"missing of a model `{KV}` (`gemma`): needed by" in found.out
    assert f"1 of {len(load_contract()) + len(load_groups())} metrics and groups" in found.err
    (query,) = [query for query in answers.queries if f"timestamp({KV}" in query]
    assert f"count by (model_name, namespace) ({KV}{{}})" in query


def test_rules_that_run_are_counted_beside_what_is_exported(server: AnsweringServer) -> None:
    found = doctor(server)
    (kinds) = [text.split() for text in found.out.splitlines() if "Prometheus's rules" in text]
    (row,) = kinds
    # Of the operator's nothing is needed: it does not run.
    assert row[-4:] == [str(len(load_groups())), "0", "0", "–"]


@pytest.mark.parametrize("group", ["halftone-scaling", "halftone-endpoint-alerts"])
def test_a_group_that_does_not_run_is_missing(
    server: AnsweringServer, answers: Answers, group: str
) -> None:
    del answers.groups[group]
    found = doctor(server)
    assert (found.code, f"missing `{group}`: needed by " in found.out) == (1, True)
    assert "`rules.labels`" in found.out
    assert "metrics and groups of rules are not as needed" in found.err


@pytest.mark.parametrize(
    ("group", "family"), [("halftone-scaling", "rules"), ("halftone-endpoint-alerts", "alerts")]
)
def test_a_group_that_nobody_wants_need_not_run(
    server: AnsweringServer, answers: Answers, group: str, family: str
) -> None:
    del answers.groups[group]
    assert doctor(server, "--without", family).code == 0


def test_a_group_of_what_nobody_runs_need_not_run(
    server: AnsweringServer, answers: Answers
) -> None:
    del answers.groups["halftone-jobs"]
    assert doctor(server).code == 0


def test_a_group_of_what_somebody_runs_has_to_run(
    server: AnsweringServer, answers: Answers
) -> None:
    del answers.groups["halftone-jobs"]
    answers.metrics |= scraped(Source.Operator)
    assert "missing `halftone-jobs`" in doctor(server).out


def test_a_group_of_another_version_is_told_of(server: AnsweringServer, answers: Answers) -> None:
    del answers.groups["halftone-endpoint"]["halftone:replica_up:min"]
    found = doctor(server)
    assert found.code == 1
    assert "rule missing `halftone-endpoint` (`halftone:replica_up:min`): needed by" in found.out
    assert "of another version" in found.out


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"health": "err", "lastError": "many-to-many matching"}, "says: many-to-many matching."),
        ({"health": "ok", "lastError": "it failed"}, "says: it failed."),
        ({"health": "unknown"}, "says: was not evaluated yet."),
        ({"health": "odd\x1b"}, "says: its health is odd"),
    ],
)
def test_a_rule_that_fails_is_told_of_with_its_error(
    server: AnsweringServer, answers: Answers, told: dict[str, str], said: str
) -> None:
    answers.groups["halftone-scaling"]["halftone:model_replicas:count"] |= told
    found = doctor(server, "--json")
    assert found.code == 1
    (row,) = [each for each in json.loads(found.out)["metrics"] if each["family"] == "rules"][-1:]
    assert (row["name"], row["state"]) == ("halftone-scaling", "RuleFailing")
    assert row["wrongRules"] == ["halftone:model_replicas:count"]
    assert said in row["fix"]
    assert "\x1b" not in row["fix"]


def test_a_model_that_is_not_recorded_is_told_of(server: AnsweringServer, answers: Answers) -> None:
    for name in answers.metrics:
        answers.metrics[name] = Metric(models=("qwen", "gemma"))
    found = doctor(server)
    assert (found.code, "not recorded `halftone-scaling` (`gemma`)" in found.out) == (1, True)
    assert "`rules.selector`" in found.out


def test_where_nobody_wants_rules_they_are_not_asked_for(answers: Answers) -> None:
    answers.groups = {}
    server = AnsweringServer(lambda body: answers(body) if body else (404, b""))
    server.start()
    found = doctor(server, "--without", "rules", "--without", "alerts")
    server.stop()
    assert found.code == 0


def test_a_server_that_does_not_tell_of_rules_is_exit_3(answers: Answers) -> None:
    server = AnsweringServer(lambda body: answers(body) if body else (404, b""))
    server.start()
    found = doctor(server)
    server.stop()
    assert (found.code, "answers with status 404" in found.err) == (3, True)


def test_something_other_than_rules_is_no_answer(answers: Answers) -> None:
    other = b'{"status": "success", "data": {"groups": [{}]}}'
    server = AnsweringServer(lambda body: answers(body) if body else (200, other))
    server.start()
    found = doctor(server)
    server.stop()
    assert (found.code, "something other than rules" in found.err) == (3, True)


def test_the_token_is_sent(server: AnsweringServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert doctor(server, "--prometheus-token-file", tmp_path / "token").code == 0
    assert {one["Authorization"] for one in server.asked} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, 2, "name a token with `--prometheus-token-file`"),
        (403, 2, "name a token with `--prometheus-token-file`"),
        (500, 3, "answers with status 500: it does not say why; check `--prometheus`"),
        (200, 3, "does not answer in JSON; is it Prometheus?; check `--prometheus`"),
    ],
)
def test_what_a_server_says_instead_is_told(status: int, code: int, said: str) -> None:
    server = AnsweringServer(lambda _: (status, b""))
    server.start()
    found = doctor(server)
    server.stop()
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_a_server_that_is_not_there_is_exit_3() -> None:
    found = halftone("doctor", "--prometheus", "http://127.0.0.1:9")
    assert (found.code, "does not answer: [Errno 111]" in found.err) == (3, True)


def test_what_is_exported_is_of_each_family_and_can_be_taken_back() -> None:
    metrics = DoctorMetrics("prometheus:9090")
    metrics.tell({"vllm": 2, "ray": 0})

    def value(name: str, family: str) -> float | None:
        labels = {"prometheus": "prometheus:9090", "family": family}
        return metrics.registry.get_sample_value(name, labels)

    assert value("halftone_metric_contract_ok", "vllm") == 0
    assert value("halftone_metric_contract_missing", "vllm") == 2
    assert value("halftone_metric_contract_ok", "ray") == 1
    metrics.forget()
    assert value("halftone_metric_contract_ok", "ray") is None

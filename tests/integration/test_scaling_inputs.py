"""Scaling's inputs from a real Prometheus, which scrapes exporters that a test can spoil.

We test these aspects:
- what a replica exports is what a reading says, by all three names, with its true age;
- each fault: Prometheus down, a value that is no number, a counter that begins anew, a replica that
  is not scraped, labels renamed, a reader's wrong clock, two jobs for one replica, old samples;
- a replica of Ray that vanishes when idle is zeros, and is missing when its node does not answer;
- names, labels and bounds are those of the vLLM and the Ray that we serve with.

Every case has a model and a label `case` of its own, so that one Prometheus serves all.
"""

import json
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from halftone.scaling.inputs.asking import Access
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.names import NATIVE, RAY, RECORDED, Family
from halftone.scaling.inputs.prometheus import PrometheusReader
from halftone.scaling.reading import GAUGES, ITL_BOUNDS, TTFT_BOUNDS, Reading
from tests.doubles.exporters import Exported, Exporter, native_page, ray_page
from tests.environments import python_of
from tests.servers.prometheus import Job, Prometheus
from tools.rules import RULES

BOTH = ReplicaCounts(2, names=frozenset("ab"))


def minutes_ago(replicas: Iterable[Exported]) -> str:
    """A page whose samples have been lying somewhere."""
    at = int((time.time() - 90) * 1000)
    return re.sub(r"(?m)$(?<=.)", f" {at}", native_page(replicas))


@dataclass
class Case:
    """Two replicas, each at a target of its own; all that a test of one fault changes."""

    family: Family
    page: Callable[[Iterable[Exported]], str]
    relabelling: tuple[Mapping[str, Any], ...] = ()
    exporters: list[Exporter] = field(default_factory=list)

    def replicas(self, name: str) -> list[Exported]:
        return [Exported(each, model=name, running=1, prompt_tokens=10) for each in "ab"]


def renamed(label: str) -> dict[str, str]:
    return {"action": "labelmap", "regex": label, "replacement": f"new_{label}"}


def dropped(label: str) -> dict[str, str]:
    return {"action": "labeldrop", "regex": label}


CASES = {
    "native": Case(NATIVE, native_page),
    "ray": Case(RAY, ray_page),
    "no-number": Case(NATIVE, native_page),
    "anew": Case(NATIVE, native_page),
    "unscraped": Case(NATIVE, native_page),
    "unscraped-ray": Case(RAY, ray_page),
    "idle": Case(RAY, ray_page),
    "model-renamed": Case(RAY, ray_page, (renamed("model_name"), dropped("model_name"))),
    "replica-renamed": Case(
        RAY,
        ray_page,
        (renamed("ReplicaId"), dropped("ReplicaId"), dropped("WorkerId")),
    ),
    "clock": Case(NATIVE, native_page),
    "twice": Case(NATIVE, native_page),
    "old": Case(NATIVE, minutes_ago),
    "recorded": Case(RECORDED, ray_page),
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("scraped")
    rules = folder / "rules.yaml"
    rules.write_text(RULES.read_text().replace("interval: 15s", "interval: 1s"))
    jobs: dict[str, Job] = {}
    with ExitStack() as stack:
        for name, case in CASES.items():
            for each in case.replicas(name):
                case.exporters.append(stack.enter_context(Exporter(case.page, [each])))
            addresses = [exporter.address for exporter in case.exporters]
            jobs[name] = Job(addresses, {"case": name}, case.relabelling)
        jobs["other"] = Job([CASES["twice"].exporters[0].address], {"case": "twice"})
        scraped = stack.enter_context(Prometheus(folder, jobs, [rules]))
        for job in jobs:
            scraped.until(f'count(up{{job="{job}"}} == 1) == {len(jobs[job].targets)}')
        yield scraped


def reader(prometheus: Prometheus, name: str, **options: Any) -> PrometheusReader:
    """Of one case; recorded series have no label but their own."""
    family = CASES[name].family
    selector = {} if family is RECORDED else {"case": name}
    return PrometheusReader(prometheus.url, name, selector=selector, families=(family,), **options)


def named(name: str) -> ReplicaCounts:
    """Both replicas of a case; native ones have no pod here, so they are named by address."""
    if CASES[name].family is NATIVE:
        return ReplicaCounts(2, names=frozenset(each.address for each in CASES[name].exporters))
    return BOTH


def first(name: str) -> Exported:
    return CASES[name].exporters[0].replicas[0]


def eventually(read: Callable[[], Reading], is_so: Callable[[Reading], bool]) -> Reading:
    """Read until a reading is so; the test's own time bounds it."""
    while not is_so(reading := read()):
        time.sleep(0.1)
    return reading


@pytest.mark.parametrize("name", ["native", "ray", "recorded"])
def test_a_reading_is_what_replicas_export(prometheus: Prometheus, name: str) -> None:
    exported = first(name)
    exported.running, exported.waiting, exported.kv_usage = 3, 2, 0.25
    exported.stopped, exported.cut, exported.preemptions = 5, 2, 1
    exported.prompt_tokens, exported.cached_tokens = 1000, 200
    exported.finished_prompt_tokens, exported.finished_output_tokens = 900, 300
    exported.generation_tokens, exported.first_tokens = 400, 8
    # Of Ray's sums it takes none: 7 of 8 prompts finished, and the eighth has half of its output.
    exact = (900, 300) if name == "native" else (1000 * 7 / 8, 400 * 7 / 7.5)

    def is_whole(one: Reading) -> bool:
        """Rules record one after the other, so a query may see some of this time and some not."""
        lengths = {(e.finished_prompt_tokens, e.finished_output_tokens) for e in one.replicas}
        counted = any(each.ttft[-1:] == (8,) for each in one.replicas)
        return not one.missing and counted and exact in lengths

    # A reader of its own for each look: one that saw half of these would hold on to its estimate.
    reading = eventually(lambda: reader(prometheus, name).read(named(name)), is_whole)
    (found,) = (each for each in reading.replicas if each.running == 3)
    assert (found.waiting, found.kv_usage, found.finished, found.preemptions) == (2, 0.25, 7, 1)
    assert (found.prompt_tokens, found.cached_tokens) == (1000, 200)
    assert (found.finished_prompt_tokens, found.finished_output_tokens) == exact
    assert found.generation_tokens == 400
    below = [sum(bound < 0.25 for bound in TTFT_BOUNDS), len(TTFT_BOUNDS) + 1]
    assert found.ttft == (0.0,) * below[0] + (8.0,) * (below[1] - below[0])
    assert len(reading.replicas) == 2
    assert 0 <= reading.age_s < 60


def test_a_value_that_is_no_number_is_told(prometheus: Prometheus) -> None:
    source = reader(prometheus, "no-number")
    assert source.read(named("no-number")).missing == ()
    first("no-number").kv_usage = math.nan
    prometheus.until('vllm:kv_cache_usage_perc{case="no-number"} != vllm:kv_cache_usage_perc')
    reading = source.read(named("no-number"))
    address = CASES["no-number"].exporters[0].address
    assert reading.missing == (
        f"`vllm:kv_cache_usage_perc` of replica {address} is nan, which is no number to decide by",
    )


def test_a_counter_that_begins_anew_is_as_it_is(prometheus: Prometheus) -> None:
    exported = first("anew")
    exported.stopped = 100
    prometheus.until('sum(vllm:request_success_total{case="anew"}) == 100')
    source = reader(prometheus, "anew")
    assert sum(each.finished for each in source.read(named("anew")).replicas) == 100
    exported.stopped = 2
    prometheus.until('sum(vllm:request_success_total{case="anew"}) == 2')
    reading = source.read(named("anew"))
    assert (sum(each.finished for each in reading.replicas), reading.missing) == (2, ())


@pytest.mark.parametrize(("name", "why"), [
    ("unscraped", "exported them, idle or not"),
    ("unscraped-ray", "does not answer Prometheus"),
])  # fmt: skip
def test_a_replica_that_is_not_scraped_is_missing(
    prometheus: Prometheus, name: str, why: str
) -> None:
    source = reader(prometheus, name)
    assert source.read(named(name)).missing == ()
    spoiled = CASES[name].exporters[1]
    spoiled.failing = True
    prometheus.until(f'up{{case="{name}"}} == 0')
    who = spoiled.address if name == "unscraped" else "b"
    (sentence,) = source.read(named(name)).missing
    where = f"{name}/{spoiled.address}"
    assert sentence == f"replica {who} is ready and has no series: {where} {why}"
    assert len(source.read(named(name)).replicas) == 1
    # Whoever knows no names sees that there is one too few.
    (unnamed,) = source.read(ReplicaCounts(2)).missing
    assert where in unnamed

    spoiled.failing = False
    prometheus.until(f'count(up{{case="{name}"}} == 1) == 2')
    assert source.read(named(name)).missing == ()


def test_a_replica_that_vanishes_when_idle_is_zeros_while_its_node_answers(
    prometheus: Prometheus,
) -> None:
    source = reader(prometheus, "idle")
    exporter, exported = CASES["idle"].exporters[0], first("idle")
    exported.stopped = 4
    prometheus.until('ray_vllm_request_success_total{case="idle"} == 4')
    assert [each.running for each in source.read(BOTH).replicas] == [1, 1]

    exported.has_gauges = False
    gauge = 'ray_vllm_num_requests_running{case="idle"}'
    prometheus.until(f"count({gauge}) == 1")
    reading = source.read(BOTH)
    assert ([each.running for each in reading.replicas], reading.missing) == ([0, 1], ())

    exporter.replicas.clear()  # the agent began anew, and has its node alone
    prometheus.until('count(ray_vllm_prompt_tokens_total{case="idle"}) == 1')
    reading = source.read(BOTH)
    assert ([each.finished for each in reading.replicas], reading.missing) == ([4, 0], ())

    prometheus.scrape("idle", [CASES["idle"].exporters[1].address])
    prometheus.until('count(up{case="idle"}) == 1')
    assert source.read(BOTH).missing == (
        f"replica a is ready and has no series: idle/{exporter.address} is no longer scraped",
    )


def test_a_renamed_model_is_told(prometheus: Prometheus) -> None:
    prometheus.until('ray_vllm_prompt_tokens_total{new_model_name="model-renamed"}')
    (sentence,) = reader(prometheus, "model-renamed").read(BOTH).missing
    assert sentence.endswith("with model_name='model-renamed'; it knows ''")


def test_a_renamed_replica_is_told(prometheus: Prometheus) -> None:
    prometheus.until('ray_vllm_prompt_tokens_total{new_ReplicaId="b"}')
    missing = reader(prometheus, "replica-renamed").read(BOTH).missing
    series = RAY.series["prompt_tokens"]
    assert f"`{series}` has no label `ReplicaId` or `WorkerId` that names a replica" in missing


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0])
def test_a_wrong_clock_of_the_reader_changes_no_age(prometheus: Prometheus, skew: float) -> None:
    source = reader(prometheus, "clock", clock=lambda: time.time() + skew)
    reading = source.read(named("clock"))
    assert (len(reading.replicas), reading.missing) == (2, ())
    assert 0 <= reading.age_s < 60
    assert abs(reading.time_s - time.time() - skew) < 3600


def test_a_replica_that_two_jobs_scrape_is_told(prometheus: Prometheus) -> None:
    (sentence,) = reader(prometheus, "twice").read(named("twice")).missing
    assert sentence.endswith("twice; is it scraped by two jobs?")
    assert CASES["twice"].exporters[0].address in sentence


def test_samples_that_lay_somewhere_are_old(prometheus: Prometheus) -> None:
    reading = reader(prometheus, "old").read(named("old"))
    assert 89 <= reading.age_s < 300
    assert len(reading.missing) == 2
    assert all("s ago, more than 60 s" in sentence for sentence in reading.missing)


def test_prometheus_may_go_and_come_again(tmp_path: Path) -> None:
    with Exporter(native_page, [Exported("a")]) as exporter:
        jobs = {"endpoint": Job([exporter.address])}
        with Prometheus(tmp_path, jobs) as prometheus:
            prometheus.until("vllm:num_requests_running")
            source = PrometheusReader(prometheus.url, "qwen", access=Access(timeout_s=2))
            counts = ReplicaCounts(1, starting=2, names=frozenset([exporter.address]))
            assert source.read(counts).missing == ()

            prometheus.stop()
            reading = source.read(counts)
            assert (reading.ready, reading.starting, reading.replicas) == (1, 2, ())
            (sentence,) = reading.missing
            assert sentence.startswith(f"Prometheus at {prometheus.url} does not answer: ")

            prometheus.start()
            reading = eventually(lambda: source.read(counts), lambda one: not one.missing)
            assert len(reading.replicas) == 1


# What a node's agent of Ray makes of metrics of a worker; then again, once gauges are old.
PRINT_RAY = """
import json, sys, time
from prometheus_client import generate_latest
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder

recorder = OpenTelemetryMetricRecorder(gauge_metric_ttl_seconds=0.5)
tags = {"model_name": "qwen", "engine": "0", "ReplicaId": "a", "WorkerId": "w"}
for name, kind in json.loads(sys.argv[1]).items():
    if kind == "histogram":
        recorder.register_histogram_metric(name, "", [1.0, 2.0, 5.0])
        point = {"tags": tags, "bucket_counts": [0, 0, 2, 1]}
        recorder.record_histogram_aggregated_batch(name, [point])
    else:
        getattr(recorder, f"register_{kind}_metric")(name, "")
        recorder.set_metric_value(name, tags, 7.0)
print(json.dumps([generate_latest().decode(), time.sleep(1) or generate_latest().decode()]))
"""


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """What Ray's agent exports of every metric that we read, at first and when it is idle."""
    ends = {"total": "counter", "sum": "histogram", "bucket": "histogram"}
    kinds = {}
    for series in RAY.series.values():
        name, _, end = series.removeprefix("ray_").rpartition("_")
        kinds[name if end in ends else f"{name}_{end}"] = ends.get(end, "gauge")
    command = [str(python_of("serve")), "-c", PRINT_RAY, json.dumps(kinds)]
    said = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
    told: list[str] = json.loads(said.splitlines()[-1])
    return told


@pytest.mark.serve_env
def test_names_and_labels_are_those_of_ray(pages: list[str]) -> None:
    there, _ = pages
    for series in RAY.series.values():
        (labels, *_) = re.findall(rf"(?m)^{series}{{([^}}]*)}} ", there)
        for label in ('model_name="qwen"', 'engine="0"', 'ReplicaId="a"', 'WorkerId="w"'):
            assert label in labels


@pytest.mark.serve_env
def test_of_an_idle_replica_ray_exports_counters_and_no_gauges(pages: list[str]) -> None:
    _, later = pages
    named = {field: f"{series}{{" in later for field, series in RAY.series.items()}
    assert [field for field, is_there in named.items() if not is_there] == list(GAUGES)


@pytest.mark.serve_env
def test_ray_makes_sums_of_the_middles_of_buckets(pages: list[str]) -> None:
    series = RAY.series["finished_prompt_tokens"]
    # Two between 2 and 5, and one above 5, which counts as 10.
    assert re.findall(rf"(?m)^{series}{{[^}}]*}} (.*)$", pages[0]) == ["17.0"]


# Reads the sources, for importing vLLM takes ten seconds; names are literals there.
PRINT_SOURCES = """
import importlib.util
from pathlib import Path

metrics = Path(importlib.util.find_spec("vllm").origin).parent / "v1" / "metrics"
for name in ("loggers", "buckets", "ray_wrappers"):
    print((metrics / f"{name}.py").read_text())
"""


@pytest.fixture(scope="module")
def sources() -> str:
    """What vLLM says of its metrics, of `.venvs/serve`."""
    return subprocess.check_output([str(python_of("serve")), "-c", PRINT_SOURCES], text=True)


@pytest.mark.serve_env
def test_names_and_labels_are_those_of_vllm(sources: str) -> None:
    exported = set(re.findall(r'name="(vllm:\w+)"', sources))
    wanted = {re.sub("_(total|sum|bucket)$", "", name) for name in NATIVE.series.values()}
    assert wanted <= exported
    assert 'labelnames = ["model_name", "engine"]' in sources
    assert 'labelnames=labelnames + ["finished_reason"]' in sources
    assert 'labels.append("ReplicaId")' in sources


@pytest.mark.serve_env
@pytest.mark.parametrize(
    ("name", "bounds"),
    [("TIME_TO_FIRST_TOKEN_BUCKETS", TTFT_BOUNDS), ("INTER_TOKEN_LATENCY_BUCKETS", ITL_BOUNDS)],
)
def test_bounds_are_those_of_vllm(sources: str, name: str, bounds: tuple[float, ...]) -> None:
    (listed,) = re.findall(rf"{name}: tuple\[float, \.\.\.\] = \(([^)]+)\)", sources)
    assert tuple(float(one) for one in listed.split(",") if one.strip()) == bounds

"""What people see of QuantizationJobs with kubectl alone.

We test these aspects:
- `kubectl get` and `get -o wide` of a job at work, one that succeeded, one that was refused and one
  that failed a gate are those of the golden files;
- so is `kubectl describe` of each, with its events in the order in which they happened;
- `kubectl explain` prints the description of every field that it is asked for.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from halftone.spec.cluster import JOB_LABEL, ChildStage
from halftone.spec.names import Reason
from halftone.spec.reports import Outcome, Verdict
from halftone.spec.stage_results import Failure, GateFacts, ReportFacts, StageResult
from tests.api.goldens import agrees_with_golden, masked
from tests.cluster.answers import REPORT, job, result, stage_of
from tests.cluster.client import Client, jobs_path, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_logs import NODE, KubeletLogs
from tests.cluster.kubelet_stand_in import Answer, KubeletStandIn
from tests.cluster.operator_process import OperatorProcess
from tests.crd_schema import crd_schema, nodes

NAMESPACE: Final = "goldens"
WORKERS: Final = 2
GATES: Final = (
    {"name": "divergence", "metric": "KlDivergence", "maximum": "0.02"},
    {"name": "arithmetic", "metric": "Task", "task": "gsm8k", "minRecoveryPercent": 98},
)
REFUSAL: Final = Failure(
    reason=Reason.UnknownArchitecture,
    subject="config.json",
    message="`model_type` 'mystery' in `config.json` has no architecture table; known are llama, "
    "qwen3. Set `genericArchitecture: Allow` in the recipe to go by the last components of the "
    "names.",
)
FAILED_GATE: Final = Failure(
    reason=Reason.GateFailed,
    subject="arithmetic",
    message="Gate 'arithmetic' failed, so nothing is published: recovery is 96.1 %, and the "
    "least that is allowed is 98 %.",
)


def report(recovery: str, verdict: Verdict) -> ReportFacts:
    """A report whose task recovered so much."""
    passed = verdict is Verdict.Passed
    return ReportFacts(
        digest=REPORT,
        verdict=verdict,
        recoveryPercent=recovery,
        gates=(
            GateFacts(name="structure", outcome=Outcome.Passed),
            GateFacts(name="weight-error", outcome=Outcome.Passed, value="0.081"),
            GateFacts(name="divergence", outcome=Outcome.Passed, value="0.0071"),
            GateFacts(
                name="arithmetic",
                outcome=Outcome.Passed if passed else Outcome.Failed,
                value=recovery,
            ),
        ),
    )


def answer(pod: Mapping[str, Any]) -> Answer | None:
    """How the pods of each of the four jobs end."""
    name, stage = pod["metadata"]["labels"][JOB_LABEL], stage_of(pod)
    if (name, stage) == ("mystery", ChildStage.Plan):
        return Answer(StageResult(stage=stage.value, failure=REFUSAL), 2, "Error")
    if name == "qwen3-32b" and stage is ChildStage.Quantize:
        return None  # it is at work
    found = result(stage)
    if stage is ChildStage.Validate and name == "llama-3-8b":
        failed = report("96.1", Verdict.Failed)
        return Answer(found.model_copy(update={"report": failed, "failure": FAILED_GATE}), 1)
    if stage is ChildStage.Validate:
        found = found.model_copy(update={"report": report("99.4", Verdict.Passed)})
    return Answer(found)


def created(name: str, source: str, **spec: Any) -> dict[str, Any]:
    """A job that gets a model from the Hub and puts it into a bucket."""
    gates = {"gates": list(GATES)}
    return job(
        name, NAMESPACE, source={"huggingFace": {"repository": source}}, validation=gates, **spec
    )


def at_work(client: Client, logs: KubeletLogs) -> None:
    """Let the workers of `qwen3-32b` run, each a part of the way, until the status says so."""
    query = {"labelSelector": f"{JOB_LABEL}=qwen3-32b,halftone.dev/stage=quantize"}
    path = pods_path(NAMESPACE)
    client.wait("the workers", lambda: len(client.items(path, **query)) == WORKERS)
    for done, pod in enumerate(client.items(path, **query), start=1):
        name = pod["metadata"]["name"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        client.create(f"{path}/{name}/binding", binding)
        progress = {"bytesDone": done * 1_000_000, "bytesTotal": 5_000_000}
        logs.say(name, "Reads shard 1 of 5.", json.dumps(progress))
        client.patch(f"{path}/{name}/status", {"status": {"phase": "Running"}})
    wanted = {"bytesDone": 3_000_000, "bytesTotal": 10_000_000}
    client.wait(
        "the progress",
        lambda: client.job(NAMESPACE, "qwen3-32b")["status"].get("progress") == wanted,
    )


@pytest.fixture(scope="module")
def jobs(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """The cluster with four jobs that stand as they will stay."""
    client.namespace(NAMESPACE)
    folder = tmp_path_factory.mktemp("goldens")
    options = ("--set", "progressSeconds=1")
    with (
        KubeletLogs(cluster, client) as logs,
        OperatorProcess(cluster, NAMESPACE, folder, options=options),
        KubeletStandIn(cluster, answer, namespace=NAMESPACE),
    ):
        path = jobs_path(NAMESPACE)
        client.create(path, created("qwen3-32b", "Qwen/Qwen3-32B", parallelism=WORKERS))
        client.create(path, created("phi-4", "microsoft/phi-4"))
        client.create(path, created("mystery", "someone/mystery"))
        client.create(path, created("llama-3-8b", "meta-llama/Llama-3.1-8B"))
        client.wait_for(NAMESPACE, "phi-4", "Succeeded", "True")
        for name in ("mystery", "llama-3-8b"):
            client.wait_for(NAMESPACE, name, "Succeeded", "False")
        at_work(client, logs)
        yield cluster


def kubectl(cluster: ControlPlane, *arguments: str) -> str:
    """What kubectl prints, but for waiting: whether pods wait for the stand-in is chance."""
    told = cluster.kubectl(*arguments, "--namespace", NAMESPACE).splitlines()
    return masked("\n".join(line for line in told if " StageWaiting " not in line))


def test_get_is_the_golden_table(jobs: ControlPlane) -> None:
    told = kubectl(jobs, "get", "qj")
    assert agrees_with_golden("kubectl/get.txt", told), told


def test_get_wide_is_the_golden_table(jobs: ControlPlane) -> None:
    told = kubectl(jobs, "get", "qj", "-o", "wide")
    assert agrees_with_golden("kubectl/get-wide.txt", told), told


@pytest.mark.parametrize("name", ["qwen3-32b", "phi-4", "mystery", "llama-3-8b"])
def test_describe_tells_the_golden_story(jobs: ControlPlane, name: str) -> None:
    told = kubectl(jobs, "describe", "qj", name)
    assert agrees_with_golden(f"kubectl/describe-{name}.txt", told), told


@pytest.mark.parametrize(
    "path",
    [
        "spec",
        "spec.source.s3",
        "spec.quantization",
        "spec.validation.gates",
        "spec.publish.huggingFace",
        "status.conditions",
    ],
)
def test_explain_prints_our_descriptions(cluster: ControlPlane, path: str) -> None:
    told = " ".join(cluster.kubectl("explain", f"qj.{path}").split())
    known = {place.replace("[]", ""): node for place, node in nodes(crd_schema())}
    assert f"KIND: QuantizationJob VERSION: v1alpha1 FIELD: {path.rpartition('.')[2]}" in told
    fields = known[path].get("properties") or known[f"{path}"]["properties"]
    for name, node in fields.items():
        assert f"{name} <" in told
        assert " ".join(node["description"].split()) in told


def test_explain_knows_every_field(cluster: ControlPlane) -> None:
    told = cluster.kubectl("explain", "qj", "--recursive")
    fields = {path.rpartition(".")[2].rstrip("[]{}") for path, _ in nodes(crd_schema()) if path}
    assert {line.split()[0] for line in told.splitlines() if "<" in line} >= fields - {""}

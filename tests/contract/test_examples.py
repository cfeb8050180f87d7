"""Every numbered example is a test: parsed, planned, rendered, and run where it can be.

Example 07, the reference models, has a module of its own (`test_example_references`). That the
CRD's rules take each job for a cluster is asked of a real API server in `tests/api/test_submit.py`;
here the CRD's schema is. `RUNS` says what runs an example, as the table in `examples/README.md`.

We test these aspects:
- there are nine, each in the README's table with what runs it, and each job is short;
- each job names its command, and every command of an example is one that `halftone` reads, with
  options that exist, or names files that are there;
- a job parses, fits the CRD's schema, is planned on its source's headers, and runs in a cluster or
  not, as its command says;
- values of charts render, into what the example promises: a swap changes the artifact alone, an
  air-gapped endpoint has its certificates and names no other store, the whole way's endpoint
  waits for its job and scales, and mounts nothing that its README makes later;
- the pipeline of example 04 is compiled and submitted;
- example 05 runs as printed, and requests of example 06 are read.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml

from halftone.checkpoint.index import read_checkpoint
from halftone.control.acceptance import first_refusal
from halftone.control.observed import Observed
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.plan.planning import plan_checkpoint
from halftone.serve.comparing.prompts import read_prompts
from halftone.spec.documents import Method
from halftone.spec.job import QuantizationJob, Source
from halftone.spec.pipelines import Task
from halftone.spec.recipes import parse_job, read_yaml, resolve
from halftone.spec.serving import Accelerator, Endpoint
from halftone.stores import open_source
from tests.cluster import endpoint_chart
from tests.command_lines import read, stand_in_root
from tests.commands import halftone
from tests.conftest import ROOT
from tests.crd_schema import crd_schema
from tests.doubles.kubeflow import KubeflowDouble
from tools import examples
from tools.servers import program

# Example -> what runs it, in the words of the README's table.
RUNS = {
    "01": "`make demo`",
    "02": "gates, in the integration tier",
    "03": "the API tier takes it",
    "04": "compiled, submitted to a double",
    "05": "as printed",
    "06": "rendered; its requests are read",
    "07": "planned to the byte",
    "08": "planned, rendered",
    "09": "planned, rendered",
}
ALL = examples.examples()
JOBS = examples.jobs()
# Their sources are on the Hub: `test_example_references` has headers for them.
REFERENCES = [path for path in JOBS if path.parent.name.startswith("07")]
POCKET = [path for path in JOBS if path not in REFERENCES]
IMAGE = "registry.example/halftone-task@sha256:" + "a" * 64
MONITORED = ("--api-versions", "monitoring.coreos.com/v1")

of_jobs = pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands who runs the commands."""
    return stand_in_root(tmp_path_factory.mktemp("reader"))


def job(path: Path) -> QuantizationJob:
    return parse_job(read_yaml(path), path.name)


def test_there_are_nine_and_the_readme_says_what_runs_each() -> None:
    assert list(ALL) == list(RUNS) == [f"{number:02}" for number in range(1, 10)]
    rows = [line for line in (ROOT / "examples/README.md").read_text().splitlines() if "](" in line]
    assert len(rows) == len(ALL)
    for (number, path), row in zip(ALL.items(), rows, strict=True):
        link = path.name if path.is_file() else f"{path.name}/README.md"
        assert row.startswith(f"| [{number}]({link}) |")
        assert row.endswith(f"| {RUNS[number]} |")


def test_what_needs_nothing_but_this_machine_can_be_run_with_make() -> None:
    assert set(examples.HERE) == {"01", "02", "05"}
    assert all(line.startswith("halftone ") for n in examples.HERE for line in commands(n))


def test_an_example_that_needs_a_cluster_is_printed_and_not_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert examples.main(["09"]) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[1:] == commands("09")
    assert examples.main([]) == examples.main(["10"]) == 2
    assert "Name one example" in capsys.readouterr().out


def commands(number: str) -> list[str]:
    return examples.commands(ALL[number])


@of_jobs
def test_a_job_is_short_and_names_its_command(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    verb = "run" if path.name[:2] in examples.HERE else "submit"
    assert f"\n# cmd: halftone {verb} {path.relative_to(ROOT)} " in text


@pytest.mark.parametrize("number", ALL)
def test_its_commands_are_commands(
    number: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    lines = commands(number) + [
        line for path in JOBS if ALL[number] in path.parents for line in examples.commands(path)
    ]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[0] in {"aws", "curl", "halftone", "helm", "kubectl", "printf"}
        if words[0] == "halftone":
            read(line)
        for word in words:
            if word.startswith(("charts/", "examples/")):
                assert Path(word).exists(), line


@of_jobs
def test_a_job_fits_the_schema_of_the_crd(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    schema = closed(crd_schema())
    jsonschema.validate(document, schema)
    document["spec"]["quantization"]["presett"] = "a typo"
    with pytest.raises(jsonschema.ValidationError, match="presett"):
        jsonschema.validate(document, schema)


def closed(schema: object) -> object:
    """The schema as the API server reads it with strict field validation: no fields but its own."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if "properties" in found and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.parametrize("path", POCKET, ids=lambda path: path.stem)
def test_a_job_is_planned(path: Path) -> None:
    wanted = job(path)
    source = open_source(path.parent / folder(wanted.spec.source))
    recipe = resolve(wanted.spec.quantization, wanted.metadata.name)
    size = wanted.spec.quantization.maxShardBytes or MAX_SHARD_BYTES
    planned = plan_checkpoint(read_checkpoint(source), recipe, size)
    plan = planned.plan
    source.close()
    assert plan.refusal is None
    assert plan.output is not None
    assert len(planned.shards) >= wanted.spec.parallelism, "a pod would have nothing to do"
    calibration = wanted.spec.quantization.calibration
    assert (calibration is not None) is (plan.method is Method.Calibrated)
    if calibration is not None:
        assert calibration.dataset.path is not None, "a remote data set needs a double here"
        rows = (path.parent / calibration.dataset.path).read_text().splitlines()
        assert len(rows) >= calibration.samples


@of_jobs
def test_a_job_for_a_cluster_can_run_there_and_no_other(path: Path) -> None:
    wanted = job(path)
    metadata = {"name": wanted.metadata.name, "namespace": "halftone"}
    refusal = first_refusal(wanted.spec, Observed(metadata, {}, {}, datetime.now(UTC)))
    assert (refusal is None) is (path.name[:2] not in examples.HERE)


def folder(source: Source) -> Path:
    """Where the source lies here; a bucket `models` holds a copy of what lies beside the jobs."""
    if source.directory is not None:
        return Path(source.directory.path)
    assert source.s3 is not None, "a source on the Hub needs a double here"
    return ROOT / "examples" / source.s3.uri.removeprefix("s3://models/")


def test_names_of_jobs_differ_but_where_one_shows_the_other() -> None:
    names = [job(path).metadata.name for path in JOBS]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"pocket-model"}  # 03 is 01 in a cluster


def test_the_pipeline_of_example_04_is_compiled_and_submitted(tmp_path: Path) -> None:
    compiled = tmp_path / "quantization.yaml"
    ended = halftone("pipeline", "compile", "--image", IMAGE, "-o", compiled)
    assert ended.code == 0, ended.err
    executors = next(yaml.safe_load_all(compiled.read_text()))["deploymentSpec"]["executors"]
    assert {f"exec-{task}" for task in Task} <= executors.keys()
    with KubeflowDouble() as server:
        submitted = halftone(
            *("pipeline", "submit", ALL["04"], "--endpoint", server.endpoint, "--image", IMAGE),
            *("--every", "0.05", "--namespace", "halftone"),
        )
        assert submitted.code == 0, submitted.err
        (run,) = server.runs
    spec = parse_job(yaml.safe_load(run.body["runtime_config"]["parameters"]["job"]), "run").spec
    assert spec.publish == job(ALL["04"]).spec.publish


def values(number: str, *names: str) -> tuple[str, ...]:
    return tuple(f"--values={ALL[number] / name}.yaml" for name in names)


def template(chart: str, *options: str) -> list[endpoint_chart.Object]:
    """What Helm makes of a chart and these options alone, as a user of the example has it."""
    place = str(ROOT / "charts" / chart)
    command = [str(program("helm")), "template", "small", place, "--namespace", "halftone"]
    found = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return [one for one in yaml.safe_load_all(found.stdout) if one]


def endpoint(number: str, *names: str) -> Endpoint:
    objects = template("halftone-endpoint", *values(number, *names), *MONITORED)
    return endpoint_chart.endpoint_of(objects)


def test_a_swap_changes_the_artifact_alone() -> None:
    old, new = endpoint("06", "values"), endpoint("06", "values", "next")
    assert old.artifact != new.artifact
    assert old.model_copy(update={"artifact": new.artifact}) == new
    published = job(ALL["03"]).spec.publish
    assert published is not None
    assert old.artifact is not None
    assert old.artifact.uri == published.uri


def test_the_air_gapped_endpoint_serves_what_its_job_publishes_and_trusts_its_own_store() -> None:
    served, publish = endpoint("08", "endpoint"), job(ALL["08"] / "job.yaml").spec.publish
    assert publish is not None
    assert publish.s3 is not None
    assert served.artifact is not None
    assert served.artifact.uri == publish.s3.uri
    assert served.artifact.endpointUrl == publish.s3.endpointUrl
    objects = template("halftone-endpoint", *values("08", "endpoint"))
    service = endpoint_chart.ray_service(objects)
    for one in endpoint_chart.templates(service).values():
        (container,) = one["spec"]["containers"]
        certificates = endpoint_chart.variables(container)["AWS_CA_BUNDLE"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert str(Path(certificates).parent) in mounts


def test_the_air_gapped_operator_lets_jobs_name_the_store_inside_alone() -> None:
    objects = template("halftone-operator", *values("08", "operator"))
    (policy,) = endpoint_chart.of_kind(objects, "ValidatingAdmissionPolicy")
    wanted = job(ALL["08"] / "job.yaml")
    assert wanted.spec.source.s3 is not None
    assert str(wanted.spec.source.s3.endpointUrl) in yaml.safe_dump(policy)
    images = {
        container["image"]
        for one in endpoint_chart.of_kind(objects, "Deployment")
        for container in one["spec"]["template"]["spec"]["containers"]
    }
    assert images
    assert all(image.startswith("registry.inside.example/") for image in images)


def test_the_whole_ways_endpoint_waits_for_its_job_and_scales() -> None:
    objects = template("halftone-endpoint", *values("09", "endpoint"), *MONITORED)
    served = endpoint_chart.endpoint_of(objects)
    assert served.accelerator is Accelerator.CPU
    name = job(ALL["09"] / "job.yaml").metadata.name
    assert name in yaml.safe_dump(endpoint_chart.of_kind(objects, "Role"))
    assert endpoint_chart.of_kind(objects, "PodMonitor")
    scaling = endpoint_chart.policy_of(objects)
    assert scaling["settings"]["max_replicas"] == 3
    assert scaling["settings"]["scale_in_window_s"] == 60


def test_what_pods_of_the_whole_way_need_is_made_before_they_are() -> None:
    before = (ALL["09"] / "README.md").read_text().partition("helm install whole-way ")[0]
    made = set(re.findall(r"kubectl create (?:configmap|secret generic) (\S+)", before))
    made |= set(re.findall(r"SecretRef: {name: ([\w-]+)", (ALL["09"] / "job.yaml").read_text()))
    objects = template("halftone-endpoint", *values("09", "endpoint"), *MONITORED)
    made |= {one["metadata"]["name"] for one in endpoint_chart.of_kind(objects, "ConfigMap")}
    named = set(referred(endpoint_chart.templates(endpoint_chart.ray_service(objects))))
    assert {"models-serve", "models-signer", "clients"} <= named
    assert named - {"kube-root-ca.crt"} <= made


def referred(node: object) -> Iterator[str]:
    """Names of the Secrets and ConfigMaps without which a pod does not start."""
    parts: list[object] = list(node) if isinstance(node, list) else []
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "secretName":
            yield value
        elif key in {"configMap", "secretKeyRef"}:
            yield value["name"]
        else:
            parts.append(value)
    for part in parts:
        yield from referred(part)


def test_the_whole_ways_operator_and_monitoring_render_for_a_prometheus_operator() -> None:
    operator = template("halftone-operator", *values("09", "operator"), *MONITORED)
    (monitor,) = endpoint_chart.of_kind(operator, "ServiceMonitor")
    rules = template("halftone-monitoring", *values("09", "monitoring"), *MONITORED)
    labelled = [monitor, *endpoint_chart.of_kind(rules, "PrometheusRule")]
    assert len(labelled) > 1
    assert all(one["metadata"]["labels"]["release"] == "prometheus" for one in labelled)


def test_the_requests_of_the_comparison_are_read() -> None:
    prompts = read_prompts(ALL["06"] / "prompts.jsonl", 64)
    assert len(prompts) >= 8, "fewer decide nothing"


def test_the_replay_runs_as_printed(root: Path) -> None:
    (line,) = commands("05")
    ended = subprocess.run(
        [sys.executable, "-m", *shlex.split(line)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    rows = {row.split()[0]: row.split()[1:] for row in ended.stdout.splitlines() if row.strip()}
    assert {"static-8", "latency-ratio", "oracle", "halftone"} <= rows.keys()
    assert float(rows["halftone"][0]) > 95  # percent of requests that met the objective
    assert (root / "build" / "replay" / "replay-requests.svg").is_file()

"""`halftone pipeline compile|submit|status`, against a double of Kubeflow's REST interface.

We test these aspects:
- what is submitted is what the operator would render: pipeline, images, parameters, name
- a job of which a run goes on or has succeeded is run again only with `--again`; after a failure
  it is; of two that submit at the same moment one run stays
- an answer that is lost makes no second run
- what the operator refuses is refused before anything is sent; options that cannot be are named
- status exits as the run does, and a server that is away for a while is waited for
- wrong endpoint, token, run or namespace, and no images: one sentence, and its exit code
- compile writes a pipeline that kfp reads, with the images that were given
"""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.cli.pipeline_access import Server
from halftone.cli.pipeline_submit import Order
from halftone.control.kubeflow.claiming import run_name
from halftone.kubeflow.rest import Kubeflow
from halftone.spec.pipelines import PIPELINE_FILE, Parameter, Run, RunRequest, Task
from halftone.spec.recipes import parse_job
from tests.commands import Outcome, halftone
from tests.conftest import ROOT
from tests.doubles.kubeflow import Fault, KubeflowDouble, Step

JOB = ROOT / "examples" / "03-in-a-cluster.yaml"
IMAGE = "registry.example/halftone-task@sha256:" + "a" * 64
DONE = {task.value: "SUCCEEDED" for task in Task}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """What the commands import takes longer than they do."""
    halftone("pipeline", "submit", "--help")
    halftone("pipeline", "status", "--help")


@pytest.fixture
def server() -> Iterator[KubeflowDouble]:
    with KubeflowDouble() as double:
        yield double


def _submit(server: KubeflowDouble, *more: str | Path, job: Path = JOB) -> Outcome:
    where = ("--endpoint", server.endpoint, "--every", "0.05")
    return halftone("pipeline", "submit", job, "--image", IMAGE, *where, *more)


def _status(server: KubeflowDouble, *more: str) -> Outcome:
    return halftone("pipeline", "status", *more, "--endpoint", server.endpoint, "--every", "0.05")


def test_a_submitted_run_is_what_the_operator_would_make(server: KubeflowDouble) -> None:
    told = _submit(
        server,
        *("--image-validate", "serve", "--image-calibrate", "calibrate", "--pipeline-root"),
        *("s3://b/root", "--service-account", "halftone", "--experiment", "models"),
    )
    assert told.code == 0, told.err
    (run,) = server.runs
    assert f"run {run.name} created" in told.out
    assert f"page: {server.endpoint}/#/runs/details/{run.run_id}" in told.out
    assert run.name.startswith("kubeflow.pocket-model-")
    assert run.name.endswith("-1-1")
    assert [one["display_name"] for one in server.experiments] == ["models"]
    assert run.body["service_account"] == "halftone"
    config = run.body["runtime_config"]
    assert config["pipeline_root"] == "s3://b/root"
    assert config["parameters"].keys() == set(Parameter)
    job = json.loads(config["parameters"]["job"])
    assert job["spec"]["publish"]["s3"]["uri"] == "s3://published/pocket-model-nvfp4a16"
    assert (
        config["parameters"]["work_area"]
        == "s3://published/pocket-model-nvfp4a16.work/kubeflow.pocket-model"
    )
    executors = run.body["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    images = {name: one["container"]["image"] for name, one in executors.items()}
    # Gates of this job need no server, so its image for them is not used.
    assert images == {f"exec-{task}": IMAGE for task in Task} | {"exec-calibrate": "calibrate"}


def test_a_job_that_goes_on_or_succeeded_is_run_again_only_when_told(
    server: KubeflowDouble,
) -> None:
    server.script = [Step("RUNNING")]
    first = _submit(server)
    (run,) = server.runs
    again = _submit(server)
    assert (first.code, again.code) == (0, 0)
    assert f"run {run.name} of this very job is there already: PENDING" in again.out
    server.put(run.run_id, Step("SUCCEEDED"))
    assert "already: SUCCEEDED" in _submit(server).out
    assert len(server.created) == 1
    assert _submit(server, "--again").code == 0
    assert [one.name[-4:] for one in server.runs] == ["-1-2", "-1-1"]
    for one in server.runs:
        server.put(one.run_id, Step("FAILED"))
    assert _submit(server).code == 0
    assert server.runs[0].name.endswith("-1-3")


def test_an_image_without_a_digest_is_warned_of(server: KubeflowDouble) -> None:
    assert _submit(server).err == ""
    told = _submit(server, "--again", "--image", "registry.example/halftone-task:1")
    assert told.code == 0
    assert "nothing is taken from Kubeflow's cache" in told.err
    tasks = server.runs[0].body["pipeline_spec"]["pipeline_spec"]["components"]
    assert "enableCache" not in json.dumps(tasks)


def test_another_job_is_another_run(server: KubeflowDouble, tmp_path: Path) -> None:
    other = tmp_path / "job.yaml"
    other.write_text(JOB.read_text().replace("0.12", "0.11"))
    assert _submit(server).code == 0
    assert _submit(server, job=other).code == 0
    assert len(server.runs) == 2


def test_of_two_at_the_same_moment_one_run_stays(server: KubeflowDouble) -> None:
    """Both have looked before either makes its run."""
    server.fail("POST /experiments", Fault.Held)
    told: list[Outcome] = []
    slow = threading.Thread(target=lambda: told.append(_submit(server)))
    slow.start()
    while not server.asked_for("POST /experiments"):
        pass
    rival = asyncio.run(_rival(server))
    server.released.set()
    slow.join()
    assert told[0].code == 0, told[0].err
    assert "was made by somebody else at the same moment" in told[0].out
    assert len(server.created) == 2
    assert [run.run_id for run in server.runs] == [rival.run_id]


async def _rival(server: KubeflowDouble) -> Run:
    """Another's POST of the run that `_submit` is about to make."""
    job = parse_job(yaml.safe_load(JOB.read_text()), "job")
    order = Order.of(job, Server(server.endpoint, None, None, None, None))
    request = RunRequest(
        display_name=run_name(order.metadata, 1),
        pipeline_spec={"root": {"dag": {}}},
        platform_spec={},
        parameters={},
    )
    async with Kubeflow(server.endpoint) as kubeflow:
        return await kubeflow.create(request, server.experiments[0]["experiment_id"])


def test_a_lost_answer_makes_no_second_run(server: KubeflowDouble) -> None:
    server.fail("POST /runs", Fault.Lost)
    told = _submit(server)
    assert told.code == 0, told.err
    assert len(server.created) == 1
    assert f"details/{server.runs[0].run_id}" in told.out


def test_waiting_ends_as_the_run_does(server: KubeflowDouble) -> None:
    server.script = [
        Step("RUNNING", {"resolve": "SUCCEEDED", "plan": "RUNNING"}),
        Step("SUCCEEDED", DONE),
    ]
    told = _submit(server, "--wait")
    assert told.code == 0, told.err
    assert "the run succeeded" in told.out
    lines = [line.split()[:2] for line in told.out.splitlines()[2:-1]]
    assert lines[:2] == [["resolve", "done"], ["plan", "running"]]
    assert lines[2:] == [[task, "done"] for task in Task if task != "resolve"]


def test_what_came_from_the_cache_is_said_to(server: KubeflowDouble) -> None:
    server.script = [Step("SUCCEEDED", DONE | {"plan": "CACHED", "quantize": "CACHED"})]
    _submit(server)
    told = _status(server, server.runs[0].run_id)
    cached = [line.split()[0] for line in told.out.splitlines() if " cached " in line]
    assert cached == ["plan", "quantize"]


def test_a_server_that_is_away_meanwhile_is_waited_for(server: KubeflowDouble) -> None:
    server.script = [Step("RUNNING"), Step("SUCCEEDED")]
    server.fail("GET /runs/", Fault.Cut)
    server.fail("GET /runs/", Fault.Unavailable)
    told = _submit(server, "--wait")
    assert told.code == 0, told.err
    assert "cannot be reached" in told.err
    assert "cannot answer now (503)" in told.err


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (Step("FAILED", {**DONE, "validate": "FAILED", "publish": "SKIPPED"}), "`validate` failed"),
        (Step("FAILED", {"plan": ("FAILED", "no such model")}), "`plan` failed: no such model. "),
        (Step("FAILED", error="no pipeline root"), "The run failed: no pipeline root. "),
        (Step("FAILED"), "The run failed. Its log is at http"),
    ],
)
def test_a_failed_run_is_exit_code_1(server: KubeflowDouble, step: Step, sentence: str) -> None:
    server.script = [step]
    _submit(server)
    told = _status(server, server.runs[0].run_id)
    assert told.code == 1
    assert sentence in told.err
    assert told.err.count("\n") == 1


def test_a_run_that_was_terminated_says_so(server: KubeflowDouble) -> None:
    server.script = [Step("CANCELING", {"plan": "RUNNING"}), Step("FAILED", {"plan": "FAILED"})]
    _submit(server)
    told = _status(server, server.runs[0].name, "--watch")
    assert told.code == 1
    assert "The run was terminated" in told.err


def _job(tmp_path: Path, **changes: Any) -> Path:
    document = yaml.safe_load(JOB.read_text())
    document["spec"].update(changes)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": {"directory": {"path": "model"}}}, "`spec.source.directory.path` names a file"),
        (
            {"workVolume": {"storageClassName": "fast", "size": "1Gi"}, "parallelism": 1},
            "which the operator makes",
        ),
        (
            {
                "stages": [
                    {"name": "Plan", "serviceAccountName": "a"},
                    {"name": "Publish", "serviceAccountName": "b"},
                ]
            },
            "serviceAccountName",
        ),
    ],
)
def test_what_the_operator_refuses_is_refused_here(
    server: KubeflowDouble, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    told = _submit(server, job=_job(tmp_path, **changes))
    assert told.code == 2
    assert sentence in told.err
    assert server.asked == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--device", "H100"), "which is not a node's label as LABEL=VALUE"),
        (("--service-account", "Halftone"), "`--service-account` is 'Halftone'"),
        (("--ui-url", "ftp://x"), "`--ui-url ftp://x` must be a URL"),
        (("--ui-url", "https://me:secret@x"), "`--ui-url` must hold no user name"),
        (("--experiment", ""), "`--experiment` is ''"),
        (("--image", ""), "There is no image for the tasks"),
        (("--endpoint", ""), "There is no address of Kubeflow Pipelines"),
        (("--endpoint", "kubeflow:8888"), "`--endpoint kubeflow:8888` must be a URL"),
        # It would stand in the page's address, and in the command that is shown to be copied.
        (("--endpoint", "http://me:secret@x"), "`--endpoint` must hold no user name"),
        (("--every", "nan"), "is not a number to compute with"),
        (("--token-file", "/no/such/file"), "does not exist"),
    ],
)
def test_options_that_cannot_be(
    server: KubeflowDouble, options: tuple[str, str], sentence: str
) -> None:
    told = _submit(server, *options)
    assert told.code == 2
    assert sentence in told.err
    assert "secret" not in told.err
    assert server.asked == []


def test_trouble_with_the_server_is_a_sentence_and_a_code(
    server: KubeflowDouble, tmp_path: Path
) -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    token = tmp_path / "token"
    token.write_text("secret")
    assert _status(server, unknown).err.startswith(f"halftone: There is no run '{unknown}' at http")
    found = [_status(server, unknown), _status(server, "nothing")]
    server.token = "other"
    found.append(_status(server, "nothing", "--token-file", str(token)))
    server.multi_user, server.token = True, None
    found.append(_submit(server, "--again", "--namespace", "team"))
    found.append(_status(server, "nothing"))
    server.down = True
    found.append(_status(server, "nothing"))
    assert [one.code for one in found] == [2, 2, 2, 0, 2, 3]
    assert "`--token-file` names the file" in found[2].err
    assert "secret" not in found[2].err
    assert "Name one with `--namespace`." in found[4].err
    assert "cannot be reached" in found[5].err
    assert server.experiments[0]["namespace"] == "team"


def test_the_endpoint_may_come_from_the_environment(
    server: KubeflowDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALFTONE_KFP_ENDPOINT", f"{server.endpoint}/apis/v2beta1")
    told = halftone("pipeline", "status", "nothing")
    assert "There is no run with 'nothing' in its name" in told.err


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    file = tmp_path_factory.mktemp("compiled") / "q.yaml"
    images = ("--image", IMAGE, "--image-validate", "serve")
    return halftone("pipeline", "compile", "-o", file, *images), file


def test_compile_writes_the_pipeline_with_its_images(compiled: tuple[Outcome, Path]) -> None:
    told, file = compiled
    assert told.code == 0, told.err
    assert told.err == ""
    written = yaml.safe_load(file.read_text())
    shipped = yaml.safe_load((ROOT / "src/halftone/recipes" / PIPELINE_FILE).read_text())
    images = {
        name: one["container"].pop("image")
        for name, one in written["deploymentSpec"]["executors"].items()
    }
    for one in shipped["deploymentSpec"]["executors"].values():
        assert one["container"].pop("image") == "halftone-task"
    assert written == shipped
    assert images == {f"exec-{task}": IMAGE for task in Task} | {"exec-validate": "serve"}


def test_compile_without_images_says_what_is_missing(compiled: tuple[Outcome, Path]) -> None:
    told = halftone("pipeline", "compile")
    assert told.code == 0
    assert "placeholder `halftone-task`" in told.err
    assert yaml.safe_load(told.out)["pipelineInfo"]["name"] == "quantization"


def test_compile_without_kfp_says_what_to_install(
    compiled: tuple[Outcome, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("kfp", "kfp.components"):
        monkeypatch.setitem(sys.modules, module, None)
    told = halftone("pipeline", "compile")
    assert told.code == 3
    assert told.out == ""
    assert "needs 'kfp', which is not installed" in told.err
    assert "pip install 'halftone[pipelines]'" in told.err

"""A run of the pipeline for one job: what a Kubeflow server is told, and what it is not.

We test these aspects:
- for any job and installation a run can be rendered, twice to the same bytes, and changes nothing
  that it was given; servers of version 2.14 know every field of it; no placeholder is left
- each task's pod has the Secrets and claims of its row and no others, in the variables that stages
  read, and labels that say whose it is
- images, resources, placement, service account, retries and time limits come from where the
  documents say
- what is cached: nothing where an image can be moved, no shards where they lie in a volume, no
  report where the kind of device is unknown
- parameters are those of the compiled pipeline; another device or engine is another parameter
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
)
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from kfp.kubernetes import kubernetes_executor_config_pb2 as newer
from kfp.pipeline_spec import pipeline_spec_pb2

from halftone.control.inside import job_inside
from halftone.control.kubeflow.rendering import render
from halftone.control.kubeflow.task_table import TASKS, dag_tasks
from halftone.control.settings import Settings
from halftone.spec.cluster import JOB_LABEL, QUEUE_LABEL, STAGE_LABEL
from halftone.spec.documents import canonical_json
from halftone.spec.job import JobSpec
from halftone.spec.names import CREDENTIALS_PREFIX
from halftone.spec.pipelines import JOB_UID_LABEL, RUN_ANNOTATION, RunRequest, Task
from tests.control_cases import SETTINGS, metadata, spec
from tests.control_specs import AREAS, DATA, SOURCES, TARGETS, ref, specs
from tests.pipeline_cases import GPU, KUBEFLOW, NAME, compiled, installed, pinned

# What 2.14.3 has of the messages that we write; `kfp-kubernetes` is newer and has more.
KNOWN = {
    "KubernetesExecutorConfig": range(1, 18),
    "SecretAsEnv": (1, 2, 4),
    "PvcMount": range(1, 6),
    "EmptyDirMount": range(1, 5),
    "Toleration": range(1, 7),
    "ConfigMapAsEnv": range(1, 4),
    "CreatePvc": range(1, 9),
}


@cache
def executor_config_2_14() -> Any:
    """The message type `KubernetesExecutorConfig`, where what came after 2.14.3 has no name."""
    pool = descriptor_pool.DescriptorPool()

    def add(found: Any) -> None:
        for needed in found.dependencies:
            add(needed)
        proto = descriptor_pb2.FileDescriptorProto()
        found.CopyToProto(proto)
        for message in proto.message_type:
            if message.name in KNOWN and found is newer.DESCRIPTOR:
                for field in message.field:
                    if field.number not in KNOWN[message.name]:
                        field.name = field.json_name = f"unknown{field.number}"
        pool.Add(proto)

    add(newer.DESCRIPTOR)
    name = f"{newer.DESCRIPTOR.package}.KubernetesExecutorConfig"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def rendered(
    blocks: Mapping[str, Any] | None = None, settings: Settings | None = None, **meta: Any
) -> RunRequest:
    parsed = JobSpec.model_validate(spec(**(blocks or {})))
    return render(compiled(), metadata(**meta), parsed, settings or installed(), NAME)


def executors(request: RunRequest) -> dict[Task, tuple[dict[str, Any], dict[str, Any]]]:
    """Each task's container and what Kubernetes is told of its pod."""
    containers = request.pipeline_spec["deploymentSpec"]["executors"]
    configs = request.platform_spec["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {
        Task(name): (containers[label]["container"], configs[label])
        for name, _, label in dag_tasks(request.pipeline_spec)
        if label is not None
    }


def compiled_tasks(request: RunRequest) -> dict[Task, dict[str, Any]]:
    """Each task as it stands in the pipeline's graph."""
    found = dag_tasks(request.pipeline_spec)
    return {Task(name): task for name, task, label in found if label is not None}


def told_secrets(config: Mapping[str, Any]) -> dict[str, str]:
    """The Secrets of a pod, by variable."""
    told = config.get("secretAsEnv", ())
    return {k["envVar"]: one["secretName"] for one in told for k in one["keyToEnv"]}


def told_claims(config: Mapping[str, Any]) -> dict[str, str]:
    """The claims of a pod, by the place where they are mounted."""
    told = config.get("pvcMount", ())
    return {m["mountPath"]: m["pvcNameParameter"]["runtimeValue"]["constant"] for m in told}


@st.composite
def installations(draw: st.DrawFn) -> Settings:
    """Any installation that a pipeline can serve."""
    placement = {
        "nodeSelector": draw(st.sampled_from([{}, {"disk": "fast"}])),
        "tolerations": draw(
            st.sampled_from(
                [[], [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 30, "odd": 1}]]
            )
        ),
        "queueName": draw(st.sampled_from([None, "night"])),
    }
    limits = draw(st.sampled_from([{}, {"cpu": 2, "memory": "4Gi"}, {"nvidia.com/gpu": 1}]))
    return installed(
        {"placement": placement, "resources": {"limits": limits}},
        backoffLimit=draw(st.integers(0, 20)),
        imagePullSecrets=draw(st.sampled_from([[], ["mirror"]])),
        cacheSizeLimit=draw(st.sampled_from([None, "2Gi"])),
        taskImage=draw(st.sampled_from(["task:1", pinned("task")])),
    )


@runs(max_examples=20)
@given(
    blocks=specs(),
    settings=installations(),
    deadline=st.sampled_from([None, 1, 31_536_000]),
)
def test_any_job_becomes_a_run_that_a_server_of_2_14_understands(
    blocks: dict[str, Any], settings: Settings, deadline: int | None
) -> None:
    blocks["activeDeadlineSeconds"] = deadline
    before = json.dumps(compiled())
    request = rendered(blocks, settings)
    assert canonical_json(request.model_dump(mode="json")) == canonical_json(
        rendered(blocks, settings).model_dump(mode="json")
    )
    assert json.dumps(compiled()) == before
    parsed = JobSpec.model_validate(spec(**blocks))
    assert executors(request).keys() == {*Task}
    for task, (container, config) in executors(request).items():
        json_format.ParseDict(config, executor_config_2_14()())
        assert container["image"] != "halftone-task"
        allowed = {use.value for use in TASKS[task].secrets}
        assert {variable_use(name) for name in told_secrets(config)} <= allowed
        places = {place.removeprefix("/mnt/halftone/") for place in told_claims(config)}
        assert places <= {use.value for use in TASKS[task].claims}
        mounted = [*told_claims(config), *(one["mountPath"] for one in config["emptyDirMounts"])]
        assert len(mounted) == len(set(mounted))
        assert not any(name.startswith(CREDENTIALS_PREFIX) for name in environment(container))
    inputs = request.pipeline_spec["root"]["inputDefinitions"]["parameters"]
    assert request.parameters.keys() == inputs.keys()
    assert request.parameters["job"] == job_inside("small", parsed)


def variable_use(name: str) -> str:
    return name.removeprefix(CREDENTIALS_PREFIX).lower().replace("_", "-")


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def test_what_is_rendered_is_a_pipeline_and_a_platform() -> None:
    request = rendered(EVERYTHING)
    json_format.ParseDict(dict(request.pipeline_spec), pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(dict(request.platform_spec), pipeline_spec_pb2.PlatformSpec())


def test_a_field_that_2_14_does_not_know_would_be_noticed() -> None:
    newer = {"secretAsEnv": [{"secretName": "s", "optional": False}]}
    with pytest.raises(json_format.ParseError, match="optional"):
        json_format.ParseDict(newer, executor_config_2_14()())


def test_a_task_that_nobody_knows_is_no_task_of_this_pipeline() -> None:
    text = json.dumps(compiled()).replace('"quantize": {', '"shrink": {')
    with pytest.raises(ValueError, match="shrink"):
        render(json.loads(text), metadata(), JobSpec.model_validate(spec()), installed(), NAME)


EVERYTHING = {
    "source": SOURCES[0],
    "quantization": {"preset": "nvfp4", "calibration": {"dataset": DATA[0]}},
    "publish": {**TARGETS[0], "signingKeyRef": {"secret": ref("key")}},
    "workVolume": AREAS[0],
}
WHO_SEES = {
    "source": {"resolve", "plan", "calibrate", "quantize", "assemble", "validate"},
    "data": {"calibrate"},
    "work": {"resolve", "plan", "calibrate", "quantize", "assemble", "validate", "publish"},
    "target": {"target", "publish"},
    "key": {"target", "publish"},
}


@pytest.mark.parametrize("secret", WHO_SEES)
def test_a_secret_is_seen_by_few(secret: str) -> None:
    told = executors(rendered(EVERYTHING))
    sees = {t.value for t, (_, config) in told.items() if secret in told_secrets(config).values()}
    assert sees == WHO_SEES[secret]


def test_credentials_are_in_the_variables_that_stages_read() -> None:
    _, config = executors(rendered(EVERYTHING))[Task.Publish]
    assert told_secrets(config) == {
        "HALFTONE_CREDENTIALS_PUBLISH": "target",
        "HALFTONE_CREDENTIALS_SIGNING_KEY": "key",
        "HALFTONE_CREDENTIALS_WORK": "work",
    }
    assert [k["secretKey"] for one in config["secretAsEnv"] for k in one["keyToEnv"]] == ["key"] * 3


def test_a_claim_for_work_is_shared_in_a_folder_of_the_job() -> None:
    blocks = {"source": SOURCES[2], "publish": TARGETS[2], "workVolume": AREAS[2]}
    told = executors(rendered(blocks))
    container, config = told[Task.Quantize]
    mount = "/mnt/halftone/work"
    assert told_claims(config) == {"/mnt/halftone/source": "source", mount: "small-work"}
    folder = environment(container)["HALFTONE_TASK_WORKDIR"]
    assert folder == f"{mount}/halftone/small-uid-of-j"
    assert told_claims(told[Task.Target][1]) == {"/mnt/halftone/publish": "target"}
    assert "HALFTONE_TASK_WORKDIR" not in environment(told[Task.Target][0])
    assert rendered(blocks).parameters["work_area"] == ""


def test_without_a_claim_each_pod_has_its_own_disk() -> None:
    request = rendered({"publish": TARGETS[0], "workVolume": AREAS[0]})
    assert request.parameters["work_area"] == "s3://models/out.work/team.small"
    for container, config in executors(request).values():
        places = {one["mountPath"] for one in config["emptyDirMounts"]}
        assert {"/var/run/halftone/work", "/var/cache/halftone", "/tmp"} <= places
        assert environment(container)["HOME"] == "/var/cache/halftone"


def test_memory_is_shared_where_processes_hand_tensors_over() -> None:
    shares = {
        task.value
        for task, (_, config) in executors(rendered()).items()
        for one in config["emptyDirMounts"]
        if (one["mountPath"], one.get("medium")) == ("/dev/shm", "Memory")
    }
    assert shares == {"calibrate", "validate"}


def test_every_pod_says_whose_it_is() -> None:
    for task, (_, config) in executors(rendered(labels={QUEUE_LABEL: "mine"})).items():
        assert config["podMetadata"] == {
            "labels": {
                JOB_LABEL: "small",
                STAGE_LABEL: task.value,
                JOB_UID_LABEL: "uid-of-job",
                QUEUE_LABEL: "mine",
            },
            "annotations": {RUN_ANNOTATION: NAME},
        }


LOADS = {"validation": {"gates": [{"name": "loads", "metric": "EngineLoads"}]}}


@pytest.mark.parametrize(("blocks", "validates"), [({}, "task:1"), (LOADS, "engine:1")])
def test_images_are_those_of_the_tasks(blocks: dict[str, Any], validates: str) -> None:
    told = executors(rendered(blocks, installed(taskImage="task:1")))
    images = {task.value: container["image"] for task, (container, _) in told.items()}
    assert images.pop("calibrate") == "calibrate:1"
    assert images.pop("validate") == validates
    assert set(images.values()) == {"task:1"}


def test_resources_are_the_jobs_own_over_the_installations() -> None:
    given = {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    own = {"requests": {"memory": "1e9"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 2}}
    settings = installed({"resources": given})
    told = executors(rendered({"stages": [{"name": "Quantize", "resources": own}]}, settings))
    ours = {
        "resourceCpuRequest": "2",
        "resourceMemoryRequest": "1e9",
        "resourceMemoryLimit": "8Gi",
        "accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "2"},
    }
    theirs = {
        "resourceCpuRequest": "2",
        "resourceMemoryRequest": "4Gi",
        "resourceMemoryLimit": "4Gi",
    }
    for task, (container, _) in told.items():
        expected = ours if task in (Task.Quantize, Task.Assemble) else theirs
        assert container["resources"] == expected, task


def test_placement_is_that_of_the_stage() -> None:
    placement = {
        "nodeSelector": {"gpu": "b200"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 30}],
    }
    stage = {"placement": placement, "imagePullPolicy": "Always"}
    told = executors(rendered({}, installed(Validate=stage, imagePullSecrets=["mirror"])))
    config = told[Task.Validate][1]
    assert config["nodeSelector"] == {"labels": {"gpu": "b200"}}
    tolerated = {"key": "gpu", "operator": "Exists", "tolerationSeconds": "30"}
    assert config["tolerations"] == [tolerated]
    assert config["imagePullPolicy"] == "Always"
    for task, (_, other) in told.items():
        assert [one["secretName"] for one in other["imagePullSecret"]] == ["mirror"]
        assert ("nodeSelector" in other) is (task is Task.Validate)


ALWAYS = {"plan", "validate"}
DIGESTS = installed(taskImage=pinned("task"), Calibrate={"image": pinned("calibrate")})
IN_S3 = {"publish": TARGETS[0], "workVolume": AREAS[0]}
COMMIT = {"huggingFace": {"repository": "org/data", "revision": "c" * 40}}
OF_COMMIT = {"quantization": {"preset": "nvfp4", "calibration": {"dataset": COMMIT}}}
CACHED: dict[str, tuple[dict[str, Any], Settings, set[str]]] = {
    "shards in S3": (IN_S3, DIGESTS, ALWAYS | {"calibrate", "quantize"}),
    "data of a commit": (IN_S3 | OF_COMMIT, DIGESTS, ALWAYS | {"calibrate", "quantize"}),
    "data that may change": (EVERYTHING, DIGESTS, ALWAYS | {"quantize"}),
    "shards in a volume": ({"workVolume": AREAS[1]}, DIGESTS, ALWAYS),
    "an image by its tag": (IN_S3, installed(), set()),
    "the image of one task by its tag": (IN_S3, installed(taskImage=pinned("task")), set()),
    "any device": ({**IN_S3, "stages": [GPU]}, DIGESTS, {"plan", "calibrate", "quantize"}),
}


@pytest.mark.parametrize("case", CACHED.values(), ids=CACHED.keys())
def test_what_a_server_may_take_from_earlier_runs(case: Any) -> None:
    blocks, settings, expected = case
    request = rendered(blocks, settings)
    cached = {
        task.value
        for task, found in compiled_tasks(request).items()
        if found["cachingOptions"] == {"enableCache": True}
    }
    assert cached - {"split"} == expected  # which costs nothing, and follows from the plan
    if not expected:
        assert "enableCache" not in json.dumps(request.model_dump(mode="json"))


def test_a_device_of_a_known_kind_is_cached_by_it() -> None:
    def given(selector: dict[str, str], image: str = "validate:1") -> RunRequest:
        stage = {"placement": {"nodeSelector": selector}, "engineImage": image}
        calibrate = {"image": pinned("calibrate")}
        settings = installed(taskImage=pinned("task"), Validate=stage, Calibrate=calibrate)
        return rendered({**IN_S3, "stages": [GPU]}, settings)

    one, other = given({"gpu": "h100"}), given({"gpu": "b200"})
    assert compiled_tasks(one)[Task.Validate]["cachingOptions"] == {"enableCache": True}
    assert len(one.parameters["device"]) == len(one.parameters["engine"]) == 16
    assert one.parameters["device"] != other.parameters["device"]
    assert one.parameters["engine"] == other.parameters["engine"]
    assert given({"gpu": "h100"}, "validate:2").parameters["engine"] != one.parameters["engine"]
    assert rendered().parameters["device"] == ""


@pytest.mark.parametrize(("limit", "wait", "factor"), [(0, "", 0), (5, "10s", 2), (20, "60s", 1)])
def test_each_task_is_tried_as_often_as_a_job_would_be(limit: int, wait: str, factor: int) -> None:
    # Argo ends the last try that long after the first one began.
    longest = {"backoffMaxDuration": "31536000s"}
    policy = {"maxRetryCount": limit, "backoffDuration": wait, "backoffFactor": factor, **longest}
    for found in compiled_tasks(rendered({}, installed(backoffLimit=limit))).values():
        assert found.get("retryPolicy") == (policy if limit else None)


@pytest.mark.parametrize("seconds", [None, 31_536_000])
def test_no_pod_outlives_the_jobs_deadline(seconds: int | None) -> None:
    for _, config in executors(rendered({"activeDeadlineSeconds": seconds})).values():
        assert config.get("activeDeadlineSeconds") == (None if seconds is None else str(seconds))


@pytest.mark.parametrize(
    ("blocks", "account"),
    [({}, "runner"), ({"serviceAccountName": "ours"}, "ours")],
)
def test_a_run_has_one_account(blocks: dict[str, Any], account: str) -> None:
    request = rendered(blocks)
    assert request.service_account == account
    assert request.pipeline_root == KUBEFLOW["pipelineRoot"]
    assert request.display_name == NAME
    assert rendered({}, SETTINGS).service_account is None

"""The Jobs of the stages: who sees which Secret, what a pod may do, where it runs, what it gets.

We test these aspects:
- for any job, each stage's Job has the Secrets and claims of its row and no others, a name that is
  short enough, an owner, a failure policy, and Pod Security "restricted";
- resources: the job's own, else the installation's, else what the plan knows, never a mixture that
  the API server would refuse;
- placement, images, queue and service account come from where the documents say;
- a manifest depends on nothing but object, plan and installation.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.control.children import child_job, work_claim
from halftone.control.settings import Settings
from halftone.control.stages import STAGES
from halftone.spec.cluster import QUEUE_LABEL, ChildStage
from halftone.spec.job import JobSpec
from halftone.spec.running import StageName
from halftone.spec.status import JobStatus
from tests.control_cases import SETTINGS, World, metadata, seen, spec
from tests.control_laws import check_manifest
from tests.control_specs import AREAS, DATA, JOB_NAMES, SOURCES, TARGETS, ref, specs


def planned() -> JobStatus:
    world = World()
    world.run_to_rest()
    return JobStatus.model_validate(world.status)


PLANNED = planned()


def manifest(
    stage: ChildStage,
    blocks: dict[str, Any] | None = None,
    settings: Settings = SETTINGS,
    attempt: int = 1,
    **meta: Any,
) -> dict[str, Any]:
    parsed = JobSpec.model_validate(spec(**(blocks or {})))
    return child_job(metadata(**meta), parsed, PLANNED, stage, attempt, "", settings)


def container(made: dict[str, Any]) -> dict[str, Any]:
    (found,) = made["spec"]["template"]["spec"]["containers"]
    return dict(found)


@settings(max_examples=25)
@given(blocks=specs(), name=JOB_NAMES, attempt=st.integers(1, 99_999))
def test_every_stage_sees_what_its_row_says(
    blocks: dict[str, Any], name: str, attempt: int
) -> None:
    for stage in ChildStage:
        made = manifest(stage, blocks, attempt=attempt, name=name)
        check_manifest(seen(blocks=blocks, meta={"name": name}), stage, made)
        assert made == manifest(stage, blocks, attempt=attempt, name=name)
        volumes = made["spec"]["template"]["spec"]["volumes"]
        claims = {v["name"] for v in volumes if "persistentVolumeClaim" in v}
        assert claims <= {use.value for use in STAGES[stage].claims}
        mounted = {mount["name"] for mount in container(made)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in volumes}


WHO_SEES = {
    "source": {"plan", "calibrate", "quantize", "assemble", "validate"},
    "data": {"calibrate"},
    "work": {"plan", "calibrate", "quantize", "assemble", "validate", "publish", "clean-up"},
    "target": {"target", "publish", "clean-up"},
    "key": {"target", "publish"},
}


@pytest.mark.parametrize("secret", WHO_SEES)
def test_a_secret_is_seen_by_few(secret: str) -> None:
    blocks = {
        "source": SOURCES[0],
        "quantization": {"preset": "nvfp4", "calibration": {"dataset": DATA[0]}},
        "publish": {**TARGETS[0], "signingKeyRef": {"secret": ref("key")}},
        "workVolume": AREAS[0],
    }
    entry = f"'name': '{secret}', 'key'"
    sees = {
        stage.value
        for stage in ChildStage
        if entry in repr([e.get("valueFrom") for e in container(manifest(stage, blocks))["env"]])
    }
    assert sees == WHO_SEES[secret]


def test_claims_of_others_are_read_only() -> None:
    blocks = {"source": SOURCES[2], "publish": TARGETS[2], "workVolume": AREAS[1]}
    made = manifest(ChildStage.Quantize, blocks)["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in made["containers"][0]["volumeMounts"]}
    assert mounts["source"]["readOnly"] is True
    assert mounts["work"]["subPath"] == "halftone/small-uid-of-j"
    assert "publish" not in mounts


def resources(own: Any, defaults: Any, stage: ChildStage = ChildStage.Quantize) -> Any:
    given_all = SETTINGS.model_dump(mode="json")
    given_all["stages"]["Quantize"]["resources"] = defaults
    blocks = {"stages": [{"name": "Quantize", "resources": own}], "workVolume": AREAS[1]}
    installed = Settings.model_validate(given_all)
    return container(manifest(stage, blocks, installed))["resources"]


KNOWN = str(700_000_000 + 512 * 2**20)
RESOURCES: dict[str, tuple[Any, Any, Any]] = {
    "the plan knows": ({}, {}, {"requests": {"memory": KNOWN}}),
    "the installation's over the plan's": (
        {},
        {"requests": {"memory": "4Gi"}},
        {"requests": {"memory": "4Gi"}},
    ),
    "the job's over the installation's": (
        {"requests": {"memory": "8Gi"}},
        {"requests": {"memory": "4Gi", "cpu": "2"}, "limits": {"memory": "4Gi"}},
        {"requests": {"memory": "8Gi", "cpu": "2"}},
    ),
    "a limit alone is its own request": (
        {"limits": {"memory": "2Gi"}},
        {"requests": {"memory": "4Gi"}},
        {"limits": {"memory": "2Gi"}},
    ),
    "a device": (
        {"limits": {"nvidia.com/gpu": 1}},
        {},
        {"limits": {"nvidia.com/gpu": 1}, "requests": {"memory": KNOWN}},
    ),
}


@pytest.mark.parametrize("case", RESOURCES.values(), ids=RESOURCES.keys())
def test_resources_are_the_nearest_word(case: Any) -> None:
    own, defaults, expected = case
    assert resources(own, defaults) == expected


def test_a_stage_on_its_own_disk_asks_for_the_checkpoints_size() -> None:
    made = container(manifest(ChildStage.Quantize))["resources"]
    assert made["requests"]["ephemeral-storage"] == str(5_000_000 + 2**30)
    assert container(manifest(ChildStage.Target))["resources"] == {}


PLACED = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "priorityClassName": "low",
    "runtimeClassName": "nvidia",
    "queueName": "night",
}


def placed() -> Settings:
    given_all = SETTINGS.model_dump(mode="json")
    given_all["stages"]["Validate"] |= {"placement": PLACED, "engineImage": "engine:1"}
    given_all |= {"imagePullSecrets": ["mirror"], "cacheSizeLimit": "2Gi", "backoffLimit": 5}
    return Settings.model_validate(given_all)


def test_placement_is_the_installations() -> None:
    made = manifest(ChildStage.Validate, settings=placed())
    inside = made["spec"]["template"]["spec"]
    given_names = set(PLACED) - {"queueName"}
    assert {name: inside[name] for name in given_names} == {n: PLACED[n] for n in given_names}
    assert inside["imagePullSecrets"] == [{"name": "mirror"}]
    assert made["spec"]["backoffLimit"] == 5
    other = manifest(ChildStage.Publish, settings=placed())["spec"]["template"]["spec"]
    assert not given_names & other.keys()


@pytest.mark.parametrize(("own", "queue"), [({}, "night"), ({QUEUE_LABEL: "mine"}, "mine")])
def test_a_queue_is_the_jobs_own_or_the_installations(own: dict[str, str], queue: str) -> None:
    made = manifest(ChildStage.Validate, settings=placed(), labels=own)
    assert made["metadata"]["labels"][QUEUE_LABEL] == queue
    assert "suspend" not in made["spec"]  # a queue's to set


def test_gates_that_need_a_server_have_their_own_image() -> None:
    loads = {"validation": {"gates": [{"name": "loads", "metric": "EngineLoads"}]}}
    assert container(manifest(ChildStage.Validate, loads, placed()))["image"] == "engine:1"
    made = container(manifest(ChildStage.Validate, loads))["resources"]["requests"]
    assert int(made["memory"]) == int(KNOWN) + 2 * 2**30
    alone = container(manifest(ChildStage.Validate, settings=placed()))
    assert alone["image"] == SETTINGS.stages[StageName.Validate].image


@pytest.mark.parametrize(
    ("stage", "shares"),
    [(ChildStage.Calibrate, True), (ChildStage.Validate, True), (ChildStage.Publish, False)],
)
def test_processes_of_one_server_share_more_memory_than_a_container_has(
    stage: ChildStage, shares: bool
) -> None:
    pod = manifest(stage)["spec"]["template"]["spec"]
    volumes = [one for one in pod["volumes"] if one["name"] == "shared-memory"]
    assert volumes == [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}] * shares
    mounted = {one["mountPath"] for one in container(manifest(stage))["volumeMounts"]}
    assert ("/dev/shm" in mounted) is shares


@pytest.mark.parametrize(
    ("blocks", "account"),
    [
        ({}, "default"),
        ({"serviceAccountName": "ours"}, "ours"),
        (
            {
                "serviceAccountName": "ours",
                "stages": [{"name": "Quantize", "serviceAccountName": "writers"}],
            },
            "writers",
        ),
    ],
)
def test_an_account_is_the_nearest_one(blocks: dict[str, Any], account: str) -> None:
    made = manifest(ChildStage.Quantize, blocks)
    assert made["spec"]["template"]["spec"]["serviceAccountName"] == account


def test_workers_are_told_which_they_are() -> None:
    made = manifest(ChildStage.Quantize, {"parallelism": 3})
    assert made["spec"]["completionMode"] == "Indexed"
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (3, 3)
    arguments = container(made)["args"]
    assert arguments[-4:] == ["--workers", "3", "--worker", "$(JOB_COMPLETION_INDEX)"]


def test_the_publisher_is_handed_the_reports_digest() -> None:
    assert container(manifest(ChildStage.Publish))["args"][-2:] == ["--report-digest", "e" * 64]
    assert "--report-digest" not in container(manifest(ChildStage.Quantize))["args"]


def test_a_volume_is_made_as_asked() -> None:
    shared = {"storageClassName": "fast", "size": "3Gi", "accessMode": "ReadWriteMany"}
    parsed = JobSpec.model_validate(spec(workVolume=shared))
    made = work_claim(metadata(), parsed)
    assert made is not None
    assert made["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "3Gi"}},
    }
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-of-job"
    assert work_claim(metadata(), JobSpec.model_validate(spec())) is None


def test_an_installation_must_name_every_stage() -> None:
    with pytest.raises(ValueError, match="Calibrate, Quantize, Validate, Publish is not there"):
        Settings.model_validate({"stages": {"Plan": {"image": "a:1"}}})

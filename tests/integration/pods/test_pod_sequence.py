"""A job's stages as the operator orders them, each in a process with a pod's command and variables.

Against a real S3 server on which no account may do what another may. We test these aspects:
- two workers, documents and shards through a work area in S3: the artifact is that of
  `halftone run`, and each use opens its own place with its own Secret;
- claims in place of S3: shared by the workers, given back when the job is deleted;
- what the operator reads from workers' logs adds up to the whole.
"""

from pathlib import Path

import pytest

from halftone.cli.quantize import bytes_to_read
from halftone.spec.documents import CheckpointDocument
from halftone.spec.status import ConditionStatus
from tests.commands import halftone, plan_directory
from tests.integration.pods.conftest import Life
from tests.jobs import write_job
from tests.pods import Pods, job
from tests.storehouse import SHARD_BYTES

# They hold times, or digests of what holds times.
DATED = {"report.json", "report.html", "provenance.json", "artifact.json", "README.md"}


def undated(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files of the published folder by their name, without those that differ from run to run."""
    found = {path.rpartition("/")[2]: data for path, data in files.items()}
    return {name: data for name, data in found.items() if name not in DATED}


def test_two_workers_and_a_work_area_give_what_one_process_gives(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, pods, status = life.store, life.pods, life.pods.status

    assert not [pod for pod in pods.ended if pod.code], pods.ended[-1].err
    assert [(row.type, row.status) for row in status.conditions] == [
        (name, ConditionStatus.TRUE)
        for name in ("Accepted", "Quantized", "Validated", "Published", "Succeeded")
    ]
    stages = [(pod.stage, pod.index) for pod in pods.ended]
    assert stages == [
        ("plan", 0),
        ("target", 0),
        ("quantize", 0),
        ("quantize", 1),
        ("assemble", 0),
        ("validate", 0),
        ("publish", 0),
    ]

    for name, value in store.server.environment.items():
        monkeypatch.setenv(name, value)
    alone = {
        "source": {"s3": {"uri": f"s3://{store.source}/model"}},
        "quantization": store.job()["spec"]["quantization"],
        "publish": {"s3": {"uri": f"s3://{store.out}/alone"}},
    }
    ran = halftone("run", write_job(tmp_path, **alone), "--workdir", tmp_path / "work")
    assert ran.code == 0, ran.err
    assert status.artifact is not None
    assert status.plan is not None
    assert status.plan.shards == 3
    document = CheckpointDocument.load(tmp_path / "work" / "checkpoint.json")
    assert status.artifact.digest == document.digest
    published = undated(store.objects("small/"))
    assert len([name for name in published if name.endswith(".safetensors")]) == 3
    assert published == undated(store.objects("alone/"))
    left = store.objects("small.work/")
    assert not [path for path in left if "/checkpoint/" in path or "/journal/" in path]


def test_what_workers_tell_adds_up_to_the_whole(life: Life, model: Path) -> None:
    source = plan_directory(model, "nvfp4a16")
    told = [pod.progress for pod in life.pods.ended if pod.stage == "quantize"]
    done, total = (sum(column) for column in zip(*filter(None, told), strict=True))
    assert (len(told), done, total) == (2, bytes_to_read(source), bytes_to_read(source))


def test_claims_carry_the_same_job_and_are_given_back(
    model: Path, kernels: Path, tmp_path: Path
) -> None:
    claims = {name: tmp_path / "claims" / name for name in ("models", "work", "shelf")}
    for folder in claims.values():
        folder.mkdir(parents=True)
    (claims["models"] / "base").symlink_to(model)
    pods = Pods(tmp_path / "node", claims=claims, cache=kernels)
    wanted = job(
        {"directory": {"path": "base", "claimName": "models"}},
        {"directory": {"path": "out/small", "claimName": "shelf"}},
        quantization={"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES},
        workVolume={"claimName": "work"},
        parallelism=2,
    )

    status = pods.carry_out(wanted)

    assert pods.reason("Succeeded")[0] is ConditionStatus.TRUE, status.conditions
    shelf = claims["shelf"] / "out" / "small"
    ran = halftone("verify", shelf)
    assert ran.code == 0, ran.err
    assert status.checkpoint is not None
    assert CheckpointDocument.load(shelf / "checkpoint.json").digest == status.checkpoint.digest
    assert [path.name for path in shelf.parent.iterdir()] == ["small"]
    assert any(claims["work"].rglob("*.safetensors"))
    assert pods.delete(wanted).code == 0
    assert not [path for path in claims["work"].rglob("*") if path.is_file()]
    assert shelf.is_dir()

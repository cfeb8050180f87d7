"""The pipeline in real pods: `halftone pipeline submit` against Kubeflow's own servers.

We test these aspects:
- the pocket model goes from S3 to a signed artifact, whose checkpoint is the one that a laptop
  makes of the same job, and its pages and metrics are artifacts of Kubeflow;
- each task holds only its own Secrets;
- the same job again resolves again, takes plan, quantization and validation from Kubeflow's cache,
  and publishes nothing a second time;
- a gate that fails ends the run, and publishes nothing.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import Outcome, files_of, halftone
from tests.kubeflow.back_end import BackEnd
from tests.kubeflow.looking import runs, told
from tests.node.jobs import BUCKET, SHARD_BYTES, job
from tests.node.provisions import POCKET_MODEL

Again = tuple[Outcome, dict[str, Any]]

NAME = "pocket"
QUANTIZATION = {"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES}
# `split` only counts, and is cached as well.
CACHED = {"plan", "split", "quantize", "validate"}
SECRETS = {
    "resolve": {"s3-read", "s3-work"},
    "target": {"s3-publish", "signing-key"},
    "plan": {"s3-read", "s3-work"},
    "split": set[str](),
    "quantize": {"s3-read", "s3-work"},
    "assemble": {"s3-read", "s3-work"},
    "validate": {"s3-read", "s3-work"},
    "publish": {"s3-publish", "s3-work", "signing-key"},
    "conclude": set[str](),
}


def submit(up: BackEnd, folder: Path, name: str, *options: str, **spec: Any) -> Outcome:
    """`halftone pipeline submit --wait` of a job of the pocket model."""
    document = job(up.s3, name, **spec)
    document["metadata"]["namespace"] = up.namespace
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    server = ("--endpoint", up.kubeflow.endpoint, "--image", up.task)
    return halftone("pipeline", "submit", path, "--wait", *server, *options)


@pytest.fixture(scope="module")
def first(up: BackEnd, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("first")
    done = submit(up, folder, NAME, quantization=QUANTIZATION)
    assert done.code == 0, done.err + done.out
    return done


def published(up: BackEnd) -> dict[str, Any]:
    """When each object of the target was written."""
    found = up.s3.client.list_objects_v2(Bucket=BUCKET, Prefix=f"out/{NAME}/")
    return {one["Key"]: one["LastModified"] for one in found["Contents"]}


@pytest.fixture(scope="module")
def again(up: BackEnd, first: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Again:
    """The second run, and what was published before it."""
    folder, already = tmp_path_factory.mktemp("again"), published(up)
    done = submit(up, folder, NAME, "--again", quantization=QUANTIZATION)
    assert done.code == 0, done.err + done.out
    return done, already


def in_order(up: BackEnd, name: str) -> list[dict[str, list[dict[str, Any]]]]:
    """Pods by stage of each run of a job, the first run first."""
    return [stages for _, stages in sorted(runs(up, name).items())]


def test_the_artifact_is_signed_and_its_checkpoint_is_a_laptops(
    up: BackEnd, first: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = in_order(up, NAME)[0]
    facts = told(stages["publish"][0])
    assert facts.artifact is not None
    assert facts.checkpoint is not None
    for name, value in up.s3.environment.items():
        monkeypatch.setenv(name, value)
    verified = halftone("verify", facts.artifact.uri, "--public-key", up.signing_key)
    assert verified.code == 0, verified.err
    assert "signature: valid" in verified.out

    document = job(up.s3, NAME)
    document["spec"] = {
        "source": {"directory": {"path": str(POCKET_MODEL)}},
        "quantization": QUANTIZATION,
        "publish": {"directory": {"path": "published"}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    ran = halftone("run", tmp_path / "job.yaml", "--workdir", tmp_path / "work")
    assert ran.code == 0, ran.err
    here = json.loads((tmp_path / "work" / "checkpoint.json").read_text())
    assert here["digest"] == facts.checkpoint.digest
    files = files_of(tmp_path / "work" / "checkpoint")
    files.pop("README.md", None)  # the source's card, which gives way to the artifact's
    folder = facts.artifact.uri.removeprefix(f"s3://{BUCKET}/")
    there = {
        name: up.s3.client.get_object(Bucket=BUCKET, Key=f"{folder}/{name}")["Body"].read()
        for name in files
    }
    assert there == files


def test_two_workers_share_the_shards(up: BackEnd, first: Outcome) -> None:
    workers = [told(pod) for pod in in_order(up, NAME)[0]["quantize"]]
    assert len(workers) == 2


def test_each_task_holds_only_its_own_secrets(up: BackEnd, first: Outcome) -> None:
    held: dict[str, set[str]] = {}
    for stage, pods in in_order(up, NAME)[0].items():
        for pod in pods:
            main = next(one for one in pod["spec"]["containers"] if one["name"] == "main")
            refs = [one.get("valueFrom", {}).get("secretKeyRef") for one in main["env"]]
            held.setdefault(stage, set()).update(ref["name"] for ref in refs if ref)
    assert held == SECRETS


def test_pages_and_metrics_are_artifacts_of_kubeflow(up: BackEnd, first: Outcome) -> None:
    with sqlite3.connect(up.kubeflow.metadata) as database:
        rows = database.execute(
            "SELECT Type.name, uri FROM Artifact JOIN Type ON Artifact.type_id = Type.id"
        ).fetchall()
    pages = [uri for kind, uri in rows if kind == "system.HTML"]
    assert [kind for kind, _ in rows if kind == "system.Metrics"]
    assert {page.rpartition("/")[2] for page in pages} == {"page"}
    for page in pages:
        text = (up.kubeflow.objects() / page.removeprefix("minio://mlpipeline/")).read_text()
        assert "</html>" in text


def test_the_same_job_again_is_taken_from_the_cache(up: BackEnd, again: Again) -> None:
    done, already = again
    before, after = in_order(up, NAME)
    assert set(before) - set(after) == CACHED
    one, two = told(before["publish"][0]), told(after["publish"][0])
    assert one.artifact == two.artifact
    rows = (line.split() for line in done.out.splitlines())
    assert {row[0] for row in rows if row[1:2] == ["cached"]} == CACHED
    assert published(up) == already


def test_a_gate_that_fails_publishes_nothing(up: BackEnd, tmp_path: Path) -> None:
    strict = {"gates": [{"name": "strict", "metric": "WeightError", "maximum": "0.000001"}]}
    done = submit(up, tmp_path, "too-strict", quantization=QUANTIZATION, validation=strict)
    assert done.code == 1, done.err + done.out
    assert up.s3.keys(BUCKET, "out/too-strict/") == []
    (stages,) = in_order(up, "too-strict")
    assert "publish" not in stages
    assert "conclude" in stages

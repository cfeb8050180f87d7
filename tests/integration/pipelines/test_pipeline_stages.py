"""The stages as tasks of a pipeline call them, one by one and in this process, for their edges.

We test these aspects:
- a branch of the Hub is pinned to its commit, and one that moved, or a bucket that was written to,
  is refused when it is planned;
- over a directory that tasks share, two workers give the artifact of `halftone run`, and `publish`
  tells of every document; what was lost is written again, and what is there is not;
- where nothing is to be published, `publish` looks at the report and leaves the checkpoint;
- a target that lost its artifact is no success, and the next run publishes again;
- other prompts under the same name are other work for a cache;
- a report is of the checkpoint that the task was told of;
- an edited report, and a shard or an `artifact.json` that was damaged, publish nothing, and the
  next run mends them;
- a job without a target gets its shards though they were given back to another's artifact;
- what an earlier task left and is gone ends the run, and the next one takes nothing from a cache;
- gates that changed are asked again;
- tasks that share no place say so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halftone.cli.pipeline_task import pinned, run_stage
from halftone.spec.documents import CheckpointDocument
from halftone.spec.names import Reason
from halftone.spec.pipelines import TASK_WORKDIR
from halftone.spec.reports import Verdict
from halftone.spec.stage_results import StageResult
from tests.builders import write_checkpoint
from tests.commands import halftone
from tests.doubles.hub import HubDouble
from tests.jobs import write_job
from tests.pods import job
from tests.servers.versitygw import VersityGateway
from tests.storehouse import SHARD_BYTES, Storehouse


@dataclass
class Tasks:
    """The tasks of one job, each told what the pipeline would tell it."""

    job: str
    area: str = ""
    marked: str = ""
    digest: str = ""
    device: str = ""

    def do(self, stage: str, **options: str | int) -> StageResult:
        """Run a stage that ends well."""
        area = self.area if stage == "resolve" else self.marked or self.area
        with run_stage(stage, self.job, area, **options) as done:
            return done.result

    def refused(self, stage: str, **options: str | int) -> int:
        """The exit code of a stage that does not."""
        with pytest.raises(SystemExit) as ended, run_stage(stage, self.job, self.area, **options):
            pass
        return int(str(ended.value.code))

    def resolved(self) -> StageResult:
        """Begin a run."""
        found = self.do("resolve")
        assert found.source is not None
        self.job = pinned(self.job, found.source)
        self.marked = f"{self.area}#{found.source.work}"
        return found

    def planned(self) -> str:
        """Go on to a plan."""
        source = self.resolved().source
        assert source is not None
        plan = self.do("plan", without_target=True, source_digest=source.digest).plan
        assert plan is not None
        self.digest = plan.digest
        return plan.digest

    def written(self, workers: int = 2) -> StageResult:
        """Go on to a checkpoint."""
        for worker in range(workers):
            self.do("quantize", plan_digest=self.digest, worker=worker, workers=workers)
        return self.do("assemble", **self.judged)

    def published(self) -> StageResult:
        """Go on to the end."""
        report = self.do("validate", **self.judged).report
        assert report is not None
        return self.do("publish", report_digest=report.digest, **self.judged)

    @property
    def judged(self) -> dict[str, str]:
        """What the stages that ask for gates are told."""
        return {"plan_digest": self.digest, "device": self.device}


def in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: bool = True) -> Tasks:
    monkeypatch.setenv(TASK_WORKDIR, str(tmp_path / "new" / "work"))
    source = {"directory": {"path": str(tmp_path / "model")}}
    target = {"directory": {"path": str(tmp_path / "shelf")}} if publish else None
    quantization = {"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES}
    write_checkpoint(tmp_path / "model", "qwen3_5")
    return Tasks(json.dumps(job(source, target, quantization=quantization)))


def test_a_branch_is_pinned_to_its_commit_and_one_that_moved_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TASK_WORKDIR, str(tmp_path / "work"))
    first, second = (write_checkpoint(tmp_path / n, "qwen3_5") for n in ("first", "second"))
    (second / "more.txt").write_text("x")
    with HubDouble(first) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        name = hub.uri.removeprefix("hf://").partition("@")[0]
        tasks = Tasks(
            json.dumps(job({"huggingFace": {"repository": name, "revision": hub.revision}}, None))
        )
        branch = tasks.job
        found = tasks.resolved().source
        assert found is not None
        assert json.loads(tasks.job)["spec"]["source"]["huggingFace"]["revision"] == found.revision
        assert found.revision == hub.commit
        hub.move(second)
        tasks.do("plan", without_target=True, source_digest=found.digest)

        moved = Tasks(branch).resolved().source
        assert moved is not None
        assert moved.digest != found.digest
        assert moved.work == found.work
        assert Tasks(branch).refused("plan", without_target=True, source_digest=found.digest) == 2


def test_a_bucket_that_was_written_to_is_refused_when_it_is_planned(
    store: Storehouse, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tasks.resolved().source
    assert found is not None
    store.server.client.put_object(Bucket=store.source, Key="model/more.txt", Body=b"x")
    assert tasks.refused("plan", without_target=True, source_digest=found.digest) == 2
    assert "run the pipeline again" in capsys.readouterr().err
    again = tasks.resolved().source
    assert again is not None
    assert (again.digest == found.digest, again.work) == (False, found.work)


def test_over_a_directory_it_is_the_artifact_of_a_laptop_and_publish_tells_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = in_a_directory(tmp_path, monkeypatch)
    tasks.planned()
    for worker in range(2):
        tasks.do("quantize", plan_digest=tasks.digest, worker=worker, workers=2)
    min((tmp_path / "new" / "work").rglob("*.safetensors")).unlink()
    checkpoint = tasks.do("assemble", **tasks.judged).checkpoint
    assert checkpoint is not None
    told = tasks.published()

    quantization = json.loads(tasks.job)["spec"]["quantization"]
    path = write_job(tmp_path, quantization=quantization)
    assert halftone("run", path, "--workdir", tmp_path / "alone").code == 0
    alone = CheckpointDocument.load(tmp_path / "alone" / "checkpoint.json")
    assert told.artifact is not None
    assert told.plan is not None
    assert told.report is not None
    assert told.checkpoint == checkpoint
    assert {told.artifact.digest, checkpoint.digest} == {alone.digest}
    assert told.plan.digest == tasks.digest
    assert told.report.verdict is Verdict.Unmeasured

    folder = tmp_path / "new" / "work" / "checkpoint"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert tasks.written().checkpoint == checkpoint
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_without_a_target_publish_looks_at_the_report_and_leaves_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = in_a_directory(tmp_path, monkeypatch, publish=False)
    tasks.planned()
    tasks.do("target", plan_digest=tasks.digest)
    tasks.written(workers=1)
    told = tasks.published()
    assert told.artifact is None
    assert told.report is not None
    work, file = tmp_path / "new" / "work", tmp_path / "result.json"
    assert [path.name for path in work.iterdir() if "result" in path.name] == []
    options: dict[str, str | Path] = {"--workdir": work, "--result": file}
    options["--report-digest"] = "0" * 64
    told_here = [word for pair in options.items() for word in pair]
    assert halftone("stage", "publish", "--pipeline", *told_here).code == 1
    refused = StageResult.model_validate_json(file.read_bytes())
    assert refused.failure is not None
    assert refused.failure.reason == Reason.ReportChanged
    assert (refused.plan, refused.checkpoint) == (told.plan, told.checkpoint)
    assert [*(work / "checkpoint").glob("*.safetensors")]


@pytest.fixture
def store(s3_server: VersityGateway, tiny_source: Path) -> Storehouse:
    return Storehouse.made(s3_server, tiny_source)


@pytest.fixture
def tasks(store: Storehouse, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    """With a work area in a bucket, and each account's own Secret."""
    owners = {"SOURCE": "reader", "WORK": "worker", "PUBLISH": "publisher"}
    for use, owner in owners.items():
        monkeypatch.setenv(f"HALFTONE_CREDENTIALS_{use}", store.secrets[owner]["aws"])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return Tasks(json.dumps(of_pipeline(store)), f"s3://{store.out}/small.work/models.small")


def of_pipeline(store: Storehouse, **spec: Any) -> Mapping[str, Any]:
    made = store.job(**spec)
    del made["spec"]["parallelism"]
    return made


def test_a_target_that_lost_its_artifact_is_published_to_again_and_other_gates_are_asked_again(
    store: Storehouse, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.planned()
    tasks.written()
    first = tasks.published().artifact
    assert first is not None
    assert not [path for path in store.area if path.endswith(".safetensors")]
    assert tasks.do("assemble", **tasks.judged).checkpoint is not None
    assert tasks.published().artifact == first
    assert not [path for path in store.area if path.endswith(".safetensors")]

    client = store.server.client
    for path in store.published:
        client.delete_object(Bucket=store.out, Key=f"small/{path}")
    report = tasks.do("validate", **tasks.judged).report
    assert report is not None
    assert tasks.refused("publish", report_digest=report.digest, **tasks.judged) == 3
    assert "does not hold the artifact" in capsys.readouterr().err
    assert store.published == {}

    checkpoint = tasks.do("assemble", **tasks.judged).checkpoint
    assert checkpoint is not None
    assert checkpoint.digest == first.digest
    again = tasks.do("publish", report_digest=report.digest, **tasks.judged).artifact
    assert again is not None
    assert again.digest == first.digest
    assert "artifact.json" in store.published

    strict = {"gates": [{"name": "weights", "metric": "WeightError", "maximum": "0.000001"}]}
    other = Tasks(json.dumps(of_pipeline(store, validation=strict)), tasks.area)
    assert other.planned() == tasks.digest
    assert other.do("assemble", **other.judged).checkpoint == checkpoint
    assert other.refused("validate", **other.judged) == 1


def test_what_is_gone_ends_the_run_and_the_next_one_begins_anew(
    store: Storehouse, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = tasks.planned()
    before = tasks.marked
    assert tasks.resolved()
    assert tasks.marked == before
    client = store.server.client
    client.delete_object(Bucket=store.out, Key=f"small.work/models.small/{digest}/plan.json")

    assert tasks.refused("quantize", plan_digest=digest) == 3

    assert "run the pipeline again" in capsys.readouterr().err
    assert tasks.resolved()
    assert tasks.marked != before


def test_other_prompts_under_the_same_name_are_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "one"}\n')
    tasks = in_a_directory(tmp_path, monkeypatch, publish=False)
    document = json.loads(tasks.job)
    document["spec"]["validation"] = {"gates": [], "promptFile": str(prompts)}
    tasks.job = json.dumps(document)
    found = [tasks.resolved().source for _ in range(2)]
    prompts.write_text('{"text": "two"}\n')
    found.append(tasks.resolved().source)
    first, again, edited = (source.work for source in found if source is not None)
    assert first == again
    assert edited != first


def test_a_report_is_of_the_checkpoint_that_the_task_was_told_of(tasks: Tasks) -> None:
    tasks.planned()
    checkpoint = tasks.written().checkpoint
    assert checkpoint is not None
    assert tasks.refused("validate", **tasks.judged, checkpoint_digest="0" * 64) == 3
    assert tasks.do("validate", **tasks.judged, checkpoint_digest=checkpoint.digest).report


def edit(store: Storehouse, name: str, data: bytes | None = None) -> None:
    """Damage what the work area has under `name`, without a change of its size, or replace it."""
    (path,) = [path for path in store.area if name in path and "/journal/" not in path]
    former = bytearray(store.area[path])
    former[-1000] ^= 1
    body = bytes(former) if data is None else data
    store.server.client.put_object(Bucket=store.out, Key=f"{store.name}.work/{path}", Body=body)


def test_an_edited_report_opens_nothing_and_the_next_run_asks_the_gates_again(
    store: Storehouse, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.planned()
    tasks.written()
    report = tasks.do("validate", **tasks.judged).report
    assert report is not None
    before = tasks.marked
    edit(store, "report.json", b"{}")

    assert tasks.refused("publish", report_digest=report.digest, **tasks.judged) == 1

    assert "takes nothing from the cache" in capsys.readouterr().err
    assert store.published == {}
    tasks.planned()
    assert tasks.marked != before
    tasks.written()
    assert tasks.published().artifact is not None


def test_a_damaged_shard_opens_nothing_and_the_next_run_writes_it_again(
    store: Storehouse, tasks: Tasks
) -> None:
    tasks.planned()
    checkpoint = tasks.written().checkpoint
    edit(store, "/checkpoint/model-00001")
    for _ in range(2):
        assert tasks.refused("validate", **tasks.judged) == 1
    assert tasks.do("assemble", **tasks.judged).checkpoint == checkpoint
    report = tasks.do("validate", **tasks.judged).report
    assert report is not None

    edit(store, "/checkpoint/model-00001")
    before = tasks.marked
    assert tasks.refused("publish", report_digest=report.digest, **tasks.judged) == 1
    assert store.published == {}
    tasks.planned()
    assert tasks.marked != before
    assert tasks.do("assemble", **tasks.judged).checkpoint == checkpoint
    assert tasks.published().artifact is not None


def test_a_damaged_artifact_document_is_no_end(store: Storehouse, tasks: Tasks) -> None:
    tasks.planned()
    checkpoint = tasks.written().checkpoint
    first = tasks.published().artifact
    edit(store, "artifact.json", b"{}")
    assert tasks.do("assemble", **tasks.judged).checkpoint == checkpoint
    assert tasks.published().artifact == first


def test_a_job_without_a_target_keeps_its_shards_though_another_gave_them_back(
    store: Storehouse, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.server.endpoint)  # which the target has told
    tasks.planned()
    tasks.written()
    assert tasks.published().artifact is not None
    document = json.loads(tasks.job)
    del document["spec"]["publish"]
    tasks.job = json.dumps(document)
    tasks.do("assemble", **tasks.judged)
    assert tasks.published().artifact is None
    assert [path for path in store.area if path.endswith(".safetensors")]


def test_tasks_that_share_no_place_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = in_a_directory(tmp_path, monkeypatch)
    monkeypatch.delenv(TASK_WORKDIR)
    assert tasks.refused("resolve") == 3
    assert f"set {TASK_WORKDIR}" in capsys.readouterr().err

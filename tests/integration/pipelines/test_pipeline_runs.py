"""The compiled pipeline, run by kfp's local runner on the pocket model, from a real S3 server.

We test these aspects:
- each task that asks a store fails once, is tried again, and the artifact is that of `halftone run`
  and of the operator's Jobs; the exit handler says how it ended;
- a second run resolves again, takes plan to validate from the cache and says so, and publishes
  nothing;
- a source that moved is planned anew, and an artifact in the way is refused before any work;
- another device gets a report of its own, of shards that were given back and are written again;
- a checkpoint that is altered on its way is not published, whatever came from the cache.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument
from halftone.spec.status import ConditionStatus
from tests.integration.pipelines.conftest import ASKED, Place
from tests.pipelines import Ended
from tests.pods import Pods


def artifact(place: Place) -> Artifact:
    return Artifact.model_validate_json(place.store.published["artifact.json"])


def concluded(ended: Ended) -> str:
    (line,) = [line for line in ended.log.splitlines() if "the run ended as" in line]
    return line.partition("the run ended as ")[2].split(":")[0].strip()


def test_every_task_is_tried_again_and_the_artifact_is_that_of_a_laptop_and_of_jobs(
    place: Place, life: Ended, tmp_path: Path
) -> None:
    tries = {task: life.tries(task) for task in (*ASKED, "split", "conclude")}
    assert tries == dict.fromkeys(ASKED, 2) | {"quantize": 3, "split": 1, "conclude": 1}
    assert life.tries("calibrate") == 0
    assert concluded(life) == "SUCCEEDED"

    alone = CheckpointDocument.load(place.alone / "checkpoint.json")
    assert artifact(place).checkpointDigest == alone.digest
    assert len([file for file in alone.files if file.path.endswith(".safetensors")]) > 2

    store = place.store.beside("jobs", {})
    cache = Path(place.environment["HALFTONE_CACHE_DIR"])
    pods = Pods(tmp_path / "node", secrets=store.secrets, cache=cache)
    spec = json.loads(place.job())["spec"]
    status = pods.carry_out(
        store.job(quantization=spec["quantization"], validation=spec["validation"])
    )
    assert pods.reason("Succeeded")[0] is ConditionStatus.TRUE
    assert status.artifact is not None
    assert status.artifact.digest == alone.digest


def test_a_second_run_resolves_again_and_takes_the_rest_from_the_cache(
    place: Place, life: Ended
) -> None:
    before = place.store.stamps("small/")

    again = place.run()

    assert again.code == 0, again.log
    assert again.cached() == {"plan", "split", "quantize", "validate"}
    ran = {"resolve", "target", "assemble", "publish", "conclude"}
    assert {task for task in (*ASKED, "split", "conclude") if again.tries(task)} == ran
    assert place.store.stamps("small/") == before


@contextmanager
def moved(place: Place) -> Iterator[None]:
    """Another model under the source's name, for a while."""
    client, bucket, key = place.store.server.client, place.store.source, "model/config.json"
    former = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    other = json.dumps(json.loads(former) | {"moved": True}).encode()
    client.put_object(Bucket=bucket, Key=key, Body=other)
    yield
    client.put_object(Bucket=bucket, Key=key, Body=former)


def test_a_source_that_moved_is_planned_anew_and_an_artifact_in_the_way_ends_the_run(
    place: Place, life: Ended
) -> None:
    before = place.store.stamps("small/")

    with moved(place):
        ended = place.run(place.runner(retries=0))

    assert ended.code == 1
    assert ended.cached() == set()
    assert (ended.tries("plan"), ended.tries("target"), ended.tries("quantize")) == (1, 1, 0)
    assert "of another plan; publish under another name" in ended.log
    assert concluded(ended) == "FAILED"
    assert place.store.stamps("small/") == before


def test_another_device_gets_a_report_of_its_own_of_shards_that_are_written_again(
    place: Place, life: Ended
) -> None:
    before = place.store.stamps("small/")
    reports = [path for path in place.store.area if path.endswith("report.json")]

    ended = place.run(device="another")

    assert ended.code == 0, ended.log
    assert ended.cached() == {"plan", "split", "quantize"}
    assert (ended.tries("assemble"), ended.tries("validate")) == (1, 1)
    now = [path for path in place.store.area if path.endswith("report.json")]
    assert len(now) == len(reports) + 1
    assert len({place.store.area[path] for path in now}) == len(now)
    assert place.store.stamps("small/") == before
    left = [path for path in place.store.area if "/checkpoint/" in path or "/journal/" in path]
    assert left == []


@contextmanager
def nothing_published(place: Place) -> Iterator[None]:
    """An empty target, for a while."""
    client, bucket = place.store.server.client, place.store.out
    former = place.store.published
    for path in former:
        client.delete_object(Bucket=bucket, Key=f"small/{path}")
    yield
    for path, data in former.items():
        client.put_object(Bucket=bucket, Key=f"small/{path}", Body=data)


def test_a_checkpoint_that_is_altered_on_its_way_is_not_published(
    place: Place, life: Ended
) -> None:
    altered: list[str] = []

    def alter() -> None:
        (shard,) = [path for path in place.store.area if "/checkpoint/model-00001" in path]
        data = bytearray(place.store.area[shard])
        data[-1000] ^= 1
        key = f"{place.store.name}.work/{shard}"
        place.store.server.client.put_object(Bucket=place.store.out, Key=key, Body=bytes(data))
        altered.append(shard)

    with nothing_published(place):
        place.proxy.on_request("GET .*/checkpoint/model-00001", alter)
        ended = place.run(place.runner(retries=0), device="a third")
        left = place.store.published

    assert len(altered) == 1
    assert ended.code == 1, ended.log
    assert ended.cached() == {"plan", "split", "quantize"}
    assert (ended.tries("validate"), ended.tries("publish")) == (1, 0)
    assert "Gate 'structure' failed, so nothing is published" in ended.log
    assert concluded(ended) == "FAILED"
    assert left == {}

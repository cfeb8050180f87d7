"""Pods that are killed, and pods that come twice: whoever comes after goes on, and nothing differs.

Where a pod is killed is counted in requests and writes, never in time. We test these aspects:
- pods killed at seeded points, and the next pod, on an empty disk, ends the stage; under soak every
  pod of a life at every point; deleting afterwards leaves nothing, whatever was half there;
- two pods of one index at once, with a work area and with a claim;
- a pod that is told to end says what is kept, and the next one does not write that again;
- a foreign, half-written or emptied work area is refused or written anew, never believed.
"""

import random
import signal
from pathlib import Path

import pytest

from halftone.spec.documents import Plan
from halftone.spec.names import Reason
from halftone.spec.status import ConditionStatus
from tests.commands import JOURNALED, go_on, stopped, stopping
from tests.integration.pods.conftest import Life
from tests.pods import Pod, Pods, job
from tests.storehouse import SHARD_BYTES, Storehouse

# A shard and its entry are on the pod's disk, and the upload begins.
KEEPING = r"open .*/checkpoint/model-[^/]*safetensors'.* 'r'"


def weights(store: Storehouse) -> dict[str, bytes]:
    return {
        path.rpartition("/")[2]: data
        for path, data in store.published.items()
        if path.endswith(".safetensors")
    }


def check_life(life: Life, store: Storehouse, pods: Pods, at: dict[tuple[str, int], int]) -> None:
    """Carry a job out with a kill in some pods; it ends as the undisturbed one did."""

    def kill(pod: Pod) -> None:
        if (pod.stage, pod.index) in at:
            pod.kill_at(at[pod.stage, pod.index])

    pods.carry_out(store.job(), kill)

    assert pods.reason("Succeeded")[0] is ConditionStatus.TRUE, (at, pods.ended[-1].err)
    assert pods.status.checkpoint == life.pods.status.checkpoint, at
    assert weights(store) == weights(life.store), at


def test_pods_that_are_killed_are_gone_on_with(life: Life, tmp_path: Path) -> None:
    store, pods = life.before("quantize", tmp_path)
    draw = random.Random(6)
    at = {
        pod: draw.randint(1, life.counts[pod])
        for pod in (("quantize", 0), ("assemble", 0), ("validate", 0), ("publish", 0))
    }

    check_life(life, store, pods, at)

    assert pods.delete(store.job()).code == 0
    assert store.area == {}
    assert store.uploads() == []
    assert weights(store) == weights(life.store)


@pytest.mark.soak
def test_a_life_killed_at_every_point_of_every_stage_ends_the_same(
    life: Life, tmp_path: Path
) -> None:
    for event in range(1, max(life.counts.values()) + 1):
        store, pods = life.before("plan", tmp_path / str(event))
        at = {pod: event for pod, count in life.counts.items() if event <= count}
        check_life(life, store, pods, at)


def test_a_deletion_in_the_middle_of_publishing_leaves_nothing(life: Life, tmp_path: Path) -> None:
    store, pods = life.before("publish", tmp_path)
    manifest = pods.up_to(store.job(), "publish")
    (pod,) = pods.pods_of(manifest)

    pod.kill_at(3, rf"http\.client\.send PUT /{store.out}/{store.name}/[0-9a-f]{{12}}-")
    pods.note(manifest, [pod.killed()])
    assert store.published  # something is there, and no reader is led to it
    assert "artifact.json" not in store.published

    assert pods.delete(store.job()).code == 0
    assert (store.published, store.area, store.uploads()) == ({}, {}, [])


def test_two_pods_of_one_index_do_no_harm(life: Life, tmp_path: Path) -> None:
    store, pods = life.before("quantize", tmp_path)
    manifest = pods.up_to(store.job(), "quantize")
    first, second = pods.pods_of(manifest)
    slow = stopped(first.start(*stopping(1, KEEPING)), KEEPING)

    quick = first.anew().run()
    said = go_on(slow)
    pods.note(manifest, [quick, second.run()])
    pods.up_to(store.job(), "validate")

    assert slow.returncode == 0, said
    assert pods.status.checkpoint == life.pods.status.checkpoint


def test_with_a_claim_the_second_pod_of_one_index_is_sent_away(
    model: Path, kernels: Path, tmp_path: Path
) -> None:
    claims = {name: tmp_path / name for name in ("models", "work")}
    for path in claims.values():
        path.mkdir()
    (claims["models"] / "base").symlink_to(model)
    wanted = job(
        {"directory": {"path": "base", "claimName": "models"}},
        None,
        quantization={"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES},
        workVolume={"claimName": "work"},
        parallelism=2,
    )
    pods = Pods(tmp_path / "node", claims=claims, cache=kernels)
    manifest = pods.up_to(wanted, "quantize")
    first, second = pods.pods_of(manifest)
    slow = stopped(first.start(*stopping(2, JOURNALED)), JOURNALED)

    sent_away = first.anew().run()
    beside = second.run()
    slow.kill()
    slow.communicate()
    again = first.anew().run()

    assert sent_away.code == 3
    failure = sent_away.result.failure
    assert failure is not None
    assert failure.reason == Reason.OutputBusy
    assert (beside.code, again.code) == (0, 0)
    pods.note(manifest, [again, beside])
    pods.up_to(wanted, "validate")
    assert pods.status.checkpoint is not None


def test_a_pod_that_is_told_to_end_says_what_is_kept(life: Life, tmp_path: Path) -> None:
    store, pods = life.before("quantize", tmp_path)
    first, _ = pods.pods_of(pods.up_to(store.job(), "quantize"))
    slow = stopped(first.start(*stopping(2, JOURNALED)), JOURNALED)
    kept = store.stamps(f"{store.name}.work/")
    slow.send_signal(signal.SIGTERM)
    slow.send_signal(signal.SIGCONT)
    told = first.ended(slow)

    assert told.code == 130
    failure = told.result.failure
    assert failure is not None
    assert failure.reason == Reason.Interrupted
    assert "finished shards are kept" in failure.message
    assert [path for path in kept if "/journal/" in path]
    assert first.anew().run().code == 0
    assert kept.items() <= store.stamps(f"{store.name}.work/").items()


def test_a_work_area_that_somebody_changed_is_not_believed(life: Life, tmp_path: Path) -> None:
    store, pods = life.before("quantize", tmp_path)
    manifest = pods.up_to(store.job(), "quantize")
    first, second = pods.pods_of(manifest)
    assert first.run().code == 0
    digest = life.pods.status.plan.digest  # type: ignore[union-attr]
    folder = f"{store.name}.work/models.small/{digest}/"
    client = store.server.client
    plan = store.objects(folder)["plan.json"]
    other = Plan.model_validate_json(plan).model_copy(update={"architecture": "other"}).sealed()

    for content, words in (
        (other.to_bytes(), "have the job planned again"),
        (plan[: len(plan) // 2], "is not a plan.json of this version"),
        (None, "lacks `plan.json`"),
    ):
        client.delete_object(Bucket=store.out, Key=f"{folder}plan.json")
        if content is not None:
            client.put_object(Bucket=store.out, Key=f"{folder}plan.json", Body=content)
        refused = second.anew().run()
        assert refused.code == 2
        failure = refused.result.failure
        assert failure is not None
        assert failure.reason == Reason.WorkdirInconsistent
        assert words in failure.message
    client.put_object(Bucket=store.out, Key=f"{folder}plan.json", Body=plan)

    journal = sorted(path for path in store.objects(folder) if path.startswith("journal/"))
    shards = sorted(path for path in store.objects(folder) if path.startswith("checkpoint/"))
    assert len(journal) == len(shards) == 2
    client.put_object(Bucket=store.out, Key=folder + journal[0], Body=b'{"file": 1}')
    client.delete_object(Bucket=store.out, Key=folder + shards[1])
    pods.note(manifest, [first.anew().run(), second.anew().run()])
    pods.up_to(store.job(), "validate")
    assert pods.status.checkpoint == life.pods.status.checkpoint

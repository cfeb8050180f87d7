"""What a pod refuses, and how the job's conditions say it.

We test these aspects:
- a source that is not there or has no safetensors, a target that is occupied, a source that changes
  between plan and quantize: which condition is false, with which reason, and nothing left behind;
- a Secret whose text is none, or is of an account that may do less, is named with its key and the
  way out, and nothing of its text is in a log, a termination message or a document;
- a disk that is too small is told before work, with both sizes and what to raise;
- a calibrated recipe's plan says so, and orders the stage that measures.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halftone.publish.keys import generate_key
from halftone.spec.documents import Method
from halftone.spec.names import Reason
from halftone.spec.status import ConditionStatus
from tests.builders import write_checkpoint
from tests.disks import small_disk
from tests.doubles.hub_writing import HubWritingDouble
from tests.integration.pods.conftest import Life
from tests.planted import NO_KEY, TOKEN, WRONG_KEY, Secrets
from tests.pods import Pods, job
from tests.storehouse import SHARD_BYTES, Storehouse
from tests.uploads import publish, write_tree


def refused(pods: Pods, condition: str, reason: str, *words: str) -> None:
    """The condition is false, for `reason`, in a sentence with `words`; no pod told a secret."""
    status, found, message = pods.reason(condition)
    assert (status, found) == (ConditionStatus.FALSE, reason), message
    for word in words:
        assert word in message
    for pod in pods.ended:
        assert "Traceback" not in pod.err
        assert pod.code == 0 or pod.result.failure is not None


def test_a_source_that_is_none_is_refused(store: Storehouse, pods: Pods, tmp_path: Path) -> None:
    nowhere = store.job()
    nowhere["spec"]["source"]["s3"]["uri"] += "/nowhere"
    pods.carry_out(nowhere)
    refused(pods, "Accepted", "SourceNotFound", "/nowhere", "correct the bucket or the prefix")
    assert [pod.stage for pod in pods.ended if pod.code] == ["plan"]
    assert pods.last("plan").code == 2

    for name, body in (("pytorch_model.bin", b"x"), ("config.json", b"{}")):
        store.server.client.put_object(Bucket=store.source, Key=f"pickle/{name}", Body=body)
    pickle = store.job()
    pickle["spec"]["source"]["s3"]["uri"] = f"s3://{store.source}/pickle"
    others = Pods(tmp_path / "others", secrets=store.secrets)
    others.carry_out(pickle)
    refused(others, "Accepted", "NoSafetensors")
    assert store.objects() == {}


def test_an_occupied_target_is_refused_before_any_work(
    store: Storehouse, pods: Pods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.server.environment.items():
        monkeypatch.setenv(name, value)
    publish(
        f"s3://{store.out}/small", tmp_path / "tree", write_tree(tmp_path / "tree", 1, {"a": 9})
    )

    pods.carry_out(store.job())

    refused(pods, "Accepted", "TargetOccupied", "of another plan", "`publish.existing: Replace`")
    assert {pod.stage for pod in pods.ended} == {"plan", "target"}


@pytest.mark.parametrize("headers", ["same", "other"])
def test_a_source_that_changes_after_the_plan_is_refused(
    headers: str, life: Life, store: Storehouse, pods: Pods, tmp_path: Path
) -> None:
    manifest = pods.up_to(store.job(), "quantize")
    shape = "qwen3_5" if headers == "same" else "qwen3"
    changed = write_checkpoint(tmp_path / "changed", shape)
    if headers == "same":
        shard = min(changed.glob("*.safetensors"))
        data = bytearray(shard.read_bytes())
        data[-2:] = b"\0\0"
        shard.write_bytes(data)
    store.upload(changed)

    pods.note(manifest, [pod.run() for pod in pods.pods_of(manifest)])
    pods.visit(store.job())

    refused(pods, "Quantized", "SourceChanged", "plan")
    assert not [path for path in store.area if "/journal/" in path]


@pytest.mark.parametrize(
    ("use", "text", "words"),
    [
        ("reader", "", "is empty"),
        ("reader", WRONG_KEY, "is no text of an AWS credentials file"),
        ("reader", f"[a]\naws_access_key_id={WRONG_KEY}", "is no text of an AWS credentials file"),
        ("reader", "publisher", "in the key 'aws' of the Secret 'reader'"),
        ("worker", "reader", "in the key 'aws' of the Secret 'worker'"),
        ("worker", "publisher", "in the key 'aws' of the Secret 'worker'"),
        ("publisher", "worker", "in the key 'aws' of the Secret 'publisher'"),
        ("publisher", "wrong", "in the key 'aws' of the Secret 'publisher'"),
    ],
)
def test_a_secret_that_does_not_serve_is_named_and_not_told(
    use: str, text: str, words: str, store: Storehouse, kernels: Path, tmp_path: Path
) -> None:
    """Another account's text shows, too, that each use has a client of its own."""
    texts = store.secrets
    wrong = store.publisher.credentials_file.replace(store.publisher.secret_key, WRONG_KEY)
    texts[use] = {
        "aws": {**{n: t["aws"] for n, t in texts.items()}, "wrong": wrong}.get(text, text)
    }
    pods = Pods(tmp_path / "node", secrets=texts, cache=kernels)

    pods.carry_out(store.job())

    refused(pods, "Accepted", "AccessDenied", words, f"he key 'aws' of the Secret '{use}'")
    key = tmp_path / "key"
    generate_key(key)
    planted = Secrets(store.publisher.secret_key, key)
    said = "".join(pod.out + pod.err + pod.message.decode() for pod in pods.ended)
    assert planted.found_in(said.encode()) == set()
    assert planted.found_below(tmp_path / "node") == {}


@pytest.fixture
def hub() -> Iterator[HubWritingDouble]:
    with HubWritingDouble(TOKEN) as double:
        yield double


def to_the_hub(store: Storehouse, work: str) -> dict[str, Any]:
    """Reads from a bucket, publishes to the Hub, signed; a Secret for each."""
    ref = {"name": "hub", "key": "token"}
    return job(
        store.read_by("reader"),
        {
            "huggingFace": {"repository": "org/small", "tokenSecretRef": ref},
            "signingKeyRef": {"secret": {"name": "signing", "key": "pem"}},
        },
        quantization={"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES},
        workVolume={"claimName": work},
    )


def test_a_token_and_a_key_from_secrets_publish_and_sign(
    store: Storehouse,
    hub: HubWritingDouble,
    kernels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = tmp_path / "key"
    generate_key(key)
    texts = store.secrets | {"hub": {"token": f"{TOKEN}\n"}, "signing": {"pem": key.read_text()}}
    (tmp_path / "work").mkdir()
    pods = Pods(
        tmp_path / "node",
        secrets=texts,
        claims={"work": tmp_path / "work"},
        cache=kernels,
        image={"HF_ENDPOINT": hub.endpoint},
    )

    status = pods.carry_out(to_the_hub(store, "work"))

    assert status.artifact is not None, pods.ended[-1].err
    assert status.artifact.uri == "hf://org/small"
    assert "model.sig" in hub.repositories["org/small"].files()
    planted = Secrets(store.publisher.secret_key, key)
    said = "".join(pod.out + pod.err + pod.message.decode() for pod in pods.ended)
    assert planted.found_in(said.encode()) == set()
    assert planted.found_below(tmp_path / "node", tmp_path / "work") == {}


@pytest.mark.parametrize(
    ("name", "key", "text", "reason", "words"),
    [
        ("signing", "pem", NO_KEY, Reason.KeyUnusable, "holds no private key on the curve"),
        ("hub", "token", "two words", Reason.AccessDenied, "is no token"),
        ("hub", "token", WRONG_KEY, Reason.AccessDenied, "to a token that may write there"),
    ],
)
def test_a_token_or_key_that_is_none_is_named(
    name: str,
    key: str,
    text: str,
    reason: Reason,
    words: str,
    store: Storehouse,
    hub: HubWritingDouble,
    tmp_path: Path,
) -> None:
    good = tmp_path / "key"
    generate_key(good)
    texts = store.secrets | {"hub": {"token": TOKEN}, "signing": {"pem": good.read_text()}}
    texts[name] = {key: text}
    (tmp_path / "work").mkdir()
    claims = {"work": tmp_path / "work"}
    image = {"HF_ENDPOINT": hub.endpoint}
    pods = Pods(tmp_path / "node", secrets=texts, claims=claims, image=image)

    pods.carry_out(to_the_hub(store, "work"))

    refused(pods, "Accepted", reason, words, f"'{key}' of the Secret '{name}'")
    planted = Secrets(store.publisher.secret_key, good)
    said = "".join(pod.out + pod.err + pod.message.decode() for pod in pods.ended)
    assert planted.found_in(said.encode()) == set()


def test_a_volume_that_is_too_small_is_told_when_it_is_planned(
    store: Storehouse, kernels: Path, tmp_path: Path
) -> None:
    wanted = store.job(workVolume={"claimName": "work"})
    with small_disk(tmp_path / "work", 1_000_000) as work:
        pods = Pods(tmp_path / "node", store.secrets, {"work": work}, kernels)
        pods.carry_out(wanted)

    refused(pods, "Accepted", "OutOfSpace", "the claim 'work' has", "free", "make it larger")
    assert pods.last("plan").code == 3
    assert "writes 2,0" in pods.reason("Accepted")[2]
    assert pods.last("plan").result.plan is not None


def test_a_pod_without_room_for_the_checkpoint_says_what_to_raise(
    life: Life, tmp_path: Path
) -> None:
    store, pods = life.before("validate", tmp_path)
    manifest = pods.up_to(store.job(), "validate")
    (pod,) = pods.pods_of(manifest)
    pod.workdir.rmdir()
    with small_disk(pod.workdir, 1_000_000):
        ended = pod.run()

    assert ended.code == 3
    failure = ended.result.failure
    assert failure is not None
    assert failure.reason == Reason.OutOfSpace
    assert "the pod's own disk has" in failure.message
    assert "raise `ephemeral-storage`" in failure.message


def test_a_calibrated_plan_orders_the_stage_that_measures(store: Storehouse, pods: Pods) -> None:
    data = {"s3": {"uri": f"s3://{store.source}/rows.jsonl", "endpointUrl": store.server.endpoint}}
    calibration = {"dataset": data, "samples": 4, "maxSequenceLength": 64}
    wanted = store.job(quantization={"preset": "nvfp4-language", "calibration": calibration})

    manifest = pods.up_to(wanted, "calibrate")

    assert pods.status.plan is not None
    assert pods.status.plan.method is Method.Calibrated
    assert [pod.stage for pod in pods.pods_of(manifest)] == ["calibrate"]
    assert "Calibrated" in [row.type for row in pods.status.conditions]

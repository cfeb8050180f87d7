"""Which artifacts an endpoint loads, judged before a byte of a weight is fetched.

We test these aspects:
- a signed artifact that passed is obtained from a directory, a bucket and the Hub, byte for byte
- a missing signature, another key, a verdict or platform that `trust` leaves out, another pinned
  digest: each is refused with a sentence that names the field, and no weight is asked for
- a changed weight, document or signature, a missing and an additional file
- a directory that is written to, or exchanged and put back, between the proof and the loading
- a checkpoint without documents needs the digest of its files and two allowances
- a reference that contradicts itself
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from halftone.publish.keys import generate_key
from halftone.serve.weights import Lease, Place, obtain
from halftone.spec.errors import CheckFailed, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.reports import Platform, Verdict
from halftone.spec.serving import ArtifactReference, Signatures, Trust, WeightsCache
from halftone.spec.targets import Existing
from halftone.stores.s3_target import S3ArtifactTarget
from tests.artifacts import REAL, Work, flip, publish, reseal, work_directory, write_report
from tests.commands import files_of
from tests.doubles.hub import HubDouble
from tests.obtaining import ANYBODY, digest_of, left, write_plain

Ask = Callable[..., Lease]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys, `ours` and `theirs`."""
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "ours")
    generate_key(folder / "theirs")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return work_directory(tmp_path_factory.mktemp("made"), verdict=Verdict.Passed, platform=REAL)


@pytest.fixture(scope="module")
def passed(work: Work, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed, and measured on a real device; nobody may change it."""
    return publish(work, tmp_path_factory.mktemp("published") / "small", keys / "ours")


@pytest.fixture
def artifact(passed: Path, tmp_path: Path) -> Path:
    """A copy of `passed` to change."""
    return Path(shutil.copytree(passed, tmp_path / "copy"))


@pytest.fixture
def trust(keys: Path) -> Trust:
    return Trust(publicKeyFile=str(keys / "ours.pub"))


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    return WeightsCache(directory=str(tmp_path / "cache"))


@pytest.fixture
def ask(trust: Trust, cache: WeightsCache) -> Ask:
    """Obtain a place, with changes to `trust`."""

    def obtained(uri: str | Path, digest: str | None = None, **changes: object) -> Lease:
        asked = Trust.model_validate(trust.model_dump() | changes)
        return obtain(ArtifactReference(uri=str(uri), digest=digest), asked, cache)

    return obtained


@pytest.fixture
def hub(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The artifact as a repository."""
    with HubDouble(artifact, large_file_bytes=10_000) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double


def judged(
    work: Work, folder: Path, verdict: Verdict, platform: Platform | None, key: Path
) -> Path:
    """The same checkpoint with another report, published."""
    other = Path(shutil.copytree(work.directory, folder / "work"))
    digest = work.made.planned.plan.digest
    report = write_report(other, digest, work.made.document, verdict, platform)
    return publish(Work(other, work.source, work.made, report), folder / "judged", key)


def refusal(ask: Ask, *arguments: object, **changes: object) -> HalftoneError:
    """The error that asking ends with."""
    with pytest.raises(HalftoneError) as caught:
        ask(*arguments, **changes)
    return caught.value


def weights_asked_for(hub: HubDouble) -> list[str]:
    """Requests for parts of weights."""
    return [r.path for r in hub.requests if ".safetensors" in r.path and r.method == "GET"]


def test_a_directory_is_proven_where_it_lies(passed: Path, ask: Ask, work: Work) -> None:
    with ask(passed) as lease:
        model = lease.model
        lease.require_unchanged()

    assert model.path == passed
    assert model.digest == work.made.document.digest
    assert model.report == work.report
    assert model.plan is not None
    assert model.config["architectures"] == ["Qwen3ForCausalLM"]


def test_from_a_bucket_it_comes_whole_into_the_cache(
    bucket: str, ask: Ask, work: Work, keys: Path, cache: WeightsCache
) -> None:
    prepared = work.prepare(keys / "ours")
    with closing(S3ArtifactTarget(f"s3://{bucket}/small")) as target:
        target.publish(prepared.tree, prepared.artifact, Existing.Refuse, lambda nbytes: None)

    with ask(f"s3://{bucket}/small", work.made.document.digest) as lease:
        found = files_of(lease.model.path)

    assert lease.model.path.parent == Path(cache.directory)
    assert lease.model.path.name.startswith(work.made.document.digest)
    assert found.pop("artifact.json")
    assert found == files_of(prepared.tree)


def test_from_the_hub_it_comes_whole_into_the_cache(hub: HubDouble, ask: Ask) -> None:
    with ask(hub.uri) as lease:
        assert files_of(lease.model.path) == files_of(hub.directory)


def test_a_revision_of_the_hub_is_the_one_that_is_served(
    hub: HubDouble, trust: Trust, cache: WeightsCache, tmp_path: Path
) -> None:
    commit, first = hub.commit, hub.directory
    write_plain(tmp_path / "other", nbytes=100)
    hub.move(tmp_path / "other")
    reference = ArtifactReference(uri="hf://org/name", revision=commit)

    with obtain(reference, trust, cache) as lease:
        assert files_of(lease.model.path) == files_of(first)


def test_an_artifact_without_a_signature_is_refused(ask: Ask, work: Work, tmp_path: Path) -> None:
    unsigned = publish(work, tmp_path / "unsigned")

    error = refusal(ask, unsigned)

    assert (error.reason, error.subject) == (Reason.SignatureInvalid, "trust.signature")
    assert "set `trust.signature` to 'NotRequired'" in error.message
    with ask(unsigned, signature=Signatures.NotRequired):
        pass


def test_another_key_is_refused_before_a_weight_is_asked_for(
    hub: HubDouble, ask: Ask, keys: Path, cache: WeightsCache
) -> None:
    error = refusal(ask, hub.uri, publicKeyFile=str(keys / "theirs.pub"))

    assert isinstance(error, CheckFailed)
    assert error.reason is Reason.SignatureInvalid
    assert "`trust.publicKeyFile`" in error.message
    assert weights_asked_for(hub) == []
    assert left(cache) == {}


def test_what_was_signed_by_another_is_refused_even_where_no_signature_is_needed(
    passed: Path, ask: Ask, keys: Path
) -> None:
    changes = {"signature": Signatures.NotRequired, "publicKeyFile": str(keys / "theirs.pub")}

    assert refusal(ask, passed, **changes).reason is Reason.SignatureInvalid


@pytest.mark.parametrize(
    ("verdict", "platform"),
    [
        (Verdict.Unmeasured, None),
        (Verdict.Emulated, Platform(device="cpu", emulated=True, engine="vllm 0.32.0+cpu")),
    ],
)
def test_a_verdict_that_trust_leaves_out_is_refused(
    verdict: Verdict, platform: Platform | None, ask: Ask, work: Work, keys: Path, tmp_path: Path
) -> None:
    artifact = judged(work, tmp_path, verdict, platform, keys / "ours")

    error = refusal(ask, artifact)

    assert (error.reason, error.subject) == (Reason.RequirementNotMet, "trust.verdicts")
    assert f"has the verdict {verdict}" in error.message
    assert f"add '{verdict}' to `trust.verdicts`" in error.message
    with ask(artifact, verdicts=["Passed", verdict]) as lease:
        assert lease.model.report is not None
        assert lease.model.report.verdict is verdict


def test_a_platform_that_trust_leaves_out_is_refused(
    passed: Path, ask: Ask, work: Work, keys: Path, tmp_path: Path
) -> None:
    error = refusal(ask, passed, platforms=["NVIDIA H100"])

    assert (error.reason, error.subject) == (Reason.RequirementNotMet, "trust.platforms")
    assert "ran on 'NVIDIA B200'" in error.message
    with ask(passed, platforms=["NVIDIA H100", "NVIDIA B200"]):
        pass
    unmeasured = judged(work, tmp_path, Verdict.Unmeasured, None, keys / "ours")
    changes = {"platforms": ["NVIDIA B200"], "verdicts": ["Unmeasured"]}
    assert "ran on no device" in refusal(ask, unmeasured, **changes).message


def test_another_digest_than_the_pinned_one_is_refused(
    hub: HubDouble, ask: Ask, work: Work
) -> None:
    error = refusal(ask, hub.uri, "0" * 64)

    assert (error.reason, error.subject) == (Reason.DigestDiffers, "artifact.digest")
    assert work.made.document.digest in error.message
    assert weights_asked_for(hub) == []


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "plan.json", "model.sig"])
@pytest.mark.parametrize("resealed", [False, True])
def test_a_changed_file_is_named_and_nothing_of_it_stays(
    name: str, resealed: bool, hub: HubDouble, ask: Ask, cache: WeightsCache
) -> None:
    flip(hub.directory / name, 200)
    if resealed:
        reseal(hub.directory)

    error = refusal(ask, hub.uri)

    assert isinstance(error, CheckFailed)
    assert error.subject == name
    assert left(cache) == {}


@pytest.mark.parametrize("where", ["hub", "directory"])
def test_a_missing_and_an_additional_file_are_named(where: str, hub: HubDouble, ask: Ask) -> None:
    place = hub.uri if where == "hub" else hub.directory
    (hub.directory / "extra.safetensors").write_bytes(b"x")
    added = refusal(ask, place)
    (hub.directory / "extra.safetensors").unlink()
    (hub.directory / "config.json").unlink()

    assert (added.reason, added.subject) == (Reason.DigestDiffers, "extra.safetensors")
    assert refusal(ask, place).subject == "config.json"


def test_a_directory_that_is_written_to_after_it_was_proven_is_noticed(
    artifact: Path, ask: Ask
) -> None:
    lease = ask(artifact)
    weights = artifact / "model-00001-of-00003.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(CheckFailed, match="was changed after it was proven") as caught:
        lease.require_unchanged()
    assert caught.value.subject == weights.name


def test_a_directory_that_is_exchanged_and_put_back_is_noticed(artifact: Path, ask: Ask) -> None:
    lease = ask(artifact)
    other = artifact.with_name("other")

    artifact.rename(other)
    artifact.mkdir()
    artifact.rmdir()
    other.rename(artifact)

    with pytest.raises(CheckFailed, match="was changed after it was proven"):
        lease.require_unchanged()


def test_a_file_that_is_added_while_it_loads_is_noticed(artifact: Path, ask: Ask) -> None:
    lease = ask(artifact)
    extra = artifact / "model-9.safetensors"

    extra.touch()
    extra.unlink()

    with pytest.raises(CheckFailed, match="was changed after it was proven"):
        lease.require_unchanged()


def test_of_a_link_the_directory_is_served_that_was_proven(
    passed: Path, tmp_path: Path, ask: Ask
) -> None:
    link = tmp_path / "current"
    link.symlink_to(passed)

    with ask(link) as lease:
        assert lease.model.path == passed


def test_a_plain_checkpoint_needs_its_digest_and_two_allowances(
    tmp_path: Path, ask: Ask, cache: WeightsCache
) -> None:
    digest = write_plain(tmp_path / "plain", nbytes=1000)
    open_to_all = {"signature": Signatures.NotRequired, "verdicts": ["Unmeasured"]}
    place = tmp_path / "plain"

    unsigned = refusal(ask, place, digest)
    unmeasured = refusal(ask, place, digest, signature=Signatures.NotRequired)
    unpinned = refusal(ask, place, **open_to_all)
    other = refusal(ask, place, "0" * 64, **open_to_all)
    elsewhere = refusal(ask, place, digest, **open_to_all, platforms=["cpu"])

    assert unsigned.subject == "trust.signature"
    assert unmeasured.subject == "trust.verdicts"
    assert elsewhere.subject == "trust.platforms"
    assert isinstance(unpinned, RefusedInput)
    assert (unpinned.subject, digest in unpinned.message) == ("artifact.digest", True)
    assert (other.reason, digest in other.message) == (Reason.DigestDiffers, True)
    with ask(place, digest, **open_to_all) as lease:
        assert (lease.model.digest, lease.model.plan) == (digest, None)


def test_of_a_plain_checkpoint_no_code_and_no_pickle_is_fetched(
    tmp_path: Path, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = write_plain(tmp_path / "plain", nbytes=1000)
    with HubDouble(tmp_path / "plain") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        unpinned = ArtifactReference(uri=hub.uri)
        with pytest.raises(RefusedInput, match=r"python -m halftone\.serve\.weights hf://org/name"):
            obtain(unpinned, ANYBODY, cache)
        with pytest.raises(CheckFailed, match=digest) as caught:
            obtain(unpinned.model_copy(update={"digest": "0" * 64}), ANYBODY, cache)
        nothing = left(cache)
        pinned = unpinned.model_copy(update={"digest": digest})
        with obtain(pinned, ANYBODY, cache, place=Place.Draft) as lease:
            names = set(files_of(lease.model.path))

    assert (caught.value.reason, nothing) == (Reason.DigestDiffers, {})
    shards = {"model-0.safetensors", "model-1.safetensors"}
    assert names == {"config.json", "preprocessor_config.json", *shards}
    assert digest_of(lease.model.path) == digest


def test_where_only_a_pickle_lies_at_the_top_nothing_is_served(
    tmp_path: Path, cache: WeightsCache
) -> None:
    write_plain(tmp_path / "plain", nbytes=1000)
    inner = tmp_path / "plain" / "original"
    inner.mkdir()
    for shard in list((tmp_path / "plain").glob("*.safetensors")):
        shard.rename(inner / shard.name)
    reference = ArtifactReference(uri=str(tmp_path / "plain"), digest=digest_of(inner.parent))

    with pytest.raises(RefusedInput) as caught:
        obtain(reference, ANYBODY, cache)

    assert caught.value.reason is Reason.NoSafetensors


def test_a_draft_is_refused_by_its_own_fields(tmp_path: Path, cache: WeightsCache) -> None:
    write_plain(tmp_path / "plain", nbytes=1000)
    reference = ArtifactReference(uri=str(tmp_path / "plain"))

    with pytest.raises(RefusedInput, match=r"set `draft\.digest`"):
        obtain(reference, ANYBODY, cache, place=Place.Draft)


@pytest.mark.parametrize(
    ("uri", "revision"), [("hf://org/name@main", "other"), ("/nowhere", "main")]
)
def test_a_reference_that_contradicts_itself_is_refused(
    uri: str, revision: str, trust: Trust, cache: WeightsCache
) -> None:
    with pytest.raises(RefusedInput) as caught:
        obtain(ArtifactReference(uri=uri, revision=revision), trust, cache)

    assert (caught.value.reason, caught.value.subject) == (
        Reason.InvalidEndpoint,
        "artifact.revision",
    )

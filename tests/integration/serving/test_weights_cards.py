"""Capacity cards that come with weights: which of them a replica may believe.

We test these aspects:
- the cards of a signed artifact come with it, from a store, a directory and the cache
- a card that is another's, was changed or is not signed by the key is left out, told, and keeps
  nothing from serving; the others stay
- without a signature of the whole, cards need none
- cards that a store got later are seen where the store is asked, and no weight is fetched for them
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from halftone.publish.keys import generate_key
from halftone.serve.weights import obtain
from halftone.spec.capacity import CapacityCard
from halftone.spec.reports import Verdict
from halftone.spec.serving import ArtifactReference, Signatures, Trust, WeightsCache
from tests.artifacts import Work, capacity_card, publish, work_directory, write_card
from tests.doubles.hub import HubDouble

DEVICES = ["nvidia-b200", "nvidia-h100"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    made = work_directory(tmp_path_factory.mktemp("made"))
    for device in DEVICES:
        write_card(made, device)
    return made


@pytest.fixture
def artifact(work: Work, key: Path, tmp_path: Path) -> Path:
    """Signed, as its two cards are."""
    return publish(work, tmp_path / "artifact", key)


@pytest.fixture
def hub(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with HubDouble(artifact, large_file_bytes=10_000) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double


@pytest.fixture
def trust(key: Path) -> Trust:
    return Trust(publicKeyFile=f"{key}.pub", verdicts=(Verdict.Emulated,))


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    return WeightsCache(directory=str(tmp_path / "cache"))


def devices(uri: str, trust: Trust, cache: WeightsCache, work: Work | None = None) -> list[str]:
    """Those of the cards that come with it; with `work` its digest is pinned."""
    digest = None if work is None else work.made.document.digest
    with obtain(ArtifactReference(uri=uri, digest=digest), trust, cache) as lease:
        lease.require_unchanged()
        return [card.device for card in lease.model.cards]


def card_of(artifact: Path, device: str) -> Path:
    (path,) = (artifact / "capacity").glob(f"{device}*.json")
    return path


def test_cards_come_with_the_artifact_from_wherever_it_is(
    hub: HubDouble, artifact: Path, trust: Trust, cache: WeightsCache, work: Work
) -> None:
    assert devices(str(artifact), trust, cache) == DEVICES
    assert devices(hub.uri, trust, cache, work) == DEVICES
    hub.requests.clear()
    assert devices(hub.uri, trust, cache, work) == DEVICES
    assert hub.requests == []


def changed(artifact: Path) -> None:
    path = card_of(artifact, DEVICES[0])
    card = CapacityCard.load(path).model_copy(update={"maxSequences": 65})
    path.write_bytes(card.to_bytes())


def unsigned(artifact: Path) -> None:
    card_of(artifact, DEVICES[0]).with_suffix(".json.sig").unlink()


def anothers(artifact: Path) -> None:
    card_of(artifact, DEVICES[0]).write_bytes(capacity_card("d" * 64, DEVICES[0]).to_bytes())


def no_card(artifact: Path) -> None:
    card_of(artifact, DEVICES[0]).write_bytes(b"{}")


@pytest.mark.parametrize("spoil", [changed, unsigned, anothers, no_card])
def test_a_card_that_is_wrong_is_left_out_and_told(
    spoil: object,
    artifact: Path,
    trust: Trust,
    cache: WeightsCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert callable(spoil)
    path = card_of(artifact, DEVICES[0]).name
    spoil(artifact)
    assert devices(str(artifact), trust, cache) == DEVICES[1:]
    (told,) = (record.message for record in caplog.records)
    assert told.startswith("halftone: a capacity card is left out: ")
    assert path in told


def test_a_card_that_another_key_signed_is_left_out(
    work: Work, artifact: Path, trust: Trust, cache: WeightsCache, tmp_path: Path
) -> None:
    generate_key(tmp_path / "other")
    theirs = publish(work, tmp_path / "theirs", tmp_path / "other")
    for path in (theirs / "capacity").glob(f"{DEVICES[0]}*"):
        shutil.copy(path, artifact / "capacity")
    assert devices(str(artifact), trust, cache) == DEVICES[1:]


def test_without_a_signature_of_the_whole_cards_need_none(
    work: Work, cache: WeightsCache, tmp_path: Path
) -> None:
    anybody = Trust(signature=Signatures.NotRequired, verdicts=(Verdict.Emulated,))
    assert devices(str(publish(work, tmp_path / "open")), anybody, cache) == DEVICES


def test_a_later_card_is_seen_where_the_store_is_asked(
    hub: HubDouble, artifact: Path, trust: Trust, cache: WeightsCache, work: Work, tmp_path: Path
) -> None:
    first = Path(shutil.copytree(artifact, tmp_path / "first"))
    for path in (first / "capacity").glob(f"{DEVICES[1]}*"):
        path.unlink()
    hub.move(first)
    assert devices(hub.uri, trust, cache) == DEVICES[:1]
    hub.move(artifact)
    hub.requests.clear()
    assert devices(hub.uri, trust, cache) == DEVICES
    fetched = {Path(r.path.partition("?")[0]).suffix for r in hub.requests}
    assert ".safetensors" not in fetched
    # A pinned digest is not asked for.
    assert devices(hub.uri, trust, cache, work) == DEVICES[:1]

"""Artifacts in the cache: what a second replica asks of the store, and of what it may be sure.

We test these aspects:
- without a pinned digest the documents are asked for again, and no weight
- `trust` is applied to what is cached as to anything else
- another publication of the same checkpoint does not stand in the way of the one that is trusted,
  and nodes of one replica may not have one each
- the command that prints the digest to pin
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halftone.serve.weights import obtain, require_alike
from halftone.spec.errors import CheckFailed, EnvironmentFault
from halftone.spec.names import Reason
from halftone.spec.reports import Verdict
from halftone.spec.serving import ArtifactReference, Trust, WeightsCache
from tests.artifacts import REAL, Work, publish, work_directory, write_report
from tests.doubles.hub import HubDouble
from tests.obtaining import write_plain


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("made")
    return work_directory(folder, verdict=Verdict.Unmeasured, platform=None)


@pytest.fixture
def hub(
    work: Work, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubDouble]:
    """The signed artifact, unmeasured, as a repository."""
    with HubDouble(publish(work, tmp_path / "unmeasured", key), large_file_bytes=10_000) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double


@pytest.fixture
def strict(key: Path) -> Trust:
    return Trust(publicKeyFile=f"{key}.pub")


@pytest.fixture
def lenient(strict: Trust) -> Trust:
    return strict.model_copy(update={"verdicts": (Verdict.Passed, Verdict.Unmeasured)})


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    return WeightsCache(directory=str(tmp_path / "cache"))


def asked_for(hub: HubDouble) -> set[str]:
    """Kinds of files of which parts were asked for since the last time."""
    kinds = {Path(r.path.partition("?")[0]).suffix for r in hub.requests if "/resolve/" in r.path}
    hub.requests.clear()
    return kinds


def test_without_a_digest_documents_are_read_again_and_no_weight(
    hub: HubDouble, lenient: Trust, cache: WeightsCache
) -> None:
    obtain(ArtifactReference(uri=hub.uri), lenient, cache).release()
    first = asked_for(hub)

    obtain(ArtifactReference(uri=hub.uri), lenient, cache).release()

    assert ".safetensors" in first
    assert asked_for(hub) == {".json", ".sig"}


def test_trust_is_applied_to_what_is_cached(
    hub: HubDouble, strict: Trust, lenient: Trust, cache: WeightsCache, work: Work
) -> None:
    reference = ArtifactReference(uri=hub.uri, digest=work.made.document.digest)
    obtain(reference, lenient, cache).release()

    with pytest.raises(CheckFailed) as caught:
        obtain(reference, strict, cache)

    assert (caught.value.reason, caught.value.subject) == (
        Reason.RequirementNotMet,
        "trust.verdicts",
    )


def test_another_publication_of_the_same_checkpoint_is_found(
    hub: HubDouble,
    strict: Trust,
    lenient: Trust,
    cache: WeightsCache,
    work: Work,
    key: Path,
    tmp_path: Path,
) -> None:
    reference = ArtifactReference(uri=hub.uri, digest=work.made.document.digest)
    first = obtain(reference, lenient, cache)
    measured = Path(shutil.copytree(work.directory, tmp_path / "measured"))
    digest = work.made.planned.plan.digest
    report = write_report(measured, digest, work.made.document, Verdict.Passed, REAL)
    hub.move(publish(Work(measured, work.source, work.made, report), tmp_path / "passed", key))

    with obtain(reference, strict, cache) as second:
        assert second.model.report == report
        assert second.model.digest == first.model.digest
        assert second.model.path != first.model.path
        require_alike([first.found], [first.found])
        with pytest.raises(EnvironmentFault, match=r"remove other publications") as caught:
            require_alike([first.found], [second.found])
        assert caught.value.reason is Reason.SourceChanged
    first.require_unchanged()
    first.release()


def test_the_command_prints_the_digest_to_pin(tmp_path: Path) -> None:
    digest = write_plain(tmp_path / "plain", nbytes=1000)

    done = subprocess.run(
        [sys.executable, "-m", "halftone.serve.weights", tmp_path / "plain"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, f"{digest}\n")

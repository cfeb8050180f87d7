"""The cache of a node: what survives kills and dying stores, what is shared, what goes.

We test these aspects:
- a store that dies midway, a process that is killed -9 midway: the next attempt goes on, proves
  what it found and fetches damaged parts anew
- two processes at once fetch once; one that dies hands over to the one that waits
- a hit reads no weight; a byte that changed on disk since is fetched again, even where its times
  were put back, and never served
- a pinned digest is served without the store; a damaged entry is not
- what a live process holds is not evicted, and is once that process was killed
- a full disk: refused before the first byte, and nothing left when room vanishes midway
- a truncated download, and a file that changes during it
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from halftone.serve.weights import obtain
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import ArtifactReference, WeightsCache
from tests.commands import files_of
from tests.disks import small_disk
from tests.doubles.hub import Fault, HubDouble, Place
from tests.obtaining import ANYBODY, MIB, answer, digest_of, end, left, line, start, write_plain
from tests.servers.versitygw import VersityGateway

SIZE = 40 * MIB
HALF = SIZE // 2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two shards; nobody may change it."""
    folder = tmp_path_factory.mktemp("source") / "plain"
    write_plain(folder, nbytes=HALF)
    return folder


@pytest.fixture
def hub(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with HubDouble(source) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double


@pytest.fixture
def reference(hub: HubDouble, source: Path) -> ArtifactReference:
    return ArtifactReference(uri=hub.uri, digest=digest_of(source))


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    return WeightsCache(directory=str(tmp_path / "cache"))


def fetched(hub: HubDouble) -> int:
    """Bytes of weights that were asked of the network so far."""
    ranges = (request.range for request in hub.seen(Place.Network) if request.range)
    pairs = (asked.removeprefix("bytes=").split("-") for asked in ranges)
    return sum(int(last) - int(first) + 1 for first, last in pairs)


def flip(path: Path, position: int) -> None:
    """Change one byte in place, and put size and times back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def until(happens: Callable[[], bool]) -> None:
    """Wait for what another process does; the test's own limit ends it."""
    while not happens():
        time.sleep(0.01)


def is_blocked(process: "subprocess.Popen[str]") -> bool:
    """Whether the kernel has `process` wait for a lock."""
    locks = Path("/proc/locks").read_text().splitlines()
    return any("->" in row and f" {process.pid} " in row for row in locks)


def test_after_a_kill_the_next_process_goes_on(
    reference: ArtifactReference, cache: WeightsCache, hub: HubDouble, source: Path
) -> None:
    killed = start(reference, ANYBODY, cache, "--die-at", str(SIZE * 3 // 4))
    assert end(killed) == -signal.SIGKILL
    before = fetched(hub)
    assert [path.name for path in Path(cache.directory).iterdir() if path.name[0] != "."] == []

    with obtain(reference, ANYBODY, cache) as lease:
        assert digest_of(lease.model.path) == digest_of(source)

    assert fetched(hub) - before < SIZE * 3 // 4


def test_what_a_killed_process_left_is_proven_again(
    reference: ArtifactReference, cache: WeightsCache, source: Path
) -> None:
    end(start(reference, ANYBODY, cache, "--die-at", str(SIZE * 3 // 4)))
    (partial,) = (Path(cache.directory) / ".partial").iterdir()
    longest = max(partial.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    flip(longest, 1000)
    (partial / "left-over").write_bytes(b"x")

    with obtain(reference, ANYBODY, cache) as lease:
        assert digest_of(lease.model.path) == digest_of(source)
        assert not (lease.model.path / "left-over").exists()


def test_a_store_that_dies_midway_is_gone_on_with(
    tmp_path: Path, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than is read ahead, so that something is left to ask for.
    digest = write_plain(tmp_path / "plain", shards=1, nbytes=80 * MIB)
    with VersityGateway(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.client.create_bucket(Bucket="models")
        for name, data in files_of(tmp_path / "plain").items():
            server.client.put_object(Bucket="models", Key=f"plain/{name}", Body=data)
        uri = "s3://models/plain"
        reference = ArtifactReference(uri=uri, digest=digest, endpointUrl=server.endpoint)
        died: list[int] = []

        def die(done: int, total: int) -> None:
            if done > total // 2 and not died:
                died.append(done)
                server.stop(signal.SIGKILL)

        with pytest.raises(EnvironmentFault) as caught:
            obtain(reference, ANYBODY, cache, die)
        server.start()
        (partial,) = (Path(cache.directory) / ".partial").iterdir()
        kept = sum(len(data) for data in files_of(partial).values())
        with obtain(reference, ANYBODY, cache) as lease:
            assert digest_of(lease.model.path) == reference.digest

    assert caught.value.reason is Reason.StoreUnavailable
    assert kept >= died[0]


def test_two_processes_fetch_once(
    reference: ArtifactReference, cache: WeightsCache, hub: HubDouble
) -> None:
    first = start(reference, ANYBODY, cache, "--wait-at", str(HALF))
    assert [line(first), line(first)] == ["asking", "waiting"]
    second = start(reference, ANYBODY, cache)
    until(lambda: is_blocked(second))
    assert first.stdin is not None
    first.stdin.write("\n")
    first.stdin.flush()

    answers = [answer(first), answer(second)]

    assert [end(first), end(second)] == [0, 0]
    assert answers[0]["path"] == answers[1]["path"]
    assert fetched(hub) == SIZE
    assert answers[1]["read"] == 0


def test_who_waits_takes_over_from_one_that_is_killed(
    reference: ArtifactReference, cache: WeightsCache
) -> None:
    first = start(reference, ANYBODY, cache, "--wait-at", str(HALF))
    assert [line(first), line(first)] == ["asking", "waiting"]
    second = start(reference, ANYBODY, cache)
    until(lambda: is_blocked(second))

    first.kill()

    assert answer(second)["digest"] == reference.digest
    assert [end(first), end(second)] == [-signal.SIGKILL, 0]


def test_a_hit_reads_no_weight_and_needs_no_store(
    reference: ArtifactReference, cache: WeightsCache, hub: HubDouble
) -> None:
    obtain(reference, ANYBODY, cache).release()
    asked = len(hub.requests)
    read: list[int] = []

    with obtain(reference, ANYBODY, cache, lambda done, total: read.append(done)) as lease:
        assert digest_of(lease.model.path) == reference.digest

    assert len(hub.requests) == asked
    assert read == []


def test_a_byte_that_changed_on_disk_is_never_served(
    reference: ArtifactReference, cache: WeightsCache, hub: HubDouble
) -> None:
    with obtain(reference, ANYBODY, cache) as lease:
        flip(lease.model.path / "model-1.safetensors", 77)

        with obtain(reference, ANYBODY, cache) as again:
            assert digest_of(again.model.path) == reference.digest


def test_a_file_that_was_added_to_an_entry_is_removed(
    reference: ArtifactReference, cache: WeightsCache
) -> None:
    with obtain(reference, ANYBODY, cache) as lease:
        extra = lease.model.path / "model-9.safetensors"
        extra.write_bytes(b"weights that nobody published")
        with pytest.raises(CheckFailed):
            lease.require_unchanged()

    with obtain(reference, ANYBODY, cache):
        assert not extra.exists()


def test_a_changed_byte_is_not_served_either_while_the_store_is_away(
    reference: ArtifactReference, cache: WeightsCache, hub: HubDouble
) -> None:
    with obtain(reference, ANYBODY, cache) as lease:
        flip(lease.model.path / "model-1.safetensors", 77)
    hub.fail(Place.Description, Fault.Unavailable, times=20)

    with pytest.raises(EnvironmentFault) as caught:
        obtain(reference, ANYBODY, cache)

    assert caught.value.reason is Reason.StoreUnavailable


def test_what_a_live_process_holds_stays_until_it_is_killed(
    reference: ArtifactReference, tmp_path: Path, hub: HubDouble
) -> None:
    with small_disk(tmp_path / "disk", SIZE * 3 // 2) as disk:
        cache = WeightsCache(directory=str(disk / "cache"))
        holder = start(reference, ANYBODY, cache, "--hold")
        held = Path(answer(holder)["path"])
        hub.move(tmp_path / "other")
        digest = write_plain(hub.directory, seed=1, nbytes=HALF - 1)
        other = ArtifactReference(uri=hub.uri, digest=digest)

        with pytest.raises(EnvironmentFault, match=r"does not fit.*`cache\.directory`") as caught:
            obtain(other, ANYBODY, cache)
        kept = held.is_dir()
        holder.kill()
        end(holder)
        with obtain(other, ANYBODY, cache) as lease:
            assert digest_of(lease.model.path) == digest
            assert not held.exists()

    assert (caught.value.reason, kept) == (Reason.OutOfSpace, True)


def test_a_disk_without_room_is_refused_before_a_weight_is_fetched(
    reference: ArtifactReference, tmp_path: Path, hub: HubDouble
) -> None:
    with small_disk(tmp_path / "disk", HALF) as disk:
        cache = WeightsCache(directory=str(disk))
        with pytest.raises(EnvironmentFault) as caught:
            obtain(reference, ANYBODY, cache)
        nothing = left(cache)

    assert (caught.value.reason, caught.value.subject) == (Reason.OutOfSpace, "cache.directory")
    assert (fetched(hub), nothing) == (0, {})


def test_when_room_vanishes_midway_nothing_is_left(
    reference: ArtifactReference, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", SIZE + 4 * MIB) as disk:
        cache = WeightsCache(directory=str(disk / "cache"))

        def fill(done: int, total: int) -> None:
            if not (disk / "filler").exists():
                (disk / "filler").write_bytes(bytes(HALF))

        with pytest.raises(EnvironmentFault) as caught:
            obtain(reference, ANYBODY, cache, fill)
        nothing = left(cache)

    assert (caught.value.reason, nothing) == (Reason.OutOfSpace, {})


def test_answers_that_end_early_are_asked_for_again(
    reference: ArtifactReference, cache: WeightsCache, hub: HubDouble
) -> None:
    hub.fail(Place.Network, Fault.Short, times=2)
    hub.fail(Place.Network, Fault.Reset, times=1)

    with obtain(reference, ANYBODY, cache) as lease:
        assert digest_of(lease.model.path) == reference.digest


def test_a_file_of_another_size_than_the_listed_one_is_refused(
    reference: ArtifactReference, cache: WeightsCache, hub: HubDouble
) -> None:
    hub.fail(Place.Network, Fault.OtherSize, times=40)

    with pytest.raises(RefusedInput) as caught:
        obtain(reference, ANYBODY, cache)

    assert caught.value.reason is Reason.SourceChanged
    assert left(cache) == {}


def test_a_name_that_leaves_the_directory_is_refused(
    tmp_path: Path, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VersityGateway(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.client.create_bucket(Bucket="models")
        (server.data / "models" / "plain").mkdir()
        (server.data / "models" / "plain" / "..\\weights.safetensors").write_bytes(b"x")
        reference = ArtifactReference(uri="s3://models/plain", digest="0" * 64)

        with pytest.raises(HalftoneError) as caught:
            obtain(reference, ANYBODY, cache)

    assert caught.value.reason is Reason.MalformedCheckpoint
    assert left(cache) == {}

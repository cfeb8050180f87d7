"""`hf://` sources, read by the real huggingface_hub from a double of the Hub on loopback.

We test these aspects:
- what is pinned, and what is asked for: ranges, never whole files
- the token: where it goes and where it must not go
- bursts of errors, broken bodies, expired addresses
- each refusal's sentence
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import Reason
from halftone.stores import open_source
from halftone.stores.hub import HubSource
from tests.doubles.hub import Fault, HubDouble, Place

LARGE = bytes(range(256)) * 12_000  # 3 MB
SMALL = b'{"model_type": "qwen3"}'
TOKEN = "hf_" + "s3cret" * 5


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "repository"
    (directory / "nested dir").mkdir(parents=True)
    (directory / "config.json").write_bytes(SMALL)
    (directory / "model.safetensors").write_bytes(LARGE)
    (directory / "nested dir" / "ünï+code#.txt").write_bytes(b"odd name")
    return directory


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with HubDouble(repository) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double


def refusal(uri: str, path: str | None = None, waits: tuple[float, ...] = ()) -> HalftoneError:
    """The error that opening `uri`, or reading the beginning of `path`, ends in."""
    with pytest.raises(HalftoneError) as caught:
        HubSource(uri, waits=waits).read_range(path or "config.json", 0, 8)
    assert TOKEN not in str(caught.value)
    return caught.value


def test_a_source_lists_every_file_with_its_size_and_is_pinned_to_a_commit(hub: HubDouble) -> None:
    source = open_source("hf://org/name")

    assert source.uri == "hf://org/name"
    assert source.revision == hub.commit
    assert list(source.files()) == [
        FileEntry("config.json", len(SMALL)),
        FileEntry("model.safetensors", len(LARGE)),
        FileEntry("nested dir/ünï+code#.txt", 8),
    ]
    assert source.local_path("config.json") is None


def test_reads_ask_for_the_commit_even_when_the_branch_was_named(hub: HubDouble) -> None:
    open_source(hub.uri).read_range("config.json", 0, 4)

    [request] = hub.seen(Place.Resolve)
    assert request.path == f"/org/name/resolve/{hub.commit}/config.json"


def test_names_with_blanks_and_accents_are_read(hub: HubDouble) -> None:
    assert open_source(hub.uri).read_range("nested dir/ünï+code#.txt", 0, 8) == b"odd name"


def test_only_the_bytes_that_were_asked_for_travel(hub: HubDouble) -> None:
    source = open_source(hub.uri)
    before = source.traffic.requests

    assert source.read_range("model.safetensors", 1_000_003, 5000) == LARGE[1_000_003:1_005_003]
    assert source.traffic.bytes == 5000
    assert source.traffic.requests - before == 2  # the Hub's redirect, and the range
    assert hub.seen(Place.Network)[-1].range == "bytes=1000003-1005002"


def test_the_address_behind_a_redirect_is_asked_again_without_the_hub(hub: HubDouble) -> None:
    source = open_source(hub.uri)
    for offset in (0, 10, 20):
        source.read_range("model.safetensors", offset, 10)

    assert len(hub.seen(Place.Resolve)) == 1
    assert len(hub.seen(Place.Network)) == 3


def test_one_connection_serves_all_ranges_of_a_thread(hub: HubDouble) -> None:
    source = open_source(hub.uri)
    for offset in (0, 500_000, 1_000_000):
        source.read_range("model.safetensors", offset, 400_000)

    assert len({request.connection for request in hub.seen(Place.Network)}) == 1


def test_a_buffer_is_filled_in_place(hub: HubDouble) -> None:
    buffer = bytearray(1_500_000)
    open_source(hub.uri).read_into("model.safetensors", 7, memoryview(buffer))

    assert buffer == LARGE[7:1_500_007]


def test_threads_may_share_a_source(hub: HubDouble) -> None:
    source = open_source(hub.uri)
    ready = threading.Barrier(8)

    def read(part: int) -> bool:
        ready.wait()
        offset = part * 300_000
        part_of_file = LARGE[offset : offset + 300_000]
        return source.read_range("model.safetensors", offset, 300_000) == part_of_file

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert source.traffic.bytes == 8 * 300_000


def test_the_token_goes_to_the_hub_and_never_to_the_network_behind_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubDouble(repository, token=TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        source = open_source(hub.uri)
        for _ in range(2):  # by redirect, then at the remembered address
            source.read_range("model.safetensors", 0, 10)

        asked_of_hub = hub.seen(Place.Description) + hub.seen(Place.Resolve)
        assert {request.authorization for request in asked_of_hub} == {f"Bearer {TOKEN}"}
        assert {request.authorization for request in hub.seen(Place.Network)} == {None}


@pytest.mark.parametrize("fault", [Fault.Unavailable, Fault.TooManyRequests])
@pytest.mark.parametrize("place", list(Place))
def test_a_burst_of_errors_is_waited_out(hub: HubDouble, place: Place, fault: Fault) -> None:
    hub.fail(place, fault, times=3)

    source = open_source(hub.uri)
    assert source.read_range("model.safetensors", 5, 100) == LARGE[5:105]
    assert source.traffic.requests >= 6
    statuses = [request.status for request in hub.seen(place)]
    assert statuses[:3] == [503 if fault is Fault.Unavailable else 429] * 3


def test_a_body_that_breaks_off_is_taken_up_where_it_broke(hub: HubDouble) -> None:
    hub.fail(Place.Network, Fault.Reset, times=2)
    source = HubSource(hub.uri, waits=(0.0, 0.0))

    assert source.read_range("model.safetensors", 0, len(LARGE)) == LARGE
    assert source.traffic.bytes == len(LARGE)
    begins = [int(str(r.range).split("=")[1].split("-")[0]) for r in hub.seen(Place.Network)]
    assert begins == sorted(begins)
    assert len(begins) == 3


def test_a_part_that_is_too_short_is_completed(hub: HubDouble) -> None:
    hub.fail(Place.Network, Fault.Short)
    source = HubSource(hub.uri, waits=(0.0,))

    assert source.read_range("model.safetensors", 100, 1000) == LARGE[100:1100]


def test_an_address_that_expired_is_asked_for_anew(hub: HubDouble) -> None:
    source = HubSource(hub.uri, waits=())
    source.read_range("model.safetensors", 0, 10)
    hub.expire()

    assert source.read_range("model.safetensors", 10, 10) == LARGE[10:20]
    assert len(hub.seen(Place.Resolve)) == 2


def test_a_small_file_that_comes_whole_is_cut_to_the_range(hub: HubDouble) -> None:
    hub.fail(Place.Resolve, Fault.WholeFile)

    assert open_source(hub.uri).read_range("config.json", 2, 5) == SMALL[2:7]


def test_a_large_file_that_comes_whole_is_refused_before_it_is_read(
    repository: Path, hub: HubDouble
) -> None:
    with (repository / "huge.safetensors").open("wb") as huge:
        huge.truncate(10_000_000_000)
    hub.fail(Place.Network, Fault.WholeFile)
    source = open_source(hub.uri)

    with pytest.raises(EnvironmentFault, match="the whole file instead of a part") as caught:
        source.read_range("huge.safetensors", 0, 10)
    assert caught.value.reason is Reason.StoreUnavailable
    assert source.traffic.bytes == 0


def test_a_compressed_body_is_refused(hub: HubDouble) -> None:
    hub.fail(Place.Resolve, Fault.Compressed)

    assert "compressed body for `config.json`" in str(refusal(hub.uri))


def test_a_file_of_another_size_than_listed_has_changed(hub: HubDouble) -> None:
    hub.fail(Place.Network, Fault.OtherSize)
    error = refusal(hub.uri, "model.safetensors")

    assert error.reason is Reason.SourceChanged
    assert "`model.safetensors`" in str(error)
    assert "start again" in str(error)


def test_a_file_that_became_shorter_has_changed(repository: Path, hub: HubDouble) -> None:
    source = HubSource(f"hf://org/name@{hub.commit}", waits=())
    hub.revision = hub.commit  # the addresses stay valid although the file differs
    (repository / "model.safetensors").write_bytes(LARGE[:2_000_000])

    with pytest.raises(RefusedInput, match=r"`model\.safetensors`.*became shorter") as caught:
        source.read_range("model.safetensors", 2_500_000, 10)
    assert caught.value.reason is Reason.SourceChanged


def test_a_hub_that_stays_unavailable_is_a_fault_of_the_environment(hub: HubDouble) -> None:
    hub.fail(Place.Description, Fault.Unavailable, times=9)
    error = refusal(hub.uri, waits=(0.0, 0.0))

    assert isinstance(error, EnvironmentFault)
    assert error.reason is Reason.StoreUnavailable
    assert str(error) == (
        f"The Hub answered 503 for `{hub.uri}`; check the network and HF_ENDPOINT, then run the "
        "command again."
    )
    assert len(hub.seen(Place.Description)) == 3


def test_a_connection_that_keeps_breaking_is_a_fault_of_the_environment(hub: HubDouble) -> None:
    hub.fail(Place.Network, Fault.Reset, times=9)
    error = refusal(hub.uri, "model.safetensors", waits=(0.0,))

    assert error.reason is Reason.StoreUnavailable
    assert "did not answer" in str(error)


def test_a_hub_that_is_not_there_is_a_fault_of_the_environment(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubDouble(repository) as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.endpoint)
    error = refusal("hf://org/name")

    assert error.reason is Reason.StoreUnavailable
    assert "check the network and HF_ENDPOINT" in str(error)
    assert error.__cause__ is not None


def test_an_endpoint_that_is_no_hub_is_a_fault_of_the_environment(hub: HubDouble) -> None:
    hub.fail(Place.Description, Fault.Garbage)
    error = refusal(hub.uri)

    assert error.reason is Reason.StoreUnavailable
    assert "check HF_ENDPOINT and any proxy" in str(error)


def test_an_unknown_repository_is_refused_with_both_explanations(hub: HubDouble) -> None:
    error = refusal("hf://org/other")

    assert error.reason is Reason.SourceNotFound
    assert str(error) == (
        "The Hub shows no `hf://org/other`; correct the name or, if it is private, set HF_TOKEN "
        "to a token that may read it."
    )


def test_an_unknown_revision_is_refused(hub: HubDouble) -> None:
    error = refusal("hf://org/name@nowhere")

    assert error.reason is Reason.SourceNotFound
    assert "`hf://org/name@nowhere` has no such revision" in str(error)


def test_a_wrong_token_is_refused_and_not_repeated(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubDouble(repository, token="another") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        error = refusal(hub.uri)

    assert error.reason is Reason.AccessDenied
    assert "set HF_TOKEN to a token that may read it" in str(error)


def test_a_gated_repository_says_where_to_accept_its_terms(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubDouble(repository, gated=True) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        error = refusal(hub.uri)

    assert error.reason is Reason.AccessDenied
    assert "is gated; accept its terms on its page" in str(error)


def test_a_file_that_vanished_is_refused(repository: Path, hub: HubDouble) -> None:
    source = HubSource(f"hf://org/name@{hub.commit}", waits=())
    hub.revision = hub.commit
    (repository / "config.json").unlink()

    with pytest.raises(RefusedInput, match=r"has no file `config\.json`") as caught:
        source.read_range("config.json", 0, 1)
    assert caught.value.reason is Reason.SourceNotFound


def test_a_range_beyond_the_end_is_refused_without_a_request(hub: HubDouble) -> None:
    source = open_source(hub.uri)

    with pytest.raises(RefusedInput, match=r"`config\.json`.* has 23 bytes, but bytes up to 24"):
        source.read_range("config.json", 20, 4)
    assert hub.seen(Place.Resolve) == []


@pytest.mark.parametrize(
    "uri",
    ["hf://", "hf://a/b/c", "hf://org/name@", "hf://../name", "hf://org/na me", "hf://a/b@\x1b"],
)
def test_an_address_that_is_no_model_is_refused(uri: str) -> None:
    with pytest.raises(RefusedInput, match="write `hf://org/name`") as caught:
        open_source(uri)
    assert caught.value.reason is Reason.InvalidJob

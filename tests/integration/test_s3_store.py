"""`s3://` sources, read by the real boto3 from moto's server on loopback.

We test these aspects:
- listings: prefixes, folders' markers, what is skipped, several pages
- ranges, and that an object which is replaced is noticed
- bursts of errors and broken bodies
- each refusal's sentence
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import Reason
from halftone.stores import open_source
from halftone.stores.s3 import S3Source
from tests.doubles.s3 import Fault, S3Double

BODY = bytes(range(256)) * 12_000  # 3 MB
URI = "s3://models/team/base"
SECRET = "s3cret" * 5


@pytest.fixture
def s3(s3_bucket: S3Double, monkeypatch: pytest.MonkeyPatch) -> S3Double:
    """An S3 that holds one source, read with a secret that no message may show."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    s3_bucket.put("models", "team/base/model.safetensors", BODY)
    s3_bucket.put("models", "team/base/config.json", b"{}")
    s3_bucket.requests.clear()
    return s3_bucket


def refusal(uri: str, path: str = "config.json") -> HalftoneError:
    """The error that opening `uri`, or reading the beginning of `path`, ends in."""
    with pytest.raises(HalftoneError) as caught:
        S3Source(uri, waits=()).read_range(path, 0, 2)
    assert SECRET not in str(caught.value)
    return caught.value


def test_a_source_lists_the_objects_below_its_prefix(s3: S3Double) -> None:
    s3.put("models", "team/base/tokenizer/vocab.json", b"[]")
    s3.put("models", "team/base/", b"")  # what a console makes for a folder
    s3.put("models", "team/base/.cache/huggingface/x", b"?")
    s3.put("models", "team/base-other/config.json", b"{}")

    source = open_source(URI + "/")
    assert list(source.files()) == [
        FileEntry("config.json", 2),
        FileEntry("model.safetensors", len(BODY)),
        FileEntry("tokenizer/vocab.json", 2),
    ]
    again = open_source(URI)
    assert source.revision == again.revision
    s3.put("models", "team/base/config.json", b"[]")
    assert open_source(URI).revision != again.revision  # a bucket's version is all its ETags
    assert source.local_path("config.json") is None


def test_a_whole_bucket_may_be_named(s3: S3Double) -> None:
    source = open_source("s3://models")

    assert source.files()[0].path == "team/base/config.json"


def test_only_the_bytes_that_were_asked_for_travel(s3: S3Double) -> None:
    source = open_source(URI)

    assert source.read_range("model.safetensors", 1_000_003, 5000) == BODY[1_000_003:1_005_003]
    assert source.traffic.bytes == 5000
    assert source.traffic.requests == 2  # the listing, and the range
    assert [request.range for request in s3.gets()] == ["bytes=1000003-1005002"]


def test_threads_may_share_a_source_and_fill_buffers_in_place(s3: S3Double) -> None:
    source = open_source(URI)
    buffer = bytearray(len(BODY))
    part = len(BODY) // 8

    def read(index: int) -> None:
        view = memoryview(buffer)[index * part : (index + 1) * part]
        source.read_into("model.safetensors", index * part, view)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(8)))
    assert buffer == BODY
    assert source.traffic.bytes == len(BODY)


def test_nothing_is_asked_for_an_empty_range(s3: S3Double) -> None:
    assert open_source(URI).read_range("model.safetensors", 5, 0) == b""
    assert s3.gets() == []


def test_a_listing_of_several_pages_is_read_to_its_end(
    s3: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")  # the server's page
    for number in range(5):
        s3.put("models", f"many/{number}", b"")

    source = open_source("s3://models/many")
    assert [entry.path for entry in source.files()] == ["0", "1", "2", "3", "4"]
    assert source.traffic.requests == 3


def test_an_object_that_is_replaced_is_refused(s3: S3Double) -> None:
    source = open_source(URI)
    s3.put("models", "team/base/model.safetensors", BODY[::-1])

    with pytest.raises(RefusedInput) as caught:
        source.read_range("model.safetensors", 0, 10)
    assert caught.value.reason is Reason.SourceChanged
    assert str(caught.value) == (
        f"`model.safetensors` of `{URI}` changed after it was listed; start again once nothing "
        "writes to the source."
    )
    assert all(request.if_match for request in s3.gets())


def test_an_object_that_is_deleted_is_refused(s3: S3Double) -> None:
    source = open_source(URI)
    s3.client.delete_object(Bucket="models", Key="team/base/config.json")

    with pytest.raises(RefusedInput, match=r"The store has no `config\.json`") as caught:
        source.read_range("config.json", 0, 2)
    assert caught.value.reason is Reason.SourceNotFound


def test_a_burst_of_errors_is_waited_out(s3: S3Double) -> None:
    s3.fail(Fault.Unavailable, times=2)

    source = open_source(URI)
    assert source.read_range("config.json", 0, 2) == b"{}"


def test_a_body_that_breaks_off_is_taken_up_where_it_broke(s3: S3Double) -> None:
    source = S3Source(URI, waits=(0.0, 0.0))
    s3.fail(Fault.Cut, times=2)

    assert source.read_range("model.safetensors", 0, len(BODY)) == BODY
    begins = [int(str(r.range).split("=")[1].split("-")[0]) for r in s3.gets()]
    assert begins[0] == 0
    assert begins == sorted(set(begins))
    assert len(begins) == 3


def test_a_body_that_keeps_breaking_off_is_a_fault_of_the_environment(s3: S3Double) -> None:
    source = S3Source(URI, waits=(0.0,))
    s3.fail(Fault.Cut, times=9)

    with pytest.raises(
        EnvironmentFault, match=r"`model\.safetensors` of `s3://.*run the"
    ) as caught:
        source.read_range("model.safetensors", 0, len(BODY))
    assert caught.value.reason is Reason.StoreUnavailable


def test_a_store_that_stays_unavailable_is_a_fault_of_the_environment(
    s3: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3.fail(Fault.Unavailable, times=9)
    error = refusal(URI)

    assert isinstance(error, EnvironmentFault)
    assert str(error) == f"The store answered 503 for `{URI}`; run the command again later."
    assert len(s3.requests) == 2


def test_a_store_that_is_not_there_is_a_fault_of_the_environment(
    s3: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with S3Double() as gone:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gone.endpoint)
    error = refusal(URI)

    assert error.reason is Reason.StoreUnavailable
    assert "check the network and AWS_ENDPOINT_URL" in str(error)
    assert "EndpointConnectionError" in str(error)
    assert error.__cause__ is None  # its words repeat the endpoint, and any password in it


def test_a_store_that_denies_is_refused_with_what_to_set(s3: S3Double) -> None:
    s3.fail(Fault.Denied)
    error = refusal(URI)

    assert error.reason is Reason.AccessDenied
    assert "AWS_ACCESS_KEY_ID" in str(error)


def test_missing_credentials_are_refused_with_what_to_set(
    s3: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = refusal(URI)

    assert error.reason is Reason.AccessDenied
    assert "No usable credentials" in str(error)
    assert s3.requests == []


def test_an_unknown_profile_is_refused_with_what_to_set(
    s3: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    assert "AWS_PROFILE" in str(refusal(URI))


def test_an_unknown_bucket_is_refused(s3: S3Double) -> None:
    error = refusal("s3://nowhere/base")

    assert error.reason is Reason.SourceNotFound
    assert "correct the bucket" in str(error)


def test_a_prefix_without_objects_is_refused(s3: S3Double) -> None:
    error = refusal("s3://models/team/bas")

    assert error.reason is Reason.SourceNotFound
    assert str(error) == (
        "`s3://models/team/bas` holds no objects; correct the bucket or the prefix."
    )


@pytest.mark.parametrize("key", ["../escape", "a//b", "a/../../b", "a\\b", "bell\x07"])
def test_an_object_whose_name_could_leave_a_directory_is_refused(s3: S3Double, key: str) -> None:
    s3.put("models", f"evil/{key}", b"?")
    error = refusal("s3://models/evil")

    assert error.reason is Reason.MalformedCheckpoint
    assert f"holds a file named {key!r}" in str(error)


@pytest.mark.parametrize("uri", ["s3://", "s3://UPPER/x", "s3:///x", "s3://bucket/\x1b"])
def test_an_address_that_is_no_bucket_is_refused(uri: str) -> None:
    with pytest.raises(RefusedInput, match="write `s3://bucket/prefix`") as caught:
        open_source(uri)
    assert caught.value.reason is Reason.InvalidJob


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("AWS_ENDPOINT_URL", "foo", None),
        ("AWS_ENDPOINT_URL_S3", "http://[", None),
        ("AWS_ENDPOINT_URL", "https://host", "http://"),
        ("AWS_MAX_ATTEMPTS", "many", "https://host"),
    ],
)
def test_an_endpoint_that_is_no_address_is_refused_by_who_set_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str | None
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(RefusedInput) as caught:
        open_source(URI, endpoint_url=field)
    assert caught.value.reason is Reason.InvalidJob
    by_field = field == "http://"
    assert caught.value.subject == ("spec.source.s3.endpointUrl" if by_field else variable)
    assert caught.value.subject in str(caught.value)

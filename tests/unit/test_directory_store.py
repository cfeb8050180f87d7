"""Directories as sources, and the door to all sources.

We test these aspects:
- what is listed, and what is not
- exact reads, from several threads, beyond the number of descriptors that are kept
- links: inside, in the Hub's cache, and out of the directory
- files that change or vanish after they were listed
- which store is opened, and what is said when its client is not installed
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import Reason
from halftone.stores import open_source
from halftone.stores.directory import MAX_DESCRIPTORS, DirectorySource
from halftone.stores.pinned import MAX_FILES, PinnedSource

WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "base"
    directory.mkdir()
    (directory / "config.json").write_bytes(b"{}")
    (directory / "model.safetensors").write_bytes(WEIGHTS)
    return directory


def paths(directory: Path) -> list[str]:
    with DirectorySource(directory) as source:
        return [entry.path for entry in source.files()]


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, and what each is open on."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this very listing
            found[int(link.name)] = str(link.readlink())
    return found


def test_files_are_listed_with_sizes_in_order_of_their_paths(base: Path) -> None:
    with DirectorySource(base) as source:
        assert source.files() == (
            FileEntry("config.json", 2),
            FileEntry("model.safetensors", len(WEIGHTS)),
        )
        assert source.uri == str(base)
        assert source.revision is None


def test_subdirectories_and_hidden_files_are_listed_but_not_version_control(base: Path) -> None:
    for path in ("a/b/c.txt", ".gitattributes", ".git/HEAD", "x/.git/HEAD", ".cache/huggingface/y"):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(b"")

    assert paths(base) == [".gitattributes", "a/b/c.txt", "config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["bad\udcff", "bad\0"])
def test_a_path_that_no_plan_could_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedInput, match="is not UTF-8 without NUL; rename") as refused:
        DirectorySource(tmp_path / name)
    assert refused.value.reason is Reason.InvalidJob
    assert str(refused.value).isprintable()


def test_pipes_and_links_to_nothing_are_not_listed(base: Path) -> None:
    os.mkfifo(base / "pipe.safetensors")
    (base / "nothing.safetensors").symlink_to("nowhere")
    (base / "circle.safetensors").symlink_to("circle.safetensors")
    (base / "loop").symlink_to(base)

    assert paths(base) == ["config.json", "model.safetensors"]


def test_exactly_the_bytes_that_were_asked_for_are_read(base: Path) -> None:
    with DirectorySource(base) as source:
        assert source.read_range("model.safetensors", 300, 1000) == WEIGHTS[300:1300]
        assert source.read_range("model.safetensors", len(WEIGHTS), 0) == b""
        assert source.traffic.bytes == 1000
        assert source.traffic.requests == 1


def test_a_buffer_of_any_format_is_filled_in_place(base: Path) -> None:
    buffer = memoryview(bytearray(800)).cast("I")
    with DirectorySource(base) as source:
        source.read_into("model.safetensors", 8, buffer)

    assert buffer.tobytes() == WEIGHTS[8:808]


def test_threads_may_read_more_files_than_descriptors_are_kept(tmp_path: Path) -> None:
    names = [f"shard-{number:03}" for number in range(MAX_DESCRIPTORS + 40)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    before = len(descriptors())

    with DirectorySource(tmp_path) as source, ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            read = pool.map(lambda name: source.read_range(name, 0, 9).decode(), names)
            assert list(read) == names
        assert len(descriptors()) - before <= MAX_DESCRIPTORS + 8
    assert len(descriptors()) <= before  # one that an earlier test left may go meanwhile


def test_the_directory_itself_may_be_a_link(base: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(base)
    with DirectorySource(tmp_path / "link") as source:
        assert source.read_range("config.json", 0, 2) == b"{}"
        assert source.local_path("config.json") == base / "config.json"


def test_a_link_inside_the_directory_is_followed(base: Path) -> None:
    (base / "blobs").mkdir()
    (base / "model.safetensors").rename(base / "blobs" / "x")
    (base / "model.safetensors").symlink_to("blobs/x")
    with DirectorySource(base) as source:
        assert source.read_range("model.safetensors", 0, 9) == WEIGHTS[:9]


@pytest.mark.parametrize("blob", ["models--org--name/blobs/etag", "blobs/ab/hash"])
def test_links_of_the_hubs_own_cache_are_followed(tmp_path: Path, blob: str) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "commit"
    snapshot.mkdir(parents=True)
    (tmp_path / blob).parent.mkdir(parents=True)
    (tmp_path / blob).write_bytes(WEIGHTS)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(tmp_path / blob, snapshot))
    with DirectorySource(snapshot) as source:
        assert source.read_range("model.safetensors", 0, 9) == WEIGHTS[:9]
        assert source.local_path("model.safetensors") == tmp_path / blob


@pytest.mark.parametrize(
    "use", [lambda source: source.read_range("LICENSE", 0, 5), lambda s: s.local_path("LICENSE")]
)
def test_a_link_out_of_the_directory_is_never_read(
    base: Path, tmp_path: Path, use: Callable[[DirectorySource], object]
) -> None:
    (tmp_path / "private").write_bytes(b"a private key")
    (base / "LICENSE").symlink_to("../private")

    with DirectorySource(base) as source, pytest.raises(RefusedInput) as caught:
        use(source)
    assert caught.value.reason is Reason.MalformedCheckpoint
    assert str(caught.value) == (
        f"`LICENSE` of `{base}` is a symbolic link that leaves the directory; put the file itself "
        "in its place."
    )


@pytest.mark.parametrize("path", ["../private", "/etc/passwd", "nested/../config.json", "absent"])
def test_only_listed_files_are_ever_opened(base: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "private").write_bytes(b"a private key")

    with DirectorySource(base) as source, pytest.raises(RefusedInput) as caught:
        source.read_range(path, 0, 1)
    assert caught.value.reason is Reason.SourceNotFound
    assert f"`{base}` has no file {path!r}" in str(caught.value)


def test_a_range_beyond_the_end_is_refused(base: Path) -> None:
    with DirectorySource(base) as source, pytest.raises(RefusedInput) as caught:
        source.read_range("config.json", 1, 2)
    assert str(caught.value) == (
        f"`config.json` of `{base}` has 2 bytes, but bytes up to 3 are needed; fetch the file "
        "again."
    )


def test_a_negative_range_is_a_bug_of_the_caller(base: Path) -> None:
    with DirectorySource(base) as source, pytest.raises(ValueError, match="This is a bug"):
        source.read_range("config.json", -1, 1)


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_file_that_changes_after_it_was_listed_is_refused(
    base: Path, opened_before: bool
) -> None:
    with DirectorySource(base) as source:
        if opened_before:
            source.read_range("model.safetensors", 0, 1)
        with (base / "model.safetensors").open("r+b") as shard:
            shard.write(b"other")
        os.utime(base / "model.safetensors", ns=(1, 1))
        with pytest.raises(RefusedInput, match=r"`model\.safetensors`.*start again") as caught:
            source.read_range("model.safetensors", 0, 5)
    assert caught.value.reason is Reason.SourceChanged


def test_a_file_that_is_cut_after_it_was_listed_is_refused(base: Path) -> None:
    with DirectorySource(base) as source:
        os.truncate(base / "model.safetensors", 10)
        with pytest.raises(RefusedInput, match="changed while it was being read") as caught:
            source.read_range("model.safetensors", 5, 10)
    assert caught.value.reason is Reason.SourceChanged


def test_a_pipe_that_takes_a_files_place_is_refused_without_waiting(base: Path) -> None:
    with DirectorySource(base) as source:
        (base / "config.json").unlink()
        os.mkfifo(base / "config.json")
        with pytest.raises(RefusedInput) as caught:
            source.read_range("config.json", 0, 2)
    assert caught.value.reason is Reason.SourceChanged


def test_a_file_that_vanishes_after_it_was_listed_is_refused(base: Path) -> None:
    with DirectorySource(base) as source:
        (base / "config.json").unlink()
        with pytest.raises(RefusedInput, match=r"There is no `config\.json`") as caught:
            source.read_range("config.json", 0, 2)
    assert caught.value.reason is Reason.SourceNotFound


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput) as caught:
        open_source(tmp_path / "nowhere")
    assert caught.value.reason is Reason.SourceNotFound
    assert str(caught.value) == f"There is no `{tmp_path / 'nowhere'}`; correct the path."


def test_a_file_in_place_of_a_directory_is_refused(base: Path) -> None:
    with pytest.raises(RefusedInput, match="is a file; give the directory that"):
        open_source(base / "model.safetensors")


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may read everything, so the test goes on as somebody else."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_file_that_may_not_be_read_is_refused(base: Path, request: pytest.FixtureRequest) -> None:
    (base / "config.json").chmod(0)
    with DirectorySource(base) as source:
        request.getfixturevalue("nobody")
        with pytest.raises(RefusedInput, match="may not be read by this user; change") as caught:
            source.read_range("config.json", 0, 2)
    assert caught.value.reason is Reason.AccessDenied


def test_a_name_that_a_terminal_would_obey_is_refused(base: Path) -> None:
    (base / "clear\x1b[2J.txt").write_bytes(b"")

    with pytest.raises(RefusedInput, match=r"a file named 'clear\\x1b\[2J\.txt'") as caught:
        open_source(base)
    assert caught.value.reason is Reason.MalformedCheckpoint


def test_a_name_that_is_not_utf_8_is_refused_in_words_that_are(base: Path) -> None:
    Path(os.fsdecode(os.fsencode(base) + b"/not-\xff.txt")).write_bytes(b"")

    with pytest.raises(RefusedInput, match="rename it or take it away") as caught:
        open_source(base)
    assert (caught.value.subject + caught.value.message).encode().isascii()


class Listing(PinnedSource):
    """A store that lists whatever it is told and holds nothing."""

    def close(self) -> None:
        """Nothing is open."""

    def _fill(self, entry: FileEntry, offset: int, buffer: memoryview) -> None:
        raise NotImplementedError


def test_an_endless_listing_is_refused_before_its_end() -> None:
    endless = (FileEntry(str(number), 0) for number in count())

    with pytest.raises(
        RefusedInput, match=f"`x` holds more than {MAX_FILES} files; name"
    ) as caught:
        Listing("x", None, endless)
    assert caught.value.reason is Reason.NotSupported


@pytest.mark.parametrize("path", ["", "/a", "a/", "./a", "a/../b", "..", "a//b", "a\\b", "a\x00"])
def test_no_listing_holds_a_name_that_could_leave_its_directory(path: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        Listing("x", None, [FileEntry(path, 0)])
    assert caught.value.reason is Reason.MalformedCheckpoint
    assert f"a file named {path!r}, and no file may be named so" in str(caught.value)


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RefusedInput) as caught:
        open_source("gs://bucket/prefix")
    assert caught.value.reason is Reason.InvalidJob
    assert str(caught.value) == (
        "A source cannot begin with `gs://`; give a directory, `s3://bucket/prefix` or "
        "`hf://org/name@revision`."
    )


@pytest.mark.parametrize(
    ("uri", "package", "extra"),
    [("s3://bucket/x", "boto3", "s3"), ("hf://org/name", "huggingface_hub", "hub")],
)
def test_a_client_that_is_not_installed_is_named_with_its_extra(
    uri: str, package: str, extra: str
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"  # as if it were not installed
        "from halftone.spec.errors import EnvironmentFault\n"
        "from halftone.stores import open_source\n"
        f"try: open_source({uri!r})\n"
        "except EnvironmentFault as fault: print(fault.reason, fault.exit_code, fault)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == (
        f"MissingDependency 3 This source needs {package}, which is not installed; run "
        f"`pip install 'halftone[{extra}]'`.\n"
    )


def test_opening_a_directory_imports_no_client_of_a_remote_store(base: Path) -> None:
    program = (
        "import sys\n"
        "from halftone.stores import open_source\n"
        f"open_source({str(base)!r})\n"
        "print([name for name in ('boto3', 'huggingface_hub') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "[]\n"


def test_a_fault_of_the_disk_is_not_blamed_on_the_input(base: Path) -> None:
    source = DirectorySource(base)
    source.read_range("config.json", 0, 1)
    # A descriptor that was opened for writing only cannot be read: the disk's error, not a name's.
    descriptor = os.open(base / "config.json", os.O_WRONLY)
    path = str(base / "config.json")
    [kept] = [n for n, name in descriptors().items() if n != descriptor and name == path]
    os.dup2(descriptor, kept)
    os.close(descriptor)

    with pytest.raises(EnvironmentFault, match=r"`config\.json` could not be read") as caught:
        source.read_range("config.json", 0, 1)
    assert caught.value.reason is Reason.StorageFailed
    source.close()

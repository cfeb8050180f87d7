"""The source as vLLM gets it: a directory, and what is kept of it.

We test these aspects:
- a remote source is fetched into the cache, whole or not at all, by one process at a time
- a directory is used as it is named, also where its files are links, as in the Hub's own cache
- results are kept by what was asked, and a cache that cannot be written is done without
"""

import fcntl
from contextlib import closing
from pathlib import Path

import pytest

from halftone.spec.cache import cache_folder
from halftone.spec.errors import EnvironmentFault
from halftone.spec.files import FileEntry, Traffic
from halftone.spec.names import CACHE_DIRECTORY, Reason
from halftone.stores import open_source
from halftone.validate.source_files import SourceResults, directory_of, source_key

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100}


class Remote:
    """A source on no disk; `broken` makes its reads fail, as a full disk would."""

    uri, revision = "hf://org/model@abc", "abc"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.traffic = Traffic()

    def files(self) -> list[FileEntry]:
        return [FileEntry(path, len(data)) for path, data in FILES.items()]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if self.broken and path != "config.json":
            raise OSError(28, "No space left on device")
        self.traffic.requests += 1
        return FILES[path][offset : offset + length]

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read_range(path, offset, len(buffer))

    def local_path(self, _path: str) -> Path | None:
        return None

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_DIRECTORY, str(tmp_path))
    return tmp_path


def test_a_remote_source_is_fetched_once() -> None:
    remote = Remote()
    folder = directory_of(remote)
    asked = remote.traffic.requests
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert directory_of(remote) == folder
    assert remote.traffic.requests == asked


def test_what_could_not_be_fetched_whole_is_not_taken_for_the_source() -> None:
    with pytest.raises(EnvironmentFault, match="No space left") as fault:
        directory_of(Remote(broken=True))
    assert fault.value.reason is Reason.StorageFailed
    assert {p.name for p in directory_of(Remote()).iterdir()} == set(FILES)


def test_a_second_process_leaves_a_fetch_alone() -> None:
    """It would remove the files that the first one has, and the first would keep the rest."""
    remote = Remote()
    folder = cache_folder(f"sources/{source_key(remote)}")
    assert folder is not None
    (folder / "files.partial").mkdir()
    (folder / "files.partial" / "config.json").write_bytes(b"{}")
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentFault, match="fetching 'hf://org/model@abc'") as fault:
            directory_of(remote)
    assert fault.value.reason is Reason.OutputBusy
    assert (folder / "files.partial" / "config.json").is_file()


def test_results_are_kept_by_what_was_asked() -> None:
    kept = SourceResults(Remote())
    assert kept.or_measured("task", {"task": "a"}, lambda: {"score": 1}) == {"score": 1}
    assert SourceResults(Remote()).recall("task", {"task": "a"}) == {"score": 1}
    assert kept.recall("task", {"task": "b"}) is None


def test_damaged_results_are_measured_again(cache: Path) -> None:
    kept = SourceResults(Remote())
    kept.keep("score", {}, {"value": 1})
    [file] = cache.rglob("score-*.json")
    file.write_bytes(file.read_bytes()[:5])
    assert kept.or_measured("score", {}, lambda: {"value": 2}) == {"value": 2}


def test_a_snapshot_of_the_hubs_cache_is_used_as_it_is_named(tmp_path: Path) -> None:
    """Its files are links to blobs, whose folder has none of their names."""
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, (name, data) in enumerate(FILES.items()):
        (blobs / str(number)).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    with closing(open_source(snapshot)) as source:
        assert directory_of(source) == snapshot


def test_a_directory_may_be_named_from_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes(b"{}")
    monkeypatch.chdir(tmp_path)
    with closing(open_source("model")) as source:
        found = directory_of(source)
    assert found == tmp_path / "model"


def test_what_a_full_cache_does_not_keep_is_still_answered(cache: Path) -> None:
    """The answer took hours; the folder may have filled up, or gone, meanwhile."""
    kept = SourceResults(Remote())
    [folder] = (cache / "halftone" / "sources").iterdir()
    folder.rmdir()
    folder.write_bytes(b"")
    assert kept.or_measured("task", {"task": "a"}, lambda: {"score": 1}) == {"score": 1}

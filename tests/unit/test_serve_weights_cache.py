"""Room in the cache: what is counted, who goes first, who stays.

We test these aspects:
- the entry that was used least lately goes first, and only as many as needed
- what is held stays, and the refusal names `cache.maxGigabytes`
- what alone exceeds the limit is refused, with the limit that would do
- what another process is still fetching counts with its whole size
- what else lies in the directory is never touched
- a directory that other users may write to is refused
Files are sparse: they have sizes, and take no disk.
"""

import os
from pathlib import Path

import pytest

from halftone.serve.weights.cache import Cache, Entry
from halftone.spec.documents import WrittenFile
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import WeightsCache

MB = 10**6


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Of one gigabyte."""
    return Cache(WeightsCache(directory=str(tmp_path), maxGigabytes=1))


def name(letter: str) -> str:
    return letter * 64 + "-plain"


def filled(cache: Cache, letter: str, megabytes: int, used: int = 0) -> Entry:
    """An entry of that size that was last used at the second `used`."""
    entry = cache.entry(name(letter))
    entry.partial.mkdir()
    weights = entry.partial / "model.safetensors"
    weights.touch()
    os.truncate(weights, megabytes * MB)
    file = WrittenFile(path=weights.name, sizeBytes=megabytes * MB, sha256="0" * 64)
    entry.promote("s3://models/small", [file])
    cache.hold(entry).close()
    os.utime(entry.lock_file, (used, used))
    return entry


def whole(cache: Cache) -> str:
    """The letters of whole entries."""
    return "".join(letter for letter in "abcdef" if cache.entry(name(letter)).folder.exists())


def test_the_least_lately_used_goes_first_and_no_more_than_needed(cache: Cache) -> None:
    filled(cache, "a", 300, used=3000)
    filled(cache, "b", 300, used=1000)
    filled(cache, "c", 300, used=2000)

    cache.make_room(cache.entry(name("d")), "s3://models/d", 400 * MB)

    assert whole(cache) == "ac"


def test_using_an_entry_keeps_it(cache: Cache) -> None:
    oldest = filled(cache, "a", 400, used=1000)
    filled(cache, "b", 400, used=2000)
    cache.hold(oldest).close()

    cache.make_room(cache.entry(name("d")), "s3://models/d", 400 * MB)

    assert whole(cache) == "a"


def test_what_is_held_stays_and_the_next_one_goes(cache: Cache) -> None:
    held = cache.hold(filled(cache, "a", 400, used=1000))
    os.utime(cache.entry(name("a")).lock_file, (1000, 1000))
    filled(cache, "b", 400, used=2000)

    cache.make_room(cache.entry(name("d")), "s3://models/d", 400 * MB)

    assert whole(cache) == "a"
    held.close()


def test_where_all_is_held_the_refusal_names_the_limit(cache: Cache) -> None:
    entry = filled(cache, "a", 700)
    held = cache.hold(entry)

    with pytest.raises(EnvironmentFault, match="700,000,000") as caught:
        cache.make_room(cache.entry(name("d")), "s3://models/d", 400 * MB)

    assert (caught.value.reason, caught.value.subject) == (
        Reason.OutOfSpace,
        "cache.maxGigabytes",
    )
    assert whole(cache) == "a"
    assert cache.entry(name("d")).record() is None
    held.close()


def test_what_alone_exceeds_the_limit_is_refused_and_evicts_nothing(cache: Cache) -> None:
    filled(cache, "a", 900)

    with pytest.raises(RefusedInput, match="set it to 3 or more") as caught:
        cache.make_room(cache.entry(name("d")), "s3://models/d", 2500 * MB)

    assert caught.value.subject == "cache.maxGigabytes"
    assert whole(cache) == "a"


def test_what_is_being_fetched_counts_as_if_it_were_whole(cache: Cache) -> None:
    arriving = cache.entry(name("a"))
    held = cache.hold(arriving)
    cache.make_room(arriving, "s3://models/a", 700 * MB)

    with pytest.raises(EnvironmentFault):
        cache.make_room(cache.entry(name("d")), "s3://models/d", 400 * MB)
    held.close()
    cache.make_room(cache.entry(name("d")), "s3://models/d", 400 * MB)

    assert arriving.record() is None


def test_what_else_lies_there_is_not_touched(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "kernel").write_bytes(b"x")
    filled(cache, "a", 900)

    cache.make_room(cache.entry(name("d")), "s3://models/d", 900 * MB)

    assert whole(cache) == ""
    assert (tmp_path / "compiled" / "kernel").exists()


@pytest.mark.parametrize("folder", [".state", ".partial"])
def test_where_other_users_may_write_nothing_is_kept(tmp_path: Path, folder: str) -> None:
    settings = WeightsCache(directory=str(tmp_path / "cache"))
    Cache(settings)
    inside = tmp_path / "cache" / folder
    inside.chmod(0o777)
    with pytest.raises(RefusedInput, match=r"`cache\.directory`") as caught:
        Cache(settings)
    inside.rename(tmp_path / "elsewhere")
    inside.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedInput):
        Cache(settings)

    assert (caught.value.reason, caught.value.subject) == (Reason.AccessDenied, "cache.directory")


def test_a_folder_that_others_may_write_to_is_not_proven_again(cache: Cache) -> None:
    entry = filled(cache, "a", 1)
    entry.folder.chmod(0o777)

    assert not entry.is_proven()
    with pytest.raises(RefusedInput, match=r"`cache\.directory`"):
        entry.demote()
    assert not entry.partial.exists()


def test_an_evicted_entry_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    filled(cache, "a", 900)

    cache.make_room(cache.entry(name("d")), "s3://models/d", 900 * MB)

    traces = [path for path in tmp_path.rglob("*") if path.name.startswith("a" * 64)]
    assert traces == []

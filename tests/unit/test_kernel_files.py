"""The files that hold machine code of kernels.

We test these aspects:
- what several save at once under different keys, each finds again under its own
- a file that is torn, changed or of another key is as if there were none
- another version of the source, and another kernel, have files of their own
- nothing is left of what could not be written
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from halftone.checkpoint.kernel_files import KernelFiles


def test_what_many_save_at_once_is_found_under_its_own_key(tmp_path: Path) -> None:
    keys = [(f"array({number})", "x86", "digest") for number in range(200)]

    def save(key: tuple[str, str, str]) -> None:
        KernelFiles(tmp_path, "kernel", 1).save(key, f"code of {key[0]}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(save, keys))

    files = KernelFiles(tmp_path, "kernel", 1)
    assert [files.load(key) for key in keys] == [f"code of {key[0]}" for key in keys]


def test_what_was_never_saved_is_not_there(tmp_path: Path) -> None:
    assert KernelFiles(tmp_path / "nowhere", "kernel", 1).load("key") is None


def test_a_key_that_is_saved_again_has_what_came_last(tmp_path: Path) -> None:
    files = KernelFiles(tmp_path, "kernel", 1)
    files.save("key", "first")
    files.save("key", "second")

    assert files.load("key") == "second"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kept", [0, 20, 60])
def test_a_torn_file_is_none(kept: int, tmp_path: Path) -> None:
    files = KernelFiles(tmp_path, "kernel", 1)
    files.save("key", "code" * 20)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:kept])

    assert files.load("key") is None


def test_a_changed_file_is_none(tmp_path: Path) -> None:
    files = KernelFiles(tmp_path, "kernel", 1)
    files.save("key", "code" * 20)
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)

    assert files.load("key") is None


def test_a_file_under_the_name_of_another_key_is_none(tmp_path: Path) -> None:
    files = KernelFiles(tmp_path, "kernel", 1)
    files.save("one", "code of one")
    [one] = tmp_path.iterdir()
    files.save("other", "code of other")
    [other] = set(tmp_path.iterdir()) - {one}
    other.write_bytes(one.read_bytes())

    assert files.load("other") is None
    assert files.load("one") == "code of one"


def test_another_source_and_another_kernel_have_their_own(tmp_path: Path) -> None:
    KernelFiles(tmp_path, "kernel", (1.0, 100)).save("key", "code")

    assert KernelFiles(tmp_path, "kernel", (2.0, 100)).load("key") is None
    assert KernelFiles(tmp_path, "other", (1.0, 100)).load("key") is None


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    files = KernelFiles(tmp_path, "kernel", 1)
    files.save("key", "code")
    [path] = tmp_path.iterdir()
    path.unlink()
    (path / "in the way").mkdir(parents=True)

    with pytest.raises(OSError, match=r"[Dd]irectory"):
        files.save("key", "code")
    assert list(tmp_path.iterdir()) == [path]

"""How much memory there is for a layer, from the kernel's files.

We test these aspects:
- a control group's room is its limit less what it uses, with page cache that can go counted as free
- a group without a limit, or without such files, says nothing
- what is not there is refused with both numbers
- an allocator that finds nothing is told in our words, and no other error is taken for that
"""

from pathlib import Path

import pytest

from halftone.quantize.calibration.memory import (
    available_bytes,
    enough_memory,
    require_memory,
    room,
)
from halftone.spec.errors import EnvironmentFault

GIB = 2**30


def version_2(group: Path, limit: str) -> Path:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{3 * GIB}\n")
    (group / "memory.stat").write_text(f"anon {GIB}\ninactive_file {GIB}\n")
    return group


def version_1(group: Path, limit: str) -> Path:
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{3 * GIB}\n")
    (group / "memory.stat").write_text(f"cache 5\ntotal_inactive_file {GIB}\n")
    return group


@pytest.mark.parametrize("version", [version_1, version_2])
def test_room_is_what_the_limit_leaves(version: object, tmp_path: Path) -> None:
    assert callable(version)
    assert room(version(tmp_path, str(8 * GIB))) == 6 * GIB


def test_a_group_without_a_limit_says_nothing(tmp_path: Path) -> None:
    assert room(tmp_path) is None
    assert room(version_2(tmp_path, "max")) is None


def test_a_group_beyond_its_limit_has_no_room(tmp_path: Path) -> None:
    assert room(version_2(tmp_path, str(GIB))) == 0


def test_there_is_less_than_the_machine_has() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))

    assert 0 < available_bytes() < total


def test_too_little_is_said_with_both_numbers() -> None:
    require_memory(3_000_000_000, "model.layers.0", 3_000_000_000)

    with pytest.raises(EnvironmentFault, match=r"`model\.layers\.0` needs 3\.0 GB .* 2\.9 GB"):
        require_memory(3_000_000_000, "model.layers.0", 2_900_000_000)


# As torch 2.13 says it on a CPU; `test_calibration_resume.py` lets torch say it itself.
NO_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 8796093022208 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(NO_MEMORY)])
def test_an_allocator_that_finds_nothing_is_told(error: Exception) -> None:
    with (
        pytest.raises(EnvironmentFault, match="a larger machine") as told,
        enough_memory("calibration", "Choose a larger machine."),
    ):
        raise error

    assert told.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unsupported operation: the tensors share memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError(NO_MEMORY),
    ],
)
def test_no_other_error_is_taken_for_that(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, enough_memory("calibration", "..."):
        raise error

    assert raised.value is error

"""The device table: found by any spelling, refused by name, and consistent with hardware."""

import pytest

from halftone.plan.devices import Device, Kernel, devices, find_device
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.names import Reason


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("H100", "H100"),
        ("h100", "H100"),
        ("rtx pro 6000", "RTX-PRO-6000"),
        ("A100_80gb", "A100-80GB"),
    ],
)
def test_a_device_is_found_however_it_is_spelled(spelling: str, name: str) -> None:
    assert find_device(spelling).name == name


def test_an_unknown_device_is_refused_with_all_names() -> None:
    with pytest.raises(RefusedInput, match="`--gpu` 'H1000' is not in the device table") as refused:
        find_device("H1000")
    assert refused.value.reason is Reason.UnknownDevice
    assert refused.value.exit_code == 2
    assert all(row.name in refused.value.message for row in devices())


def test_an_ambiguous_name_is_not_guessed() -> None:
    with pytest.raises(RefusedInput, match="A100-80GB, A100-40GB"):
        find_device("A100")


def test_names_stay_apart_however_they_are_spelled() -> None:
    plain = ["".join(c for c in row.name.lower() if c.isalnum()) for row in devices()]
    assert len(set(plain)) == len(plain)


def test_the_table_spans_the_parts_that_are_served_on() -> None:
    names = {row.name for row in devices()}
    assert {"B200", "B300", "GB200", "GB300", "RTX-PRO-6000", "GB10", "Thor"} <= names
    assert {"H100", "H200", "L40S", "A100-80GB"} <= names


def test_memory_is_what_the_driver_prints_not_what_the_box_says() -> None:
    assert find_device("H100").memory_bytes == 85_520_809_984
    assert find_device("B200").memory_bytes == 183_359 * 2**20


@pytest.mark.parametrize("row", devices(), ids=lambda row: row.name)
def test_kernels_agree_with_the_compute_capability(row: Device) -> None:
    """W4A4 needs 10.0, W8A8 needs 8.9; weight-only NVFP4 is native on 10.0 and 10.3 alone."""
    assert set(row.kernels) == set(Format)
    major, minor = (int(part) for part in row.computeCapability.split("."))
    native = {fmt for fmt, kernel in row.kernels.items() if kernel is Kernel.Native}
    assert (Format.NVFP4 in native) == (major >= 10)
    assert (Format.NVFP4A16 in native) == (major == 10)
    assert (Format.FP8_DYNAMIC in native) == (Format.FP8_BLOCK in native)
    assert (Format.FP8_DYNAMIC in native) == ((major, minor) >= (8, 9))


@pytest.mark.parametrize("name", ["GB10", "Thor"])
def test_memory_shared_with_the_cpu_is_not_taken_whole(name: str) -> None:
    row = find_device(name)
    assert row.memoryPercent == 85
    assert row.note is not None
    assert "shared with the CPU" in row.note

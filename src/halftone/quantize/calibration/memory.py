"""How much memory there is for one layer, and what it looks like when it did not suffice.

Called by `measuring` and a sweep before anything is read, and by whoever owns what they do. The
kernel's own numbers count: the machine's, and those of the control groups that this process lies
in. Importing it needs no torch.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason

_GROUPS: Final = Path("/sys/fs/cgroup")
# Beside the weights of a layer: activations of one sample, and what allocators keep.
BASE_BYTES: Final = 512 * 2**20
# How torch's allocator on the CPU says that there is none, in a plain RuntimeError (2.13).
_CPU_ALLOCATOR: Final = "DefaultCPUAllocator: can't allocate memory"


def available_bytes() -> int:
    """What this process can still take: of the machine, or of the tightest control group."""
    found = [_machine()]
    found += [room for room in map(room, _own_groups()) if room is not None]
    return min(found)


def require_memory(needed: int, layer: str, there: int) -> None:
    """Raise EnvironmentFault(TooLittleMemory) unless `needed` bytes for `layer` are `there`."""
    if there < needed:
        raise EnvironmentFault(
            Reason.TooLittleMemory,
            layer,
            f"`{layer}` needs {_gb(needed)} GB of memory while it is measured, and {_gb(there)} GB "
            "are available; choose a larger machine, or a smaller `maxSequenceLength`.",
        )


@contextmanager
def enough_memory(subject: str, message: str) -> Iterator[None]:
    """Say of whatever allocator finds nothing: EnvironmentFault(TooLittleMemory), cause chained."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise EnvironmentFault(Reason.TooLittleMemory, subject, message) from error


def out_of_memory(error: Exception) -> bool:
    """Whether an allocator says that there is no memory: Python's, NumPy's or one of torch's."""
    torch = sys.modules.get("torch")  # whoever raised one of its errors has imported it
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error))
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}"


def _machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise AssertionError("Linux tells `MemAvailable` since 3.14. This is a bug. Please report.")


def _own_groups() -> list[Path]:
    """Directories of our control group and of those around it; version 2, and 1 for containers."""
    groups = [_GROUPS, _GROUPS / "memory"]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        root = _GROUPS if number == "0" else _GROUPS / "memory"
        if number == "0" or "memory" in controllers.split(","):
            own = Path(path.lstrip("/"))
            groups += [root / part for part in (own, *own.parents)]
    return groups


def room(group: Path) -> int | None:
    """Bytes that `group` still allows, its page cache counted as free; None without a limit."""
    for limit, used, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            allowed = (group / limit).read_text().strip()
            if allowed == "max":
                return None
            taken = int((group / used).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        return max(0, int(allowed) - taken + int(stat.get(inactive, 0)))
    return None

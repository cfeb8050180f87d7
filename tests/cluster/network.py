"""A network namespace of the cluster's own: bridge, rules and addresses go with it.

Called by `node`'s fixtures. Nothing touches the machine's own network, and every address that tests
send to is inside.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

# The namespace's only way out of itself leads to a bridge without a port.
ADDRESS = "10.250.0.1"
_CLONE_NEWNET: Final = 0x40000000


class Network:
    """A namespace called `name`, made on entering and removed on leaving. Needs root."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/var/run/netns/{name}"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionError("a network namespace needs root; run this tier as root")
        _run("ip", "netns", "add", self.name)
        try:
            self.run("ip", "link", "set", "lo", "up")
            self.run("ip", "link", "add", "up0", "type", "bridge")
            self.run("ip", "address", "add", f"{ADDRESS}/24", "dev", "up0")
            self.run("ip", "link", "set", "up0", "up")
            self.run("ip", "route", "add", "default", "via", ADDRESS, "dev", "up0")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if Path(self.path).exists():
            _run("ip", "netns", "delete", self.name)

    def command(self, *command: str) -> list[str]:
        """`command` as it runs inside. (`ip netns exec` would hide the cgroup mounts.)"""
        return ["nsenter", f"--net={self.path}", *command]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and all that it starts, as if it ran inside: setns(2)."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self.path, os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(there)
            os.close(here)

    def run(self, *command: str) -> str:
        """Run `command` inside; returns what it printed."""
        return _run(*self.command(*command))


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


def _run(*command: str) -> str:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)}: {found.stderr.strip()}")
    return found.stdout

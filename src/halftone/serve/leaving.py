"""Lets a pod of Ray finish what it carries before it ends: nodes are drained, pods are evicted.

    python -m halftone.serve.leaving --seconds 960
    python -m halftone.serve.leaving --seconds 960 --alone

Called by the kubelet, as the hook before the end of the pods with replicas; without it Ray ends at
once, and every answer that the pod is writing or passing on is cut. Ray is told that the node goes,
so Serve starts replicas elsewhere and lets those here finish. The pod may go when it has no replica
and its HAProxy carries no request; a pod `--alone` is all of its Ray, so its replica stays until
the requests are done. All processes of the pod are ours, and nobody else's are seen. It must not
end a process.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

# Everything of Ray and of HAProxy that is no log lies below it, at whatever depth.
_FOLDER: Final = Path("/tmp")  # noqa: S108
_SOCKET: Final = "admin.sock"
_REPLICA: Final = "ray::ServeReplica:"
_PROXY: Final = "haproxy"
_LOOK_S: Final = 1.0
# Until everybody who sends requests knows that the pod goes.
_LEAST_S: Final = 10.0
_PATIENCE_S: Final = 30.0
# What Ray's own program may take, which imports much, and has to share a busy processor.
_DRAIN_S: Final = 120.0
# What `ray start` needs at most to end the rest of a node whose raylet has ended.
_ENDING_S: Final = 10.0

Command = Sequence[str]


def commands(folder: Path = Path("/proc")) -> Iterator[list[str]]:
    """The command lines of all processes, word by word."""
    for path in folder.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        yield [word.decode(errors="replace") for word in words if word]


def own_node(running: Iterable[Command]) -> str | None:
    """The node's name within Ray, in hexadecimal digits; None where no Ray runs."""
    flag = "--node_id="
    return next(
        (
            word.removeprefix(flag)
            for words in running
            if words and Path(words[0]).name == "raylet"
            for word in words
            if word.startswith(flag)
        ),
        None,
    )


def has_starter(running: Iterable[Command]) -> bool:
    """Whether `ray start` is there, which stays as long as its node, and a little longer."""
    return any(
        Path(program).name == "ray" and verb == "start"
        for words in running
        for program, verb in pairwise(words)
    )


def replicas(running: Iterable[Command]) -> int:
    """How many replicas there are on this node."""
    return sum(bool(words) and words[0].startswith(_REPLICA) for words in running)


def former_proxies(running: Iterable[Command]) -> int:
    """HAProxies that were replaced and still carry something; the last one stays."""
    found = sum(bool(words) and Path(words[0]).name == _PROXY for words in running)
    return max(0, found - 1)


def carried(statistics: str) -> int:
    """Requests that a HAProxy passes on at the moment, out of its `show stat`.

    A connection that is kept open without a request is none (HAProxy's manual, 9.1: `scur`).
    """
    header, *rows = [line.split(",") for line in statistics.splitlines() if line]
    place, current = header.index("svname"), header.index("scur")
    return sum(int(row[current] or 0) for row in rows if row[place] == "BACKEND")


def ask(path: Path) -> str:
    """A HAProxy's statistics. Raises OSError when nobody listens there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_S)
        connection.connect(str(path))
        connection.sendall(b"show stat\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def requests(folder: Path = _FOLDER) -> int:
    """How many requests the HAProxies with a socket below `folder` pass on."""
    found = 0
    for path in folder.rglob(_SOCKET):
        try:
            found += carried(ask(path))
        except (OSError, ValueError):  # left behind by one that has ended
            continue
    return found


def busy(running: Sequence[Command], *, alone: bool, folder: Path = _FOLDER) -> list[str]:
    """What keeps the pod, in words; empty when it may go."""
    counted = {
        "replicas": 0 if alone else replicas(running),
        "former HAProxies": former_proxies(running),
        "requests": requests(folder),
    }
    return [f"{number} {what}" for what, number in counted.items() if number]


def rest(running: Iterable[Command]) -> float:
    """Seconds to wait before the kubelet may signal the pod's first process.

    A raylet that has lost the head ends, with all replicas; `ray start` then ends the rest, and
    with itself the pod. If it is signalled while it does that, it waits for ever for a lock of its
    own (Ray 2.60, `Node._kill_process_type`), and an engine that is left over keeps its GPU until
    the kubelet's patience has ended.
    """
    return 0.0 if own_node(running) else _ENDING_S


class Drain:
    """Tells Ray that a node goes, until Ray agrees: its program alone takes a while on a busy one.

    A node that Ray does not drain keeps its replicas, and gets requests.
    """

    def __init__(self, node: str, ray: Path | None = None) -> None:
        self.agreed = False
        self._node = node
        self._ray = ray or Path(sys.executable).with_name("ray")
        self._told = ""

    def ask(self, seconds: int) -> None:
        """Ask once more, unless Ray has agreed; the node goes within `seconds`."""
        if self.agreed:
            return
        refused = self._refused(seconds)
        self.agreed = refused is None
        if refused is not None and refused != self._told:
            _tell(f"Ray does not drain this node: {refused}")
            self._told = refused

    def _refused(self, seconds: int) -> str | None:
        command = [
            *(str(self._ray), "drain-node", f"--node-id={self._node}"),
            *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=The pod ends."),
            f"--deadline-remaining-seconds={seconds}",
        ]
        try:
            found = subprocess.run(  # noqa: S603  # our own environment's program
                command, capture_output=True, text=True, check=False, timeout=_DRAIN_S
            )
        except subprocess.TimeoutExpired:
            return f"`ray drain-node` did not end in {_DRAIN_S:.0f} s."
        except OSError as error:
            return str(error)
        return (found.stderr or found.stdout).strip() if found.returncode else None


def main(arguments: list[str]) -> int:
    """Always 0: the pod ends either way."""
    parser = argparse.ArgumentParser(prog="halftone.serve.leaving")
    parser.add_argument("--seconds", required=True, type=int, help="the longest that it may take")
    parser.add_argument("--alone", action="store_true", help="the pod is all of its Ray")
    given = parser.parse_args(arguments)
    running = [*commands()]
    node = own_node(running)
    if node is None:  # not there yet, or just ended
        time.sleep(rest(running) if has_starter(running) else 0)
        return 0
    began = time.monotonic()
    drain = Drain(node)
    while (passed := time.monotonic() - began) < given.seconds:
        if not given.alone and own_node(commands()):
            drain.ask(int(given.seconds - passed))
        kept = busy([*commands()], alone=given.alone)
        if passed > _LEAST_S and not kept:
            break
        time.sleep(_LOOK_S)
    else:
        _tell(f"This pod ends with {', '.join(kept)}.")
    time.sleep(rest(commands()))
    return 0


def _tell(sentence: str) -> None:
    """Into the container's log, where an operator of the cluster looks."""
    try:
        Path("/proc/1/fd/2").write_text(f"{sentence}\n", encoding="utf-8")
    except OSError:
        sys.stderr.write(f"{sentence}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""We test these aspects of an endpoint under load, by hand, as each takes minutes:

- ten thousand requests, streamed and whole, and not one fails;
- another artifact takes over without a failed request;
- a replica that is killed takes no answer with it but the streams that it was giving, nobody who
  asks later sees it, and it comes back;
- answers that stream for minutes survive scale-out, scale-in and another artifact uncut.
"""

import json
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from halftone.spec.artifacts import Artifact
from tests.endpoints import MODEL, POCKET, Served, described, pocket_artifact

MANY = 10_000
CLIENTS = 8
# Streams at once, how long each shall take, and how long it is asked to, as the machine may become
# faster than it was when that was measured.
STREAMS, LONG_S, ASKED_S = 16, 180, 240
# The pocket model answers fast. It is told to know more positions than it learnt, or no answer of
# its 2,048 tokens would take minutes.
LENGTH = 65_536
CONTEXT: dict[str, Any] = {
    "limits": {"maxRequestSeconds": 1800, "maxQueuedRequests": 4},
    "maxModelLen": LENGTH,
    "maxNumSeqs": 2 * STREAMS,
}

pytestmark = [pytest.mark.soak, pytest.mark.serve_env]


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent (monotonic seconds), how long its answer took, its events.

    `failed` is what its client saw instead of a whole answer, which is one event where it does not
    stream.
    """

    at: float
    took: float
    events: int
    streams: bool
    failed: str | None


@dataclass
class Load:
    """`clients` that ask one thing after the other until it is over; three of four are streams."""

    served: Served
    tokens: int = 32
    clients: int = CLIENTS
    asked: list[Asked] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        numbers = range(self.clients)
        self._threads = [threading.Thread(target=self._ask, args=(one,)) for one in numbers]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Until that many more answers have come."""
        wanted = len(self.asked) + more
        while len(self.asked) < wanted:
            time.sleep(0.1)

    @property
    def failures(self) -> list[Asked]:
        return [one for one in self.asked if one.failed is not None]

    @property
    def median(self) -> float:
        return statistics.median(one.took for one in self.asked)

    def _ask(self, number: int) -> None:
        client = self.served.client()
        while not self._over.is_set():
            number += self.clients
            streams = number % 4 != 0
            reasons: list[str | None] = []
            failed = None
            began = time.monotonic()
            try:
                reasons.extend(self._reasons(client, number, streams))
                if not reasons or reasons[-1] is None:
                    failed = "cut"
            except Exception as error:  # whatever a client sees
                failed = f"{type(error).__name__}: {error}"
            took = time.monotonic() - began
            self.asked.append(Asked(began, took, len(reasons), streams, failed))

    def _reasons(self, client: Any, number: int, streams: bool) -> Iterator[str | None]:
        """Of every event, or of the whole answer, why it ends there."""
        asked = {"model": MODEL, "prompt": f"{number} + 7 =", "max_tokens": self.tokens}
        answer = client.completions.create(**asked, stream=streams)
        for event in answer if streams else [answer]:
            yield event.choices[0].finish_reason


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model's checkpoint, whose configuration allows long answers."""
    copy = tmp_path_factory.mktemp("source") / "checkpoint"
    shutil.copytree(POCKET, copy)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = LENGTH
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    return pocket_artifact(tmp_path_factory.mktemp("pocket"), source=source)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    return pocket_artifact(tmp_path_factory.mktemp("other"), recipe="fp8-block", source=source)


@pytest.fixture(scope="module")
def ray(artifact: Path) -> Iterator[Served]:
    with Served(described(artifact, **CONTEXT), replicas=2) as served:
        yield served


@pytest.fixture
def served(ray: Served, artifact: Path) -> Served:
    """One replica of the first artifact, whatever a test before left."""
    ray.deploy(described(artifact, **CONTEXT))
    told = ray.wait()
    assert told is None, told
    return ray


def test_ten_thousand_requests_are_answered(served: Served) -> None:
    began = time.monotonic()
    with Load(served, tokens=2, clients=2 * CLIENTS) as load:
        load.wait_for(MANY)
    took = time.monotonic() - began
    slowest = max(one.took for one in load.asked)
    print(f"{len(load.asked)} requests in {took:.0f} s, median {load.median:.2f}, {slowest=:.2f}")
    assert load.failures == []


def test_another_artifact_takes_over_without_a_failed_request(served: Served, other: Path) -> None:
    with Load(served) as load:
        load.wait_for(50)
        began = time.monotonic()
        served.deploy(described(other, **CONTEXT))
        assert served.wait() is None
        took = time.monotonic() - began
        load.wait_for(50)
    slowest = max(load.asked, key=lambda one: one.took)
    print(
        f"{len(load.asked)} requests, median {load.median:.2f} s, the slowest "
        f"{slowest.took - load.median:.2f} s over it, asked {slowest.at - began:.0f} s after a "
        f"change that took {took:.0f} s"
    )
    assert load.failures == []


def test_a_killed_replica_takes_its_own_streams_with_it_and_comes_back(
    served: Served, artifact: Path
) -> None:
    served.deploy(described(artifact, replicas=2, **CONTEXT))
    assert served.wait() is None
    victims = served.replicas()
    assert len(victims) == 2
    with Load(served) as load:
        load.wait_for(50)
        os.kill(victims[0], signal.SIGKILL)
        killed = time.monotonic()
        load.wait_for(50)
        # Until then it is UNHEALTHY, for which `wait` would give up.
        while (
            served.state()["status"] != "RUNNING" or len(set(served.replicas()) - {victims[0]}) < 2
        ):
            time.sleep(0.5)
        back = time.monotonic() - killed
        load.wait_for(50)
    told = [(round(one.at - killed, 2), one) for one in load.failures]
    print(f"{len(told)} of {len(load.asked)} failed, back after {back:.0f} s: {told}")
    # What had given no byte is asked of the other replica, also what is asked while the kernel
    # takes the process apart, whose socket still listens then.
    assert [one for one in load.failures if not one.at < killed < one.at + one.took] == []
    assert [one for one in load.failures if not one.streams] == []


def test_long_streams_survive_scaling_and_another_artifact(
    served: Served, artifact: Path, other: Path
) -> None:
    first = described(artifact, **CONTEXT)
    with ThreadPoolExecutor(STREAMS) as clients:
        tokens = _tokens_for(ASKED_S, clients, served)
        began = time.monotonic()
        streams = _begin(clients, served, tokens)
        served.deploy({**first, "replicas": 2})
        assert served.wait() is None
        streams += _begin(clients, served, tokens)  # at the new one, which has fewer
        running = [_running(streams, "a second replica", began)]
        served.deploy(first)
        while served.state()["replicas"].get("STOPPING", 0) == 0:
            time.sleep(0.5)
        running.append(_running(streams, "a replica drains", began))
        served.deploy(described(other, **CONTEXT))
        digest = Artifact.load(other / "artifact.json").checkpointDigest
        while digest not in httpx.get(f"{served.url}/v1/models", timeout=60).text:
            time.sleep(0.5)
        running.append(_running(streams, "another artifact", began))
        ends = [stream.result() for stream in streams]
        assert served.wait() is None
    times = sorted(seconds for _, seconds in ends)
    print(
        f"{len(ends)} streams of {tokens} tokens took {times[0]:.0f} to {times[-1]:.0f} s; all in "
        f"all {time.monotonic() - began:.0f} s"
    )
    assert {reason for reason, _ in ends} == {"length"}
    assert times[0] >= LONG_S
    assert min(running) > 0


def _tokens_for(seconds: float, clients: ThreadPoolExecutor, served: Served) -> int:
    """How many tokens a stream gives in that time beside as few others as will ever be there."""
    sample = 256
    streams = _begin(clients, served, sample, STREAMS // 4)
    slowest = max(stream.result()[1] for stream in streams)
    return min(LENGTH - 16, int(seconds * sample / slowest))


def _running(streams: list["Future[Any]"], what: str, began: float) -> int:
    """How many have not ended."""
    running = sum(not stream.done() for stream in streams)
    print(f"{what} after {time.monotonic() - began:.0f} s, {running} streams run")
    return running


def _begin(
    clients: ThreadPoolExecutor, served: Served, tokens: int, number: int = STREAMS // 2
) -> list["Future[tuple[str | None, float]]"]:
    """So many streams, once each has begun to answer."""
    begun = threading.Semaphore(0)
    streams = [clients.submit(_long, served, tokens, begun) for _ in range(number)]
    for _ in streams:
        assert begun.acquire(timeout=600)
    return streams


def _long(served: Served, tokens: int, begun: threading.Semaphore) -> tuple[str | None, float]:
    began = time.monotonic()
    stream = served.client(timeout=1800).completions.create(
        model=MODEL,
        prompt="1 2 3",
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    reasons: list[str | None] = []
    for event in stream:
        if not reasons:
            begun.release()
        reasons.append(event.choices[0].finish_reason)
    return reasons[-1], time.monotonic() - began

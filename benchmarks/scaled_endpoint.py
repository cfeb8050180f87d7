"""A real endpoint of the pocket model that can be scaled, with a real Prometheus that scrapes it.

    with ScaledEndpoint(artifact, EXPORTS, scratch) as endpoint:
        endpoint.card_file.write_text(card)     # fitted on the one replica that there is
        endpoint.allow(3)                       # from here on the policy decides
        endpoint.replicas()                     # Replicas(wanted=1, ready=1)

Called by `autoscaling`. Ray Serve, vLLM and HAProxy run as users have them (`autoscaled_endpoint`),
each replica held to half a core (`held_replicas`).
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.beside import Beside
from benchmarks.held_replicas import HeldReplicas
from benchmarks.measuring import ROOT
from halftone.spec.scaling import Autoscaling
from tests.endpoints import described
from tests.environments import python_of
from tests.servers.ports import free_port
from tests.servers.prometheus import Job, Prometheus

CORES = 0.5  # of each replica
MOST = 3
# So few that the cache binds: a sequence needs three blocks of states beside those of its tokens.
KV_BLOCKS = 24
# More than those blocks take; vLLM would want nearly all of the machine's memory without it.
_CACHE_BYTES = 256 << 20
_PLACE = Path(__file__).with_name("autoscaled_endpoint.py")
# Ray Serve's states of replicas that are there or will be.
_COUNTED = ("PENDING_MIGRATION", "RECOVERING", "RUNNING", "STARTING", "UPDATING")
_LOOK_S = 0.25
_START_S = 900  # half a core is slow


@dataclass(frozen=True)
class Exports:
    """How often Ray exports, Prometheus scrapes and the policy looks, in seconds."""

    name: str
    export_s: float
    scrape_s: int
    look_s: int


@dataclass(frozen=True)
class Replicas:
    """At `time_s` of the monotonic clock: those asked for (ready and starting), the ready ones of
    them, and those that go.
    """

    time_s: float
    wanted: int
    ready: int
    leaving: int = 0


class ScaledEndpoint:
    """One Ray with the endpoint in it, of one replica until `allow` lets the policy have more.

    The policy is there from the start, and says that it has no card until there is one: Ray
    replaces every replica when the arguments of a policy change.
    """

    def __init__(self, artifact: Path, exports: Exports, scratch: Path) -> None:
        self._artifact = artifact
        self.exports = exports
        folder = tempfile.mkdtemp(prefix=f"autoscaling-{exports.name}-", dir=scratch)
        self._folder = Path(folder).resolve()
        self.card_file = self._folder / "card.json"
        self._stack = ExitStack()
        self._lock = threading.Lock()  # one question at a time
        self.url = f"http://127.0.0.1:{free_port()}"
        self.held = HeldReplicas(CORES)
        self.lead_s = 0.0  # of the first replica, from the ask until it was ready

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.held)
            told = self._start(stack)
            self.mark: str = told["mark"]
            self.held.watch(self.mark)
            jobs = {"ray": Job([f"127.0.0.1:{told['metricsPort']}"])}
            self.prometheus = stack.enter_context(
                Prometheus(self._folder, jobs, interval=f"{self.exports.scrape_s}s")
            )
            self.allow(1)
            self.lead_s = self._first_lead_s()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def allow(self, most: int) -> None:
        """Let the policy have so many replicas. Ray makes it anew, and it remembers nothing."""
        self.ask(
            deploy=self._endpoint(autoscaling=self.autoscaling.model_dump(mode="json")), most=most
        )

    @property
    def autoscaling(self) -> Autoscaling:
        """As the chart's values make it."""
        return Autoscaling(
            prometheusUrl=self.prometheus.url,
            maxReplicas=MOST,
            intervalSeconds=self.exports.look_s,
            selector={},
            cardFile=str(self.card_file),
        )

    def replicas(self) -> Replicas:
        """How many there are now."""
        states = self.ask(replicas=True)
        wanted = sum(states.get(each, 0) for each in _COUNTED)
        ready, leaving = (states.get(each, 0) for each in ("RUNNING", "STOPPING"))
        return Replicas(time.monotonic(), wanted, ready, leaving)

    def _first_lead_s(self) -> float:
        """Wait for the first replica. Raises RuntimeError with what it said where none comes."""
        deadline = time.monotonic() + _START_S
        asked = seen = self.replicas()
        while not seen.ready and seen.time_s < deadline and seen.wanted >= asked.wanted:
            time.sleep(_LOOK_S)
            seen = self.replicas()
            if not asked.wanted:
                asked = seen
        if not seen.ready:
            raise RuntimeError(self.ask(wait=True) or "the endpoint started too slowly")
        return seen.time_s - asked.time_s

    def ask(self, **request: Any) -> Any:
        """Hand a request to the process of the endpoint."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return self._read()

    def _endpoint(self, **changes: Any) -> dict[str, Any]:
        return described(
            self._artifact,
            maxNumSeqs=16,
            maxModelLen=512,
            engineArguments={
                "num_gpu_blocks_override": KV_BLOCKS,
                "kv_cache_memory_bytes": _CACHE_BYTES,
                # No two prompts begin alike, and the plant does not know what such a cache keeps of
                # states.
                "enable_prefix_caching": False,
            },
            # An open loop must find out how long a queue gets, not be turned away.
            limits={"maxRequestSeconds": 900, "maxQueuedRequests": 10_000},
            **changes,
        )

    def _start(self, stack: ExitStack) -> dict[str, Any]:
        port = self.url.rpartition(":")[2]
        arguments = [json.dumps(self._endpoint()), port, str(MOST)]
        arguments.append(str(round(1000 * self.exports.export_s)))
        log = stack.enter_context((self._folder / "endpoint.log").open("wb"))
        # -P: a benchmark beside the script is called `operator`, as a module of Python is.
        self._process = subprocess.Popen(
            [str(python_of("serve")), "-P", str(_PLACE), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=_environment(),
        )
        stack.callback(self._process.communicate)
        told: dict[str, Any] = self._read()
        return told

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                return json.loads(line)["answer"]
        raise RuntimeError("the endpoint's process ended; see endpoint.log")


class Watch(Beside):
    """Looks at the number of replicas while the block runs; `seen` has a row a look.

    `told` hears of each, in the thread that looks.
    """

    def __init__(
        self, endpoint: ScaledEndpoint, told: Callable[[Replicas], None] = lambda _: None
    ) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._told = told
        self.seen = [endpoint.replicas()]

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self.seen.append(self._endpoint.replicas())
            self._told(self.seen[-1])


def at(seen: Sequence[Replicas], time_s: float) -> Replicas:
    """What was seen last at `time_s`, or first."""
    before = [each for each in seen if each.time_s <= time_s]
    return before[-1] if before else seen[0]


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return kept | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

"""An endpoint of the pocket model for tests: its artifacts, and one Ray for a whole module.

    artifact = pocket_artifact(folder)                       # quantized for real, report by hand
    with Served(described(artifact), replicas=2) as served:  # Ray, then the replica
        served.client().chat.completions.create(model="pocket", ...)
        served.deploy(described(other))
        served.wait()                                        # None, or the sentence why not

Ray's processes end with the process that this module starts, and that with the test.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import openai

from halftone.spec.reports import Verdict
from tests.artifacts import EMULATED, Work, publish, write_report
from tests.commands import quantize_directory
from tests.conftest import ROOT
from tests.environments import Environment, python_of
from tests.servers.ports import free_port

POCKET = ROOT / "examples" / "pocket-model" / "checkpoint"
MODEL = "pocket"
KEY = "a-key-of-clients"
# What a replica of these tests runs and lets wait.
RUNNING, WAITING = 8, 4
LENGTH = 1024  # tokens


def pocket_artifact(
    folder: Path,
    *,
    recipe: str = "nvfp4a16",
    verdict: Verdict = Verdict.Emulated,
    key: Path | None = None,
    source: Path = POCKET,
) -> Path:
    """The pocket model, quantized and published into `folder`."""
    work = folder / "work"
    made = quantize_directory(source, work / "checkpoint", recipe)
    (work / "checkpoint" / "checkpoint.json").rename(work / "checkpoint.json")
    made.planned.full_document().save(work / "plan.json")
    platform = None if verdict is Verdict.Unmeasured else EMULATED
    report = write_report(work, made.planned.plan.digest, made.document, verdict, platform)
    return publish(Work(work, source, made, report), folder / "artifact", key)


# The family's own parser has calls in XML, whose values a grammar leaves free; JSON is bound to the
# schema, whatever a model of four million parameters would rather say.
TOOLS: dict[str, Any] = {
    "modes": ["text", "tools"],
    "engineArguments": {"tool_call_parser": "hermes"},
}


def described(artifact: Path, **changes: Any) -> dict[str, Any]:
    """An `Endpoint` as JSON that serves `artifact` on a CPU."""
    return {
        "servedModelName": MODEL,
        "artifact": {"uri": str(artifact)},
        "trust": {"signature": "NotRequired", "verdicts": ["Passed", "Emulated"]},
        "cache": {"directory": str(artifact.parent / "cache")},
        "accelerator": "CPU",
        "maxModelLen": LENGTH,
        "maxNumSeqs": RUNNING,
        "limits": {"maxRequestSeconds": 120, "maxQueuedRequests": WAITING},
        **changes,
    }


def digest_of_files(directory: Path) -> str:
    """The digest of a checkpoint that Halftone did not publish, as users find it."""
    command = [sys.executable, "-m", "halftone.serve.weights", str(directory)]
    return subprocess.check_output(command, text=True).strip()


class Served:
    """One Ray with the endpoint in it; `key` is asked of clients."""

    def __init__(
        self,
        endpoint: dict[str, Any],
        *,
        replicas: int = 1,
        key: str | None = None,
        environment: Environment = "serve",
    ) -> None:
        self._endpoint = endpoint
        self._replicas = replicas
        self._key = key
        self._python = python_of(environment)
        self._port = free_port()
        self._clients = ExitStack()
        self.while_loading: httpx.Response | None = None

    def __enter__(self) -> Self:
        environment = {"VLLM_API_KEY": self._key} if self._key else {}
        self._process = subprocess.Popen(
            [
                str(self._python),
                str(ROOT / "tests" / "peers" / "endpoint.py"),
                json.dumps(self._endpoint),
                str(self._port),
                str(self._replicas),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**_environment(self._endpoint), **environment},
        )
        try:
            assert self._read() == "up"
            self.deploy(self._endpoint)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._clients.close()
        self._process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def client(self, key: str | None = None, **options: Any) -> openai.OpenAI:
        """The official client, which tries nothing twice unless told to."""
        given = key or self._key or "none"
        options = {"max_retries": 0, "timeout": 120} | options
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=given, **options)
        self._clients.callback(client.close)
        return client

    def deploy(self, endpoint: dict[str, Any]) -> None:
        self._ask(deploy=endpoint)

    def wait(self) -> str | None:
        answer: str | None = self._ask(wait=True)
        return answer

    def state(self) -> dict[str, Any]:
        """Ray Serve's `status`, what is `told`, and how many `replicas` are in which state."""
        state: dict[str, Any] = self._ask(state=True)
        return state

    def metrics(self) -> str:
        return str(self._ask(metrics=True))

    def metrics_port(self) -> int:
        """Where the agent of the node is scraped."""
        return int(self._ask(metricsPort=True))

    def counted(self, name: str, label: str = "") -> float:
        """The sum of a metric's samples, of all replicas; of those with `label`, if it is given."""
        starts = (f"{name}{{", f"{name}_total{{")
        lines = [line for line in self.metrics().splitlines() if line.startswith(starts)]
        return sum(float(line.split()[-1]) for line in lines if label in line)

    def replicas(self) -> list[int]:
        processes: list[int] = self._ask(replicas=True)
        return processes

    def haproxy(self) -> str:
        return str(self._ask(haproxy=True))

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                return json.loads(line)["answer"]
        raise AssertionError("the endpoint's process ended")


def _environment(endpoint: dict[str, Any]) -> dict[str, str]:
    settings = {"HF_HUB_OFFLINE": "1"}
    if endpoint["accelerator"] == "CPU":
        settings["CUDA_VISIBLE_DEVICES"] = ""
    return {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | settings

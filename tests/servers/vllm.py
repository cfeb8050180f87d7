"""Real vLLM servers of small models, as a test's block has them.

    with vllm_servers(tmp_path, {"source": Asked(source), "small": Asked(checkpoint)}) as urls:
        urls["source"]                      # http://127.0.0.1:PORT

All run in one process of `.venvs/serve` with an engine process each (`tests/peers`), which takes
some twenty seconds; a module of tests starts them once. `vllm_process` is for who does something to
that process:

    with vllm_process(tmp_path, {"small": Asked(checkpoint)}) as servers:
        with servers.halted():              # they listen, and answer nobody
            ...
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, is_foreign
from tests.environments import python_of
from tests.servers.ports import free_port

# The checkpoint digest that every server with replicas says.
DIGEST = "c" * 64

_SHOWN = 6000  # characters of a failed server's output
_SETTINGS = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Asked:
    """One server: its checkpoint, the key it wants, and how many replicas it says it is one of;
    without any it does not say what its engine is, as a bare server does not. `arguments` are
    further ones of vLLM's command line."""

    model: Path
    key: str | None = None
    replicas: int = 0
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Servers:
    """URLs by name, which are also the served models' names, and the process that answers."""

    urls: dict[str, str]
    process: subprocess.Popen[bytes]

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Everything stands still while the block runs, engines too; then it goes on."""
        os.killpg(self.process.pid, signal.SIGSTOP)  # it leads the group of all that it started
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)


@contextmanager
def vllm_servers(work: Path, asked: Mapping[str, Asked]) -> Iterator[dict[str, str]]:
    """URLs by name, which are also the served models' names, once all answer."""
    with vllm_process(work, asked) as servers:
        yield servers.urls


@contextmanager
def vllm_process(work: Path, asked: Mapping[str, Asked]) -> Iterator[Servers]:
    """The same, with their process; `work` is theirs alone."""
    ports = {name: free_port() for name in asked}
    request = work / "servers.json"
    request.write_text(
        json.dumps(
            [
                {
                    "name": name,
                    "model": str(each.model),
                    "port": ports[name],
                    "key": each.key,
                    "replicas": each.replicas,
                    "digest": DIGEST,
                    "arguments": each.arguments,
                }
                for name, each in asked.items()
            ]
        )
    )
    log = work / "servers.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [str(python_of("serve")), str(ROOT / "tests/peers/openai_servers.py"), str(request)],
            env={k: v for k, v in os.environ.items() if not is_foreign(k)} | _SETTINGS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, b"")
        if not any(line.strip() == b"ready" for line in lines):
            pytest.fail(f"the servers did not start:\n{log.read_text()[-_SHOWN:]}")
        yield Servers({name: f"http://127.0.0.1:{port}" for name, port in ports.items()}, process)
    finally:
        process.stdin.close()  # which ends them
        process.wait()
        process.stdout.close()

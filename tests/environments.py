"""Runs a peer: a script of `tests/peers` in an environment of `.venvs`, as a process.

Importing torch, transformers or vLLM takes most of a peer's time, so a module of tests puts all its
questions into one request and asks once, in a fixture of its own:

    answer = ask("serve", "vllm_configuration.py", cases, work=tmp_path, timeout_s=200)

`run` is for scripts with arguments of their own, `python_of` for scripts that lie elsewhere. The
interpreters are those that `HALFTONE_QUANTIZE_PYTHON`, `HALFTONE_SERVE_PYTHON` and, for tests on a
GPU, `HALFTONE_SERVE_GPU_PYTHON` named when the tests were collected, else those that `make` builds.
It must not import what the peers import.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.conftest import IN_CI, PEERS, ROOT, is_foreign

Environment = Literal["quantize", "serve", "serve-gpu"]

# No network, no GPU, and no more threads than a busy machine has to give. On a CPU vLLM would
# compile some functions, which takes as long as all else, and which our replicas turn off too.
_SETTINGS = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
}
_SHOWN = 6000  # characters of a failed peer's output
# A limit says that a peer hangs. Machines that are shared may take some times longer than ours.
_PATIENCE = 5 if IN_CI else 2


def ask(
    environment: Environment,
    script: str,
    request: Any,
    *,
    work: Path,
    timeout_s: int,
    options: Sequence[str] = (),
) -> Any:
    """The answer of `tests/peers/<script>` to `request`, both JSON, through files in `work`.

    The script is called with `options` and the paths of both files. Fails the test when the
    environment is missing, naming the command that builds it, and when the peer fails or takes too
    long, showing the end of what it said.
    """
    questions, answers = work / "request.json", work / "answer.json"
    questions.write_text(json.dumps(request))
    run(environment, script, *options, str(questions), str(answers), timeout_s=timeout_s)
    return json.loads(answers.read_text())


def run(environment: Environment, script: str, *arguments: str, timeout_s: int) -> str:
    """What `tests/peers/<script>` printed; fails the test as `ask` does."""
    python = python_of(environment)
    timeout_s *= _PATIENCE
    try:
        done = subprocess.run(
            [str(python), str(ROOT / "tests" / "peers" / script), *arguments],
            env={k: v for k, v in os.environ.items() if not is_foreign(k)} | _SETTINGS,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{script} took more than {timeout_s} s:\n{_text(late.stderr)[-_SHOWN:]}")
    if done.returncode != 0:
        said = f"{done.stdout}\n{done.stderr}"[-_SHOWN:]
        pytest.fail(f"{script} ended with {done.returncode}:\n{said}")
    return done.stdout


def python_of(environment: Environment) -> Path:
    """The environment's interpreter; fails the test, naming the way out, where there is none."""
    python = PEERS[environment]
    if not python.exists():
        pytest.fail(f"{python} is missing; build it with `make .venvs/{environment}/ready`")
    return python


def _text(output: str | bytes | None) -> str:
    """`TimeoutExpired` holds bytes even where text was asked for."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""

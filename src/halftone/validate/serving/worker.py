"""The process that loads one model with vLLM and answers questions about it.

Started by `session` as `python -m halftone.validate.serving.worker PARENT`, in the environment that
has vLLM. Lines of JSON come in on standard input, the model to load first; an answer goes out for
each. vLLM and its kernels also write to standard output, so the answers' pipe is moved away before
any of it is imported, and standard output becomes the log.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, Final

from halftone.engine.vllm_names import UnsupportedVllm
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError
from halftone.spec.names import Reason

Measurement = Callable[[Any, dict[str, Any]], dict[str, Any]]

# Each is `f(llm: vllm.LLM, parameters) -> answer`; imported when it is first asked.
QUESTIONS: Final = {
    "generate": "halftone.validate.serving.generating:generate",
    "accept": "halftone.validate.serving.generating:accept",
    "score": "halftone.validate.serving.scoring:score",
    "follow": "halftone.validate.serving.scoring:follow",
    "task": "halftone.validate.serving.tasks:measure",
    "speed": "halftone.validate.serving.speed:measure",
}

# What vLLM is told through its environment. In one process a CPU server loads in seconds instead
# of a minute, dies with its traceback in our log, and compiles nothing for a handful of prompts.
_EVERYWHERE: Final = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_ON_A_CPU: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HALFTONE_CPU_AMX": "Off",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Serve until standard input ends."""
    _die_with(int(sys.argv[1]))
    answers = _take_standard_output()
    llm: Any = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if llm is None:
                llm, answer = _load(request)
            else:
                answer = _measurement(request["question"])(llm, request["parameters"])
            reply = {"answer": answer}
        except HalftoneError as error:
            reply = {"error": _refusal(error)}
        except Exception as error:
            traceback.print_exc()
            failed = _failure(request, error)
            reply = {"error": _refusal(failed)}
        answers.write(json.dumps(reply).encode() + b"\n")
        answers.flush()
        if llm is None:
            break
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's own end waits for threads of torch that have nothing left to do.
    os._exit(0)


def _die_with(parent: int) -> None:
    """The kernel kills this process when the thread of `parent` that started it is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel was told
        os._exit(1)


def _take_standard_output() -> BinaryIO:
    """The pipe that answers go to; from here on standard output is standard error, the log."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _load(request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The loaded model and the facts about it."""
    try:
        on_cpu = "cpu" in version("vllm")
    except PackageNotFoundError as error:
        raise EnvironmentFault(
            Reason.MissingDependency,
            "vllm",
            f"`{sys.executable}` has no vLLM; run `make .venvs/serve/ready`, or name another "
            "interpreter in HALFTONE_SERVE_PYTHON.",
        ) from error
    for name, value in {**_EVERYWHERE, **(_ON_A_CPU if on_cpu else {})}.items():
        os.environ.setdefault(name, value)
    loading = import_module("halftone.validate.serving.loading")
    llm, seconds = loading.load(request, on_cpu)
    return llm, loading.facts(llm, seconds, on_cpu)


def _measurement(question: str) -> Measurement:
    module, _, name = QUESTIONS[question].partition(":")
    measurement: Measurement = getattr(import_module(module), name)
    return measurement


def _failure(request: dict[str, Any], error: Exception) -> HalftoneError:
    """What vLLM raised, as one sentence; the log has the traceback."""
    if isinstance(error, UnsupportedVllm):
        return EnvironmentFault(Reason.EngineNotSupported, "vllm", str(error))
    said = " ".join(str(error).split())[:600] or type(error).__name__
    if "question" in request:
        subject = request["question"]
        return CheckFailed(
            Reason.EngineFailed, subject, f"vLLM failed to answer `{subject}`: {said}"
        )
    subject = Path(request["model"]).name
    return CheckFailed(Reason.EngineFailed, subject, f"vLLM does not load `{subject}`: {said}")


def _refusal(error: HalftoneError) -> dict[str, str]:
    return {
        "class": type(error).__name__,
        "reason": error.reason.value,
        "subject": error.subject,
        "message": error.message,
    }


if __name__ == "__main__":
    main()

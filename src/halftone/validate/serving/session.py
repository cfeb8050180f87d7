"""Our side of a model in a process of its own: starts it, asks it questions, ends it.

    with EngineSession(checkpoint, log=workdir / "quantized.log") as session:
        session.facts.kvBlocks
        answer = session.ask("generate", prompts=[…], maxTokens=32)

The process is `halftone.validate.serving.worker`: it loads the checkpoint once with vLLM and
answers until it is closed. Whatever happens to it (a signal, no memory, a checkpoint that vLLM
refuses) arrives here as one sentence with the end of its log. Called by
`halftone.validate.engine_gates`.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import CREDENTIALS_PREFIX, SIGNING_KEY_FILE, Reason
from halftone.validate.serving.log_text import last_lines

# An error that the process raised on purpose arrives as the class that it had there.
_ERRORS: Final[dict[str, type[HalftoneError]]] = {
    error.__name__: error for error in (RefusedInput, CheckFailed, EnvironmentFault)
}
# What only stores and publishing need; a process that reads somebody's checkpoint, and runs the
# Python of a task, has no use for it.
_SECRETS: Final = ("AWS_", SIGNING_KEY_FILE, CREDENTIALS_PREFIX)
_HUB_SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
# Gates read what vLLM warns of, so nobody may have told it to be silent or to log elsewhere; nor to
# leave out the plugin that makes a CPU compute as the GPU would.
_LOGGING: Final = {"VLLM_CONFIGURE_LOGGING": "1", "VLLM_LOGGING_LEVEL": "INFO"}
_ELSEWHERE: Final = ("VLLM_LOGGING_CONFIG_PATH", "VLLM_LOGGING_STREAM", "VLLM_PLUGINS")
_LISTS: Final = ("cacheGroups", "cacheScales", "kernels")
_SHUTDOWN_S: Final = 20.0
_POLL_S: Final = 0.5
# Exit by these signals has a cause that a reader can do something about.
_SIGNALS: Final = {
    signal.SIGKILL: "it was killed, which is what happens when memory runs out",
    signal.SIGILL: "the processor does not know an instruction that vLLM used",
}


@dataclass(frozen=True)
class EngineOptions:
    """How vLLM is started.

    `maxModelLen` None: the model's own, at most 4096 tokens. `kvCacheBytes` None: 512 MiB on a CPU,
    vLLM's own choice on a GPU. `arguments` go to `vllm.LLM` last and win. `offline` keeps the Hub
    out; tasks that fetch their data need it False. `environment` is added to the process's own.
    """

    maxModelLen: int | None = None
    maxSequences: int = 64
    tokenBudget: int = 2048
    kvCacheBytes: int | None = None
    offline: bool = True
    loadTimeoutSeconds: float = 3600
    answerTimeoutSeconds: float = 6 * 3600
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineFacts:
    """What the loaded engine says of itself.

    `cacheGroups` rows are {kind, layers, blockTokens, blocksPerRequest}, `blocksPerRequest` being
    what a request pins whatever its length. `cacheScales` rows are {layer, key, value}, of layers
    with an FP8 cache. `capability` is a GPU's, such as `10.0`.
    `engineArguments` are those that vLLM resolved, as text. `sees`: it takes images.
    """

    loadSeconds: float
    kvBlocks: int
    cacheGroups: tuple[dict[str, Any], ...]
    device: str
    driver: str | None
    capability: str | None
    emulated: bool
    engine: str
    kernels: tuple[str, ...]
    maxModelLen: int
    maxSequences: int
    tokenBudget: int
    vocabulary: int
    sees: bool
    engineArguments: dict[str, str]
    cacheScales: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Self:
        """The facts in the process's first answer."""
        lists = {name: tuple(answer[name]) for name in _LISTS}
        return cls(**{**answer, **lists})


class EngineSession:
    """One model, loaded while the block runs. Not to be shared between threads.

    Entering raises CheckFailed where vLLM refuses the checkpoint, EnvironmentFault where the
    process died, took longer than its limit or has no vLLM; `ask` likewise. The reason is
    `EngineFailed` unless the process gave a better one. `log` holds all that vLLM said.
    """

    def __init__(
        self,
        model: Path,
        *,
        log: Path,
        options: EngineOptions | None = None,
        python: Path | None = None,
    ) -> None:
        self.model = model
        self.log = log
        self.options = options or EngineOptions()
        self._python = python or Path(sys.executable)
        self._process: subprocess.Popen[bytes] | None = None
        self._facts: EngineFacts | None = None
        self._unread = b""

    @property
    def facts(self) -> EngineFacts:
        """What the engine says of itself; only inside the block."""
        if self._facts is None:
            raise RuntimeError("an EngineSession has no facts before it is entered")
        return self._facts

    @property
    def pid(self) -> int:
        """The process, for whoever watches its memory; only inside the block."""
        return self._running().pid

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
            load = {
                "model": str(self.model),
                "maxModelLen": self.options.maxModelLen,
                "maxSequences": self.options.maxSequences,
                "tokenBudget": self.options.tokenBudget,
                "kvCacheBytes": self.options.kvCacheBytes,
                "arguments": dict(self.options.arguments),
            }
            answer = self._exchange(load, "loading", self.options.loadTimeoutSeconds)
            self._facts = EngineFacts.from_answer(answer)
        except BaseException:
            self._end(patience_s=0)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(patience_s=_SHUTDOWN_S if kind is None else 0)

    def ask(self, question: str, **parameters: Any) -> dict[str, Any]:
        """The loaded model's answer; `question` is a name in `worker.QUESTIONS`.

        Parameters and answer are JSON. Raises as the class says; the session cannot be asked again
        after an EnvironmentFault.
        """
        request = {"question": question, "parameters": parameters}
        return self._exchange(request, f"`{question}`", self.options.answerTimeoutSeconds)

    def log_text(self) -> str:
        """All that vLLM has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _start(self) -> None:
        offline = self.options.offline
        secrets = _SECRETS + (_HUB_SECRETS if offline else ())
        dropped = (*secrets, *_ELSEWHERE)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)} | _LOGGING
        if offline:
            environment["HF_HUB_OFFLINE"] = "1"
        with self.log.open("wb") as log:
            # A session of its own, so that its own children end with it.
            self._process = subprocess.Popen(  # noqa: S603  # the interpreter that was named
                [str(self._python), "-m", "halftone.validate.serving.worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environment, **self.options.environment},
                start_new_session=True,
            )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("an EngineSession is asked inside its block only")
        return self._process

    def _exchange(self, request: dict[str, Any], what: str, limit_s: float) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._fail(what)
        reply: dict[str, Any] = json.loads(self._read_line(what, limit_s))
        if "error" in reply:
            said = reply["error"]
            raise _ERRORS[said["class"]](Reason(said["reason"]), said["subject"], said["message"])
        answer: dict[str, Any] = reply["answer"]
        return answer

    def _read_line(self, what: str, limit_s: float) -> bytes:
        """One line of the process's answers, which may be megabytes long."""
        process = self._running()
        assert process.stdout is not None
        deadline = monotonic() + limit_s
        parts, self._unread = [self._unread], b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in parts[-1]:
                if monotonic() > deadline:
                    self._fail(what, f"did not answer within {limit_s:g} seconds")
                if not selector.select(_POLL_S):
                    # A grandchild may hold the pipe open after the process itself has died.
                    if process.poll() is not None:
                        self._fail(what)
                    continue
                part = os.read(process.stdout.fileno(), 1 << 20)
                if not part:
                    self._fail(what)
                parts.append(part)
        line, _, self._unread = b"".join(parts).partition(b"\n")
        return line

    def _fail(self, what: str, how: str | None = None) -> None:
        """End the process and say why; always raises EnvironmentFault."""
        code = self._end(patience_s=0 if how else 5)
        how = how or f"ended {_ending(code)}"
        raise EnvironmentFault(
            Reason.EngineFailed,
            self.model.name,
            f"vLLM's process for `{self.model.name}` {how} during {what}; its log is "
            f"`{self.log.name}` and ends: {last_lines(self.log_text())}",
        )

    def _end(self, patience_s: float) -> int | None:
        """Let the process finish, for so long; then end it and its children. Its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it died with a question unread
            process.stdin.close()
        try:
            code: int | None = process.wait(patience_s) if patience_s else process.poll()
        except subprocess.TimeoutExpired:
            code = None
        _kill_group(process.pid)
        ended = process.wait()
        process.stdout.close()
        return ended if code is None else code


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):  # it has ended, and left no children
        os.killpg(group, signal.SIGKILL)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with exit status {code}"
    number = signal.Signals(-code)
    cause = _SIGNALS.get(number)
    return f"by {number.name}" + (f" ({cause})" if cause else "")

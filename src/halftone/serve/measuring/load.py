"""Our side of the process that puts load on endpoints (`load_process`), and what a load gave.

    with LoadProcess(python, log) as load:
        round = load.put(Load(url, headers, model, prompts, output_tokens=64, concurrency=8))

Called by `rounds` and `steps`. The process has vLLM and no part in the serving: it is a client.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import SIGNING_KEY_FILE, Reason
from halftone.validate.serving.log_text import last_lines

# A client of endpoints has no use for these; its own key for one comes with each load.
_SECRETS: Final = ("AWS_", "HF_TOKEN", "HUGGING", SIGNING_KEY_FILE, "VLLM_API_KEY", "OPENAI_API")
_SHOWN: Final = 200  # characters of an error


@dataclass(frozen=True)
class Load:
    """So many requests at a time, each for exactly `output_tokens`; `prompts` are token ids."""

    url: str
    headers: Mapping[str, str]
    model: str
    prompts: Sequence[Sequence[int]]
    output_tokens: int
    concurrency: int


@dataclass(frozen=True)
class Served:
    """One request: when it was sent (seconds, of one clock for a round), and what came when.

    `gaps` are seconds between chunks that followed each other, one chunk a step of the engine.
    """

    prompt: int
    output: int
    sent: float
    first_token: float
    gaps: tuple[float, ...]

    @property
    def arrivals(self) -> list[float]:
        """Times of its chunks on the round's clock."""
        times = [self.sent + self.first_token]
        for gap in self.gaps:
            times.append(times[-1] + gap)
        return times

    @property
    def seconds_per_token(self) -> float | None:
        """After the first token; None for an answer of one."""
        return sum(self.gaps) / (self.output - 1) if self.output > 1 else None


@dataclass(frozen=True)
class Round:
    """One load: what was served in how many seconds, and the sentences of what failed.

    `drafts` and `accepted` count drafts of speculative decoding and their tokens that were taken.
    """

    served: tuple[Served, ...]
    failures: tuple[str, ...]
    seconds: float
    drafts: int
    accepted: int

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of all requests over the wall clock."""
        return sum(each.output for each in self.served) / self.seconds


class LoadProcess:
    """The process while the block runs; `log` holds all that the benchmark said."""

    def __init__(self, python: Path, log: Path) -> None:
        self._python = python
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_SECRETS)}
        with self._log.open("wb") as log:
            # A session of its own, so that its children end with it.
            self._process = subprocess.Popen(  # noqa: S603  # the interpreter that was named
                [str(self._python), "-m", "halftone.serve.measuring.load_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment | {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"},
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):  # it has nothing to finish
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()

    def put(self, load: Load) -> Round:
        """Put `load` on its endpoint. Raises EnvironmentFault(EngineFailed) where the process
        ended, EnvironmentFault(EndpointUnavailable) where the endpoint served nothing of it.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("a LoadProcess is used inside its block only")
        request = {
            "url": load.url,
            "headers": dict(load.headers),
            "model": load.model,
            "prompts": [list(tokens) for tokens in load.prompts],
            "outputTokens": load.output_tokens,
            "concurrency": load.concurrency,
        }
        with suppress(BrokenPipeError):  # then there is no answer either
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            said = last_lines(self._log.read_text(encoding="utf-8", errors="replace"))
            told = f"The process with vLLM's benchmark ended; it said: {said}"
            raise EnvironmentFault(Reason.EngineFailed, "bench", told)
        result = json.loads(line)
        if "error" in result:
            told = f"vLLM's benchmark could not load '{load.url}': {result['error']}"
            raise EnvironmentFault(Reason.EngineFailed, load.url, told)
        found = as_round(result, load.output_tokens)
        if not found.served:
            told = (
                f"'{load.url}' served none of {len(load.prompts)} requests: "
                f"{found.failures[0] if found.failures else 'it said nothing'}"
            )
            raise EnvironmentFault(Reason.EndpointUnavailable, load.url, told)
        return found


def as_round(result: Mapping[str, Any], output_tokens: int) -> Round:
    """What vLLM's benchmark gave, as a round.

    It calls an answer that broke off a success; here it is a failure, because every request asked
    for exactly `output_tokens`.
    """
    served, failures = [], []
    names = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "errors")
    for prompt, output, sent, first, gaps, error in zip(*(result[n] for n in names), strict=True):
        if error or output != output_tokens:
            came = f"broke off after {len(gaps) + 1} chunks"  # tokens come last, in the usage
            last = error.strip().splitlines()[-1] if error else came
            failures.append(last[:_SHOWN])
        else:
            served.append(Served(prompt, output, sent, first, tuple(gaps)))
    return Round(
        tuple(served),
        tuple(failures),
        float(result["duration"]),
        int(result.get("spec_decode_num_drafts", 0)),
        int(result.get("spec_decode_accepted_tokens", 0)),
    )

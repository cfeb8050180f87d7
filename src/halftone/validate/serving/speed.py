"""Times a loaded model under a load that both models get alike.

Called by the worker in vLLM's process:

    measure(llm, {"concurrencies": [1, 32], "promptTokens": 256, "outputTokens": 64,
                  "repetitions": 5, "card": True})

The engine is driven step by step. Load is a closed loop: as many requests in flight as the
concurrency says, each followed by the next, all of one length, none ended by the model itself.
Detokenizing and HTTP are left out. Repetitions of the loads take turns, so that a machine that
slows down slows all of them. The last part times steps of known composition for the capacity card.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from time import perf_counter
from typing import Any, Final

import numpy as np

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

# Ordinary text, so that experts are chosen as they would be; every request begins elsewhere in it.
_TEXT: Final = (
    "The harbour lay still that morning. Two boats had come in before dawn, their decks white with "
    "salt, and the men were counting crates under the lamps while the tide turned. A clerk wrote "
    "each number twice, once for the owner and once for himself, because paper is lost more often "
    "than fish. By eight o'clock the market was open, and the price of herring had gone up again. "
)
_REQUESTS_A_SLOT: Final = 2  # in each repetition, so that slots are refilled once
_WARM_UP_REQUESTS: Final = 2
# For the card: steps that only decode, at these shares of the greatest load and prompt ...
_SEQUENCE_SHARES: Final = (0.0, 0.25, 1.0)
_PROMPT_FACTORS: Final = (0.25, 1.0, 3.0)
_DECODE_STEPS: Final = 24
_STEPS_A_SAMPLE: Final = 4  # whose median is one sample: a busy machine stalls single steps
# ... and prompts alone, at these shares of what one step may hold.
_PREFILL_SHARES: Final = (0.125, 0.25, 0.5, 0.75, 1.0)
_PREFILL_REPEATS: Final = 3  # whose median is one sample
# A CPU reads a few hundred tokens a second, and what it takes is no figure of any target: the same
# measurement in small, which proves that it works. Both models run on one device, so it is the same
# for both.
_ON_A_CPU: Final = {"promptTokens": 32, "outputTokens": 16, "repetitions": 4}
_LONGEST_PREFILL_ON_A_CPU: Final = 512


@dataclass
class _Request:
    prompt: int  # tokens
    begun: float
    last: float | None = None  # when its latest token came
    produced: int = 0


@dataclass
class _Observed:
    """Seconds of one load; `decoding` rows are (KV tokens, sequences, seconds) of pure steps."""

    firstToken: list[float] = field(default_factory=list)
    betweenTokens: list[float] = field(default_factory=list)
    decoding: list[tuple[int, int, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def measure(llm: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """{"loads": […], "steps": […], "warmUpSeconds", "promptTokens", "outputTokens"}, all JSON.

    A load is {"concurrency", "ttftMs", "itlMs", "tokensPerSecond": {"p50", "p95"}, "repetitions"},
    times over all requests, output tokens per second over repetitions, which are listed. A step is
    [KV tokens, sequences, prompt tokens, seconds], as `halftone.validate.capacity` fits them;
    without `card` there are none. On a CPU the load is smaller than asked, and the answer says so.

    Raises RefusedInput where prompt and output do not fit into the model's context.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        parameters = parameters | {k: min(v, parameters[k]) for k, v in _ON_A_CPU.items()}
    driver = _Driver(llm, int(parameters["promptTokens"]), int(parameters["outputTokens"]))
    loads = sorted({int(number) for number in parameters["concurrencies"]})
    begun = perf_counter()
    for concurrency in loads:
        driver.run(max(_WARM_UP_REQUESTS, concurrency), concurrency)
    warm_up = perf_counter() - begun
    observed: dict[int, list[_Observed]] = {concurrency: [] for concurrency in loads}
    for _ in range(int(parameters["repetitions"])):
        for concurrency, runs in observed.items():
            runs.append(driver.run(_REQUESTS_A_SLOT * concurrency, concurrency))
    return {
        "promptTokens": driver.prompt,
        "outputTokens": driver.output,
        "warmUpSeconds": warm_up,
        "loads": [_summary(concurrency, runs) for concurrency, runs in observed.items()],
        "steps": _steps(driver, loads[-1]) if parameters.get("card", True) else [],
    }


def _steps(driver: "_Driver", most: int) -> list[list[float]]:
    from vllm.platforms import current_platform

    longest = min(driver.budget, driver.context - 1)
    if current_platform.is_cpu():
        longest = min(longest, _LONGEST_PREFILL_ON_A_CPU)
    return [*_decode_steps(driver, most), *_prefill_steps(driver, longest)]


class _Driver:
    """The engine under closed loops."""

    def __init__(self, llm: Any, prompt: int, output: int) -> None:
        config = llm.llm_engine.vllm_config
        self.context = int(config.model_config.max_model_len)
        self.budget = int(config.scheduler_config.max_num_batched_tokens)
        if prompt + output > self.context:
            told = (
                f"A prompt of {prompt} tokens and an answer of {output} do not fit into the "
                f"model's context of {self.context}; start the engine with a longer one."
            )
            raise RefusedInput(Reason.InvalidJob, "promptTokens", told)
        self.prompt, self.output = prompt, output
        self._engine = llm.llm_engine
        self._text = llm.get_tokenizer().encode(_TEXT, add_special_tokens=False)
        self._numbers = count()

    def run(
        self, requests: int, concurrency: int, prompt: int | None = None, output: int | None = None
    ) -> _Observed:
        """Serve so many requests, so many at a time."""
        prompt, output = prompt or self.prompt, output or self.output
        seen = _Observed()
        flying: dict[str, _Request] = {}
        waiting = iter(range(requests))
        begun = before = perf_counter()
        for _ in islice(waiting, concurrency):
            flying |= self._add(prompt, output)
        while flying:
            pure = [r.prompt + r.produced for r in flying.values() if r.last is not None]
            is_pure = len(pure) == len(flying)
            outputs = self._engine.step()
            now = perf_counter()
            if not outputs:
                continue
            if is_pure and len(outputs) == len(flying):
                seen.decoding.append((sum(pure), len(pure), now - before))
            before = now
            for answer in outputs:
                _book(seen, flying[answer.request_id], len(answer.outputs[0].token_ids), now)
                if answer.finished:
                    del flying[answer.request_id]
                    for _ in islice(waiting, 1):
                        flying |= self._add(prompt, output)
        seen.seconds = perf_counter() - begun
        return seen

    def _add(self, prompt: int, output: int) -> dict[str, _Request]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        number = next(self._numbers)
        tokens = self._tokens(number, prompt)
        settings = SamplingParams(
            max_tokens=output,
            ignore_eos=True,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        begun = perf_counter()
        name = f"speed-{number}"
        self._engine.add_request(name, {"prompt_token_ids": tokens}, settings)
        return {name: _Request(prompt, begun)}

    def _tokens(self, number: int, length: int) -> list[int]:
        start = 7 * number % len(self._text)
        return list(islice(cycle(self._text), start, start + length))


def _book(seen: _Observed, request: _Request, tokens: int, now: float) -> None:
    """Note what came for one request; several tokens at once share the time since the last."""
    if not tokens:
        return
    if request.last is None:
        seen.firstToken.append(now - request.begun)
    else:
        seen.betweenTokens.extend([(now - request.last) / tokens] * tokens)
    request.last = now
    request.produced += tokens
    seen.tokens += tokens


def _decode_steps(driver: _Driver, most: int) -> Iterator[list[float]]:
    """Steps that only decode, over sequences and lengths; medians of a few neighbours."""
    for sequences in sorted({max(1, round(most * share)) for share in _SEQUENCE_SHARES}):
        for factor in _PROMPT_FACTORS:
            room = driver.context - _DECODE_STEPS - 2
            prompt = max(1, min(round(driver.prompt * factor), room))
            seen = driver.run(sequences, sequences, prompt, _DECODE_STEPS + 2).decoding
            whole = [row for row in seen if row[1] == sequences][1:]
            for at in range(0, len(whole) - _STEPS_A_SAMPLE + 1, _STEPS_A_SAMPLE):
                part = np.array(whole[at : at + _STEPS_A_SAMPLE])
                yield [float(part[:, 0].mean()), sequences, 0.0, float(np.median(part[:, 2]))]


def _prefill_steps(driver: _Driver, longest: int) -> Iterator[list[float]]:
    """Steps that read one prompt each, of up to `longest` tokens, and nothing else."""
    for share in _PREFILL_SHARES:
        prompt = max(1, round(longest * share))
        seconds = [driver.run(1, 1, prompt, 1).firstToken[0] for _ in range(_PREFILL_REPEATS)]
        yield [0.0, 0.0, float(prompt), float(np.median(seconds))]


def _summary(concurrency: int, runs: list[_Observed]) -> dict[str, Any]:
    rates = [run.tokens / run.seconds for run in runs]
    return {
        "concurrency": concurrency,
        "ttftMs": _percentiles([1000 * s for run in runs for s in run.firstToken]),
        "itlMs": _percentiles([1000 * s for run in runs for s in run.betweenTokens]),
        "tokensPerSecond": _percentiles(rates),
        "repetitions": rates,
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    middle, high = np.percentile(values, [50, 95])
    return {"p50": float(middle), "p95": float(high)}

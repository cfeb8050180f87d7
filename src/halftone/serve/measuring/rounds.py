"""Rounds of load on one endpoint, or on two in turns, and the figures that they give.

Called by `measuring.benching`. Every round puts each load on both endpoints one after the other,
and the next round begins with the other one, so that a machine that slows down slows both. A ratio
is that of the rounds' own ratios (Student's t on their logarithms): what a round suffers, both
suffer.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from halftone.serve.measuring.document import Figures, LoadFigures, Percentiles, Ratio, Ratios
from halftone.serve.measuring.load import Load, LoadProcess, Round
from halftone.serve.measuring.prompting import draw
from halftone.validate.statistics import FAMILY_ALPHA, student_quantile

Say = Callable[[str], None]


@dataclass(frozen=True)
class Endpoint:
    """One that is measured; `text` are token ids that prompts are drawn from."""

    url: str
    headers: dict[str, str]
    model: str
    text: list[int]

    def load(
        self, length: int, output: int, requests: int, at_once: int, numbers: random.Random
    ) -> Load:
        """So many fresh requests with prompts of `length` tokens."""
        prompts = draw(self.text, requests, length, numbers)
        return Load(self.url, self.headers, self.model, prompts, output, at_once)


@dataclass(frozen=True)
class Shape:
    """The load: sizes in tokens, and requests of each round for each place in the queue."""

    input_tokens: int
    output_tokens: int
    concurrencies: tuple[int, ...]
    requests_a_slot: int
    rounds: int


def put_rounds(
    process: LoadProcess, endpoints: Sequence[Endpoint], shape: Shape, say: Say
) -> tuple[LoadFigures, ...]:
    """Figures by concurrency; `endpoints` are the one that is measured and perhaps a baseline."""
    numbers = random.Random(0)  # noqa: S311  # prompts, no secret
    found: dict[int, list[list[Round]]] = {
        at_once: [[] for _ in endpoints] for at_once in shape.concurrencies
    }
    for at_once in shape.concurrencies:  # each size of a batch has a first time
        for endpoint in endpoints:
            process.put(_load(endpoint, shape, at_once, at_once, numbers))
    for number in range(shape.rounds):
        say(f"round {number + 1} of {shape.rounds}")
        order = list(range(len(endpoints)))[:: 1 if number % 2 == 0 else -1]
        for at_once, rounds in found.items():
            for which in order:
                requests = at_once * shape.requests_a_slot
                load = _load(endpoints[which], shape, requests, at_once, numbers)
                rounds[which].append(process.put(load))
    return tuple(_figures_of(at_once, rounds) for at_once, rounds in found.items())


def _load(
    endpoint: Endpoint, shape: Shape, requests: int, at_once: int, numbers: random.Random
) -> Load:
    return endpoint.load(shape.input_tokens, shape.output_tokens, requests, at_once, numbers)


def _figures_of(at_once: int, rounds: Sequence[Sequence[Round]]) -> LoadFigures:
    sides = [figures(side) for side in rounds]
    with_baseline = len(rounds) > 1
    return LoadFigures(
        concurrency=at_once,
        endpoint=sides[0],
        baseline=sides[1] if with_baseline else None,
        ratios=ratios(rounds[0], rounds[1]) if with_baseline else None,
    )


def figures(rounds: Sequence[Round]) -> Figures:
    """Of all rounds of one endpoint under one load."""
    served = [each for round_ in rounds for each in round_.served]
    failures = [told for round_ in rounds for told in round_.failures]
    gaps = [gap for s in served for gap in s.gaps]
    each_token = [seconds for s in served if (seconds := s.seconds_per_token)]
    later = sum(s.output - 1 for s in served), sum(len(s.gaps) for s in served)
    drafts, accepted = sum(r.drafts for r in rounds), sum(r.accepted for r in rounds)
    return Figures(
        requests=len(served) + len(failures),
        failed=len(failures),
        firstFailure=failures[0] if failures else None,
        ttftMs=_milliseconds([s.first_token for s in served]),
        itlMs=_milliseconds(gaps) if gaps else None,
        tokensPerSecondPerUser=_rates(each_token) if each_token else None,
        tokensPerSecond=float(np.mean([r.tokens_per_second for r in rounds])),
        acceptLength=1 + accepted / drafts if drafts else None,
        tokensPerChunk=later[0] / later[1] if later[1] else None,
    )


def _milliseconds(seconds: Sequence[float]) -> Percentiles:
    middle, high = np.percentile(seconds, [50, 95])
    return Percentiles(p50=1000 * float(middle), p95=1000 * float(high))


def _rates(seconds: Sequence[float]) -> Percentiles:
    """Tokens per second; `p95` is what 95 % of users have at least."""
    middle, slow = np.percentile(seconds, [50, 95])
    return Percentiles(p50=1 / float(middle), p95=1 / float(slow))


def ratios(endpoint: Sequence[Round], baseline: Sequence[Round]) -> Ratios:
    def of(value: Callable[[Round], float]) -> Ratio:
        return ratio([value(r) for r in endpoint], [value(r) for r in baseline])

    pairs = zip(map(_middle_gap, endpoint), map(_middle_gap, baseline), strict=True)
    gaps = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
    return Ratios(
        ttft=of(lambda r: float(np.median([s.first_token for s in r.served]))),
        itl=ratio([ours for ours, _ in gaps], [theirs for _, theirs in gaps]) if gaps else None,
        tokensPerSecond=of(lambda r: r.tokens_per_second),
    )


def _middle_gap(round_: Round) -> float | None:
    """Seconds; None where every answer came in one chunk."""
    gaps = [gap for each in round_.served for gap in each.gaps]
    return float(np.median(gaps)) if gaps else None


def ratio(endpoint: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Geometric mean of the rounds' ratios, and Student's interval of it."""
    logs = np.log(np.asarray(endpoint, np.float64) / np.asarray(baseline, np.float64))
    middle = float(logs.mean())
    if len(logs) < 2:
        return Ratio(value=math.exp(middle), lower=None, upper=None)
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    reach = student_quantile(FAMILY_ALPHA / 2, len(logs) - 1) * error
    return Ratio(
        value=math.exp(middle), lower=math.exp(middle - reach), upper=math.exp(middle + reach)
    )

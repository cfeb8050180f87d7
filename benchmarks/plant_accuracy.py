"""The plant of `halftone replay` against a real vLLM: fitted on one load, it predicts another.

One vLLM on a CPU with the pocket model and a small cache, without Ray. A capacity card is fitted as
`halftone bench` fits it, from bursts of equal requests. Then requests of other lengths arrive at
random for a minute, open-loop, at a rate that the card says is most of what the replica can do, and
the plant is given the same arrivals. Time to the first token, time between tokens and the fullest
cache are compared. What a request costs beside the engine's steps (HTTP, tokens) is no part of the
card; `halftone bench` tells it beside, and it is added to the plant's time to the first token.

A round is a fit and a load: the speed of a machine drifts, and a card is only as good as its hour.
"""

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.beside import Beside
from benchmarks.measuring import ROOT, Result, median_of
from benchmarks.open_loop import Answers, client_of, send
from halftone.scaling.baselines.policies import make
from halftone.scaling.capacity import Capacity
from halftone.scaling.loads.generators import Lengths, poisson_arrivals
from halftone.scaling.loads.load import Load
from halftone.scaling.replay import Outcome, World, replay
from halftone.serve.measuring.benching import look_at
from halftone.serve.measuring.connection import Place
from halftone.serve.measuring.document import Card
from halftone.serve.measuring.load import LoadProcess
from halftone.serve.measuring.rounds import Shape
from halftone.serve.measuring.steps import measure_card
from tests.environments import python_of
from tests.servers.vllm import Asked, vllm_servers

_MODEL = "pocket"
_POCKET = ROOT / "examples" / "pocket-model" / "checkpoint"
_ROUNDS = 3
_WITHIN = 0.25
# The fit: bursts of up to eight requests of one length, 16 to 192 tokens.
FIT = Shape(64, 26, (8,), 1, 1)
# The other load: lengths that differ, and a batch that changes all the time.
_PROMPT, _OUTPUT = Lengths(110, 0.6, most=3), Lengths(60, 0.6, most=2.5)
_SECONDS = 60
# Of what the card says that the replica can do. Above it the median request waits in the queue, and
# a queue near its limit multiplies every error of the card.
_BUSY = 0.5
# Sixteen sequences take most of these. Prompts repeat nothing, and what a prefix cache keeps of
# states the plant does not know.
_ARGUMENTS = ("--num-gpu-blocks-override", "96", "--no-enable-prefix-caching")
_LOOK_S = 0.1


@dataclass(frozen=True)
class Seen:
    """Medians in seconds, and the fullest cache, 0 to 1."""

    ttft_s: float
    itl_s: float
    peak_kv: float


def main(scratch: Path, rounds: int = _ROUNDS) -> list[Result]:
    """A row each for TTFT, ITL and the cache: what the plant says over what was measured."""
    asked = {_MODEL: Asked(_POCKET, replicas=1, arguments=_ARGUMENTS)}
    with vllm_servers(scratch, asked) as urls:
        found = [_round(urls[_MODEL], scratch, number) for number in range(rounds)]
    return [
        _row(found, "ttft_s", "time to the first token, median", 1000, "ms"),
        _row(found, "itl_s", "time between tokens, median", 1000, "ms"),
        _row(found, "peak_kv", "the fullest cache", 100, "%"),
    ]


def fitted(url: str, scratch: Path) -> Card:
    """The card of the endpoint at `url`. Raises RuntimeError with the reason why there is none."""
    endpoint, engine = asyncio.run(look_at(Place(url), _MODEL, FIT))
    with LoadProcess(python_of("serve"), scratch / "plant-accuracy-fit.log") as process:
        card = measure_card(process, endpoint, engine, FIT.input_tokens, max(FIT.concurrencies))
    if card.card is None:
        raise RuntimeError(card.noCardBecause)
    return card


def _round(url: str, scratch: Path, number: int) -> dict[str, Any]:
    card = fitted(url, scratch)
    assert card.card is not None
    capacity = Capacity.from_card(card.card.model_dump(mode="json"))
    load = _load(capacity, number)
    client = client_of(url, _MODEL)
    with PeakCache(url) as peak:
        answers = send(client, load)
    if answers.failures:
        raise RuntimeError(f"{len(answers.failures)} requests failed: {answers.failures[0]}")
    measured = _measured(answers, peak.most)
    # What the client could not send in time did not arrive in time, for the plant neither.
    sent = Load.of(load.name, load.arrival_s + answers.late_s, load.prompt, load.output)
    predicted = _predicted(capacity, sent, card.requestSeconds or 0.0)
    return {
        "card": card.model_dump(mode="json"),
        "requests": len(load),
        "perSecond": len(load) / _SECONDS,
        "sentLate": answers.late_share,
        "measured": asdict(measured),
        "predicted": asdict(predicted),
    }


def _load(capacity: Capacity, seed: int) -> Load:
    rate = _BUSY / capacity.work_s(_PROMPT.mean, _OUTPUT.mean)
    chance = np.random.default_rng(seed)
    arrivals = poisson_arrivals(np.full(_SECONDS, rate), 1.0, chance)
    count = len(arrivals)
    return Load.of("minute", arrivals, _PROMPT.draw(count, chance), _OUTPUT.draw(count, chance))


def _measured(answers: Answers, peak: float) -> Seen:
    ttft_s = answers.ttft_s - answers.late_s
    return Seen(float(np.median(ttft_s)), float(np.median(answers.itl_s)), peak)


def _predicted(capacity: Capacity, load: Load, request_s: float) -> Seen:
    """The plant with one replica, looked at as often as the real one."""
    world = World(
        capacity, lead_s=0.0, start=1, max_replicas=1, scrape_interval_s=_LOOK_S,
        client_timeout_s=float("inf"),
    )  # fmt: skip
    outcome: Outcome = replay(world, load, make("static-1", world, load))
    return Seen(
        float(np.nanmedian(outcome.ttft_s)) + request_s,
        float(np.nanmedian(outcome.itl_s)),
        float(outcome.timeline.kv_usage.max()),
    )


def _row(found: list[dict[str, Any]], field: str, what: str, factor: float, unit: str) -> Result:
    ratios = [each["predicted"][field] / each["measured"][field] for each in found]
    ratio = median_of(ratios)
    real = factor * median_of([each["measured"][field] for each in found])
    return Result(
        f"plant over a real vLLM: {what} (CPU, fitted on bursts, asked about open-loop arrivals)",
        f"{1 - _WITHIN:.2f} to {1 + _WITHIN:.2f}",
        f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}; measured {real:.0f} {unit})",
        1 - _WITHIN <= ratio <= 1 + _WITHIN,
        {"ratios": ratios, "rounds": found},
    )


class PeakCache(Beside):
    """Looks at the cache's use while the block runs; `most` is the fullest that was seen."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = f"{url}/metrics"
        self.most = 0.0

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stop.wait(_LOOK_S):
                for line in client.get(self._url).text.splitlines():
                    if line.startswith("vllm:kv_cache_usage_perc{"):
                        self.most = max(self.most, float(line.split()[-1]))

"""One's own traffic becomes a load: what Prometheus kept of vLLM's counters.

    load = read_history("http://prometheus:9090", 6 * 3600)

Called by `halftone replay --from-prometheus`. Prometheus keeps no single requests. So arrivals are
a Poisson process with the rate of each bin, and lengths spread around the means of each bin as they
do in chats: bursts within a bin are lost, and that is all that a history can tell.
"""

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from halftone.scaling.inputs.queries import braces
from halftone.scaling.loads.generators import CHAT_OUTPUT, CHAT_PROMPT, Lengths, poisson_arrivals
from halftone.scaling.loads.load import Floats, Load
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

if TYPE_CHECKING:
    import httpx

# Metrics of vLLM as it exports them itself, and as Ray does for it.
_FAMILIES: Final = ("vllm:", "ray_vllm_")
_BIN_S: Final = 60.0
# Prometheus answers with 11,000 points a series at most.
_MOST_BINS: Final = 10_000
_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_SHOWN: Final = 200  # characters of what Prometheus said
_TOKENS: Final = ("prompt", "generation")
_CA_FILE: Final = "--prometheus-ca-file"
_TOKEN_FILE: Final = "--prometheus-token-file"  # noqa: S105 - an option


class _History(NamedTuple):
    """A row a bin: requests, and mean tokens (0 where nothing was answered)."""

    requests: Floats
    prompt: Floats
    output: Floats


def read_history(
    url: str,
    range_s: float,
    *,
    model: str | None = None,
    selector: Mapping[str, str] | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    seed: int = 0,
    end_s: float | None = None,
) -> Load:
    """The traffic of the `range_s` seconds before `end_s` (seconds since 1970; now).

    `model` is the `model_name` to take, where there are several; `selector` are labels that a
    series must have. `token_file` holds a bearer token, `ca_file` certificates to trust. Equal
    histories and seeds give equal loads.

    Raises EnvironmentFault(StoreUnavailable) where Prometheus does not answer, and RefusedInput
    where it lets us not in, where it has no such history, several models and none is named, or a
    file that is not what it should be.
    """
    import httpx

    bin_s = max(_BIN_S, float(np.ceil(range_s / _MOST_BINS)))
    end_s = time.time() if end_s is None else end_s
    # One bin earlier, for what was in flight before the first.
    bins = max(1, int(range_s // bin_s))
    times = {"start": end_s - bins * bin_s, "end": end_s, "step": bin_s}
    limits = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    headers, trusted = _headers(token_file), _trusted(ca_file)
    with httpx.Client(timeout=limits, headers=headers, verify=trusted) as client:
        asking = _Asking(client, url.rstrip("/"), times, bins + 1, selector or {})
        family = asking.family()
        model = asking.model(family, model)
        load = _load(asking.history(family, model, bin_s), bin_s, seed)
        if not len(load):
            raise asking.nothing(model)
    return load


def _headers(token_file: Path | None) -> dict[str, str]:
    if token_file is None:
        return {}
    try:
        token = token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    # The client would repeat in its error what cannot be sent.
    if not token or " " in token or not token.isprintable():
        told = f"`{_TOKEN_FILE}` '{token_file}' holds no bearer token; write it there alone."
        raise RefusedInput(Reason.AccessDenied, _TOKEN_FILE, told)
    return {"Authorization": f"Bearer {token}"}


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        told = f"`{_CA_FILE}` '{ca_file}' holds no certificates: {error}; name a PEM file."
        raise RefusedInput(Reason.AccessDenied, _CA_FILE, told) from error


class _Asking(NamedTuple):
    """Range queries of one Prometheus over the same bins."""

    client: "httpx.Client"
    url: str
    times: Mapping[str, float]
    points: int
    selector: Mapping[str, str]

    def family(self) -> str:
        """The prefix of the metrics that it has: vLLM's own before Ray's, never both."""
        for family in _FAMILIES:
            if self.series(self._known(family)):
                return family
        labels = f" with {braces(self.selector)}" if self.selector else ""
        told = (
            f"Prometheus at '{self.url}' has no history of `vllm:num_requests_running` or of "
            f"`ray_vllm_num_requests_running`{labels} in that time; name the one that scrapes the "
            "endpoint, or a longer `--range`."
        )
        raise RefusedInput(Reason.InvalidTrace, "--from-prometheus", told)

    def model(self, family: str, named: str | None) -> str:
        """The `model_name` to take: `named`, or the only one."""
        found = self.series(self._known(family))
        names = sorted(found)
        if named in found or (named is None and len(names) == 1):
            return names[0] if named is None else named
        listed = ", ".join(f"'{name}'" for name in names)
        has_not = f" and not '{named}'" if named is not None else ""
        told = f"Prometheus at '{self.url}' knows {listed}{has_not}; name one with `--model`."
        raise RefusedInput(Reason.InvalidTrace, "--model", told)

    def history(self, family: str, model: str, bin_s: float) -> _History:
        """What arrived: what was answered, and what is in flight more than a bin before."""
        chosen = braces({"model_name": model, **self.selector})

        def total(metric: str) -> Floats:
            query = f"sum by (model_name) (increase({family}{metric}{chosen}[{bin_s:.0f}s]))"
            return self.series(query).get(model, np.zeros(self.points))[1:]

        gauges = [f"sum by (model_name) ({family}num_requests_{x}{chosen})" for x in _WHERE]
        flying = sum(self.series(gauge).get(model, np.zeros(self.points)) for gauge in gauges)
        requests = np.maximum(total("request_success_total") + np.diff(flying), 0.0)
        means = []
        for kind in _TOKENS:
            tokens, counted = (total(f"request_{kind}_tokens_{part}") for part in ("sum", "count"))
            means.append(np.divide(tokens, counted, np.zeros(len(tokens)), where=counted > 0))
        if not means[0].any():
            raise self.nothing(model)
        return _History(requests, *means)

    def _known(self, family: str) -> str:
        chosen = braces(self.selector) if self.selector else ""
        return f"count by (model_name) ({family}num_requests_running{chosen})"

    def nothing(self, model: str) -> RefusedInput:
        """What to raise where there is no request."""
        told = (
            f"Prometheus at '{self.url}' saw no request to '{model}' answered in that time; "
            "name a longer `--range`."
        )
        return RefusedInput(Reason.InvalidTrace, "--range", told)

    def series(self, query: str) -> dict[str, Floats]:
        """Values by `model_name`, one a point in time; 0 where there is none."""
        body = self._ask({"query": query, **self.times})
        found = {}
        try:
            for one in body["data"]["result"]:
                values = np.zeros(self.points)
                for when, value in one["values"]:
                    place = round((float(when) - self.times["start"]) / self.times["step"])
                    values[place] = float(value)
                found[str(one["metric"].get("model_name", ""))] = np.where(
                    np.isfinite(values), values, 0.0
                )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._fault("does not answer as Prometheus does") from error
        return found

    def _ask(self, parameters: Mapping[str, str | float]) -> Any:
        import httpx

        try:
            answer = self.client.get(f"{self.url}/api/v1/query_range", params=dict(parameters))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            told = str(error) or type(error).__name__
            raise self._fault(f"does not answer: {told[:_SHOWN]}") from error
        if answer.status_code in {401, 403}:
            told = f"Prometheus at '{self.url}' lets us not in; name a token with `{_TOKEN_FILE}`."
            raise RefusedInput(Reason.AccessDenied, "--from-prometheus", told)
        if answer.status_code != httpx.codes.OK:
            said = " ".join(answer.text.split())[:_SHOWN]
            raise self._fault(f"answers with status {answer.status_code}: {said}")
        try:
            return answer.json()
        except (ValueError, RecursionError) as error:
            raise self._fault("does not answer as Prometheus does") from error

    def _fault(self, told: str) -> EnvironmentFault:
        sentence = f"Prometheus at '{self.url}' {told}; check `--from-prometheus`."
        return EnvironmentFault(Reason.StoreUnavailable, "--from-prometheus", sentence)


_WHERE: Final = ("running", "waiting")
# More do not fit into memory, with their lengths.
_MOST_REQUESTS: Final = 50_000_000


def _load(found: _History, bin_s: float, seed: int) -> Load:
    if (count := float(found.requests.sum())) > _MOST_REQUESTS:
        told = (
            f"That time has {count:,.0f} requests, and {_MOST_REQUESTS:,} can be replayed; name a "
            "shorter `--range`."
        )
        raise RefusedInput(Reason.InvalidTrace, "--range", told)
    chance = np.random.default_rng(seed)
    arrivals = poisson_arrivals(found.requests / bin_s, bin_s, chance)
    counts = np.bincount((arrivals // bin_s).astype(np.int64), minlength=len(found.requests))
    columns = []
    for means, usual in ((found.prompt, CHAT_PROMPT), (found.output, CHAT_OUTPUT)):
        overall = float(means[means > 0].mean()) if means.any() else 1.0
        drawn = [
            Lengths(mean or overall, usual.spread).draw(count, chance)
            for mean, count in zip(means.tolist(), counts.tolist(), strict=True)
        ]
        columns.append(np.concatenate(drawn))
    return Load.of("history", arrivals, *columns)

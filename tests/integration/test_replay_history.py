"""A history in a real Prometheus, and quantiles as it computes them.

We test these aspects: `halftone replay --from-prometheus` replays what a Prometheus kept, through a
counter that began anew; our quantiles of histograms are Prometheus's own.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from halftone.scaling.baselines.quantiles import histogram_quantile
from halftone.scaling.loads.history import read_history
from halftone.scaling.reading import ITL_BOUNDS
from tests.commands import halftone
from tests.scaling_readings import cumulative
from tests.servers.prometheus import Prometheus, built

SCRAPE_S = 15
HOUR_S = 3600
LABELS = 'model_name="pocket",engine="0",instance="a:8000"'
# Requests a second, prompt and output tokens of each, in two hours.
HOURS = ((2.0, 300, 40), (6.0, 900, 40))


def exposition(end_s: int) -> Iterator[str]:
    """Two hours of vLLM's counters until `end_s`, in OpenMetrics; between them it began anew."""
    rows: dict[str, list[str]] = {}

    def say(name: str, value: float, time_s: int, labels: str = LABELS) -> None:
        rows.setdefault(name, []).append(f"{name}{{{labels}}} {value:.6f} {time_s}")

    start_s = end_s - 2 * HOUR_S
    for time_s in range(start_s, end_s + 1, SCRAPE_S):
        part = min(1, (time_s - start_s) // HOUR_S)
        rate, prompt, output = HOURS[part]
        finished = rate * (time_s - start_s - part * HOUR_S)
        say("vllm:request_success_total", finished, time_s, f'{LABELS},finished_reason="stop"')
        for kind, tokens in (("prompt", prompt), ("generation", output)):
            say(f"vllm:request_{kind}_tokens_sum", finished * tokens, time_s)
            say(f"vllm:request_{kind}_tokens_count", finished, time_s)
        say("vllm:num_requests_running", 4, time_s)
        say("vllm:num_requests_waiting", 0, time_s)
        for bound, count in zip((*ITL_BOUNDS, "+Inf"), SPREAD, strict=True):
            grown = count * (time_s - start_s)
            say("itl_bucket", grown, time_s, f'{LABELS},le="{bound}"')
    for lines in rows.values():
        yield from lines
    yield "# EOF"


# Log-normal times between tokens, some of them above every bound.
TIMES = np.random.default_rng(1).lognormal(-3, 2.5, 500)
SPREAD = cumulative(ITL_BOUNDS, TIMES.tolist())


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, int]]:
    """A server with that history, and when it ends."""
    folder = tmp_path_factory.mktemp("history")
    end_s = int(time.time()) // SCRAPE_S * SCRAPE_S
    (folder / "metrics").write_text("\n".join(exposition(end_s)) + "\n")
    with Prometheus(folder, {}) as server:
        server.stop()
        making = ("tsdb", "create-blocks-from", "openmetrics", folder / "metrics")
        data = folder / "prometheus" / "data"
        subprocess.run([built("promtool"), *making, data], check=True, capture_output=True)
        server.start()
        yield server, end_s


@pytest.mark.timeout(60)
def test_a_history_has_its_rates_and_lengths(prometheus: tuple[Prometheus, int]) -> None:
    server, end_s = prometheus
    load = read_history(server.url, 2 * HOUR_S, seed=1, end_s=end_s)
    early = load.arrival_s < HOUR_S
    # The minute in which the process began anew is counted from its beginning.
    assert np.count_nonzero(early) == pytest.approx(2 * HOUR_S, rel=0.05)
    assert np.count_nonzero(~early) == pytest.approx(6 * HOUR_S, rel=0.05)
    assert load.prompt[early].mean() == pytest.approx(300, rel=0.05)
    assert load.prompt[~early].mean() == pytest.approx(900, rel=0.05)
    assert load.output.mean() == pytest.approx(40, rel=0.05)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.95, 0.999])
def test_quantiles_are_those_of_prometheus(
    share: float, prometheus: tuple[Prometheus, int]
) -> None:
    server, end_s = prometheus
    (found,) = server.query(f"histogram_quantile({share}, sum by (le) (itl_bucket @ {end_s}))")
    ours = histogram_quantile(share, ITL_BOUNDS, SPREAD)
    assert ours == pytest.approx(float(found["value"][1]), rel=1e-6)


@pytest.mark.timeout(120)
def test_a_history_is_replayed(prometheus: tuple[Prometheus, int], tmp_path: Path) -> None:
    server, _ = prometheus
    options = ("--profile", "dense-27b", "--lead-seconds", "60", "--policies", "static-2,halftone")
    asked = ("--from-prometheus", server.url, "--range", "30m", "--rate-scale", "1")
    ended = halftone("replay", *asked, *options, "--json")
    assert ended.code == 0, ended.err
    static, ours = json.loads(ended.out)
    assert static["meanReplicas"] == 2.0
    assert static["replicaHours"] == pytest.approx(1.0, rel=0.1)
    assert ours["policy"] == "halftone"

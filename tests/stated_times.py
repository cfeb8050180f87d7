"""How soon whoever is to be told of an alert hears of it: computed from the rules, and as stated.

    within_s("ReplicaDown")     # 390.0, of the rules and the charts' own intervals
    stated()["ReplicaDown"]     # "6m30s", of docs/runbooks/README.md

Called by the contract test that holds the two together, and by `tests/alerting`, which waits so
long for an alert and no longer. A fault is whole here, and stays: every request fails, every first
token is late.
"""

import math
import re
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHARTS: Final = ROOT / "charts"
RULES: Final = CHARTS / "halftone-monitoring" / "rules"
RUNBOOKS: Final = ROOT / "docs" / "runbooks"
# Alertmanager's own default.
GROUP_WAIT_S: Final = 30.0
# A scrape that waits for its target is as long as two. What is recorded out of what is recorded
# takes an evaluation more, and is of targets that answer.
SCRAPES, EVALUATIONS = 2, 2
# Who scrapes what the rules of a file read: a value of a chart.
_SCRAPED: Final = {
    "endpoint": ("halftone-endpoint", "podMonitor"),
    "jobs": ("halftone-operator", "serviceMonitor"),
}
# What an alert has to see before it is true at all, as it stands in its rules: a window, or a share
# of one. Of several the longest. Where nothing is named, the first value that is scraped is enough.
_SEEN: Final = {
    "TimeToFirstTokenBurn": (r"in_time:ratio_rate(1h) > ([\d.]+) \* ([\d.]+)",),
    "RequestErrorBurn": (r"failed:ratio_rate(1h) > ([\d.]+) \* ([\d.]+)",),
    "KvCacheSaturated": (r"kv_cache_usage_ratio:avg\[(2m)\]",),
    "PreemptionsSustained": (r"preemptions:rate(2m)",),
    "ReplicasAtMaximum": (r"requests_waiting:sum\[5m\] offset (5m)",),
    # One that has fallen silent: so long a gauge of Ray's is looked back for.
    "ScalingHeld": (r"ray_halftone_scaling_desired_replicas{}\[(2m)\]",),
    "MetricContractBroken": (r"first_token_seconds_bucket:rate(5m)",),
    "OperatorNotReconciling": (
        r"queue_age_seconds:max > (300)",
        r"(0\.5) \* sum without \(result\) \(halftone:operator_reconciles:rate(15m)",
    ),
}
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_STEP_S: Final = 30  # what is stated is rounded up to that


def within_s(alert: str) -> float:
    """Seconds from the fault until the first notification, at most. Raises LookupError for an alert
    that there is not, or whose rules no longer say what they are known by here."""
    name, _, rule = _found(alert)
    text = (RULES / f"{name}.yaml").read_text()
    seen = [_product(alert, pattern, text) for pattern in _SEEN.get(alert, ())]
    return max(seen, default=0.0) + known_s(alert) + seconds(rule["for"]) + GROUP_WAIT_S


def known_s(alert: str) -> float:
    """Seconds until the alert's expression knows what is so by now: scrapes and evaluations."""
    name, group, _ = _found(alert)
    return SCRAPES * seconds(scraped(name)) + EVALUATIONS * seconds(group["interval"])


def scraped(name: str) -> str:
    """How often a chart has that scraped which the rules of the file `name` read."""
    chart, monitor = _SCRAPED[name]
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    return str(values[monitor]["interval"])


def _found(alert: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    for name in _SCRAPED:
        for group in yaml.safe_load((RULES / f"{name}.yaml").read_text())["groups"]:
            for rule in group["rules"]:
                if rule.get("alert") == alert:
                    return name, group, rule
    raise LookupError(f"there is no alert {alert}")


def _product(alert: str, pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise LookupError(f"the rules of {alert} do not say {pattern} any more")
    return math.prod(seconds(part) for part in found.groups())


def seconds(text: str) -> float:
    """Of a number, or a duration of Prometheus in one unit."""
    found = re.fullmatch(r"([\d.]+)([smh]?)", text)
    assert found is not None, text
    return float(found[1]) * _UNITS[found[2]]


def written(within: float) -> str:
    """As the runbooks have it, rounded up to half a minute."""
    minutes, rest = divmod(math.ceil(within / _STEP_S) * _STEP_S, 60)
    return f"{minutes}m{rest}s" if rest else f"{minutes}m"


def stated() -> dict[str, str]:
    """What the table of the runbooks says, by alert."""
    rows = re.findall(r"(?m)^\| \[(\w+)\].*?\|.*?\| (\S+) \|", (RUNBOOKS / "README.md").read_text())
    return dict(rows)

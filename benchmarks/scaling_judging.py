"""What the matrix says about the five targets, and its table.

Called by `benchmarks/scaling.py`. Pure: rows in, figures and lines out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from benchmarks.scaling_matrix import IN_SAMPLE, PEAK, Row

# A static count is good when it attains this much; the cheapest such is the best in hindsight.
_GOOD: Final = 0.99
REACTIVE: Final = (
    *("hpa-kv", "keda-waiting", "keda-tokens", "latency-ratio", "wva-v1", "ray-ongoing"),
)
# Share that is saved of what the oracle saves: the least for each load at each lead.
_LEAST_SAVED: Final = {"azure-2023-code": 0.5, "ramp": 0.5}
_LEAST_CONV: Final = 0.25
_TOLERATED: Final = 0.003
_NOISE: Final = 1e-9
_SLACK_S: Final = 45.0
_MISSES_MORE: Final = 0.02
_MOST_COST: Final = 1.25


@dataclass(frozen=True, slots=True)
class Group:
    """A load, lead, profile and start, over all seeds."""

    load: str
    lead_s: float
    profile: str
    start: str


@dataclass(frozen=True, slots=True)
class Mean:
    """Means over seeds. `hours` are replica-hours."""

    attainment: float
    hours: float
    replicas: float
    ttft_p99: float
    bound: float  # of the share of misses: (lead + 45 s) at the high rate


Table = Mapping[Group, Mapping[str, Mean]]


def averaged(rows: Iterable[Row]) -> Table:
    """By group and policy."""
    sorted_rows: dict[Group, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        case = row.case
        group = Group(case.load, case.lead_s, case.profile, case.start)
        sorted_rows[group][row.policy].append(row)
    return {
        group: {name: _mean(each, group.lead_s) for name, each in policies.items()}
        for group, policies in sorted_rows.items()
    }


def _mean(rows: Sequence[Row], lead_s: float) -> Mean:
    bounds = [(lead_s + _SLACK_S) * row.high_rate / row.requests for row in rows]
    return Mean(
        fmean(row.attainment for row in rows),
        fmean(row.replica_hours for row in rows),
        fmean(row.mean_replicas for row in rows),
        fmean(row.ttft_p99 for row in rows),
        fmean(bounds),
    )


def best_static(policies: Mapping[str, Mean]) -> str:
    """The cheapest count that attains `_GOOD`, or the one that attains most."""
    static = [name for name in policies if name.startswith("static-") and name[7:].isdigit()]
    good = [name for name in static if policies[name].attainment >= _GOOD]
    if good:
        return min(good, key=lambda name: policies[name].hours)
    most = max(policies[name].attainment for name in static)
    near = [name for name in static if policies[name].attainment >= most - _TOLERATED]
    return min(near, key=lambda name: policies[name].hours)


def dominated(table: Table, ours: str = "halftone") -> list[str]:
    """Where a published rule attains at least as much for at most the cost."""
    found = []
    for group, policies in table.items():
        mine = policies[ours]
        for name in REACTIVE:
            other = policies[name]
            same = abs(other.attainment - mine.attainment) + abs(other.hours - mine.hours) < _NOISE
            if other.attainment >= mine.attainment and other.hours <= mine.hours and not same:
                found.append(f"{label(group)}: {name}")
    return found


def saved(policies: Mapping[str, Mean], ours: str = "halftone") -> float | None:
    """S: the share of what the oracle saves against the best static count; None where we attain
    less than that count by more than 0.3 points. 1 where there is nothing to save and we cost no
    more.
    """
    static, mine, oracle = policies[best_static(policies)], policies[ours], policies["oracle"]
    if mine.attainment < static.attainment - _TOLERATED:
        return None
    possible = static.hours - oracle.hours
    if possible <= 0.01 * static.hours:
        return 1.0 if mine.hours <= 1.01 * static.hours else -1.0
    return (static.hours - mine.hours) / possible


def least_saved(group: Group) -> float:
    """What S should be."""
    if group.load in _LEAST_SAVED:
        return _LEAST_SAVED[group.load]
    if group.load == "azure-2023-conv" and group.lead_s == 100:
        return _LEAST_CONV
    return 0.0


def unsaved(table: Table) -> list[str]:
    """Groups where S is less than it should be, with what it is."""
    found = []
    for group, policies in table.items():
        share = saved(policies)
        if share is None:
            gap = policies[best_static(policies)].attainment - policies["halftone"].attainment
            found.append(f"{label(group)}: {100 * gap:.1f} points below the best static")
        elif share < least_saved(group):
            found.append(f"{label(group)}: S = {share:.2f} of {least_saved(group):.2f}")
    return found


def beyond_bound(table: Table) -> list[str]:
    """Where we miss more than the lead makes inevitable: from a cold start, and on a step."""
    found = []
    for group, policies in table.items():
        if group.start != "cold" and group.load != "step":
            continue
        mine = policies["halftone"]
        over = (1 - mine.attainment) - mine.bound - _MISSES_MORE
        if over > 0:
            found.append(f"{label(group)}: {100 * over:.1f} points")
    return found


def too_dear(table: Table) -> list[str]:
    """Where we cost more than 1.25 of the peak's static count."""
    return [
        f"{label(group)}: {policies['halftone'].hours / policies[f'static-{PEAK}'].hours:.2f}"
        for group, policies in table.items()
        if policies["halftone"].hours > _MOST_COST * policies[f"static-{PEAK}"].hours
    ]


def label(group: Group) -> str:
    """How a group is called in lines."""
    return f"{group.load}, {group.profile}, {group.lead_s:.0f} s, {group.start}"


def table_lines(table: Table, policies: Sequence[str]) -> list[str]:
    """Markdown: attainment (%) and replica-hours of each policy, S, and whether it is in sample."""
    head = ["load", "profile", "lead", "start", "sample", *policies, "best static", "S"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for group in sorted(table, key=lambda each: (each.load, each.profile, each.lead_s, each.start)):
        found = table[group]
        best = best_static(found)
        share = saved(found)
        cells = [
            *(group.load, group.profile, f"{group.lead_s:.0f}", group.start),
            "in" if group.load in IN_SAMPLE else "out",
            *(_cell(found[name]) for name in policies),
            f"{best[7:]}: {_cell(found[best])}",
            "-" if share is None else f"{share:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(mean: Mean) -> str:
    return f"{100 * mean.attainment:.1f} / {mean.hours:.1f}"

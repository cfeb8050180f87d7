"""Writes the metrics that rules, dashboards and the scaler need, and checks that they are fresh.

Called by `make generate` (`write`) and `make verify` (`check`). It parses every expression of the
chart `halftone-monitoring`, looks through what our own rules record, and adds what the scaler asks
for, and which rules there are. `halftone doctor` holds a Prometheus to the file; contract tests
hold the file to what is exported.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from halftone.scaling.inputs import queries
from halftone.scaling.inputs.names import FAMILIES, HISTOGRAMS, TARGET_LABELS
from halftone.telemetry.contract import Source
from tools.contract_tables import origin, when, whose
from tools.expressions import Expression, groups_of_rules, of_dashboards, of_rules
from tools.promql import UnreadableExpression, needed, recorded_in

ROOT: Final = Path(__file__).resolve().parent.parent
CONTRACT: Final = ROOT / "src" / "halftone" / "telemetry" / "contract.json"
_SCALER: Final = "scaler"
# What comes after this in a name is ours, recorded by one of our rules.
_RECORDED: Final = "halftone:"

# Names of metrics -> labels, and who needs it.
_Found = dict[str, tuple[set[str], set[str]]]


class Broken(ValueError):
    """Expressions that no contract can be made of; the message names the one and the way out."""


def of_scaler() -> Iterator[Expression]:
    """What `halftone.scaling.inputs` asks Prometheus for."""
    for family in FAMILIES:
        yield Expression(_SCALER, queries.read(family, "any", {}))
    yield Expression(_SCALER, queries.probe({}))
    yield Expression(_SCALER, queries.capacity("any", {}))


def contract(expressions: Iterable[Expression]) -> dict[str, Any]:
    """The file's content. Raises Broken."""
    every = list(expressions)
    recorded = {each.record: each.text for each in every if each.record is not None}
    found: _Found = defaultdict(lambda: (set(), set()))
    for each in every:
        for name, labels in _needed(each, recorded).items():
            if name.startswith(_RECORDED):
                raise Broken(f"{each.user}: no rule records `{name}`.")
            found[name][0].update(labels)
            found[name][1].add(each.user)
    _add_replicas(found)
    return {"metrics": [_row(name, *found[name]) for name in sorted(found)]}


def _needed(each: Expression, recorded: dict[str, str]) -> dict[str, set[str]]:
    """A recording rule needs what it names itself; all others need what is behind it too."""
    try:
        if each.record is None:
            return needed(each.text, recorded)
        direct = recorded_in(each.text)
        own = needed(each.text, {})
        return {name: own[name] for name in direct if name not in recorded}
    except UnreadableExpression as error:
        raise Broken(f"{each.user}: {error}.") from error


def _add_replicas(found: _Found) -> None:
    """Labels that the scaler reads of what comes back: replicas, targets, and bounds of buckets."""
    for family in FAMILIES:
        for field, name in family.series.items():
            if not name.startswith(_RECORDED):
                bounds = ("le",) if field in HISTOGRAMS else ()
                found[name][0].update(family.replica_labels, TARGET_LABELS, bounds)


def _row(name: str, labels: set[str], users: set[str]) -> dict[str, Any]:
    try:
        exporter = whose(name)
    except LookupError as error:
        raise Broken(f"{', '.join(sorted(users))}: {error.args[0]}.") from error
    existence = when(name)
    return {
        "name": name,
        "family": exporter.family,
        "source": exporter.source.name,
        "exists": str(existence.exists),
        "because": existence.because,
        **({} if existence.after is None else {"after": existence.after}),
        "labels": {label: str(origin(name, label)) for label in sorted(labels)},
        "neededBy": sorted(users),
    }


def groups(metrics: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of rules, and whose `metrics` each reads: where none of these runs nobody needs it."""
    sources: dict[str, set[str]] = defaultdict(set)
    for each in metrics:
        if each["source"] != Source.Prometheus.name:  # it is always there
            for user in each["neededBy"]:
                sources[user].add(each["source"])
    return [
        {
            "name": group.name,
            "family": group.family,
            "sources": sorted({one for user in group.users for one in sources[user]}),
            "rules": list(group.rules),
        }
        for group in groups_of_rules()
    ]


def written() -> str:
    """The file as it should be. Raises Broken."""
    told = contract([*of_rules(), *of_dashboards(), *of_scaler()])
    told["groups"] = groups(told["metrics"])
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """`write` or `check`."""
    if arguments not in (["write"], ["check"]):
        print("contract: `write` or `check`, and nothing else.", file=sys.stderr)
        return 2
    try:
        wanted = written()
    except Broken as error:
        print(f"contract: {error}", file=sys.stderr)
        return 1
    if arguments == ["write"]:
        CONTRACT.write_text(wanted, encoding="utf-8")
        return 0
    there = CONTRACT.read_text(encoding="utf-8") if CONTRACT.is_file() else ""
    if there == wanted:
        print("contract: the metrics that are needed fit rules, dashboards and the scaler")
        return 0
    print(f"{CONTRACT.relative_to(ROOT)} does not fit its sources; run `make generate`.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

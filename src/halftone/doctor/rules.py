"""Whether Prometheus runs our rules: each group whole, without an error, and on what is exported.

    findings = judge_rules(load_groups(), running(asking), diagnosis, recorded(asking))

Called by `halftone doctor --prometheus`. A dashboard reads what rules record, so a rule that fails
leaves it as empty as a metric that is gone. A page of an exporter knows nothing of rules.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from halftone.doctor.judging import Diagnosis, Finding, State, of_model
from halftone.scaling.inputs.asking import Asking
from halftone.scaling.inputs.names import FAMILIES, MODEL_LABEL, RECORDED
from halftone.scaling.inputs.parsing import UnusableAnswer
from halftone.telemetry.contract import Exists, Group, Need, Source

# What every replica exports that runs, and what is recorded of it.
_EXPORTED: Final = frozenset(family.series["running"] for family in FAMILIES)
_RECORDED: Final = RECORDED.series["running"]
_BECAUSE: Final = "nothing that it reads is there"

# By group and rule what Prometheus says is wrong with it; nothing where it is well.
Running = Mapping[str, Mapping[str, str]]


def running(asking: Asking) -> Running:
    """Every rule that this Prometheus runs. Raises UnusableAnswer."""
    found: dict[str, dict[str, str]] = {}
    try:
        for group in asking.read("rules")["groups"]:
            for rule in group["rules"]:
                # Two releases of the chart have groups of one name.
                rules = found.setdefault(str(group["name"]), {})
                name = str(rule["name"])
                rules[name] = rules.get(name, "") or _wrong(rule)
    except (KeyError, TypeError, AttributeError):
        raise UnusableAnswer("answers with something other than rules") from None
    return found


def _wrong(rule: Mapping[str, Any]) -> str:
    health = str(rule.get("health", "unknown"))
    if health == "ok":
        return str(rule.get("lastError") or "")
    fallback = "was not evaluated yet" if health == "unknown" else f"its health is {health}"
    return str(rule.get("lastError") or fallback)


def recorded(asking: Asking) -> frozenset[str]:
    """Models of whose replicas something is recorded. Raises UnusableAnswer."""
    samples = asking.ask(f"count by ({MODEL_LABEL}, namespace) ({_RECORDED})")
    return frozenset(of_model(sample.labels, MODEL_LABEL) for sample in samples)


def judge_rules(
    groups: Iterable[Group], running: Running, diagnosis: Diagnosis, recorded: frozenset[str]
) -> Iterator[Finding]:
    """How each group stands. One that reads of nobody who runs need not be there."""
    unrecorded = tuple(sorted(_exporting(diagnosis) - recorded - {""}))
    for group in groups:
        yield _finding(group, running, diagnosis, unrecorded)


def _finding(
    group: Group, running: Running, diagnosis: Diagnosis, unrecorded: tuple[str, ...]
) -> Finding:
    need = _need(group)
    rules = running.get(group.name)
    if rules is None:
        is_needed = bool(group.sources & diagnosis.live)
        return Finding(need, State.Missing if is_needed else State.Absent)
    failing = tuple(name for name, wrong in rules.items() if wrong)
    if failing:
        return Finding(need, State.RuleFailing, None, failing, rules[failing[0]])
    if missing := tuple(name for name in group.rules if name not in rules):
        return Finding(need, State.RuleMissing, None, missing)
    if unrecorded and _RECORDED in group.rules:
        return Finding(need, State.NotRecorded, None, unrecorded)
    return Finding(need, State.There)


def _exporting(diagnosis: Diagnosis) -> frozenset[str]:
    """Models whose replicas say how much they do."""
    seen = (each.seen for each in diagnosis.findings if each.need.name in _EXPORTED)
    return frozenset(model for each in seen if each is not None for model in each.models)


def _need(group: Group) -> Need:
    kind = "alert" if group.family == "alerts" else "rule"
    users = tuple(f"{kind} {name}" for name in group.rules)
    return Need(group.name, group.family, Source.Rules, Exists.UnderLoad, _BECAUSE, {}, users)

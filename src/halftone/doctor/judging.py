"""What was seen of each metric, held to the contract: there, missing, without a label, or old.

    diagnosis = judge(load_contract(), observed, Circumstances(is_scraped=True))
    diagnosis.ok, diagnosis.missing_by_family()

Called by `halftone doctor`; pure. A source is live when it has any fresh series. Of a live source
everything has to be there that always is, and of vLLM one source has to be live; a source that
nobody runs lacks nothing. What one model of an endpoint has, each other one of its source has too.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from halftone.telemetry.contract import BRINGS, NECESSARY, Exists, Need, Source

# Several scrapes at the longest interval that is usual, a minute.
MAX_AGE_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Series of one name: how many, how many of them lack a label, and the newest one's age.

    The age is in seconds; None where nothing says it, as on the page of an exporter. `models` are
    those that its series name, as `of_model` has them.
    """

    series: int
    lacking: Mapping[str, int] = field(default_factory=dict)
    age_s: float | None = None
    models: frozenset[str] = frozenset()


def of_model(labels: Mapping[str, str], label: str) -> str:
    """The model that a series is of, and its namespace if it has one; nothing if it has no model.

    Two endpoints of one name may be in two namespaces.
    """
    name, namespace = labels.get(label, ""), labels.get("namespace", "")
    return f"{name} in {namespace}" if name and namespace else name


class State(StrEnum):
    """How a need stands; `FAILING` are those that leave somebody blind."""

    There = "there"
    # Not there, and need not be: nobody runs its source, or nothing has happened yet.
    Absent = "absent"
    Missing = "missing"
    LabelMissing = "label missing"
    Old = "old"
    # There, and not of every model whose other series are.
    ModelMissing = "missing of a model"
    # Of groups of rules: another version's; with an error; not choosing what is exported.
    RuleMissing = "rule missing"
    RuleFailing = "rule failing"
    NotRecorded = "not recorded"


FAILING: Final = frozenset(State) - {State.There, State.Absent}


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Whether Prometheus was asked, which adds labels and has a past, and what counts as old."""

    is_scraped: bool
    max_age_s: float = MAX_AGE_S


@dataclass(frozen=True, slots=True)
class Finding:
    """One need, and how it stands; `lacking` are labels, models or rules that are gone.

    `told` is what Prometheus says of a rule that fails.
    """

    need: Need
    state: State
    seen: Seen | None = None
    lacking: tuple[str, ...] = ()
    told: str = ""

    @property
    def fails(self) -> bool:
        """Whether somebody is blind for it."""
        return self.state in FAILING


@dataclass(frozen=True)
class Diagnosis:
    """Every need, by name, and the sources that are live."""

    findings: tuple[Finding, ...]
    live: frozenset[Source]

    @property
    def ok(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not self.failing

    @property
    def failing(self) -> tuple[Finding, ...]:
        """What somebody is blind for."""
        return tuple(finding for finding in self.findings if finding.fails)

    def of(self, source: Source) -> tuple[Finding, ...]:
        """The needs of one source."""
        return tuple(finding for finding in self.findings if finding.need.source is source)

    def missing_by_family(self) -> dict[str, int]:
        """How many needs of each family fail, also 0."""
        failing = Counter(finding.need.family for finding in self.failing)
        families = sorted({finding.need.family for finding in self.findings})
        return {family: failing[family] for family in families}

    def beside(self, findings: Iterable[Finding]) -> "Diagnosis":
        """With these, of sources that run."""
        more = tuple(findings)
        there = {finding.need.source for finding in more if finding.state is not State.Absent}
        return Diagnosis((*self.findings, *more), self.live | there)


def judge(
    needs: Iterable[Need], observed: Mapping[str, Seen], circumstances: Circumstances
) -> Diagnosis:
    """How each need stands. On an exporter's page nothing of Prometheus itself is looked for."""
    every = [
        need for need in needs if circumstances.is_scraped or need.source is not Source.Prometheus
    ]
    return _Judgement(every, observed, circumstances).diagnosis()


class _Judgement:
    """One diagnosis while it is made."""

    def __init__(
        self, needs: list[Need], observed: Mapping[str, Seen], circumstances: Circumstances
    ) -> None:
        self._needs = needs
        self._observed = observed
        self._circumstances = circumstances
        fresh = [need for need in needs if self._is_fresh(need)]
        self._live = frozenset(need.source for need in fresh)
        # What exists for one reason exists together.
        self._together = {(need.source, need.because) for need in fresh}
        self._fresh = {need.name for need in fresh}
        self._models: dict[Source | tuple[Source, str] | str, set[str]] = defaultdict(set)
        for need in fresh:
            for key in (need.source, (need.source, need.because), need.name):
                self._models[key] |= observed[need.name].models

    def diagnosis(self) -> Diagnosis:
        """All of it."""
        return Diagnosis(tuple(map(self._finding, self._needs)), self._live)

    def _is_fresh(self, need: Need) -> bool:
        seen = self._observed.get(need.name)
        return seen is not None and (
            seen.age_s is None or seen.age_s <= self._circumstances.max_age_s
        )

    def _finding(self, need: Need) -> Finding:
        seen = self._observed.get(need.name)
        if self._is_fresh(need) and seen is not None:
            wanted = need.needed_labels(is_scraped=self._circumstances.is_scraped)
            if lacking := tuple(label for label in wanted if seen.lacking.get(label)):
                return Finding(need, State.LabelMissing, seen, lacking)
            models = tuple(sorted(self._models_with(need) - seen.models))
            return Finding(need, State.ModelMissing if models else State.There, seen, models)
        if not self._has_to_be_there(need):
            return Finding(need, State.Absent, seen)
        return Finding(need, State.Missing if seen is None else State.Old, seen)

    def _has_to_be_there(self, need: Need) -> bool:
        if not self._has_to_be_live(need.source):
            return False
        match need.exists:
            case Exists.Always:
                return True
            case Exists.Intermittent:
                return self._circumstances.is_scraped
            case Exists.UnderLoad:
                return (need.source, need.because) in self._together or need.after in self._fresh
            case Exists.Optional:
                return False

    def _models_with(self, need: Need) -> set[str]:
        """Those that must have it."""
        if need.model_label is None:
            return set()
        match need.exists:
            case Exists.Always:
                return self._models[need.source]
            case Exists.UnderLoad:
                return self._models[need.source, need.because] | self._models[need.after or ""]
            case Exists.Intermittent | Exists.Optional:
                return set()

    def _has_to_be_live(self, source: Source) -> bool:
        brought = any(BRINGS.get(live) is source for live in self._live)
        necessary = source in NECESSARY and not NECESSARY & self._live
        return source in self._live or brought or necessary

"""The way out of each finding, a sentence for a source.

Called by `halftone doctor` for its table and its JSON. Pure.
"""

from typing import Final

from halftone.doctor.judging import Diagnosis, Finding, State
from halftone.spec.presentation import printable
from halftone.telemetry.contract import Source

_VLLM: Final = (
    "No series of vLLM, neither its own nor through Ray: is the endpoint scraped "
    "(`podMonitor.enabled` of halftone-endpoint), and did it answer a request? Through Ray series "
    "come with the first one."
)
# Of a source that has no live series at all and must have some.
_SILENT: Final = {
    Source.VllmServer: _VLLM,
    Source.VllmRay: _VLLM,
    Source.Ray: "Nothing of Ray's own: are all ports of metrics of its nodes scraped "
    "(`podMonitor.enabled` of halftone-endpoint)?",
}
_VERSIONS: Final = (
    "Others of {source} are there, so its version may have renamed it, or a relabelling drops it: "
    "run the version that this Halftone was made for, or a Halftone that knows that version."
)
# Of a source whose other series are there.
_PARTLY: Final = {
    Source.Operator: "Operator and chart are of different versions: upgrade both to one.",
    Source.Autoscale: "`halftone autoscale` and the rules are of different versions: upgrade both.",
    Source.AutoscaleRay: "The endpoint's image and the rules are of different versions: upgrade "
    "both.",
    Source.EndpointServer: "The endpoint's image and the rules are of different versions: upgrade "
    "both.",
    Source.EndpointRay: "The endpoint's image and the rules are of different versions: upgrade "
    "both.",
    Source.KubeState: "Let kube-state-metrics export it: `--resources` or `--metric-allowlist` of "
    "its own leave it out.",
    Source.Dcgm: "Let DCGM's exporter export the field: it is a line of its list of counters.",
}
_LABEL: Final = (
    "A relabelling (`metricRelabelings`, `labeldrop`) takes it away, or the exporter renamed it."
)
_MODEL: Final = (
    "Its endpoint runs another version than those that have it, or a relabelling drops it there: "
    "upgrade all to one, or look with `--model` at this one alone."
)
_GROUP: Final = (
    "Prometheus does not run it: do its labels choose the chart's PrometheusRules (`rules.labels` "
    "of halftone-monitoring), or its `rule_files` name them? Whoever runs rules elsewhere, or "
    "wants none, says `--without rules --without alerts`."
)
_OTHER_RULES: Final = (
    "Prometheus runs the rules of another version: upgrade halftone-monitoring, or its files."
)
_FAILS: Final = (
    "Prometheus says{told}. Two scrapes of one target with the same labels are the usual cause; "
    "a rule that was just loaded is evaluated within its interval."
)
_UNRECORDED: Final = (
    "The rules do not choose its series, or have not yet: does `rules.selector` of "
    "halftone-monitoring fit them?"
)
_OLD: Final = (
    "Prometheus no longer gets it: look at the target (`up == 0`), and at who exported it last."
)


def fix(finding: Finding, diagnosis: Diagnosis) -> str:
    """What to do about a need; of one that fails nobody, why it may be absent, or nothing."""
    source = finding.need.source
    match finding.state:
        case State.There:
            return ""
        case State.Absent:
            is_live = source in diagnosis.live or source is Source.Rules
            because = finding.need.because
            return f"May be absent: {because}." if is_live else f"Nothing of {source} is there."
        case State.LabelMissing:
            return _LABEL
        case State.Old:
            return _OLD
        case State.ModelMissing:
            return _MODEL
        case State.RuleMissing:
            return _OTHER_RULES
        case State.RuleFailing:
            return _FAILS.format(told=f": {printable(finding.told)}")
        case State.NotRecorded:
            return _UNRECORDED
        case State.Missing if source is Source.Rules:
            return _GROUP
        case State.Missing:
            if source not in diagnosis.live and source in _SILENT:
                return _SILENT[source]
            return _PARTLY.get(source, _VERSIONS.format(source=source))

"""The dashboard of QuantizationJobs: where they are, how long stages take, what gates say.

Called by the command. No job's name is a label, so it counts jobs; `kubectl get qj` names them.
"""

from typing import Any, Final

from tools.dashboards import queries, variables
from tools.dashboards.boards import board
from tools.dashboards.panels import (
    BAD,
    HALF,
    THIRD,
    TWO_THIRDS,
    WARN,
    Panel,
    Told,
    bars,
    graph,
    number,
)
from tools.dashboards.queries import NOT_TRUE, Query, jobs, operator_rate

UID: Final = "halftone-quantization"
_JOBS: Final = "short"
_NONE: Final = "No jobs, or the operator is not scraped"
_SUMMARY: Final = 'condition="Succeeded"'
_VALIDATED: Final = 'condition="Validated"'
# Stages that take hours on large models; most of their time should be work.
_LONG: Final = ((4 * 3600, WARN), (12 * 3600, BAD))
_READ: Final = operator_rate("halftone_checkpoint_read_bytes_total")
_SPEED: Final = (
    "Bytes of sources that jobs read a second while they quantize, as workers tell it on their "
    "way. What ends within seconds does not show, and runs of Kubeflow Pipelines tell nothing."
)
# As a share of the limit: below it a gate failed, a twentieth is within what runs differ by.
_ROOM: Final = ((-1000, BAD), (0, WARN), (0.05, "green"))


def _counted(title: str, says: str, expression: str, limits: Any = ()) -> Panel:
    return number(Told(title, says, _JOBS, "0"), Query(f"sum({expression})"), limits)


def _overview() -> list[Panel]:
    return [
        _counted(
            "Running",
            "Jobs with something left to do. Good: it goes down again.",
            jobs("reason", _SUMMARY, 'status="Unknown"'),
        ),
        _counted(
            "Succeeded",
            "Jobs that are done and still there. Good: all that are not running.",
            jobs("reason", _SUMMARY, 'status="True"'),
        ),
        _counted(
            "Failed",
            "Jobs that ended otherwise and are still there. Good: 0.",
            jobs("reason", _SUMMARY, NOT_TRUE),
            ((1, BAD),),
        ),
        _counted(
            "Failed gates",
            "Jobs whose report did not pass. Good: 0; a gate that fails keeps bad weights in.",
            jobs("reason", _VALIDATED, NOT_TRUE, 'reason=~"Gate.*"'),
            ((1, BAD),),
        ),
        number(
            Told(
                "Oldest running stage",
                "Good: below what the plan of the job promises; hours are usual for large models.",
                "s",
                "None runs",
            ),
            Query(f"max({queries.STAGE_RUNNING})"),
            _LONG,
        ),
        number(
            Told(
                "Quantizing",
                f"{_SPEED} Good: near the disk's or the store's speed while a data-free job runs.",
                "Bps",
                _NONE,
            ),
            Query(_READ),
        ),
        graph(
            Told(
                "Jobs by state",
                "By the reason of the summary. Good: stages of work, then Published; what else "
                "stands here waits for somebody.",
                _JOBS,
                _NONE,
            ),
            Query(jobs("reason", _SUMMARY), "{{reason}}"),
            width=HALF,
            stacked=True,
            table=True,
        ),
        graph(
            Told(
                "Running stages",
                "For how long the oldest Job of each stage has run. Good: it ends.",
                "s",
                "None runs",
            ),
            Query(queries.STAGE_RUNNING, "{{stage}}"),
            limits=_LONG,
            width=HALF,
        ),
    ]


def _stages() -> list[Panel]:
    ended = "No stage ended in this time"
    return [
        bars(
            Told(
                "Usual duration",
                "Median of stages that succeeded in the time that is shown. Good: quantize is the "
                "largest of data-free jobs, validate of those with gates on a server.",
                "s",
                ended,
            ),
            Query(queries.stage_quantile(0.5), "{{stage}}"),
        ),
        bars(
            Told(
                "Long durations",
                "What one in twenty exceeded. Good: not far above the median for jobs of one size.",
                "s",
                ended,
            ),
            Query(queries.stage_quantile(0.95), "{{stage}}"),
            limits=_LONG,
        ),
        bars(
            Told(
                "Stages that ended",
                "In the time that is shown, by stage and result. Good: succeeded alone.",
                _JOBS,
                ended,
            ),
            Query(queries.STAGES_ENDED, "{{stage}} {{result}}"),
        ),
    ]


def _bytes() -> list[Panel]:
    return [
        graph(
            Told(
                "Speed of quantizing",
                f"{_SPEED} Good: near the disk's or the store's speed while a data-free job runs.",
                "Bps",
                _NONE,
            ),
            Query(_READ, "read"),
            width=TWO_THIRDS,
        ),
        bars(
            Told(
                "Bytes in this time",
                "Of checkpoints that were written and artifacts that were published in the time "
                "that is shown; each counts when its stage ends. Good: published follows written.",
                "decbytes",
                _NONE,
            ),
            Query(queries.total("halftone_checkpoint_written_bytes_total"), "written"),
            Query(queries.total("halftone_artifact_published_bytes_total"), "published"),
        ),
    ]


def _verdicts() -> list[Panel]:
    return [
        bars(
            Told(
                "Verdicts",
                "Jobs by what validation said of them. Good: Validated; GateInconclusive wants "
                "more items, not another recipe.",
                _JOBS,
                _NONE,
            ),
            Query(jobs("status, reason", _VALIDATED), "{{reason}}"),
            width=THIRD,
        ),
        graph(
            Told(
                "Failed gates by reason",
                "Jobs whose report failed or decided nothing. Good: none; the page of the report "
                "says which gate, by how much, and why.",
                _JOBS,
                "None",
            ),
            Query(jobs("reason", _VALIDATED, NOT_TRUE), "{{reason}}"),
            limits=((1, BAD),),
        ),
        bars(
            Told(
                "Least room to a gate's limit",
                "By metric, over the jobs that are there, as a share of the limit. Good: well "
                "above 0; below it a gate failed, and what comes near it will fail by chance.",
                "percentunit",
                "No gate with a limit has a score",
            ),
            Query(queries.HEADROOM, "{{metric}}"),
            limits=_ROOM,
        ),
        graph(
            Told(
                "Other failures",
                "Jobs of which another stage failed, by reason. Good: none; the reference of "
                "reasons says what to do.",
                _JOBS,
                "None",
            ),
            Query(
                jobs("condition, reason", 'condition!~"Validated|Succeeded"', NOT_TRUE),
                "{{condition}}: {{reason}}",
            ),
            limits=((1, BAD),),
            table=True,
        ),
    ]


def made() -> dict[str, Any]:
    """The dashboard."""
    return board(
        UID,
        "Halftone / Quantization",
        "QuantizationJobs by state, how long their stages take, and what their gates said.",
        [variables.datasource(), variables.namespace("halftone_operator_is_leader")],
        _overview(),
        {
            "Stages": _stages(),
            "Bytes": _bytes(),
            "Verdicts and failures": _verdicts(),
        },
        "24h",
    )

"""The dashboard of the operator of QuantizationJobs: whether it looks at them, and how fast.

Called by the command. Nothing here speaks of a job's work; the dashboard of quantization does.
"""

from typing import Any, Final

from tools.dashboards import queries, variables
from tools.dashboards.boards import board
from tools.dashboards.panels import BAD, HALF, WARN, Panel, Told, graph, number, states
from tools.dashboards.queries import Query, operator_gauge, operator_rate, reconcile_quantile

UID: Final = "halftone-operator"
_LEADER: Final = "halftone_operator_is_leader"
_PIPELINES: Final = "halftone_operator_pipeline_requests_total"
_GONE: Final = "The operator is not scraped"
_QUEUE: Final = ((60, WARN), (300, BAD))


def _overview() -> list[Panel]:
    return [
        number(
            Told("Leaders", "Replicas that act. Good: 1, always.", "short", _GONE),
            Query(queries.LEADERS, "{{namespace}}"),
            ((0, BAD), (1, "green"), (2, BAD)),
        ),
        number(
            Told(
                "Oldest waiting",
                "For how long a job has not been looked at. Good: below a minute.",
                "s",
                _GONE,
            ),
            Query(f"max({queries.QUEUE_AGE})"),
            _QUEUE,
        ),
        number(
            Told("Waiting", "Jobs that wait to be looked at. Good: near 0.", "short", _GONE),
            Query(f"max({operator_gauge('halftone_operator_queue_length')})"),
            ((10, WARN), (100, BAD)),
        ),
        number(
            Told(
                "Metrics as expected",
                "What `halftone doctor` found. Good: 1; at 0 rules or panels miss a metric.",
                "short",
                "No doctor looks",
            ),
            Query(queries.CONTRACT),
            ((0, BAD), (1, "green")),
        ),
        number(
            Told("Visit, p95", "One in twenty takes longer. Good: below a second.", "s", _GONE),
            Query(reconcile_quantile(0.95)),
            ((1, WARN), (5, BAD)),
        ),
        number(
            Told(
                "API server failing",
                "The share of requests with no answer, 429 or 5xx. Good: 0.",
                "percentunit",
                _GONE,
            ),
            Query(queries.API_ERROR_RATIO),
            ((0.01, WARN), (0.1, BAD)),
        ),
    ]


def _visits() -> list[Panel]:
    quantiles = (
        Query(reconcile_quantile(share), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)
    )
    return [
        graph(
            Told(
                "Visits by result",
                "Reconciles a second, of a quarter of an hour. Good: done; conflict is somebody "
                "else's write and is tried again, error is not.",
                "ops",
                _GONE,
            ),
            Query(queries.VISITS, "{{result}}"),
            stacked=True,
        ),
        graph(
            Told(
                "Duration of a visit",
                "Its requests included. Good: well below a second; slow ones wait for the API "
                "server.",
                "s",
                _GONE,
            ),
            *quantiles,
            limits=((1, WARN), (5, BAD)),
        ),
        graph(
            Told(
                "Age of the queue",
                "For how long the oldest waiting job has not been looked at. Good: seconds.",
                "s",
                _GONE,
            ),
            Query(queries.QUEUE_AGE, "{{namespace}}"),
            limits=_QUEUE,
        ),
        graph(
            Told(
                "Length of the queue",
                "Jobs that wait to be looked at. Good: it empties after each burst.",
                "short",
                _GONE,
            ),
            Query(operator_gauge("halftone_operator_queue_length"), "{{namespace}}"),
            width=HALF,
        ),
        states(
            Told(
                "Who leads",
                "Good: one band says leads at each time; none, and no job is looked at.",
                "short",
                _GONE,
            ),
            Query(operator_gauge(_LEADER, "max", "namespace, instance"), "{{instance}}"),
            names={0: ("looks on", "blue"), 1: ("leads", "green")},
        ),
    ]


def _requests() -> list[Panel]:
    return [
        graph(
            Told(
                "Requests to the API server",
                "By method and status; 0 is no answer. Good: 200 and 201, with some 404 and 409.",
                "reqps",
                _GONE,
            ),
            Query(queries.API_REQUESTS, "{{method}} {{status}}"),
            width=HALF,
            table=True,
        ),
        graph(
            Told(
                "Requests to Kubeflow Pipelines",
                "By what came of them. Good: done; unreachable lets jobs of that runner wait.",
                "reqps",
                "No job runs as a pipeline",
            ),
            Query(operator_rate(_PIPELINES, "result"), "{{result}}"),
            width=HALF,
        ),
    ]


def made() -> dict[str, Any]:
    """The dashboard."""
    return board(
        UID,
        "Halftone / Operator",
        "Whether the operator looks at its QuantizationJobs, how fast, and what it waits for.",
        [variables.datasource(), variables.namespace(_LEADER)],
        _overview(),
        {"Visits and queue": _visits(), "Requests": _requests()},
        "6h",
    )

"""Rows of the dashboard of endpoints: why there are so many replicas, what they answer and cost.

Called by `endpoint`, which has the others; one file would be too long.
"""

from typing import Final

from halftone.scaling.policy import Term
from tools.dashboards import queries
from tools.dashboards.panels import (
    BAD,
    HALF,
    PALETTE,
    Panel,
    Told,
    bars,
    graph,
    states,
)
from tools.dashboards.queries import Query, scaling

_MODEL: Final = "{{model_name}}"
# Of what cannot be added up over namespaces.
_ENDPOINT: Final = f"{_MODEL} {{{{namespace}}}}"
_OURS: Final = "{{model}}"
_QUIET: Final = "None in this time, or replicas are not scraped"


def scaled() -> list[Panel]:
    """The row of scaling."""
    terms = {
        place: (str(term), colour)
        for place, (term, colour) in enumerate(zip(Term, PALETTE, strict=True), 1)
    }
    flags = [Query(scaling(name, by), f"{_MODEL}: {legend}") for name, by, legend in queries.STATES]
    return [
        states(
            Told(
                "The term that binds",
                "Which term of the law decided the count. Good: Rate, Window or Floor most of the "
                "time; Bounds is a limit of yours, Missing an input that is not there.",
                "short",
                "Nothing scales",
            ),
            Query(queries.TERM, _ENDPOINT),
            names=terms,
        ),
        states(
            Told(
                "What keeps it from scaling",
                "Good: nothing. Held and failed change no count; a conflict is somebody else's.",
                "short",
                "Nothing scales",
            ),
            *flags,
            names={0: ("no", "green"), 1: ("yes", BAD)},
        ),
        graph(
            Told(
                "Asked by each term",
                "Replicas that each term alone would want, before rounding. Good: Rate on top; the "
                "highest one is what is scaled to.",
                "short",
            ),
            Query(
                scaling("asked_replicas", f"{queries.ENDPOINT}, term"), f"{{{{term}}}} {_ENDPOINT}"
            ),
            table=True,
        ),
        graph(
            Told(
                "Lead time",
                "From the ask until a replica is ready, as the law reckons. Good: steady; twice as "
                "long is images or weights that are fetched anew, or nodes that do not come.",
                "s",
            ),
            Query(scaling("lead_seconds"), _ENDPOINT),
        ),
        graph(
            Told(
                "Speed over capacity card",
                "How many times as fast replicas are as their card says. Good: near 1; far from it "
                "the card is another device's or engine's.",
                "short",
            ),
            Query(scaling("capacity_ratio"), _ENDPOINT),
        ),
    ]


def answered() -> list[Panel]:
    """The row of answers, and of replicas that start."""
    return [
        graph(
            Told(
                "Answers by status",
                "Answers a second. Good: 200 alone; 499 are clients that left.",
                "reqps",
            ),
            Query(queries.answers("status"), "{{status}}"),
            stacked=True,
        ),
        graph(
            Told(
                "Errors by status",
                "Answers a second with 4xx or 5xx. Good: none of 5xx; 429 is a queue that is full.",
                "reqps",
                _QUIET,
            ),
            Query(queries.answers("model_name, status", "[45].."), f"{{{{status}}}} {_MODEL}"),
            table=True,
        ),
        graph(
            Told(
                "Shares that failed",
                "5xx and 429 over all answers. Good: both 0.",
                "percentunit",
            ),
            Query(queries.ERROR_RATIO, f"5xx {_MODEL}"),
            Query(queries.REFUSED_RATIO, f"429 {_MODEL}"),
            limits=((0.01, BAD),),
        ),
        graph(
            Told(
                "Room in replicas",
                "Requests that run or wait, and how many may before the next gets 429. Good: well "
                "apart.",
                "short",
            ),
            Query(queries.in_flight("requests_in_flight"), f"in flight {_OURS}"),
            Query(queries.in_flight("requests_limit"), f"limit {_OURS}"),
        ),
        bars(
            Told(
                "Replicas that did not start",
                "By reason, the most of half an hour in the time that is shown. Good: none; a "
                "refused artifact stands here.",
                "short",
                _QUIET,
            ),
            Query(queries.LOAD_FAILURES, f"{_MODEL}: {{{{reason}}}}"),
            limits=((1, BAD),),
        ),
        bars(
            Told(
                "Steps of the last start",
                "How long each step took, the slowest replica of the time that is shown. Good: "
                "mostly engine; weights grow when nothing is cached.",
                "s",
                "No replica started in this time",
            ),
            Query(queries.LOAD_SECONDS, f"{_OURS}: {{{{step}}}}"),
        ),
    ]


def spent() -> list[Panel]:
    """The row of cost."""
    unit = "suffix: a million"
    return [
        graph(
            Told(
                "Cost of generated tokens",
                "Replicas at the price above, over tokens that were generated. Good: steady while "
                "the load is; it rises where replicas idle.",
                unit,
                "No tokens in this time",
            ),
            Query(queries.COST_GENERATED, _MODEL),
            width=HALF,
        ),
        graph(
            Told(
                "Cost of all tokens",
                "The same over prompt and generated tokens together, cached ones included. Good: "
                "it falls with prefix-cache hits.",
                unit,
                "No tokens in this time",
            ),
            Query(queries.COST_ALL, _MODEL),
            width=HALF,
        ),
    ]

"""The PromQL of a reading: one query for all of it, so that all of it is of one moment.

Called by `prometheus`. Each series comes with the label `halftone_field`, which says what it is, by
which `assembling` reads the answer; `<field>:time` is when it was scraped. It asks nothing itself.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from halftone.scaling.inputs import capacity_gauges
from halftone.scaling.inputs.names import (
    FAMILIES,
    HISTOGRAMS,
    MODEL_LABEL,
    NATIVE,
    RAY,
    RAY_NODE,
    Family,
)
from halftone.scaling.reading import COUNTERS, GAUGES

FIELD: Final = "halftone_field"
TIME: Final = ":time"  # behind a field's name
NOW: Final = "now"  # Prometheus's own clock
NODE: Final = "node"  # `up` of what exports a node of Ray
TARGET: Final = "target"  # `up` of what exported series of the model

# A target that has not exported for so long is another one's business. Longer than an outage
# during which somebody would want to know which target it was; no physics.
_LATELY: Final = "10m"


def read(family: Family, model: str, selector: Mapping[str, str]) -> str:
    """Values, times, buckets, targets and the time of one model's replicas."""
    return " or ".join(_arms(family, model, selector))


def probe(selector: Mapping[str, str]) -> str:
    """How many series of which name each model has, of the fields that say most in each family."""
    names = "|".join(sorted(_told_by()))
    chosen = braces({**selector}, f'__name__=~"{names}"')
    return f"count by (__name__, {MODEL_LABEL}) ({chosen})"


def capacity(model: str, selector: Mapping[str, str]) -> str:
    """What one model's replicas say that each can do, from vLLM's own server or through Ray."""
    chosen = {capacity_gauges.MODEL: model, **selector}
    return braces(chosen, f'__name__=~"(ray_)?{capacity_gauges.SERIES}"')


def _told_by() -> set[str]:
    """A gauge, and a counter that is there when Ray's gauges are not."""
    return {family.series[field] for family in FAMILIES for field in ("running", "prompt_tokens")}


def _arms(family: Family, model: str, selector: Mapping[str, str]) -> Iterator[str]:
    chosen = {MODEL_LABEL: model, **selector}
    for field in (*GAUGES, *COUNTERS):
        series = family.series[field] + braces(chosen)
        yield _marked(series, field)
        if family.time is None:
            yield _marked(f"timestamp({series})", field + TIME)
    if family.time is not None:
        yield _marked(family.time + braces(chosen), GAUGES[0] + TIME)
        # A rule that no longer runs leaves its last sample for five minutes.
        yield _marked(f"timestamp({family.time}{braces(chosen)})", GAUGES[1] + TIME)
    for field in HISTOGRAMS:
        yield _marked(family.series[field] + braces(chosen), field)
    node = f"last_over_time({RAY_NODE}{braces(selector)}[{_LATELY}])"
    yield _marked(_up(node, selector), NODE)
    for source in (NATIVE, RAY):
        series = source.series["prompt_tokens"] + braces(chosen)
        yield _marked(_up(f"last_over_time({series}[{_LATELY}])", selector), TARGET)
    yield _marked("vector(time())", NOW)


def _up(exported: str, selector: Mapping[str, str]) -> str:
    """`up` of the targets that exported this."""
    return f"(up{braces(selector)} and on (job, instance) {exported})"


def _marked(series: str, field: str) -> str:
    return f'label_replace({series}, "{FIELD}", "{field}", "", "")'


def braces(labels: Mapping[str, str], *more: str) -> str:
    """Matchers of these labels, behind `more` that are written out."""
    chosen = (f"{name}={_quoted(value)}" for name, value in labels.items())
    return "{" + ", ".join((*more, *chosen)) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

"""The chart's suites of rules as promtool 2.42 takes them.

Called by the contract test that holds rules and suites to Debian 12's Prometheus. What alerts say
stays as it is, word for word. That promtool compares floats exactly and refuses `fuzzy_compare`, so
what an expression gives is compared in PromQL, within a billionth:

    adapted(yaml.safe_load(text), CHART / "tests")
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_TOLERANCE: Final = "1e-9"
_SERIES: Final = re.compile(r"^([a-zA-Z_:][\w:]*)?\s*(?:\{(.*)\})?$", re.DOTALL)
_LABEL: Final = re.compile(r'(\w+)\s*=\s*("(?:[^"\\]|\\.)*")')
# Arithmetic drops a series' name, so it is kept in a label that no series has.
_NAME: Final = "of_series"


def adapted(suite: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A suite that stands in `folder`, for whoever reads it elsewhere."""
    told = {key: value for key, value in suite.items() if key != "fuzzy_compare"}
    told["rule_files"] = [str((folder / path).resolve()) for path in suite["rule_files"]]
    told["tests"] = [
        {**test, "promql_expr_test": [one for case in asked(test) for one in compared(case)]}
        for test in suite["tests"]
    ]
    return told


def asked(test: dict[str, Any]) -> list[dict[str, Any]]:
    """What a test asks in PromQL."""
    found: list[dict[str, Any]] = test.get("promql_expr_test", [])
    return found


def compared(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Expressions that give nothing when a case's samples are there, and no others."""
    samples = case.get("exp_samples") or []
    if not samples:
        yield case
        return
    wanted = " or ".join(_constant(each["labels"], float(each["value"])) for each in samples)
    found = f'label_replace({case["expr"]}, "{_NAME}", "$1", "__name__", "(.*)")'
    near = f"abs(({found}) - ({wanted})) <= {_TOLERANCE} * (1 + abs({wanted}))"
    for expression in (f"({found}) unless ({near})", f"({wanted}) unless ({found})"):
        yield {"expr": expression, "eval_time": case["eval_time"], "exp_samples": []}


def _constant(series: str, value: float) -> str:
    """A vector of one sample with the labels of a series, its name among them.

    Raises ValueError for what is no series, and for a value that nothing is near to.
    """
    parts = _SERIES.match(series.strip())
    if parts is None or not math.isfinite(value):
        raise ValueError(f"{series} {value} cannot be compared; write a series and a finite value")
    labels = _LABEL.findall(parts[2] or "")
    if parts[1]:
        labels.append((_NAME, f'"{parts[1]}"'))
    text = f"vector({value!r})"
    for name, quoted in labels:
        text = f'label_replace({text}, "{name}", {quoted.replace("$", "$$")}, "", "")'
    return text

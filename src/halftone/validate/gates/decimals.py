"""Measured numbers as reports write them. Called by the gates that measure by floats."""

from math import isfinite


def decimal_text(value: float | None, digits: int = 6) -> str:
    """`value` with `digits` decimals and no exponent; `unbounded` where it is no finite number."""
    if value is None or not isfinite(value):
        return "unbounded"
    return f"{value:.{digits}f}"

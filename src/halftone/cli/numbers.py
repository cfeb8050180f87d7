"""Numbers of the command line that are numbers: click's own ranges let `nan` through.

Used by verbs that compute with what they are given.
"""

import math
from typing import Any

import click


class Finite(click.FloatRange):
    """A range without `nan` and infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a number to compute with", param, ctx)
        return found

"""`sweep.json`: what was measured, what it weighs, and what is proposed from it.

Written by `halftone sweep` beside the recipe and the plot, and read by people and programs; no
stage of a job reads it. Decimals are strings, because documents hold no floats.
"""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from halftone.quantize.sweep.candidates import Standing
from halftone.spec.documents import Document, Notice, PlanSource
from halftone.spec.formats import Format
from halftone.spec.job import Recipe, RolePrecision
from halftone.spec.names import API_VERSION
from halftone.spec.roles import Role
from halftone.spec.statistics import MeasuredData


class Measure(StrEnum):
    """What a loss is made of; `halftone.quantize.sweep.losses` has both formulas."""

    # Mean squared relative error of the weights that a token meets.
    WeightError = "WeightError"
    # Sum over layers of the mean squared relative error of the layer's output.
    OutputDivergence = "OutputDivergence"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoleFormat(_Part):
    """One role in one format, None for kept.

    `bytes` is what the role's tensors take, None where planning refuses the format; `weightError`
    is ||W - W'|| / ||W||; `loss` is what the choice adds up.
    """

    role: Role
    format: Format | None
    standing: Standing
    because: str | None
    bytes: int | None
    weightError: str | None
    loss: str | None


class LayerDivergence(_Part):
    """How far one layer's output moves when one role of it is in one format."""

    layer: int
    role: Role
    format: Format
    divergence: str


class Divergences(_Part):
    """What `measuring` hands back: on which data, and how far each layer's output moved."""

    data: tuple[MeasuredData, ...]
    layers: tuple[LayerDivergence, ...]


class MeasuredRole(_Part):
    """How much of a role was measured: layers by number, and units (matrices that share a scale).

    `tokenShare` is the role's part of the quantizable weights that one token meets; None where the
    configuration does not say how many experts that are.
    """

    role: Role
    layers: int
    measuredLayers: tuple[int, ...]
    measuredUnits: int
    tokenShare: str | None


class Point(_Part):
    """A precision list with what it weighs and its predicted loss; None where a part is unknown.

    `bytes` are those of all tensors, kept ones and KV scales included, as `halftone plan` states
    them.
    """

    precision: tuple[RolePrecision, ...]
    bytes: int
    loss: str | None


class Preset(Point):
    """A preset's precision list on this model, everything else as in the sweep."""

    name: str


class SweepDocument(Document):
    """What `halftone sweep` found. `front` is every combination that no other beats in both.

    `planDigest` and `warnings` are those of the plan which the proposed recipe gives.
    """

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["Sweep"] = "Sweep"
    halftoneVersion: str
    architecture: str
    source: PlanSource
    budgetBytes: int
    measure: Measure
    data: tuple[MeasuredData, ...]
    roles: tuple[MeasuredRole, ...]
    formats: tuple[RoleFormat, ...]
    layers: tuple[LayerDivergence, ...]
    combinations: int
    front: tuple[Point, ...]
    presets: tuple[Preset, ...]
    proposed: Point
    recipe: Recipe
    planDigest: str
    warnings: tuple[Notice, ...]

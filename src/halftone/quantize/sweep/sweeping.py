"""A sweep from headers to a proposal: price, measure, choose, and plan what was chosen.

    prepared = prepare(checkpoint, recipe, Wanted(budget_bytes=9_000_000_000))
    errors = measure_weights(prepared, workers=2, advance=shown.advance)
    document = propose(prepared, errors, divergences=None)

Called by `halftone sweep`. Divergences come from `measuring`, which runs in another environment;
without them the choice goes by weight error. Nothing is written here and nothing is applied.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

from halftone import __version__
from halftone.checkpoint.index import Checkpoint
from halftone.plan.planning import plan_checkpoint
from halftone.quantize.sweep.candidates import (
    Candidate,
    Candidates,
    Standing,
    candidates,
    total_bytes,
    with_precision,
)
from halftone.quantize.sweep.choosing import Column, Combination, Combinations, Option
from halftone.quantize.sweep.document import (
    Divergences,
    Measure,
    MeasuredRole,
    Point,
    Preset,
    RoleFormat,
    SweepDocument,
)
from halftone.quantize.sweep.losses import (
    EXPERTS_PER_TOKEN,
    Losses,
    divergence_losses,
    token_shares,
    weight_losses,
)
from halftone.quantize.sweep.sampling import Sampled, Unit, sampled
from halftone.quantize.sweep.weight_errors import (
    UnitErrors,
    WeightError,
    measure,
    relative,
)
from halftone.spec.documents import Method, Plan
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.job import Recipe, RolePrecision
from halftone.spec.names import CONFIG_FILE, Reason
from halftone.spec.recipes import load_recipe, presets
from halftone.spec.roles import Role


@dataclass(frozen=True)
class Wanted:
    """What somebody asked for.

    `budget_bytes` counts all tensors. `formats` are looked at alone, empty for all that today's
    server loads; `layers` is the most of a role to measure, None for the rule in `sampling`.
    """

    budget_bytes: int
    formats: tuple[Format, ...] = ()
    layers: int | None = None


@dataclass(frozen=True)
class Prepared:
    """What is known before a weight is read: what may be chosen, and what will be measured."""

    checkpoint: Checkpoint
    recipe: Recipe
    wanted: Wanted
    table: Candidates
    sample: dict[Role, Sampled]

    @property
    def units(self) -> tuple[Unit, ...]:
        """Every unit that is measured."""
        return tuple(unit for some in self.sample.values() for unit in some.units)

    @property
    def source_bytes(self) -> int:
        """Bytes of source that measuring weights reads."""
        return sum(unit.source_bytes for unit in self.units)

    def formats(self, role: Role) -> tuple[Format, ...]:
        """Formats whose weights `role` can have, whether or not they may be proposed."""
        rows = (row for row in self.table.rows if row.role is role)
        return tuple(r.format for r in rows if r.format and r.standing is not Standing.Refused)


def prepare(checkpoint: Checkpoint, recipe: Recipe, wanted: Wanted) -> Prepared:
    """Judge and price everything; `recipe` gives all but precision.

    Where it names calibration data, formats that need calibration count too. Raises RefusedInput,
    before anything is measured, where nothing can be chosen: for a source that cannot be planned,
    for a budget that holds no combination (BudgetTooSmall), or the model as it is, and for experts
    of unknown use where weights alone decide.
    """
    table = candidates(checkpoint, recipe, wanted.formats, recipe.calibration is not None)
    unmeasured = Combinations(_columns(table, {}), table.fixed_bytes)
    smallest = unmeasured.smallest()
    if smallest.nbytes > wanted.budget_bytes:
        _refuse_too_small(wanted.budget_bytes, smallest, table.bundles)
    kept = unmeasured.of([None] * len(table.bundles))
    if kept is not None and kept.nbytes <= wanted.budget_bytes:
        raise RefusedInput(
            Reason.NothingToQuantize,
            "--budget-gb",
            f"`--budget-gb` {_gb(wanted.budget_bytes)} holds the model as it is "
            f"({_gb(kept.nbytes)} GB), so there is nothing to choose; give less than that.",
        )
    if recipe.calibration is None and token_shares(table.tensors, checkpoint.config) is None:
        raise RefusedInput(
            Reason.NotSupported,
            CONFIG_FILE,
            f"`{CONFIG_FILE}` does not say how many experts a token visits "
            f"(`{EXPERTS_PER_TOKEN[0]}`), so weight errors of experts and of other roles cannot be "
            "compared; give `--dataset FILE`.",
        )
    return Prepared(checkpoint, recipe, wanted, table, sampled(table.tensors, wanted.layers))


def measure_weights(
    prepared: Prepared, workers: int, advance: Callable[[int], None]
) -> dict[str, UnitErrors]:
    """Weight errors by unit; `advance` is told of bytes, `source_bytes` in all."""
    formats = {role: prepared.formats(role) for role in prepared.sample}
    return measure(prepared.checkpoint, prepared.recipe, prepared.units, formats, workers, advance)


def propose(
    prepared: Prepared, errors: Mapping[str, UnitErrors], divergences: Divergences | None
) -> SweepDocument:
    """The document, with the best combination that the budget holds, planned once more."""
    table, wanted = prepared.table, prepared.wanted
    shares = token_shares(table.tensors, prepared.checkpoint.config)
    if divergences is None:
        if shares is None:
            raise AssertionError("refused before. This is a bug. Please report.")
        losses = weight_losses(prepared.sample, errors, shares)
    else:
        layers = {role: some.layers for role, some in prepared.sample.items()}
        losses = divergence_losses(divergences.layers, layers)
    losses = _judged(table, losses)
    combinations = Combinations(_columns(table, losses), table.fixed_bytes)
    best = combinations.best(wanted.budget_bytes)
    if best is None:
        raise AssertionError("the smallest one fits the budget. This is a bug. Please report.")
    recipe, plan = _planned(prepared, best)
    return SweepDocument(
        halftoneVersion=__version__,
        architecture=table.architecture,
        source=table.source,
        budgetBytes=wanted.budget_bytes,
        measure=Measure.WeightError if divergences is None else Measure.OutputDivergence,
        data=() if divergences is None else divergences.data,
        roles=tuple(_measured_role(role, prepared, shares) for role in prepared.sample),
        formats=tuple(_row(row, prepared, errors, losses) for row in table.rows),
        layers=() if divergences is None else divergences.layers,
        combinations=len(combinations),
        front=tuple(_point(one, table.bundles) for one in combinations.front()),
        presets=_presets(table, losses),
        proposed=_point(best, table.bundles),
        recipe=recipe,
        planDigest=plan.digest,
        warnings=plan.warnings,
    )


def _judged(table: Candidates, losses: Losses) -> Losses:
    """The losses that may be believed, as the document will state them, and so be chosen from."""
    unjudged = {(r.role, r.format) for r in table.rows if r.standing is Standing.NeedsData}
    return {key: float(_decimal(x)) for key, x in losses.items() if key not in unjudged}


def _columns(table: Candidates, losses: Losses) -> list[Column]:
    """The table as the choice takes it; a bundle may have what all its roles may."""
    columns = []
    for bundle in table.bundles:
        options = []
        for fmt in (None, *Format):
            rows = [table.row(role, fmt) for role in bundle]
            fitting = [r for r in rows if r is not None and r.standing is Standing.Candidate]
            if len(fitting) == len(bundle):
                loss = sum(losses.get((r.role, fmt), 0.0) for r in fitting if fmt is not None)
                options.append(Option(fmt, sum(r.nbytes for r in fitting), loss))
        columns.append(Column(bundle, tuple(options)))
    return columns


def _planned(prepared: Prepared, best: Combination) -> tuple[Recipe, Plan]:
    """The proposed recipe and its plan, which must weigh what was promised.

    Data that nothing would be measured on are left out of the recipe.
    """
    recipe = with_precision(prepared.recipe, _by_role(best, prepared.table.bundles))
    planned = plan_checkpoint(prepared.checkpoint, recipe)
    if planned.plan.refusal is None and planned.plan.method is Method.DataFree:
        recipe = recipe.model_copy(update={"calibration": None})
        planned = plan_checkpoint(prepared.checkpoint, recipe)
    refusal = planned.plan.refusal
    if refusal is not None:
        raise RefusedInput(refusal.reason, refusal.subject, refusal.message)
    if total_bytes(planned) != best.nbytes:
        raise AssertionError(
            f"planned {total_bytes(planned)} bytes, promised {best.nbytes}. "
            "This is a bug. Please report."
        )
    return recipe, planned.plan


def _by_role(
    combination: Combination, bundles: Sequence[tuple[Role, ...]]
) -> dict[Role, Format | None]:
    return {
        role: fmt
        for bundle, fmt in zip(bundles, combination.formats, strict=True)
        for role in bundle
    }


def _point(combination: Combination, bundles: Sequence[tuple[Role, ...]]) -> Point:
    return Point(
        precision=_lines(_by_role(combination, bundles)),
        bytes=combination.nbytes,
        loss=_decimal(combination.loss),
    )


def _lines(formats: Mapping[Role, Format | None]) -> tuple[RolePrecision, ...]:
    return tuple(
        RolePrecision(role=role, format=fmt) for role, fmt in formats.items() if fmt is not None
    )


def _presets(table: Candidates, losses: Losses) -> tuple[Preset, ...]:
    """Every preset that this model can have, as a point of reference."""
    found = []
    for name in presets():
        recipe = load_recipe(name)
        formats = {role: recipe.format_of(role) for role in table.tensors}
        rows = [table.row(role, fmt) for role, fmt in formats.items()]
        known = [r for r in rows if r is not None and r.standing is not Standing.Refused]
        if len(known) < len(rows) or not any(formats.values()):
            continue
        costs = [losses.get((r.role, r.format)) for r in known if r.format is not None]
        measured = [cost for cost in costs if cost is not None]
        loss = _decimal(sum(measured)) if len(measured) == len(costs) else None
        nbytes = table.fixed_bytes + sum(row.nbytes for row in known)
        found.append(Preset(name=name, precision=_lines(formats), bytes=nbytes, loss=loss))
    return tuple(found)


def _measured_role(
    role: Role, prepared: Prepared, shares: Mapping[Role, float] | None
) -> MeasuredRole:
    some = prepared.sample[role]
    return MeasuredRole(
        role=role,
        layers=some.layers,
        measuredLayers=some.measured_layers,
        measuredUnits=len(some.units),
        tokenShare=None if shares is None else _decimal(shares[role]),
    )


def _row(
    row: Candidate, prepared: Prepared, errors: Mapping[str, UnitErrors], losses: Losses
) -> RoleFormat:
    refused = row.standing is Standing.Refused
    error = loss = None
    if row.format is not None and not refused:
        error = _decimal(relative(_errors_of(prepared.sample[row.role].units, errors, row.format)))
        known = losses.get((row.role, row.format))
        loss = None if known is None else _decimal(known)
    return RoleFormat(
        role=row.role,
        format=row.format,
        standing=row.standing,
        because=row.because,
        bytes=None if refused else row.nbytes,
        weightError=error,
        loss=loss,
    )


def _errors_of(
    units: Iterable[Unit], errors: Mapping[str, UnitErrors], fmt: Format
) -> Iterable[WeightError]:
    return (errors[unit.name][fmt] for unit in units)


def _refuse_too_small(
    budget_bytes: int, smallest: Combination, bundles: Sequence[tuple[Role, ...]]
) -> NoReturn:
    lines = ", ".join(f"{x.role}: {x.format}" for x in _lines(_by_role(smallest, bundles)))
    raise RefusedInput(
        Reason.BudgetTooSmall,
        "--budget-gb",
        f"`--budget-gb` {_gb(budget_bytes)} holds no combination; the smallest takes "
        f"{_gb(smallest.nbytes)} GB ({lines}), so give at least that.",
    )


def _gb(nbytes: int) -> str:
    """Decimal gigabytes, all digits that count: a budget that is copied from here fits."""
    return f"{Decimal(nbytes) / 10**9:f}"


def _decimal(value: float) -> str:
    """Six significant digits."""
    return f"{value:.6g}"

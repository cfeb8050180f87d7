"""Scales of activations: whether matrices that are fed together share one, as servers assume.

A server quantizes the input of a merged layer once, and several kernels (FlashInfer's, for NVFP4)
quantize the input of all experts of a layer with one scale. vLLM 0.32 keeps the largest stored
number of a merged layer: of ModelOpt's factors that is the widest range, of compressed-tensors'
divisors the narrowest, which clips what the other members were measured for. Of experts it keeps
the widest range, so nothing is clipped and the others only have more range than they need; but of
an expert's gate and up in per-tensor FP8 it reads one scale, and refuses two of compressed-tensors'
and keeps the last of ModelOpt's.

Called by `halftone.validate.inspection` (anyone's checkpoint) and, with the plan, by the gate
`structure`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.index import Checkpoint
from halftone.checkpoint.serving_rules import WeightLayout
from halftone.plan.measurements import measurements
from halftone.plan.planning import Planned
from halftone.spec.names import DefectKind, RemarkReason
from halftone.spec.roles import Role
from halftone.validate.budget import Span, fit, read_ranges
from halftone.validate.findings import Defect, Remark
from halftone.validate.inventory import INPUT_SCALES, Inventory, Module, role_in_layer
from halftone.validate.scales import Scales, Unit, differ, is_number, is_usable, number_in


def merged_input_defects(units: Sequence[Unit], scales: Scales) -> Iterator[Defect]:
    """Merged layers whose members carry different scales for their one input."""
    for unit in units:
        first = unit.members[0]
        is_expert = role_in_layer(first) is Role.Experts
        if is_expert and first.layout is not WeightLayout.Fp8Tensor:
            continue  # merged with all experts of the layer: see `expert_remarks`
        known = _known(unit.members, scales)
        if not differ(known.values()):
            continue
        if is_expert:
            yield _refused_expert(unit, known)
            continue
        kept = max(known.values())
        wrong = max(known, key=lambda name: abs(known[name] - kept))
        yield Defect(
            kind=DefectKind.UnequalInputScales,
            tensor=wrong,
            message=f"The members of `{unit.name}` have different scales for their one input, "
            f"{', '.join(f'{value:.6g}' for value in known.values())}; a server keeps {kept:.6g} "
            f"for all, which is off by {abs(known[wrong] / kept - 1):.1%} here.",
        )


def _refused_expert(unit: Unit, known: Mapping[str, float]) -> Defect:
    return Defect(
        kind=DefectKind.UnequalInputScales,
        tensor=min(known, key=lambda name: known[name]),
        message=f"The members of `{unit.name}` have different scales for their one input, "
        f"{', '.join(f'{value:.6g}' for value in known.values())}; of FP8 experts vLLM 0.32 "
        "refuses them in compressed-tensors' layout, and keeps the last that it reads in "
        "ModelOpt's.",
    )


def expert_remarks(inventory: Inventory, scales: Scales) -> list[Remark]:
    """One remark for all layers whose experts have input scales of their own; the widest is named.

    No defect: servers serve such experts, with the range of the one that saw the largest
    activations.
    """
    products: defaultdict[str, list[Module]] = defaultdict(list)
    for module in inventory.quantized:
        if role_in_layer(module) is Role.Experts:
            products[_product(module)].append(module)
    spread = {}
    for name, members in products.items():
        values = _known(members, scales).values()
        if differ(values):
            spread[name] = max(values) / min(values)
    if not spread:
        return []
    widest = max(spread, key=lambda name: spread[name])
    return [
        Remark(
            reason=RemarkReason.UnequalInputScales,
            subject=widest,
            message=f"The experts of {len(spread)} of {len(products)} layers and projections have "
            "input scales of their own, but several kernels use one for all of a layer, that of "
            "the largest activations; the others are served with a wider range than was measured "
            f"for them, by up to {spread[widest]:.2f} times in `{widest}`.",
        )
    ]


def unshared_inputs(planned: Planned, checkpoint: Checkpoint) -> list[Defect]:
    """Groups that the plan gives one input scale and that do not have one, bit for bit.

    Stricter than what servers tolerate: it is what was planned.
    """
    recipe = planned.plan.recipe
    if recipe is None:
        return []
    groups = {
        group: [entry for module in members for entry in _stored(checkpoint, module)]
        for group, members in measurements(planned.tensors, recipe).inputs.items()
        if len(members) > 1
    }
    entries = {entry.name: entry for found in groups.values() for entry in found}
    spans = [Span(e.name, e.file, e.offset, e.nbytes) for e in entries.values()]
    ranges = fit(spans, None) or []
    values = {
        name: number_in(entries[name], data)
        for name, data in read_ranges(checkpoint.source, ranges)
    }
    return [
        defect
        for group, found in groups.items()
        for defect in _unshared(group, {entry.name: values[entry.name] for entry in found})
    ]


def _unshared(group: str, values: dict[str, float]) -> Iterator[Defect]:
    first = next(iter(values), None)
    odd = next((name for name in values if first and values[name] != values[first]), None)
    if first is None or odd is None:
        return
    yield Defect(
        kind=DefectKind.UnequalInputScales,
        tensor=odd,
        message=f"All of `{group}` were planned with one input scale, but `{odd}` is "
        f"{values[odd]:.6g} and `{first}` {values[first]:.6g}; kernels that use one scale for all "
        "of them would serve another model than was measured.",
    )


def _stored(checkpoint: Checkpoint, module: str) -> Iterator[TensorEntry]:
    for suffix in INPUT_SCALES:
        entry = checkpoint.tensors.get(f"{module}.{suffix}")
        if entry is not None and is_number(entry):
            yield entry


def _known(members: Sequence[Module], scales: Scales) -> dict[str, float]:
    """Stored input scales by tensor name, where one was read; `scale_defects` names unusable ones.

    A calibration writes a scale of 0 for an expert that no token reached.
    """
    found = ((m.input_scale, scales.of(m.input_scale)) for m in members)
    return {
        entry.name: value
        for entry, value in found
        if entry is not None and value is not None and is_usable(value)
    }


def _product(module: Module) -> str:
    """What is multiplied at once: `...mlp.experts.gate_up_proj` of all experts' gates and ups."""
    expert, _, projection = (module.place.group or module.name).rpartition(".")
    return f"{expert.rpartition('.')[0]}.{projection}"

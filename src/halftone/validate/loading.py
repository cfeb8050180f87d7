"""Whether a server would load what is there: the configuration's rules held against the tensors.

For each module as vLLM builds it, the rules say unquantized or a scheme; the shards say what is
stored. Both must agree, or loading fails (or worse, reads codes as weights). As a by-product every
module learns its scheme, which settles readings that shapes alone leave open.
"""

from collections.abc import Callable, Iterator
from typing import Final

from halftone.checkpoint.architectures import GENERIC
from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.serving_config import (
    expert_parts,
    experts_of,
    is_multimodal,
    merged_parts,
    runtime_name,
)
from halftone.checkpoint.serving_limits import block_fp8_obstacle, merged_heights
from halftone.checkpoint.serving_rules import (
    Activations,
    ModuleKind,
    QuantMethod,
    Rules,
    Scheme,
    ServedModule,
    WeightLayout,
    WillNotLoad,
)
from halftone.spec.names import CONFIG_FILE, DefectKind
from halftone.spec.roles import Role
from halftone.validate.findings import Defect
from halftone.validate.inventory import Inventory, Module, role_in_layer

_NEVER_SERVED: Final = {Role.Router, Role.Norm, Role.Other}
_KINDS: Final = {Role.LmHead: ModuleKind.LmHead, Role.Embedding: ModuleKind.Embedding}


def loading_defects(inventory: Inventory, architecture: Architecture, rules: Rules) -> list[Defect]:
    """Every module that a server would refuse or misread; sets `scheme` on all modules."""
    if rules.method is QuantMethod.Unknown:
        return []
    if rules.method is QuantMethod.Absent:
        return _without_configuration(inventory)
    defects = []
    for served, modules in served_modules(inventory, architecture).items():
        try:
            scheme = rules.scheme_of(served)
        except WillNotLoad as reason:
            defects.append(
                Defect(
                    kind=DefectKind.IgnoreListWillNotLoad,
                    tensor=modules[0].key,
                    message=f"A server refuses to load this: {reason}.",
                )
            )
            continue
        for module in modules:
            module.scheme = scheme
            if scheme is not None and scheme.weights in module.layouts:
                module.layouts = (scheme.weights,)
        defects += _disagreements(served, modules, scheme)
        defects += _obstacles(served, modules, scheme)
    return defects


def served_modules(
    inventory: Inventory, architecture: Architecture
) -> dict[ServedModule, list[Module]]:
    """What a server builds from quantization rules, and the stored modules that fill it."""
    multimodal = is_multimodal(inventory.modules)
    merged, experts = merged_parts(architecture), _expert_parts(architecture)
    served: dict[ServedModule, list[Module]] = {}

    def runtime(name: str) -> str:
        return runtime_name(name, multimodal)

    for module in inventory.modules.values():
        if not _is_served(module, architecture):
            continue
        name = _served_name(module, inventory, merged, experts, runtime)
        served.setdefault(name, []).append(module)
    return served


def _is_served(module: Module, architecture: Architecture) -> bool:
    """Whether a server makes a matrix of it that quantization rules apply to."""
    role, codes = role_in_layer(module), module.codes
    if role is Role.Router or codes is None:
        return False
    if module.layouts:
        return True
    if module.place.row is not None and module.place.row.stacked:
        return True
    if len(codes.shape) != 2 or not module.place.parameter or role in _NEVER_SERVED:
        return False
    if module.place.row is not None or role is Role.Embedding:
        return True
    # In towers only matrices of linear layers count. What the table of last resort calls a tower
    # may be built without quantization, so nothing is concluded there.
    leaf = module.name.rpartition(".")[2]
    return architecture is not GENERIC and "embed" not in leaf and "norm" not in leaf


def _served_name(
    module: Module,
    inventory: Inventory,
    merged: dict[str, tuple[str, ...]],
    experts: dict[str, tuple[str, ...]],
    runtime: Callable[[str], str],
) -> ServedModule:
    role, row, group = role_in_layer(module), module.place.row, module.place.group
    if role is Role.Experts and row is not None:
        name = runtime(experts_of(module.name, bool(row.stacked)))
        return ServedModule(name, ModuleKind.RoutedExperts, experts[row.path])
    if group is not None and not _stands_alone(inventory.groups.get(group, [])):
        parts = merged[group.rpartition(".")[2]]
        return ServedModule(runtime(group), ModuleKind.Linear, parts)
    return ServedModule(runtime(module.name), _KINDS.get(role, ModuleKind.Linear))


def _expert_parts(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    rows = [row for row in architecture.rows if row.role is Role.Experts]
    return {row.path: expert_parts(architecture, row) for row in rows}


def _stands_alone(members: list[Module]) -> bool:
    """A layer that takes keys and values from another has a query projection only, not merged."""
    return len(members) == 1 and members[0].name.endswith(".q_proj")


def _disagreements(
    served: ServedModule, modules: list[Module], scheme: Scheme | None
) -> Iterator[Defect]:
    layouts = {module.layout for module in modules}
    if len(layouts) > 1:
        if served.kind is ModuleKind.RoutedExperts:
            yield _mixed(served, modules)
        return  # of merged layers the group's own check tells
    module, layout = modules[0], modules[0].layout
    if layout is None:
        if scheme is not None:
            yield Defect(
                kind=DefectKind.IgnoreListWillNotLoad,
                tensor=module.key,
                message=f"'{served.name}' is stored in {module.format}, but the configuration "
                f"gives it the scheme {scheme.weights} and does not ignore it; a server looks for "
                "scales that are not there.",
            )
        return
    if scheme is None:
        yield Defect(
            kind=DefectKind.IgnoreListWillNotLoad,
            tensor=module.key,
            message=f"'{served.name}' is stored as {layout} codes, but the configuration ignores "
            "it or no target names it; a server expects plain weights.",
        )
        return
    if scheme.weights not in module.layouts:
        yield Defect(
            kind=DefectKind.UnexpectedLayout,
            tensor=module.key,
            message=f"'{served.name}' is stored as {layout}, but the configuration says "
            f"{scheme.weights}.",
        )
        return
    for member in modules:
        if scheme.activations is Activations.Static and member.input_scale is None:
            yield Defect(
                kind=DefectKind.MissingTensor,
                tensor=member.key,
                message=f"`{member.name}` has no scale for its activations, which the scheme "
                f"{member.format} keeps beside the weight; a server would take whatever memory "
                "holds.",
            )


def _obstacles(
    served: ServedModule, modules: list[Module], scheme: Scheme | None
) -> Iterator[Defect]:
    """What a server cannot merge although every member is well formed; the first is enough."""
    if scheme is None or scheme.weights is not WeightLayout.Fp8Block:
        return
    leaves = [module.name.rpartition(".")[2] for module in modules]
    rows = {leaf: m.shape[0] for m, leaf in zip(modules, leaves, strict=True) if m.shape}
    behind = max((served.parts.index(leaf) for leaf in leaves if leaf in served.parts), default=0)
    for module, leaf in zip(modules, leaves, strict=True):
        row = module.place.row
        if leaf not in rows or row is None or module.place.group is None:
            continue
        obstacle = block_fp8_obstacle(
            routed_expert=served.kind is ModuleKind.RoutedExperts,
            weight_only=scheme.activations is Activations.Kept,
            heights=merged_heights(row, rows[leaf], rows),
            followed=leaf in served.parts and served.parts.index(leaf) < behind,
        )
        if obstacle is not None:
            yield Defect(
                kind=DefectKind.ServerCannotLoad,
                tensor=module.key,
                message=f"`{module.key}` will not load: {obstacle}.",
            )
            return


def _mixed(served: ServedModule, modules: list[Module]) -> Defect:
    usual = modules[0].layout
    odd = next(module for module in modules if module.layout is not usual)
    return Defect(
        kind=DefectKind.MixedFormatsInGroup,
        tensor=odd.key,
        message=f"The experts of '{served.name}' are merged into one array, but `{odd.name}` is "
        f"stored in {odd.format} and `{modules[0].name}` in {modules[0].format}.",
    )


def _without_configuration(inventory: Inventory) -> list[Defect]:
    quantized = [m for m in inventory.quantized if m.layout is not WeightLayout.Other]
    if not quantized:
        return []
    return [
        Defect(
            kind=DefectKind.IgnoreListWillNotLoad,
            tensor=CONFIG_FILE,
            message=f"{len(quantized)} matrices are stored as codes, the first of them "
            f"`{quantized[0].key}`, but no configuration says so; a server expects plain weights.",
        )
    ]

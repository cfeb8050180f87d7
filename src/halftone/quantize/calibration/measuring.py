"""One calibration in the environment that has llm-compressor: the model, its hooks and its layers.

Called by `calibrating`, which owns the output directory. It writes nothing but the partial state.
"""

from collections.abc import Collection
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import torch

from halftone.checkpoint.index import Checkpoint
from halftone.plan.measurements import Measurements, measurements
from halftone.plan.planning import Planned
from halftone.quantize.calibration.dataset.preparing import CalibrationData
from halftone.quantize.calibration.measured import Measured
from halftone.quantize.calibration.memory import BASE_BYTES, available_bytes, require_memory
from halftone.quantize.calibration.model import build_model, refuse_model
from halftone.quantize.calibration.observing import Watch, Watched, expert_parent
from halftone.quantize.calibration.partial import Partial
from halftone.quantize.calibration.running import PAIR_BYTES, Run
from halftone.quantize.calibration.streaming import StreamedModel
from halftone.quantize.calibration.weights import Names, stored_tensors
from halftone.quantize.tiles import TileReader
from halftone.spec.calibration import Calibration, Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

if TYPE_CHECKING:
    from halftone.quantize.calibration.calibrating import CalibrationProgress

# What lies on disk beside hidden states: files of their own, and masks and rotations once for each
# length of a sample.
_BESIDE: Final = 1.1


def measure(
    planned: Planned,
    checkpoint: Checkpoint,
    calibration: Calibration,
    data: CalibrationData,
    partial: Partial,
    progress: "CalibrationProgress",
) -> Measured:
    """Everything that `planned` asks for. Raises what `calibrate` says."""
    recipe = planned.plan.recipe
    assert recipe is not None
    where = device()
    model = build_model(checkpoint.config)
    names = Names(model.module)
    wanted = measurements(planned.tensors, recipe)
    watched = _watched(wanted, names, model.module)
    stored = dict(stored_tensors(planned.tensors, names))
    streamed = StreamedModel(model, stored, TileReader(checkpoint.source), where)
    _require_room_for_weights(streamed, data, where)
    run = Run(
        streamed,
        Watch(model.module, watched),
        partial,
        lambda: (sample.inputs for sample in data.samples()),
        calibration.unroutedExperts,
        where,
    )
    _require_disk(model.module, data, partial)
    samples = sum(one.samples for one in data.measured)
    progress.begin(samples * (len(model.layers) + 1))
    if partial.journal is None:
        _refuse_unreachable(watched, model.layers, run)
        for _ in run.embed(_Due(wanted, watched, None, model.layers).check):
            progress.advance(1)
    else:
        progress.skip(samples * partial.journal.done)
    assert partial.journal is not None
    _require_room_for_attention(streamed, partial.journal.longest, where)
    for index in range(partial.journal.done - 1, len(model.layers)):
        due = _Due(wanted, watched, model.layers[index], model.layers)
        for _ in run.layer(index, due.check):
            progress.advance(1)
    return partial.journal.measured


def device() -> Any:
    """Where the model runs: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _watched(wanted: Measurements, names: Names, module: Any) -> Watched:
    """Where in the model the modules of the plan are."""
    inputs = {name: _place(f"{name}.weight", names) for name in wanted.modules}
    experts: dict[str, str] = {}
    for name, place in inputs.items():
        parent = expert_parent(module, place)
        if parent is not None:
            experts[name.rpartition(".")[0].rpartition(".")[0]] = parent
    caches = {
        name: _place(f"{name}.k_proj.weight", names).removesuffix(".k_proj")
        for name in wanted.caches
    }
    return Watched(inputs, experts, caches)


def _place(tensor: str, names: Names) -> str:
    found = names.in_model(tensor)
    if found is None:
        refuse_model(
            tensor,
            f"transformers' model has no place for `{tensor}`, so what enters it cannot be "
            "measured; keep its role in full precision, or choose a data-free recipe.",
        )
    return found.removesuffix(".weight")


def _layer_of(place: str, layers: Collection[str]) -> str | None:
    """The decoder layer in which a module lies; None for those outside all of them."""
    parents = accumulate(place.split("."), "{}.{}".format)
    return next((parent for parent in parents if parent in layers), None)


def _refuse_unreachable(watched: Watched, layers: tuple[str, ...], run: Run) -> None:
    """Before anything is kept: outside the layers, only what comes before them is ever called."""
    known = frozenset(layers)
    for name, place in watched.caches.items():
        if _layer_of(place, known) is None:
            _refuse_outside(name, "is no attention of a decoder layer and keeps no KV cache")
    outside = [name for name, at in watched.inputs.items() if _layer_of(at, known) is None]
    if not outside:
        return
    seen = run.first_of_each().inputs
    for name in outside:
        if name not in seen:
            _refuse_outside(name, "lies in no decoder layer, and no sample reaches it before them")


def _refuse_outside(name: str, why: str) -> None:
    raise RefusedInput(
        Reason.ModuleUnmeasured,
        name,
        f"`{name}` {why}, so it cannot be measured; add data of the modality that uses it, keep "
        "its role in full precision, or choose a data-free recipe such as 'nvfp4a16'.",
    )


class _Due:
    """What one layer must have shown, or (`layer` None) what comes before the first."""

    def __init__(
        self, wanted: Measurements, watched: Watched, layer: str | None, layers: tuple[str, ...]
    ) -> None:
        known = frozenset(layers)
        here = {n for n, place in watched.inputs.items() if _layer_of(place, known) == layer}
        self._groups = {
            group: [member for member in members if member in here]
            for group, members in wanted.inputs.items()
        }
        self._caches = [n for n, at in watched.caches.items() if _layer_of(at, known) == layer]
        self._experts = watched.experts

    def check(self, found: Measured) -> None:
        """Refuse what saw no token: a module, a cache, or all experts of a projection."""
        for group, members in self._groups.items():
            unseen = [member for member in members if member not in found.inputs]
            if unseen and (len(unseen) == len(members) or not self._routed(unseen[0])):
                _refuse_unmeasured(group if self._routed(unseen[0]) else unseen[0])
        for attention in self._caches:
            if attention not in found.caches:
                _refuse_unmeasured(attention)

    def _routed(self, module: str) -> bool:
        return module.rpartition(".")[0].rpartition(".")[0] in self._experts


def _refuse_unmeasured(module: str) -> None:
    raise RefusedInput(
        Reason.ModuleUnmeasured,
        module,
        f"No token of the calibration data reached `{module}`, so there is no scale for it; add "
        "data that use it, or keep its role in full precision.",
    )


def _require_room_for_weights(model: StreamedModel, data: CalibrationData, where: Any) -> None:
    """Before anything is read: the largest layer, or what stands before the first, must fit."""
    images = any(one.modality is Modality.Image for one in data.measured)
    sizes = {layer: model.part_bytes(layer) for layer in model.layers}
    around = {part: model.part_bytes(part) for part in model.surroundings}
    if around:
        largest = max(around, key=lambda part: around[part])
        sizes[largest] = sum(around.values()) if images else around[largest]
    largest = max(sizes, key=lambda part: sizes[part])
    require_memory(sizes[largest] + BASE_BYTES, largest, _free(where))


def _require_room_for_attention(model: StreamedModel, longest: int, where: Any) -> None:
    """Before the first layer: the scores of the longest sample beside the largest layer."""
    heads = getattr(model.module.config.get_text_config(), "num_attention_heads", 1)
    layer = max(model.layers, key=model.part_bytes)
    scores = heads * longest * longest * PAIR_BYTES
    require_memory(model.part_bytes(layer) + scores + BASE_BYTES, layer, _free(where))


def _require_disk(module: Any, data: CalibrationData, partial: Partial) -> None:
    """Before anything is read: hidden states of all tokens, before a layer and after it.

    After a restart those before it lie there already.
    """
    tokens = sum(one.tokens for one in data.measured)
    one_layer = tokens * module.config.get_text_config().hidden_size * module.dtype.itemsize
    times = 2 if partial.journal is None else 1
    partial.require_space(ceil(one_layer * times * _BESIDE))


def _free(where: Any) -> int:
    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else available_bytes()

"""Every layer in turn: its output as it is, then again for each role and format.

Called by `layers`. Weights stream through memory layer by layer and samples lie on disk between two
layers, both by `halftone.quantize.calibration`. Inputs are the unquantized model's. All arithmetic
is float32, so that what is seen is the format's rounding and not BF16's; experts see the tokens
that the router sends them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from halftone.plan.measurements import input_group
from halftone.plan.planning import plan_checkpoint
from halftone.plan.tensors import LogicalTensor
from halftone.quantize.calibration.dataset.preparing import CalibrationData
from halftone.quantize.calibration.measured import Measured
from halftone.quantize.calibration.memory import BASE_BYTES, available_bytes, require_memory
from halftone.quantize.calibration.model import Model, build_model, refuse_model
from halftone.quantize.calibration.observing import Watch, Watched
from halftone.quantize.calibration.partial import Partial, storage_errors
from halftone.quantize.calibration.running import Run
from halftone.quantize.calibration.streaming import StreamedModel
from halftone.quantize.calibration.values import save_value
from halftone.quantize.calibration.weights import Names, stored_tensors
from halftone.quantize.sweep.candidates import Standing, with_precision
from halftone.quantize.sweep.document import LayerDivergence
from halftone.quantize.sweep.measuring.layers import Progress
from halftone.quantize.sweep.measuring.variants import Placed, variant
from halftone.quantize.sweep.rounding import WeightRounder
from halftone.quantize.sweep.sampling import Unit, units_of
from halftone.quantize.sweep.sweeping import Prepared
from halftone.quantize.tiles import TileReader
from halftone.spec.calibration import UnroutedExperts
from halftone.spec.formats import FORMATS, Format
from halftone.spec.roles import Role

# A layer's own weights, and once more those of a role of it, encoded.
_COPIES: Final = 2


class Tried(NamedTuple):
    """One role of a layer: its units with their modules, and the formats to try."""

    layer: int  # as the names on disk count it
    role: Role
    placed: tuple[Placed, ...]
    formats: tuple[Format, ...]


def measure(
    prepared: Prepared, data: CalibrationData, folder: Path, progress: Progress
) -> tuple[LayerDivergence, ...]:
    """The divergence of each layer, role and format.

    `folder` takes what lies between two layers. Raises what `layers.measure_layers` says.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(prepared.checkpoint.config)
    model.module.float()
    names = Names(model.module)
    tried = _tried(prepared, model, names)
    stored = dict(stored_tensors(_all_tensors(prepared), names))
    streamed = StreamedModel(model, stored, TileReader(prepared.checkpoint.source), device)
    _require_room(streamed, device)
    watch = Watch(model.module, Watched(_watched(tried, names), {}, {}))
    last = max(tried)
    samples = sum(one.samples for one in data.measured)
    progress.begin(samples * _passes(tried, last))
    rounder = WeightRounder(prepared.recipe)
    found: list[LayerDivergence] = []
    with Partial(folder, "sweep") as partial:
        partial.take_up({})
        run = Run(
            streamed,
            watch,
            partial,
            lambda: (sample.inputs for sample in data.samples()),
            UnroutedExperts.Report,
            device,
        )
        _count(run.embed(_accept), progress)
        for index in range(last + 1):
            layer = model.module.get_submodule(model.layers[index])
            if index in tried:
                with _Outputs(layer, folder) as outputs, run.rehearsing(index) as again:
                    found += _try(tried[index], outputs, again, watch, rounder, progress)
            if index < last:
                _count(run.layer(index, _accept), progress)
    return tuple(found)


def _try(
    tried: Iterable[Tried],
    outputs: "_Outputs",
    again: Callable[[], Iterator[int]],
    watch: Watch,
    rounder: WeightRounder,
    progress: Progress,
) -> Iterator[LayerDivergence]:
    """One layer: as it is, with its inputs measured, and then in each variant."""
    outputs.keep(_counted(again(), progress))
    seen = watch.take()
    for one in tried:
        amax = _input_maxima((placed.unit for placed in one.placed), seen)
        for fmt in one.formats:
            with variant(one.placed, fmt, rounder, amax):
                divergence = outputs.divergence(_counted(again(), progress))
            yield LayerDivergence(
                layer=one.layer, role=one.role, format=fmt, divergence=f"{divergence:.6g}"
            )
    watch.take()  # what entered variants says nothing of the model


class _Outputs:
    """What a layer makes of each sample: kept as it is, or held against what was kept."""

    def __init__(self, layer: Any, folder: Path) -> None:
        self._layer = layer
        self._folder = folder
        self._seen: Any = None
        self._kept: list[Path] = []

    def __enter__(self) -> "_Outputs":
        self._handle = self._layer.register_forward_hook(self._see)
        return self

    def __exit__(self, *raised: object) -> None:
        self._handle.remove()
        for path in self._kept:
            path.unlink(missing_ok=True)

    def keep(self, numbers: Iterable[int]) -> None:
        """Keep the output of every sample; iterating `numbers` sends one after another through."""
        for number in numbers:
            path = self._folder / f"output-{number:07d}.pt"
            self._kept.append(path)
            with storage_errors(self._folder):
                save_value(self._seen, path, "output")

    def divergence(self, numbers: Iterable[int]) -> float:
        """The mean over tokens of ||h' - h||² / ||h||², where h is what was kept."""
        total, tokens = 0.0, 0
        for number in numbers:
            with storage_errors(self._folder):
                kept = torch.load(self._kept[number], weights_only=True).double()
            moved = (self._seen.detach().cpu().double() - kept).square().sum(-1)
            ratio = torch.where(moved == 0, 0.0, moved / kept.square().sum(-1))
            total += float(ratio.sum())
            tokens += ratio.numel()
        return total / tokens

    def _see(self, module: Any, arguments: Any, output: Any) -> None:
        self._seen = output[0] if isinstance(output, tuple) else output


def _tried(prepared: Prepared, model: Model, names: Names) -> dict[int, list[Tried]]:
    """What is tried in each of the model's layers; a layer outside the sample is not among them."""
    found: defaultdict[int, list[Tried]] = defaultdict(list)
    for role, some in prepared.sample.items():
        formats = tuple(
            row.format
            for row in prepared.table.rows
            if row.role is role and row.format and row.standing is Standing.Candidate
        )
        units: defaultdict[int, list[Placed]] = defaultdict(list)
        numbers: dict[int, int] = {}
        for unit in units_of(prepared.table.tensors[role]):
            if unit.layer in some.measured_layers:
                places = [_place(member, names) for member in unit.members]
                index = _layer_of(places[0], model)
                modules = tuple(map(model.module.get_submodule, places))
                units[index].append(Placed(unit, modules))
                numbers[index] = unit.layer
        for index, placed in units.items():
            if formats:
                found[index].append(Tried(numbers[index], role, tuple(placed), formats))
    return dict(sorted(found.items()))


def _watched(tried: dict[int, list[Tried]], names: Names) -> dict[str, str]:
    """Modules whose inputs are measured, by their names on disk; none where no format asks."""
    members = (
        member
        for some in tried.values()
        for one in some
        if any(FORMATS[fmt].needs_calibration for fmt in one.formats)
        for placed in one.placed
        for member in placed.unit.members
    )
    return {member.name.removesuffix(".weight"): _place(member, names) for member in members}


def _input_maxima(units: Iterable[Unit], seen: Measured) -> dict[str, float]:
    """By unit, what its members and all that share their input scale saw; 0 where no token came."""
    units = list(units)
    groups: defaultdict[str, float] = defaultdict(float)
    for unit in units:
        for member in unit.members:
            found = seen.inputs.get(member.name.removesuffix(".weight"))
            if found is not None:
                groups[input_group(member)] = max(groups[input_group(member)], found.amax)
    return {unit.name: groups[input_group(unit.members[0])] for unit in units}


def _place(tensor: LogicalTensor, names: Names) -> str:
    found = names.in_model(tensor.name)
    if found is None:
        refuse_model(
            tensor.name,
            f"transformers' model has no place for `{tensor.name}`, so the output of its layer "
            "cannot be measured; sweep without data.",
        )
    return found.removesuffix(".weight")


def _layer_of(place: str, model: Model) -> int:
    found = [index for index, at in enumerate(model.layers) if place.startswith(f"{at}.")]
    if not found:
        refuse_model(
            place,
            f"`{place}` lies in no decoder layer of transformers' model, so there is no output to "
            "measure; sweep without data.",
        )
    return found[0]


def _all_tensors(prepared: Prepared) -> tuple[LogicalTensor, ...]:
    """Every tensor of the checkpoint, experts of measured roles taken apart."""
    table = prepared.table
    formats = {
        role: next(r.format for r in table.rows if r.role is role and r.format and r.nbytes)
        for role in table.tensors
    }
    recipe = with_precision(prepared.recipe, formats)
    return plan_checkpoint(prepared.checkpoint, recipe).tensors


def _require_room(model: StreamedModel, device: Any) -> None:
    """Before anything is read: the largest layer, and once more what is encoded of it."""
    largest = max(model.layers, key=model.part_bytes)
    there = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    require_memory(_COPIES * model.part_bytes(largest) + BASE_BYTES, largest, there)


def _passes(tried: dict[int, list[Tried]], last: int) -> int:
    """How often every sample goes through something: the embedding, each layer, each variant."""
    variants = sum(len(one.formats) for some in tried.values() for one in some)
    return 1 + last + len(tried) + variants


def _accept(found: Measured) -> None:
    """Whatever a layer showed: nothing is refused for what no token reached."""


def _count(numbers: Iterable[int], progress: Progress) -> None:
    for _ in numbers:
        progress.advance(1)


def _counted(numbers: Iterable[int], progress: Progress) -> Iterator[int]:
    for number in numbers:
        yield number
        progress.advance(1)

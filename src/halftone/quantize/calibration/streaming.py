"""One part of the model in memory at a time: weights come when a part is called, and go at once.

Made by `measuring` and a sweep, filled by `running`. A part is what the tracer does not look into:
a decoder layer, the embedding, a tower, the last norm. The head is never filled: its outputs are of
no use to calibration.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, Final

import torch

from halftone.plan.tensors import LogicalTensor
from halftone.quantize.calibration.model import Model, refuse_model
from halftone.quantize.calibration.weights import misfit, read_tensor
from halftone.quantize.tiles import TileReader

# Reads of a remote source that are under way at once; a layer of experts has hundreds of matrices.
_READERS: Final = 8


class StreamedModel:
    """A model whose parts fill themselves when they are called."""

    def __init__(
        self,
        model: Model,
        stored: Mapping[str, LogicalTensor],
        reader: TileReader,
        device: Any,
    ) -> None:
        """`stored`: by the name of a parameter or persistent buffer, what fills it."""
        self.module = model.module
        self.layers = model.layers
        self._stored = stored
        self._reader = reader
        self._device = device
        self._known = model.module.state_dict(keep_vars=True)
        self._full: set[str] = set()
        self.filling = False
        head = model.module.get_output_embeddings()
        self._parts: dict[str, tuple[str, ...]] = {}
        for name, part in _parts(model.module, set(model.layers)):
            if part is not head:
                self._parts[name] = tuple(k for k in self._known if k.startswith(f"{name}."))
                part.register_forward_pre_hook(self._filler(name))
        self._refuse_misfits()
        self._move_buffers()

    def part_bytes(self, part: str) -> int:
        """Bytes of the weights of `part` in memory."""
        return sum(
            prod(self._known[name].shape) * self._known[name].element_size()
            for name in self._parts[part]
        )

    @property
    def surroundings(self) -> tuple[str, ...]:
        """Parts that are no layers."""
        return tuple(part for part in self._parts if part not in self.layers)

    def fill(self, part: str) -> None:
        """Read the weights of `part` unless they are there. Raises what the store raises."""
        if part in self._full:
            return
        names = self._parts[part]
        found = misfit(self._known, self._stored, names)
        if found is not None:
            _refuse(*found)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="weights") as pool:
            values = pool.map(self._read, names)
            for name, value in zip(names, values, strict=True):
                self._put(name, value)
        self._full.add(part)

    def empty(self) -> None:
        """Give back the memory of all parts."""
        for part in self._full:
            for name in self._parts[part]:
                self._put(name, None)
        self._full.clear()

    def _filler(self, part: str) -> Any:
        def fill(*_: Any) -> None:
            if self.filling:
                self.fill(part)

        return fill

    def _read(self, name: str) -> Any:
        value = read_tensor(self._reader, self._stored[name], self._known[name].dtype)
        return value.to(self._device)

    def _put(self, name: str, value: Any) -> None:
        """Set a parameter or buffer; None brings back the empty one."""
        parent, _, leaf = name.rpartition(".")
        module = self.module.get_submodule(parent)
        if leaf in module._parameters:
            empty = self._known[name]
            module._parameters[leaf] = (
                empty if value is None else torch.nn.Parameter(value, requires_grad=False)
            )
        elif value is not None:
            module._buffers[leaf] = value

    def _refuse_misfits(self) -> None:
        """Every layer must have its tensors before the first is read."""
        for layer in self.layers:
            found = misfit(self._known, self._stored, self._parts[layer])
            if found is not None:
                _refuse(*found)

    def _move_buffers(self) -> None:
        """Buffers that no file holds are small and stay on the device."""
        for module in self.module.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.device.type != "meta":
                    module._buffers[name] = buffer.to(self._device)


def _parts(module: Any, layers: set[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """The largest modules that hold no layer beside others."""
    for name, child in module.named_children():
        full = f"{path}{name}"
        if full not in layers and any(layer.startswith(f"{full}.") for layer in layers):
            yield from _parts(child, layers, f"{full}.")
        else:
            yield full, child


def _refuse(name: str, wrong: str) -> None:
    refuse_model(
        name,
        f"The parameter `{name}` of transformers' model cannot be filled: {wrong}. Choose a "
        "data-free recipe such as 'nvfp4a16', or fetch the configuration and the shards of one "
        "revision.",
    )

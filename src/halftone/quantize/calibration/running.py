"""The samples through the model, layer after layer, each layer read once.

Called by `measuring` and a sweep. llm-compressor cuts the model's graph into one piece before the
first layer and one for each layer; samples of one signature share a graph. All samples go through a
piece before the next piece is read, and between two pieces they lie on disk.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from compressed_tensors.utils import patch_attr
from llmcompressor.args.dataset_arguments import DatasetArguments
from llmcompressor.modeling.moe.context import moe_calibration_context
from llmcompressor.pipelines.sequential.helpers import Subgraph, trace_subgraphs
from llmcompressor.utils.helpers import calibration_forward_context

from halftone.quantize.calibration.measured import Measured
from halftone.quantize.calibration.model import refuse_model, runnable
from halftone.quantize.calibration.observing import Watch
from halftone.quantize.calibration.partial import Journal, Partial, SampleState, storage_errors
from halftone.quantize.calibration.streaming import StreamedModel
from halftone.quantize.calibration.values import load_value, save_shared, save_value
from halftone.spec.calibration import UnroutedExperts
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

Keys = tuple[str, ...]
Samples = Callable[[], Iterable[dict[str, Any]]]
Check = Callable[[Measured], None]

# Functions that decide from values; llm-compressor calls them from the graph as they are.
_UNTRACED: Final = DatasetArguments().tracing_ignore
_EMBEDDING: Final = "the embedding"
# What eager attention holds for each pair of tokens and head: scores, their float32 softmax, and
# both as the model's dtype; measured.
PAIR_BYTES: Final = 10
# Scores of an image's patches that are held at most.
_TOWER_BYTES: Final = 2**30


class Run:
    """One calibration, from where `partial` stands on.

    `samples()` gives the inputs of every sample, the same each time.
    """

    def __init__(
        self,
        model: StreamedModel,
        watch: Watch,
        partial: Partial,
        samples: Samples,
        unrouted: UnroutedExperts,
        device: Any,
    ) -> None:
        self._model = model
        self._watch = watch
        self._partial = partial
        self._samples = samples
        self._unrouted = unrouted
        self._device = device
        self._graphs: dict[Keys, list[Subgraph]] = {}
        for layer in model.layers:
            model.module.get_submodule(layer).register_forward_hook(self._finite(layer))

    def embed(self, check: Check) -> Iterator[int]:
        """Every sample from the data set through all that comes before the first layer.

        Yields each one's number after it is done. `check` may refuse what was measured before it is
        kept.
        """
        states, longest = [], 0
        with self._calibrating():
            for number, inputs in enumerate(self._samples()):
                keys, kept = self._embedded(inputs)
                states.append(SampleState(keys, self._shared(kept)))
                longest = max(longest, inputs["input_ids"].shape[-1])
                yield number
        found = self._found(_EMBEDDING, check)
        self._partial.commit(Journal(1, longest, tuple(states), found))

    def first_of_each(self) -> Measured:
        """What one sample of each signature shows before the first layer; nothing is kept."""
        done: set[Keys] = set()
        with self._calibrating():
            for inputs in self._samples():
                if tuple(sorted(inputs)) not in done:
                    done.add(self._embedded(inputs)[0])
        return self._watch.take()

    def layer(self, index: int, check: Check) -> Iterator[int]:
        """Every sample through layer `index`; yields each one's number after it is done.

        `check` may refuse what was measured before it is kept.
        """
        journal = self._partial.journal
        assert journal is not None
        self._trace_all({sample.keys for sample in journal.samples})
        layer, last = self._model.layers[index], index + 1 == len(self._model.layers)
        states = []
        with self._calibrating():
            self._model.fill(layer)
            for number, sample in enumerate(journal.samples):
                piece = self._graphs[sample.keys][index + 1]
                made = self._forward(piece, self._loaded(sample, piece), layer)
                kept = {n: f for n, f in sample.values.items() if n not in piece.consumed_names}
                saved = {} if last else {**kept, **self._saved(index + 1, number, made)}
                states.append(SampleState(sample.keys, saved))
                yield number
        measured = journal.measured.joined(self._found(layer, check))
        self._partial.commit(Journal(index + 2, journal.longest, tuple(states), measured))

    def _embedded(self, inputs: dict[str, Any]) -> tuple[Keys, dict[str, Any]]:
        """The signature of `inputs`, and what the layers need of them."""
        keys = tuple(sorted(inputs))
        if keys not in self._graphs:
            self._graphs[keys] = self._traced(inputs)
        values = {name: value.to(self._device) for name, value in inputs.items()}
        piece = self._graphs[keys][0]
        with _seeing(self._model.module.config, inputs):
            made = self._forward(piece, values, _EMBEDDING)
        kept = {n: v for n, v in values.items() if n not in piece.consumed_names}
        return keys, {**kept, **made}

    def _found(self, where: str, check: Check) -> Measured:
        """What was seen in one part of the model, if it can be kept."""
        found = self._watch.take()
        if found.not_finite() is not None:
            _refuse_non_finite(found, where)
        check(found)
        return found

    @contextmanager
    def rehearsing(self, index: int) -> Iterator[Callable[[], Iterator[int]]]:
        """Layer `index` with its weights, as often as wanted; for sweeps.

        Each call of what is yielded sends every sample through it and keeps nothing.
        """
        journal = self._partial.journal
        assert journal is not None
        self._trace_all({sample.keys for sample in journal.samples})
        layer = self._model.layers[index]

        def again() -> Iterator[int]:
            for number, sample in enumerate(journal.samples):
                piece = self._graphs[sample.keys][index + 1]
                self._forward(piece, self._loaded(sample, piece), layer)
                yield number

        with self._calibrating():
            self._model.fill(layer)
            yield again

    @contextmanager
    def _calibrating(self) -> Iterator[None]:
        """Hooks are live; weights that they read are given back at the end."""
        with ExitStack() as stack:
            stack.enter_context(calibration_forward_context(self._model.module))
            if self._unrouted is UnroutedExperts.SeeAllTokens:
                stack.enter_context(moe_calibration_context())
            stack.callback(self._model.empty)
            stack.callback(self._live, False)
            self._live(True)
            yield

    def _live(self, live: bool) -> None:
        self._model.filling = self._watch.watching = live

    def _forward(self, piece: Subgraph, values: dict[str, Any], where: str) -> dict[str, Any]:
        inputs = {name: values[name] for name in piece.input_names}
        with runnable(where):
            made: dict[str, Any] = piece.forward(self._model.module, **inputs)
        return made

    def _shared(self, values: dict[str, Any]) -> dict[str, str]:
        with storage_errors(self._partial.output):
            folder = self._partial.values
            return {name: save_shared(value, folder, name) for name, value in values.items()}

    def _saved(self, step: int, number: int, values: dict[str, Any]) -> dict[str, str]:
        files = {name: f"{step:05d}-{number:07d}-{name}.pt" for name in values}
        with storage_errors(self._partial.output):
            for name, file in files.items():
                save_value(values[name], self._partial.value_path(file), name)
        return files

    def _loaded(self, sample: SampleState, piece: Subgraph) -> dict[str, Any]:
        with storage_errors(self._partial.output):
            return {
                name: load_value(self._partial.value_path(sample.values[name]), self._device)
                for name in piece.input_names
            }

    def _trace_all(self, wanted: set[Keys]) -> None:
        """Trace every signature again after a restart; its first sample shows how."""
        if wanted <= self._graphs.keys():
            return
        for inputs in self._samples():
            keys = tuple(sorted(inputs))
            if keys not in self._graphs:
                self._graphs[keys] = self._traced(inputs)
            if wanted <= self._graphs.keys():
                return

    def _traced(self, inputs: dict[str, Any]) -> list[Subgraph]:
        """The pieces of the graph for samples like `inputs`: what comes before, and each layer."""
        live = self._model.filling
        self._live(False)
        layers = self._model.layers
        with runnable("the graph of the model"):
            pieces = trace_subgraphs(self._model.module, inputs, list(layers), _UNTRACED)
        self._live(live)
        for piece in pieces:
            _keep_configuration(piece, self._model.module)
        found = [
            [node.target for node in piece.graph.nodes if node.target in layers] for piece in pieces
        ]
        if found != [[], *([layer] for layer in layers)]:
            refuse_model(
                layers[0],
                "llm-compressor cannot cut this model into layers, so its activations cannot be "
                "measured layer by layer; choose a data-free recipe such as 'nvfp4a16'.",
            )
        return list(pieces)

    def _finite(self, layer: str) -> Any:
        def check(_: Any, __: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if self._watch.watching and not bool(torch.isfinite(value).all()):
                _refuse_non_finite(self._watch.take(), layer)

        return check


def _refuse_non_finite(found: Measured, layer: str) -> None:
    subject = found.not_finite() or layer
    raise RefusedInput(
        Reason.NonFiniteActivation,
        subject,
        f"Activations of `{subject}` are not finite (NaN or infinite), so there is no scale for "
        "them; check the source's weights, or keep this role in full precision.",
    )


@contextmanager
def _seeing(config: Any, inputs: dict[str, Any]) -> Iterator[None]:
    """Let the vision tower attend without holding all scores where an image is too large for it.

    Everything else attends eagerly, as in `oneshot`: the graph counts on the masks of that.
    """
    vision, pixels = getattr(config, "vision_config", None), inputs.get("pixel_values")
    heads = getattr(vision, "num_heads", None) or getattr(vision, "num_attention_heads", 0)
    if pixels is None or not heads or heads * pixels.shape[0] ** 2 * PAIR_BYTES <= _TOWER_BYTES:
        yield
        return
    with patch_attr(vision, "_attn_implementation", "sdpa"):
        yield


def _keep_configuration(piece: Subgraph, module: Any) -> None:
    """Let the graph use the model's own configuration objects.

    The tracer writes down how to build a copy, which has lost the kind of attention: Qwen3-MoE and
    Mixtral would then be run without a causal mask.
    """
    own = {type(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    for node in piece.graph.nodes:
        if node.op == "call_function" and node.target in own:
            node.target, node.kwargs = _giving(own[node.target]), {}


def _giving(value: Any) -> Any:
    def configuration() -> Any:
        return value

    return configuration

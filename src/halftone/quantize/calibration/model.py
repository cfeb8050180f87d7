"""The source's model as transformers builds it, without weights, one module for each expert.

Called by `measuring` and a sweep. Only classes of transformers itself are built, never code that
lies beside a checkpoint. Parameters are on the meta device: `streaming` fills them layer by layer,
each in the type that it has here. Buffers that a configuration alone decides (rotary frequencies)
are real.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, NoReturn

import torch
from accelerate import init_empty_weights
from llmcompressor.modeling.moe.linear_experts import LinearExperts2D
from llmcompressor.modeling.moe.linearize import get_non_linearized_moes
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)
from transformers.core_model_loading import build_glob_alternation

from halftone.quantize.calibration.memory import out_of_memory
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.names import CONFIG_FILE, Reason

# What a configuration says of code beside it, and of how its weights are stored.
_NOT_OURS: Final = ("auto_map", "quantization_config")


class Model(NamedTuple):
    """A model on the meta device. `layers` are the names of its decoder layers, in order."""

    module: Any
    layers: tuple[str, ...]


def build_model(config: dict[str, Any]) -> Model:
    """The model that `config` describes. Raises RefusedInput(ModelNotRunnable)."""
    with runnable():
        described = _configuration(config)
        builder = _builder(described)
        dtype = described.dtype or described.get_text_config().dtype or torch.bfloat16
        with init_empty_weights(include_buffers=False):
            module = builder.from_config(described, dtype=dtype)
            _take_experts_apart(module)
            _keep_in_fp32(module, dtype)
        module.eval()
        names = {found: name for name, found in module.named_modules()}
        layers = tuple(names[layer] for layer in module.get_decoder().layers)
    return Model(module, layers)


@contextmanager
def runnable(what: str = CONFIG_FILE) -> Iterator[None]:
    """Say of whatever transformers raises that the model cannot be run, cause chained.

    Our own errors, and those of the machine, pass; what is out of memory is a MemoryError.
    """
    try:
        yield
    except (HalftoneError, OSError, MemoryError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        text = str(error).strip().splitlines() or [""]
        said = f"{type(error).__name__}: {text[-1][:300]}"
        raise RefusedInput(
            Reason.ModelNotRunnable,
            what,
            f"transformers cannot run the model that `{CONFIG_FILE}` describes ({said}), so its "
            f"activations cannot be measured (at `{what}`); choose a data-free recipe such as "
            "'nvfp4a16'.",
        ) from error


def refuse_model(subject: str, message: str) -> NoReturn:
    """Raise RefusedInput(ModelNotRunnable)."""
    raise RefusedInput(Reason.ModelNotRunnable, subject, message)


def _configuration(config: dict[str, Any]) -> Any:
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        refuse_model(
            CONFIG_FILE,
            f"transformers has no model for `model_type` '{kind}' of `{CONFIG_FILE}`, so its "
            "activations cannot be measured; choose a data-free recipe such as 'nvfp4a16'.",
        )
    ours = {key: value for key, value in config.items() if key not in _NOT_OURS}
    return CONFIG_MAPPING[kind].from_dict(ours)


def _builder(described: Any) -> Any:
    """The class with the whole model: its language part alone has other names."""
    if type(described) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    if type(described) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    refuse_model(
        CONFIG_FILE,
        f"transformers has no language model for `model_type` '{described.model_type}' of "
        f"`{CONFIG_FILE}`; choose a data-free recipe such as 'nvfp4a16'.",
    )


def _take_experts_apart(module: Any) -> None:
    """Replace stacked experts by llm-compressor's modules, with one linear layer a matrix."""
    for name, experts in get_non_linearized_moes(module):
        kind = LinearExperts2D.get_linear_experts_cls(type(experts))
        module.set_submodule(name, kind(getattr(experts, "config", module.config)))


def _keep_in_fp32(module: Any, dtype: Any) -> None:
    """Give what transformers would load in float32, whatever the model's type, that type.

    A router's correction bias, for one, decides in its last bits. The rules are transformers' own,
    matched against names as it matches them when it loads (`convert_and_load_state_dict_in_model`).
    """
    planned = module._get_dtype_plan(dtype)
    if not planned:
        return
    rules, patterns, _ = build_glob_alternation(list(planned))
    for name, value in module.state_dict(keep_vars=True).items():
        found = rules.search(name)
        if found is not None:
            value.data = value.data.to(planned[patterns[found.lastgroup]])

"""llm-compressor's `oneshot` on a CPU; run in the quantize environment as a process.

    python oneshot.py CASES.json ANSWERS.json

CASES is a list of:

    source, target   the checkpoint, and the folder that gets what the library saves
    samples          a file of safetensors, `<number>.<input>`: what one forward pass takes each
    schemes          {preset: targets}; inputs are observed by their largest magnitude
    cache            whether keys and values are measured, by the same observer
    imageText        whether transformers' class for images and text is loaded, not the one for text
    pipeline, propagateError      the library's options
    perLayerAttributes            Gemma-4: let the library read one number of heads for all layers

ANSWERS gets, in the same order, `error` (the library's, or null) and `seconds` of `load`, `trace`,
`calibrate` (forward passes and activation scales), `weights` (their scales, in between) and `save`
(compressed). It must import neither the tests nor the package under test.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationScheme,
    preset_name_to_scheme,
)
from llmcompressor.core import reset_session
from llmcompressor.entrypoints.oneshot import Oneshot
from llmcompressor.entrypoints.utils import post_process
from llmcompressor.modeling.moe.linearize import load_quantizable_moe
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

Case = dict[str, Any]

# Remembers the largest magnitude of all batches. The library's default for keys and values, and
# for FP8, is a moving average.
OBSERVER = "static_minmax"


class TimedModifier(QuantizationModifier):  # type: ignore[misc]  # the library has no types here
    """The library's modifier, which writes down when its lifecycle reaches each stage."""

    seconds: ClassVar[defaultdict[str, float]] = defaultdict(float)

    def on_calibration_start(self, state: Any, event: Any, **kwargs: Any) -> None:
        self.seconds["start"] = time.perf_counter()
        super().on_calibration_start(state, event, **kwargs)

    def on_sequential_epoch_end(self, *given: Any, **kwargs: Any) -> None:
        begun = time.perf_counter()
        super().on_sequential_epoch_end(*given, **kwargs)
        self.seconds["weights"] += time.perf_counter() - begun

    def on_calibration_end(self, state: Any, event: Any, **kwargs: Any) -> None:
        super().on_calibration_end(state, event, **kwargs)
        self.seconds["end"] = time.perf_counter()


def modifier(case: Case) -> TimedModifier:
    """What to quantize, with observers that keep the maximum."""
    groups = {
        f"group_{number}": observed(preset_name_to_scheme(preset, targets))
        for number, (preset, targets) in enumerate(case["schemes"].items())
    }
    cache = QuantizationArgs(
        num_bits=8, type="float", strategy="tensor", dynamic=False, symmetric=True,
        observer=OBSERVER,
    )  # fmt: skip
    return TimedModifier(config_groups=groups, kv_cache_scheme=cache if case["cache"] else None)


def observed(scheme: QuantizationScheme) -> QuantizationScheme:
    """`scheme` with our observers."""
    scheme.weights.observer = "memoryless_minmax"
    if scheme.input_activations is not None and scheme.input_activations.dynamic is not True:
        scheme.input_activations.observer = OBSERVER
    return scheme


def samples(path: str) -> list[dict[str, torch.Tensor]]:
    """Model inputs, in order."""
    found: defaultdict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, value in load_file(path).items():
        number, _, key = name.partition(".")
        found[int(number)][key] = value
    return [found[number] for number in sorted(found)]


def quantize(case: Case) -> dict[str, float]:
    """Carry out one case as `oneshot` itself does; raises whatever the library raises."""
    TimedModifier.seconds.clear()
    ready = samples(case["samples"])
    begun = time.perf_counter()
    kind = AutoModelForImageTextToText if case.get("imageText") else AutoModelForCausalLM
    with load_quantizable_moe(kind):
        model = kind.from_pretrained(case["source"], dtype="auto")
    if case.get("perLayerAttributes"):
        for part in (model.config, *map(model.config.__getattribute__, model.config.sub_configs)):
            part.allow_global_per_layer_attribute_access = True
    loaded = time.perf_counter()
    entry = Oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(case["source"]),
        recipe=[modifier(case)],
        dataset=DataLoader(ready, batch_size=None),
        num_calibration_samples=len(ready),
        pipeline=case.get("pipeline", "independent"),
        propagate_error=case.get("propagateError", True),
        output_dir=case["target"],
    )
    begun_calibration = time.perf_counter()
    entry.apply_recipe_modifiers(entry.dataset_args.dataset)
    calibrated = time.perf_counter()
    post_process(entry.model_args, entry.recipe_args, entry.output_dir)
    stages = TimedModifier.seconds
    return {
        "load": loaded - begun,
        "trace": stages["start"] - begun_calibration,
        "calibrate": stages["end"] - stages["start"] - stages["weights"],
        "weights": stages["weights"],
        "save": time.perf_counter() - calibrated,
    }


def outcome(case: Case) -> Case:
    """The times, or the library's error: refusals are answers too."""
    try:
        return {"error": None, "seconds": quantize(case)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "seconds": None}
    finally:
        reset_session()


def main(cases: Path, answers: Path) -> None:
    """Carry out every case of a file."""
    torch.set_num_threads(2)
    answers.write_text(json.dumps([outcome(case) for case in json.loads(cases.read_text())]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

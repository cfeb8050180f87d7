"""Sweeps with data, and what transformers' own models say to them; run in the quantize environment.

    python sweep_on_data.py REQUEST.json ANSWER.json

REQUEST is `{"commands", "source", "rounded", "texts", "families"}`: argument lists of `halftone`;
a checkpoint, the same with rounded weights and rows of text; and names of families. ANSWER gets how
each command ended; by layer, how far its output moves when its weights are those of `rounded`; and
the numbers in the configuration of each family. It must not import the tests, nor the sweep.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from halftone_commands import run  # type: ignore[import-not-found]  # beside this script
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoTokenizer


def moved(source: str, rounded: str, texts: list[str]) -> list[float]:
    """The mean over tokens of ||h' - h||² / ||h||², with the layer's own inputs; by layer."""
    kept, other = (_layers(one) for one in (source, rounded))
    seen: list[list[Any]] = [[] for _ in kept[1]]
    for layer, calls in zip(kept[1], seen, strict=True):
        layer.register_forward_hook(_note(calls), with_kwargs=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    for text in texts:
        kept[0](input_ids=tokenizer(text, return_tensors="pt").input_ids, use_cache=False)
    return [_moved(layer, calls) for layer, calls in zip(other[1], seen, strict=True)]


def _layers(source: str) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    model.eval()
    return model, model.model.language_model.layers


def _note(calls: list[Any]) -> Any:
    def note(layer: Any, arguments: Any, named: Any, output: Any) -> None:
        calls.append((arguments, named, _hidden(output)))

    return note


def _moved(layer: Any, calls: list[Any]) -> float:
    ratios = []
    for arguments, named, kept in calls:
        off = (_hidden(layer(*arguments, **named)) - kept).double().square().sum(-1)
        ratios.append(off / kept.double().square().sum(-1))
    return float(torch.cat([ratio.flatten() for ratio in ratios]).mean())


def _hidden(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def numbers(family: str) -> dict[str, int]:
    """The whole numbers of a family's configuration as transformers fills it in."""
    text = CONFIG_MAPPING[family]().get_text_config().to_dict()
    return {name: value for name, value in text.items() if type(value) is int}


def main(request: Path, answer: Path) -> None:
    """Answer one request."""
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    asked = json.loads(request.read_text())
    found = {
        "commands": [run(arguments) for arguments in asked["commands"]],
        "moved": moved(asked["source"], asked["rounded"], asked["texts"]),
        "families": {family: numbers(family) for family in asked["families"]},
    }
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

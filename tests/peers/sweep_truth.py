"""How far whole models move when roles are quantized; run in the quantize environment.

    python sweep_truth.py REQUEST.json ANSWER.json

REQUEST is `{"source", "texts", "combinations"}`, where a combination gives roles their formats.
ANSWER gets, in the same order, the mean KL divergence over all tokens, in nats, between the model
that transformers loads and the same with the weights, and activations, of a combination. It must
not import the tests; of the package it uses what a sweep puts into a single layer.
"""

import json
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.measurements import input_group
from halftone.quantize.calibration.weights import Names
from halftone.quantize.sweep.candidates import candidates
from halftone.quantize.sweep.measuring.variants import Placed, variant
from halftone.quantize.sweep.rounding import WeightRounder
from halftone.quantize.sweep.sampling import units_of
from halftone.spec.formats import Format
from halftone.spec.job import Recipe
from halftone.spec.roles import Role
from halftone.stores import open_source

_TOKENS = 128


class Model:
    """The whole model in float32, and where its quantizable matrices are."""

    def __init__(self, source: Path) -> None:
        self._recipe = Recipe(name="truth", precision=())
        checkpoint = read_checkpoint(open_source(source))
        table = candidates(checkpoint, self._recipe, tuple(Format), True)
        self._model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
        self._model.eval()
        names = Names(self._model)
        self._placed = {
            role: [
                Placed(unit, tuple(self._module(member.name, names) for member in unit.members))
                for unit in units_of(tensors)
            ]
            for role, tensors in table.tensors.items()
        }
        self._amax: defaultdict[str, float] = defaultdict(float)

    def watch(self, rows: list[Any]) -> list[Any]:
        """The probabilities of every row, while the largest inputs are noted."""
        handles = [
            module.register_forward_pre_hook(self._note(input_group(member)))
            for placed in self._placed.values()
            for one in placed
            for module, member in zip(one.modules, one.unit.members, strict=True)
        ]
        found = [self._logs(row) for row in rows]
        for handle in handles:
            handle.remove()
        return found

    def divergence(self, combination: dict[str, str], rows: list[Any], kept: list[Any]) -> float:
        """The mean KL divergence from `kept` with `combination` in place."""
        rounder = WeightRounder(self._recipe)
        with ExitStack() as stack:
            for role, fmt in combination.items():
                placed = self._placed[Role(role)]
                amax = {
                    one.unit.name: self._amax[input_group(one.unit.members[0])] for one in placed
                }
                stack.enter_context(variant(placed, Format(fmt), rounder, amax))
            lost = [
                (p.exp() * (p - self._logs(r))).sum(-1) for p, r in zip(kept, rows, strict=True)
            ]
        return float(torch.cat([one.flatten() for one in lost]).mean())

    def _logs(self, row: Any) -> Any:
        return torch.log_softmax(self._model(input_ids=row).logits.double(), -1)

    def _module(self, tensor: str, names: Names) -> Any:
        place = names.in_model(tensor)
        assert place is not None
        return self._model.get_submodule(place.removesuffix(".weight"))

    def _note(self, group: str) -> Any:
        def note(module: Any, arguments: tuple[Any, ...]) -> None:
            self._amax[group] = max(self._amax[group], float(arguments[0].abs().max()))

        return note


def main(request: Path, answer: Path) -> None:
    """Answer one request."""
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    asked = json.loads(request.read_text())
    source = Path(asked["source"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    rows = [tokenizer(t, return_tensors="pt").input_ids[:, :_TOKENS] for t in asked["texts"]]
    model = Model(source)
    kept = model.watch(rows)
    found = [model.divergence(one, rows, kept) for one in asked["combinations"]]
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

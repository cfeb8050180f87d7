"""Calibrates checkpoints, and measures the same by itself; run in the quantize environment.

    python calibration.py CASES.json ANSWERS.json

CASES is a list of `{"source", "quantization", "output"}`, with `"environment"` where it needs one
and `"whole": true` where the model is to be run beside, as transformers loads it. `"also"` names
weights that no recipe can quantize today, and which the plan is made to. ANSWERS gets what
`calibrate` returned, wrote, noticed and told its progress, or how it refused; for `whole` also what
our own hooks saw in that model. It must not import the tests; of the package it uses what a caller
would.
"""

import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.calibration.calibrating import calibrate
from halftone.spec.errors import HalftoneError
from halftone.spec.formats import Format
from halftone.spec.job import Quantization
from halftone.spec.recipes import resolve
from halftone.stores import open_source


class Told:
    """What calibration told its progress."""

    def __init__(self, do: Callable[[int], None]) -> None:
        self.total = self.done = self.skipped = 0
        self._do = do

    def begin(self, total_steps: int) -> None:
        self.total = total_steps

    def advance(self, steps: int) -> None:
        self.done += steps
        self._do(self.done)

    def skip(self, steps: int) -> None:
        self.skipped += steps


def calibrated(
    case: dict[str, Any], do: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """One case by `calibrate`; `do` is called after each step."""
    told, output = Told(do), Path(case["output"])
    notices: list[str] = []
    try:
        checkpoint = read_checkpoint(open_source(case["source"]))
        recipe = resolve(Quantization.model_validate(case["quantization"]), "test")
        planned = _with(plan_checkpoint(checkpoint, recipe), case.get("also", ()))
        document = calibrate(planned, checkpoint, output, progress=told, notice=notices.append)
    except HalftoneError as error:
        left = sorted(path.name for path in output.iterdir()) if output.exists() else None
        kind = type(error).__name__
        return {"refused": [kind, error.reason, error.subject, error.message], "left": left}
    return {
        "notices": notices,
        "document": document.model_dump(mode="json"),
        "tensors": {
            name: array.tolist() for name, array in load_file(output / document.file.path).items()
        },
        "files": sorted(path.name for path in output.iterdir()),
        "progress": [told.total, told.done, told.skipped],
    }


def _with(planned: Planned, also: Sequence[str]) -> Planned:
    """The plan with more tensors in NVFP4."""
    tensors = tuple(
        tensor._replace(format=Format.NVFP4) if tensor.name in also else tensor
        for tensor in planned.tensors
    )
    return replace(planned, tensors=tensors)


def whole(case: dict[str, Any]) -> dict[str, Any]:
    """The largest magnitudes by hooks on transformers' own model, all of it in memory."""
    import torch
    import transformers

    from halftone.quantize.calibration.dataset.preparing import prepare_data

    checkpoint = read_checkpoint(open_source(case["source"]))
    calibration = Quantization.model_validate(case["quantization"]).calibration
    assert calibration is not None
    config = transformers.AutoConfig.from_pretrained(case["source"])
    kind = getattr(transformers, config.architectures[0])
    model = kind.from_pretrained(
        case["source"], dtype="auto", attn_implementation="eager", experts_implementation="eager"
    )
    model.eval()
    seen = _Seen(every_token=calibration.unroutedExperts == "SeeAllTokens")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(seen.linear(name))
        elif name.endswith(".experts"):
            module.register_forward_pre_hook(seen.experts(name, module))
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        for sample in prepare_data(calibration, checkpoint, Path(scratch)).samples():
            seen.sample += 1
            model(**sample.inputs, past_key_values=seen.cache(model.config), use_cache=True)
    return {
        "inputs": seen.inputs,
        "tokens": seen.tokens,
        "samples": {name: len(numbers) for name, numbers in seen.samples.items()},
        "routed": seen.routed,
        "routedSamples": seen.routed_samples,
        "kv": seen.kv,
    }


class _Seen:
    def __init__(self, every_token: bool) -> None:
        self.sample = 0
        self.samples: defaultdict[str, set[int]] = defaultdict(set)
        self.inputs: defaultdict[str, float] = defaultdict(float)
        self.tokens: defaultdict[str, int] = defaultdict(int)
        self.routed: dict[str, list[int]] = {}
        self.routed_samples: dict[str, list[int]] = {}
        self.kv: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._every_token = every_token

    def linear(self, name: str) -> Callable[..., None]:
        def see(module: Any, arguments: Any) -> None:
            self._input(name, arguments[0])

        return see

    def experts(self, name: str, module: Any) -> Callable[..., None]:
        import torch

        functional = torch.nn.functional

        def see(_: Any, arguments: Any) -> None:
            hidden, chosen = arguments[:2]
            counts = self.routed.setdefault(name, [0] * len(module.down_proj))
            of_samples = self.routed_samples.setdefault(name, [0] * len(module.down_proj))
            for number, gate_up in enumerate(module.gate_up_proj):
                own = (chosen == number).any(-1)
                counts[number] += int(own.sum())
                of_samples[number] += bool(own.any())
                tokens = hidden if self._every_token else hidden[own]
                if not len(tokens):
                    continue
                gate, up = (functional.linear(tokens, half) for half in gate_up.chunk(2))
                for projection in ("gate_proj", "up_proj"):
                    self._input(f"{name}.{number}.{projection}", tokens)
                self._input(f"{name}.{number}.down_proj", module.act_fn(gate) * up)

        return see

    def cache(self, config: Any) -> Any:
        from transformers import DynamicCache

        found = DynamicCache(config=config.get_text_config())
        update = found.update

        def see(keys: Any, values: Any, layer: int, *rest: Any, **more: Any) -> Any:
            both = self.kv[layer]
            both[0] = max(both[0], keys.abs().max().item())
            both[1] = max(both[1], values.abs().max().item())
            return update(keys, values, layer, *rest, **more)

        found.update = see
        return found

    def _input(self, name: str, value: Any) -> None:
        self.inputs[name] = max(self.inputs[name], value.abs().max().item())
        self.tokens[name] += value.numel() // value.shape[-1]
        self.samples[name].add(self.sample)


@contextmanager
def overheard(path: Path) -> Iterator[None]:
    """Whatever is printed, by whichever library, goes to `path`."""
    kept = [os.dup(1), os.dup(2)]
    with path.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, old in zip((1, 2), kept, strict=True):
                os.dup2(old, descriptor)
                os.close(old)


def main(cases: Path, answers: Path) -> None:
    """Answer every case of a file."""
    found = []
    for case in json.loads(cases.read_text()):
        os.environ.update(case.get("environment", {}))
        said = Path(f"{case['output']}.said")
        said.parent.mkdir(parents=True, exist_ok=True)
        with overheard(said):
            answer = calibrated(case)
        answer["said"] = said.read_text()
        if case.get("whole"):
            answer["whole"] = whole(case)
        found.append(answer)
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

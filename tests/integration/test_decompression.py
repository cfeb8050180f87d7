"""What other libraries read from our checkpoints is what our decoder reads, bit for bit.

We test these aspects:
- `compressed_tensors` finds every quantized matrix of every family and preset by our `config.json`,
  decompresses it to our decoder's values, and finds nothing left over
- scales of every search and of both kinds of blocks, ragged blocks and hard weights included
- what is kept is the source's, byte for byte
- `transformers` loads dense results, quantizes exactly the modules of the plan, and its own
  decompression gives the same values
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.plan.planning import Planned
from halftone.spec.formats import Format
from halftone.spec.job import Recipe
from halftone.spec.recipes import load_recipe
from tests import builders
from tests.builders import TINY, Tensor, has_experts, write_checkpoint
from tests.commands import quantize_directory
from tests.environments import ask
from tests.quantizing import DATA_FREE, Bits, decoded

pytestmark = pytest.mark.quantize_env


@dataclass(frozen=True)
class Case:
    """A preset, with `changes` to it, of a source."""

    model: str
    preset: str
    changes: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For the names of tests and directories."""
        return "-".join(
            map(str, [self.model, self.preset, *self.changes.values(), *self.source.values()])
        )

    def recipe(self) -> Recipe:
        """The preset with its changes."""
        chosen = load_recipe(self.preset)
        return Recipe.model_validate(chosen.model_dump() | self.changes)


CASES = [
    *(Case(m, p) for m in TINY for p in DATA_FREE if not (has_experts(m) and p == "nvfp4a16-mlp")),
    *(Case("qwen3_5_moe", p, source={"experts": "Fused"}) for p in ("nvfp4a16", "fp8-dynamic")),
    *(
        Case("qwen3", "nvfp4a16", {"scaleSearch": search}, {"weights": "Outliers"})
        for search in ("MeanSquaredError", "Exhaustive")
    ),
    *(Case("qwen3", p, source={"weights": "Subnormal"}) for p in ("nvfp4a16", "fp8-dynamic")),
    Case("qwen3", "fp8-block", {"blockScale": "Free"}),
    Case("qwen3", "nvfp4a16", source={"dtype": "F16"}),
]
# Dense families; of mixtures of experts transformers is known to lose the global scales.
LOADED = [
    Case(m, p)
    for m in ("llama", "qwen3", "qwen3_5", "gemma4_unified")
    for p in ("nvfp4a16", "fp8-dynamic", "fp8-block")
]
IN_TRANSFORMERS = {
    Format.NVFP4A16: [4, "tensor_group", False],
    Format.FP8_DYNAMIC: [8, "channel", True],
    Format.FP8_BLOCK: [8, "block", True],
}


@dataclass(frozen=True)
class Written:
    """A source and our result."""

    planned: Planned
    directory: Path
    kept: dict[str, Tensor]
    bits: dict[str, Bits]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """Every case, quantized by us."""
    root = tmp_path_factory.mktemp("ours")
    out = {}
    for case in CASES:
        source = write_checkpoint(root / case.name / "source", case.model, **case.source)
        target = root / case.name / "target"
        planned = quantize_directory(source, target, case.recipe()).planned
        names = {t.name for t in planned.tensors if t.format is None}
        stored = builders.read_checkpoint(source)
        kept = {name: stored[name] for name in names}
        out[case.name] = Written(planned, target, kept, decoded(planned, target))
    return out


@pytest.fixture(scope="module")
def decompressed(
    written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Tensor]]:
    """The same, decompressed by compressed-tensors in one process."""
    work = tmp_path_factory.mktemp("decompressed")
    requests = _requests(written, CASES, work)
    errors = ask("quantize", "decompress.py", requests, work=work, timeout_s=200)
    assert [error for error in errors if error] == []
    return {
        case.name: builders.read_file(Path(request["output"]))
        for case, request in zip(CASES, requests, strict=True)
    }


@pytest.fixture(scope="module")
def loaded(
    written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    """What transformers says about dense results, and its weights, from one process."""
    work = tmp_path_factory.mktemp("loaded")
    requests = _requests(written, LOADED, work)
    said = ask("quantize", "transformers_load.py", requests, work=work, timeout_s=200)
    return {
        case.name: (one, builders.read_file(Path(request["output"])))
        for case, request, one in zip(LOADED, requests, said, strict=True)
    }


def _requests(written: dict[str, Written], cases: list[Case], work: Path) -> list[dict[str, str]]:
    return [
        {
            "checkpoint": str(written[case.name].directory),
            "output": str(work / f"{case.name}.safetensors"),
        }
        for case in cases
    ]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_compressed_tensors_decompresses_to_our_decoders_values(
    case: Case, written: dict[str, Written], decompressed: dict[str, dict[str, Tensor]]
) -> None:
    ours, theirs = written[case.name], decompressed[case.name]
    assert theirs.keys() == ours.bits.keys() | ours.kept.keys()
    assert ours.bits
    assert differing(ours.bits, theirs) == []
    assert [name for name, tensor in ours.kept.items() if theirs[name] != tensor] == []


@pytest.mark.parametrize("case", LOADED, ids=[case.name for case in LOADED])
def test_transformers_quantizes_the_modules_of_the_plan_and_reads_our_values(
    case: Case,
    written: dict[str, Written],
    loaded: dict[str, tuple[dict[str, Any], dict[str, Tensor]]],
) -> None:
    ours = written[case.name]
    said, theirs = loaded[case.name]
    assert said["complaints"] == {}
    assert said["finite"]
    assert said["schemes"] == {
        t.name.removesuffix(".weight"): IN_TRANSFORMERS[t.format]
        for t in ours.planned.tensors
        if t.format is not None
    }
    assert differing(ours.bits, theirs) == []


def differing(ours: dict[str, Bits], theirs: dict[str, Tensor]) -> list[str]:
    """The matrices that `theirs` does not hold in BF16 with exactly our bits."""
    return [
        name
        for name, bits in ours.items()
        if theirs[name].dtype != "BF16"
        or not np.array_equal(
            np.frombuffer(theirs[name].data, np.uint16).reshape(theirs[name].shape), bits
        )
    ]

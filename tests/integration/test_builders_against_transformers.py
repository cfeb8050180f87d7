"""The builders' checkpoints, loaded and saved again by transformers itself.

The other tests believe what the builders say about names, shapes and dtypes. Here transformers
judges them: it loads each tiny checkpoint with nothing missing and nothing left over, and what it
saves from it has the same tensors, bytes included; full-size names are compared without weights.
compressed-tensors judges the dequantization of FP8 sources.
"""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.builders import (
    FULL_SIZE,
    TINY,
    Fp8Source,
    full_size_config,
    has_experts,
    read_checkpoint,
    shapes,
    write_checkpoint,
    write_companions,
    write_fp8,
)
from tests.builders.shapes import ExpertLayout
from tests.environments import ask

pytestmark = pytest.mark.quantize_env

_WITH_EXPERTS = [model for model in TINY if has_experts(model)]
_CASES: list[tuple[str, ExpertLayout]] = [
    *((model, "PerExpert") for model in TINY),
    *((model, "Fused") for model in _WITH_EXPERTS),
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every tiny model, those with experts in both layouts."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        (model, layout): write_checkpoint(root / model / layout, model, experts=layout)
        for model, layout in _CASES
    }


@pytest.fixture(scope="module")
def configurations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reference bases' configurations, without weights."""
    directories = {name: tmp_path_factory.mktemp(name) for name in FULL_SIZE}
    for name, directory in directories.items():
        write_companions(directory, full_size_config(name))
    return directories


@pytest.fixture(scope="module")
def fp8_sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fp8Source]:
    """A model with partial blocks (experts of 64 rows) as publishers ship FP8."""
    root = tmp_path_factory.mktemp("fp8")
    return {
        "Block, BF16 scales": write_fp8(root / "b", "qwen3_5_moe", scheme="Block"),
        "Block, F32 scales": write_fp8(root / "f", "qwen3_5_moe", scale_dtype="F32"),
        "Channel": write_fp8(root / "c", "qwen3_5_moe", scheme="Channel"),
    }


@pytest.fixture(scope="module")
def answer(
    checkpoints: dict[tuple[str, str], Path],
    configurations: dict[str, Path],
    fp8_sources: dict[str, Fp8Source],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What transformers says about all of them, from one process."""
    work = tmp_path_factory.mktemp("peer")
    request = {
        "work": str(work),
        "checkpoints": [str(one) for one in checkpoints.values()],
        "configurations": [str(one) for one in configurations.values()],
        "fp8": [str(one.directory) for one in fp8_sources.values()],
    }
    answered: dict[str, Any] = ask(
        "quantize", "transformers_names.py", request, work=work, timeout_s=280
    )
    return answered


@pytest.mark.parametrize(("model", "layout"), _CASES)
def test_transformers_loads_every_tensor_and_runs(
    checkpoints: dict[tuple[str, str], Path], answer: dict[str, Any], model: str, layout: str
) -> None:
    found = answer["checkpoints"][str(checkpoints[model, layout])]
    assert found["loading"] == {}
    assert found["finite"]
    assert found["model_type"] == model
    assert found["text"] == "a half tone, été 12"


@pytest.mark.parametrize(("model", "layout"), _CASES)
def test_what_transformers_saves_is_what_we_wrote(
    checkpoints: dict[tuple[str, str], Path], answer: dict[str, Any], model: str, layout: str
) -> None:
    found = answer["checkpoints"][str(checkpoints[model, layout])]["saved"][layout]
    ours = {
        name: [one.dtype, list(one.shape), hashlib.sha256(one.data).hexdigest()]
        for name, one in read_checkpoint(checkpoints[model, layout]).items()
        if not name.startswith("mtp.")  # transformers neither loads nor saves these
    }
    assert found == ours


@pytest.mark.parametrize("model", _WITH_EXPERTS)
def test_both_expert_layouts_are_one_model_to_transformers(
    checkpoints: dict[tuple[str, str], Path], answer: dict[str, Any], model: str
) -> None:
    one = answer["checkpoints"][str(checkpoints[model, "PerExpert"])]
    other = answer["checkpoints"][str(checkpoints[model, "Fused"])]
    assert one["logits"] == other["logits"]
    assert one["saved"]["Fused"] == other["saved"]["Fused"]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_headers_are_those_of_transformers(
    configurations: dict[str, Path], answer: dict[str, Any], name: str
) -> None:
    found = answer["configurations"][str(configurations[name])]
    ours = shapes(full_size_config(name), multi_token_prediction=False)
    assert found == {name: ["torch.bfloat16", list(shape)] for name, shape in ours.items()}


@pytest.mark.parametrize("kind", ["Block, BF16 scales", "Block, F32 scales", "Channel"])
def test_fp8_sources_mean_the_same_to_compressed_tensors(
    fp8_sources: dict[str, Fp8Source], answer: dict[str, Any], kind: str
) -> None:
    source = fp8_sources[kind]
    ours = {name: hashlib.sha256(one.data).hexdigest() for name, one in source.dequantized.items()}
    assert answer["fp8"][str(source.directory)] == ours

"""Inspection against the peers: what llm-compressor writes, and what vLLM makes of a configuration.

We test these aspects:
- the expert, shared-expert and linear-attention defects in `model_free_ptq`'s own output, both
  expert layouts, also as the error that a server will see
- its dense output is clean in every format
- a quantized router and embedding, which it writes when nobody tells it not to
- for thousands of modules under random ignore lists our rules answer what vLLM's classes answer
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from halftone.checkpoint.architectures import find
from halftone.checkpoint.index import read_checkpoint
from halftone.checkpoint.serving_config import is_multimodal, read_rules
from halftone.checkpoint.serving_rules import (
    Activations,
    Rules,
    Scheme,
    ServedModule,
    WeightLayout,
    WillNotLoad,
)
from halftone.spec.names import DefectKind
from halftone.spec.roles import Role
from halftone.stores import open_source
from halftone.validate.findings import Inspection
from halftone.validate.inspection import inspect_uri
from halftone.validate.inventory import take_inventory
from halftone.validate.loading import served_modules
from tests.builders import write_checkpoint
from tests.environments import ask

_NOT_LANGUAGE = ["lm_head", "re:.*embed_tokens$", "re:.*visual.*", "re:^mtp.*"]
_ROUTERS = [r"re:.*mlp\.gate$", "re:.*shared_expert_gate$"]
_LINEAR_ATTENTION = ["re:.*linear_attn.*"]


class Pair(NamedTuple):
    """A source, and what llm-compressor made of it."""

    source: Path
    output: Path


# name: (model, expert layout, scheme, what is left alone)
_CASES: dict[str, tuple[str, Any, str, list[str]]] = {
    "experts-Fused": (
        "qwen3_5_moe",
        "Fused",
        "NVFP4A16",
        [*_NOT_LANGUAGE, *_ROUTERS, *_LINEAR_ATTENTION],
    ),
    "experts-PerExpert": (
        "qwen3_5_moe",
        "PerExpert",
        "NVFP4A16",
        [*_NOT_LANGUAGE, *_ROUTERS, *_LINEAR_ATTENTION],
    ),
    "linear-attention": (
        "qwen3_5",
        "PerExpert",
        "NVFP4A16",
        [*_NOT_LANGUAGE, r"re:.*linear_attn\.conv1d"],
    ),
    "router": ("qwen3_moe", "PerExpert", "FP8_DYNAMIC", ["lm_head"]),
    **{
        f"dense-{scheme}": ("qwen3", "PerExpert", scheme, ["lm_head", "re:.*embed_tokens$"])
        for scheme in ("NVFP4A16", "FP8_DYNAMIC", "FP8_BLOCK")
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Every case, quantized by one process of the peer's environment."""
    folder = tmp_path_factory.mktemp("peer")
    pairs, cases = {}, []
    for name, (model, experts, scheme, ignore) in _CASES.items():
        source = write_checkpoint(folder / f"{name}-source", model, experts=experts)
        pairs[name] = Pair(source, folder / name)
        cases.append(
            {"source": str(source), "target": str(folder / name), "scheme": scheme}
            | {"ignore": ignore}
        )
    errors = ask(
        "quantize", "model_free_ptq.py", cases, work=folder, timeout_s=280, options=["--cases"]
    )
    assert errors == [None] * len(cases)
    return pairs


def kinds(inspection: Inspection) -> Counter[DefectKind]:
    return Counter(defect.kind for defect in inspection.defects)


def errors(inspection: Inspection, role: Role) -> tuple[float, float]:
    line = next(r for r in inspection.roles if r.role is role)
    assert line.relativeError is not None
    assert line.relativeErrorServing is not None
    return line.relativeError, line.relativeErrorServing


@pytest.mark.quantize_env
@pytest.mark.parametrize("experts", ["Fused", "PerExpert"])
def test_the_expert_defect_is_found_in_llm_compressors_output(
    made: dict[str, Pair], experts: str
) -> None:
    source, output = made[f"experts-{experts}"]

    found = inspect_uri(str(output), str(source))

    unequal = {d.tensor for d in found.defects if d.kind is DefectKind.UnequalGlobalScales}
    assert sum(".mlp.experts." in name for name in unequal) >= 31  # of 4 layers of 8 experts
    assert sum(".shared_expert." in name for name in unequal) == 4
    assert len(unequal) == kinds(found)[DefectKind.UnequalGlobalScales]
    for role in (Role.Experts, Role.SharedExperts):
        own, serving = errors(found, role)
        assert own == pytest.approx(0.095, abs=0.002)
        assert serving > 0.15
    assert errors(found, Role.Attention)[1] == pytest.approx(0.095, abs=0.002)
    # Whatever is kept is the source's, bit for bit.
    assert errors(found, Role.Vision) == (0.0, 0.0)


@pytest.mark.quantize_env
def test_the_linear_attention_defect_is_found_in_llm_compressors_output(
    made: dict[str, Pair],
) -> None:
    source, output = made["linear-attention"]

    found = inspect_uri(str(output), str(source))

    unequal = [d.message for d in found.defects if d.kind is DefectKind.UnequalGlobalScales]
    assert len(unequal) == 6
    assert sum("in_proj_qkvz" in message for message in unequal) == 3
    assert sum("in_proj_ba" in message for message in unequal) == 3
    assert errors(found, Role.LinearAttention)[1] > 0.15
    assert errors(found, Role.Mlp)[1] == pytest.approx(0.095, abs=0.002)


@pytest.mark.quantize_env
@pytest.mark.parametrize("scheme", ["NVFP4A16", "FP8_DYNAMIC", "FP8_BLOCK"])
def test_llm_compressors_dense_output_is_clean(made: dict[str, Pair], scheme: str) -> None:
    source, output = made[f"dense-{scheme}"]

    found = inspect_uri(str(output), str(source))

    assert found.defects == ()
    assert {r.format for r in found.roles if r.role is Role.Mlp} == {scheme}
    bound = 0.097 if scheme == "NVFP4A16" else 0.028
    assert errors(found, Role.Mlp)[1] < bound


@pytest.mark.quantize_env
def test_a_quantized_router_and_embedding_are_found(made: dict[str, Pair]) -> None:
    source, output = made["router"]

    found = inspect_uri(str(output))

    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    assert kinds(found)[DefectKind.RouterQuantized] == layers
    refused = [d.tensor for d in found.defects if d.kind is DefectKind.IgnoreListWillNotLoad]
    assert refused == ["model.embed_tokens.weight"]


# vLLM ---------------------------------------------------------------------------------------------

_WEIGHTS = {
    "tensor_group": WeightLayout.Nvfp4,
    "channel": WeightLayout.Fp8Channel,
    "tensor": WeightLayout.Fp8Tensor,
    "block": WeightLayout.Fp8Block,
    "NVFP4": WeightLayout.Nvfp4,
    "W4A16_NVFP4": WeightLayout.Nvfp4,
    "FP8": WeightLayout.Fp8Tensor,
}
_ACTIVATIONS = {
    "kept": Activations.Kept,
    "True": Activations.Dynamic,
    "local": Activations.Static,
    "False": Activations.Static,
}
_NVFP4 = {
    "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
    "symmetric": True, "dynamic": False,
}  # fmt: skip
_FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
_SCHEMES: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    (_NVFP4, None),
    (_NVFP4, _NVFP4 | {"dynamic": "local"}),
    (_FP8 | {"strategy": "channel"}, _FP8 | {"strategy": "token", "dynamic": True}),
    (_FP8 | {"strategy": "tensor"}, _FP8 | {"strategy": "tensor"}),
    (_FP8 | {"strategy": "block", "block_structure": [128, 128]}, None),
]
_EXPRESSIONS = [
    r"re:.*self_attn.*", r"re:.*linear_attn.*", r"re:.*mlp\.(gate|up|down)_proj$", r"re:.*q_proj$",
    r"re:.*visual.*", r"re:^mtp.*", r"re:.*layers\.[02]\..*", r"re:.*experts.*", r"re:.*in_proj_z",
    r"re:.*shared_expert\..*", r"re:language_model\.model.*", r"re:model\.language_model.*",
    r"re:.*gate_up_proj$", r"re:.*vision_embedder.*",
]  # fmt: skip


def compressed_tensors_case(chance: random.Random, names: list[str]) -> dict[str, Any]:
    """A random block: exact names as on disk and expressions, in ignores and in targets."""

    def some(most: int) -> list[str]:
        exact = chance.sample(names, chance.randint(0, most))
        return [*exact, *chance.sample(_EXPRESSIONS, chance.randint(0, 3))]

    groups = {}
    for number in range(chance.randint(1, 2)):
        weights, inputs = chance.choice(_SCHEMES)
        targets = some(20) or ["Linear"]
        if chance.random() < 0.6:
            targets.append("Linear")
        layout = "nvfp4-pack-quantized" if weights is _NVFP4 else "float-quantized"
        groups[f"group_{number}"] = {
            "targets": targets, "weights": weights, "input_activations": inputs, "format": layout,
        }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision",
        "config_groups": groups,
        "ignore": some(len(names) if chance.random() < 0.3 else 12),
    }


def modelopt_case(chance: random.Random, names: list[str]) -> dict[str, Any]:
    """A random block of ModelOpt: exact names and wildcards, one algorithm or one per layer."""
    wildcards = ["*self_attn*", "*visual*", "mtp*", "lm_head", "*.mlp.gate_proj", "model.visual*"]
    wildcards += ["model.language_model.layers.1*", "*layers.2.*", "*experts*"]
    listed = chance.sample(names, chance.choice([0, 5, len(names) // 2]))
    listed += chance.sample(wildcards, chance.randint(0, 4))
    block: dict[str, Any] = {"quant_method": "modelopt", "ignore": listed}
    if chance.random() < 0.4:
        layers = {
            name: {"quant_algo": chance.choice(["NVFP4", "W4A16_NVFP4", "FP8"])}
            for name in chance.sample(names, len(names) // 2)
        }
        return block | {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    return block | {"quant_algo": chance.choice(["NVFP4", "W4A16_NVFP4", "FP8"])}


def our_answer(rules: Rules, module: ServedModule) -> Any:
    try:
        return rules.scheme_of(module)
    except WillNotLoad:
        return "refused"


def modules_of(folder: Path, model: str) -> tuple[list[ServedModule], list[str]]:
    """What a server builds for a tiny `model`, and its modules' names on disk."""
    source = open_source(write_checkpoint(folder / model, model))
    checkpoint = read_checkpoint(source)
    source.close()
    table = find(checkpoint.config)
    assert table is not None
    inventory = take_inventory(checkpoint.tensors, table)
    assert is_multimodal(inventory.modules)
    # Heads and embeddings have classes of their own; `mtp.fc` is decided by the model's code.
    modules = [
        module
        for module in served_modules(inventory, table)
        if module.kind in {"Linear", "RoutedExperts"} and module.name != "mtp.fc"
    ]
    names = [n for n, module in inventory.modules.items() if module.place.parameter == "weight"]
    return modules, names


@pytest.mark.serve_env
def test_our_rules_answer_what_vllm_answers(tmp_path: Path) -> None:
    chance = random.Random("rules")
    cases: list[dict[str, Any]] = []
    for model in ("qwen3_5_moe", "qwen3_5", "gemma4_unified"):
        modules, names = modules_of(tmp_path, model)
        cases += [
            {"model": model.removesuffix("_moe"), "config": make(chance, names), "modules": modules}
            for make in (compressed_tensors_case, modelopt_case)
            for _ in range(60)
        ]

    answers = ask("serve", "vllm_schemes.py", cases, work=tmp_path, timeout_s=280)

    outcomes: Counter[str] = Counter()
    for case, theirs in zip(cases, answers, strict=True):
        rules = read_rules({"quantization_config": case["config"]}, None, multimodal=True)
        rules.prepare(case["modules"])
        for module, answer in zip(case["modules"], theirs, strict=True):
            told = (module, case["config"])
            ours = our_answer(rules, module)
            outcomes[answer if answer == "refused" else str(answer is not None)] += 1
            if isinstance(answer, list):
                weights, activations = answer
                assert isinstance(ours, Scheme), told
                assert ours.weights is _WEIGHTS[weights], told
                assert ours.activations is _ACTIVATIONS.get(activations, ours.activations), told
            else:
                assert ours == answer, told
    assert min(outcomes[kind] for kind in ("refused", "True", "False")) > 100

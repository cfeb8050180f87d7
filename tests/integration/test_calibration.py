"""Calibration against transformers' own model, whole in memory, with hooks that are not ours.

One process of the quantize environment calibrates every case and runs each model beside.

We test these aspects:
- the largest magnitudes, tokens, keys and values are exactly what enters the modules and the cache
  of the whole model: dense, hybrid with vision, Gemma 4 with per-layer heads and no `v_proj`,
  experts one by one and stacked, on every token and on their own; a router that corrects in FP32;
  what lies before the first layer
- sources that hold the same numbers in another form give the same statistics: FP8, stacked experts
- text and images chained are the larger of each alone, whatever their order
- equal work gives equal bytes, progress adds up, nothing is printed, and what is there is returned
- refusals: weights that overflow, a model that does not fit, memory, another plan, another process
"""

import fcntl
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import (
    encode,
    make_tensors,
    set_value,
    tiny_config,
    values,
    write_checkpoint,
    write_fp8,
    write_sparse,
)
from tests.builders import write_tensors as write_full
from tests.builders.datasets import chat_rows, text_rows, write_images, write_rows
from tests.conftest import ROOT
from tests.doubles.s3 import S3Double
from tests.environments import ask

pytestmark = pytest.mark.quantize_env

Answer = dict[str, Any]

DENSE = ("Attention", "Mlp")
EXPERTS = ("Attention", "Experts")
LINEAR = ("LinearAttention", "LinearAttentionGate")
# What of an expert is counted by the router's choice, and where the peer says so.
ROUTED = {"tokens": "routed", "samples": "routedSamples"}
POCKET = ROOT / "examples" / "pocket-model" / "checkpoint"


@dataclass(frozen=True)
class Case:
    """A calibration of `source`, a folder of the work directory; `whole` runs the model beside."""

    source: str
    roles: tuple[str, ...] = DENSE
    modalities: tuple[str, ...] = ("Text",)
    unrouted: str = "SeeAllTokens"
    samples: int = 3
    whole: bool = False
    output: str | None = None
    also: tuple[str, ...] = ()


# In a tower, and so outside the decoder layers; no recipe can name its role.
TOWER = "model.visual.blocks.0.mlp.linear_fc1"
WHOLE = {
    "llama": Case("llama", whole=True),
    "qwen3_5": Case("qwen3_5", (*DENSE, *LINEAR), ("Text", "Image"), whole=True),
    "gemma4": Case("gemma4_unified", DENSE, ("Text", "Image"), whole=True),
    "qwen3_moe": Case("qwen3_moe", EXPERTS, whole=True),
    "qwen3_moe on their own": Case("qwen3_moe", EXPERTS, unrouted="Report", samples=1, whole=True),
    "qwen3_5_moe stacked": Case("qwen3_5_moe", (*EXPERTS, "SharedExperts"), whole=True),
    "mixtral": Case("mixtral", EXPERTS, unrouted="Report", whole=True),
    "qwen3 in F32": Case("qwen3", whole=True),
    "a tower too": Case(
        "qwen3_5", modalities=("Text", "Image"), whole=True, also=(f"{TOWER}.weight",)
    ),
    "dots1": Case("dots1", EXPERTS, unrouted="Report", whole=True),
    "pocket model": Case("pocket", (*DENSE, *LINEAR), samples=2, whole=True),
}
ALIKE = {
    "the same again": Case("llama"),
    "from a bucket": Case("s3://models/llama"),
    "FP8": Case("fp8"),
    "what the FP8 stands for": Case("full"),
    "stacked": Case("qwen3_moe-stacked", EXPERTS),
    "stacked and kept": Case("qwen3_moe-stacked", ("Attention",)),
    "text": Case("qwen3_5", (*DENSE, *LINEAR)),
    "images": Case("qwen3_5", (*DENSE, *LINEAR), ("Image",)),
    "images and text": Case("qwen3_5", (*DENSE, *LINEAR), ("Image", "Text")),
    "there already": Case("llama", output="llama"),
}
REFUSED = {
    "not a number": Case("nan"),
    "another shape": Case("narrow"),
    "fewer layers": Case("short"),
    "too large": Case("large"),
    "no expert is chosen": Case("idle", ("Experts",), unrouted="Report"),
    "unknown to transformers": Case("novel"),
    "a tower without images": Case("qwen3_5", also=(f"{TOWER}.weight",)),
    "another plan there": Case("llama", ("Mlp",), output="llama"),
    "another process": Case("llama", output="busy"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and rows."""
    folder = tmp_path_factory.mktemp("calibration")
    for model in ("llama", "qwen3_5", "gemma4_unified", "qwen3_moe", "mixtral"):
        write_checkpoint(folder / model, model)
    for name in ("qwen3_5_moe", "qwen3_moe-stacked"):
        write_checkpoint(folder / name, name.removesuffix("-stacked"), experts="Fused")
    _write_with_correction(folder / "dots1")
    (folder / "pocket").symlink_to(POCKET)
    write_checkpoint(folder / "qwen3", "qwen3", dtype="F32")
    fp8 = write_fp8(folder / "fp8", "llama")
    write_full(folder / "full", tiny_config("llama"), fp8.dequantized)
    _damage(folder)
    pictures = write_images(folder / "pictures", 3, width=64, height=96)
    rows = [*text_rows(9), *chat_rows(4), *chat_rows(3, images=pictures)]
    write_rows(folder / "rows.jsonl", rows)
    return folder


def _write_with_correction(folder: Path) -> None:
    """dots.llm1, tiny: its router chooses by float32 corrections that are all 100 in BF16."""
    config = tiny_config("qwen3_moe", n_routed_experts=8, n_shared_experts=1)
    tensors = make_tensors(config)
    shared = {"gate_proj": (64, 128), "up_proj": (64, 128), "down_proj": (128, 64)}
    for layer in range(2):
        mlp = f"model.layers.{layer}.mlp"
        for name, shape in shared.items():
            full = f"{mlp}.shared_experts.{name}.weight"
            tensors[full] = encode(values(full, shape), "BF16")
        corrections = 100 + np.linspace(-0.24, 0.24, 8, dtype=np.float32)
        tensors[f"{mlp}.gate.e_score_correction_bias"] = encode(corrections, "F32")
    kind = {"model_type": "dots1", "architectures": ["Dots1ForCausalLM"]}
    write_full(folder, config | kind, tensors)


def _damage(folder: Path) -> None:
    for name in ("nan", "narrow", "short", "novel"):
        shutil.copytree(folder / "llama", folder / name)
    set_value(folder / "nan", "model.layers.1.self_attn.v_proj.weight", float("nan"))
    changes: dict[str, dict[str, Any]] = {
        "narrow": {"intermediate_size": 128},
        "short": {"num_hidden_layers": 1},
        "novel": {"model_type": "novel"},
    }
    for name, changed in changes.items():
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    write_checkpoint(folder / "idle", tiny_config("qwen3_moe", num_experts_per_tok=0))
    write_sparse(folder / "large", _too_large())


def _too_large() -> dict[str, Any]:
    """A model with one layer of twice this machine's memory, in three matrices."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    rows = 2 * memory // 3 // (4096 * 2) // 128 * 128
    return tiny_config("llama", hidden_size=4096, intermediate_size=rows, num_hidden_layers=1)


@pytest.fixture(scope="module")
def answers(work: Path) -> dict[str, Answer]:
    """All cases, in one process; another holds the lock of one output."""
    busy = work / "out" / "busy" / ".statistics.partial" / "lock"
    busy.parent.mkdir(parents=True)
    cases = WHOLE | ALIKE | REFUSED
    with S3Double() as s3, busy.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for file in (work / "llama").iterdir():
            s3.put("models", f"llama/{file.name}", file.read_bytes())
        asked = [_question(work, name, case) for name, case in cases.items()]
        asked = [question | {"environment": _s3(s3)} for question in asked]
        found = ask("quantize", "calibration.py", asked, work=work, timeout_s=300)
    return dict(zip(cases, found, strict=True))


def _question(work: Path, name: str, case: Case) -> dict[str, Any]:
    remote = "://" in case.source
    return {
        "source": case.source if remote else str(work / case.source),
        "output": str(work / "out" / (case.output or name)),
        "also": case.also,
        "whole": case.whole,
        "quantization": {
            "precision": [{"role": role, "format": "NVFP4"} for role in case.roles],
            "kvCache": {"format": "FP8", "scales": "Calibrated"},
            "genericArchitecture": "Allow",
            "calibration": {
                "dataset": {"path": str(work / "rows.jsonl")},
                "samples": case.samples,
                "maxSequenceLength": 512,
                "modalities": case.modalities,
                "unroutedExperts": case.unrouted,
            },
        },
    }


def _s3(double: S3Double) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": double.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def input_amax(answer: Answer) -> dict[str, list[float]]:
    """By module, or by the projection of all experts."""
    tensors: dict[str, list[float]] = answer["tensors"]
    suffix = ".input_amax"
    return {n.removesuffix(suffix): v for n, v in tensors.items() if n.endswith(suffix)}


def seen(whole: Mapping[str, Any], module: str, what: str) -> list[Any]:
    """What our hooks saw enter `module`; of experts, one entry each."""
    place = module.replace(".block_sparse_moe.", ".mlp.")
    parent, _, projection = place.rpartition(".")
    projection = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(projection, projection)
    if not parent.endswith(".experts"):
        return [whole[what][place]]
    if what in ROUTED:
        counts: list[int] = whole[ROUTED[what]][parent]
        return counts
    count = len(whole["routed"][parent])
    return [whole[what].get(f"{parent}.{number}.{projection}", 0.0) for number in range(count)]


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_measured_is_what_enters_the_whole_model(
    name: str, answers: dict[str, Answer]
) -> None:
    answer = answers[name]
    measured, whole = input_amax(answer), answer["whole"]
    caches = [n.removesuffix(".k_amax") for n in answer["tensors"] if n.endswith(".k_amax")]

    assert len(measured) >= 8
    assert measured == {module: seen(whole, module, "inputs") for module in measured}
    for module in measured:
        for what in ("tokens", "samples"):
            assert answer["tensors"][f"{module}.{what}"] == seen(whole, module, what)
    assert len(caches) == len(whole["kv"])
    for attention in caches:
        both = [answer["tensors"][f"{attention}.{kind}_amax"][0] for kind in "kv"]
        assert both == whole["kv"][attention.split(".")[-2]]


def sum_of(answer: Answer, what: str) -> int:
    return sum(part[what] for part in answer["document"]["data"])


def test_experts_that_saw_no_token_are_named(answers: dict[str, Answer]) -> None:
    answer = answers["qwen3_moe on their own"]
    counts = {
        f"model.layers.{layer}.mlp.experts.{number}": count
        for layer in range(2)
        for number, count in enumerate(
            answer["tensors"][f"model.layers.{layer}.mlp.experts.gate_proj.tokens"]
        )
    }

    assert answer["document"]["unrouted"] == sorted(n for n, count in counts.items() if not count)
    assert sum(counts.values()) == 2 * 2 * sum_of(answer, "tokens")


def test_every_expert_is_measured_where_all_see_all_tokens(answers: dict[str, Answer]) -> None:
    tensors = answers["qwen3_moe"]["tensors"]

    assert len(set(tensors["model.layers.0.mlp.experts.gate_proj.input_amax"])) == 1
    assert min(tensors["model.layers.0.mlp.experts.down_proj.input_amax"]) > 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("llama", "the same again"),
        ("llama", "from a bucket"),
        ("FP8", "what the FP8 stands for"),
        ("qwen3_moe", "stacked"),
        ("qwen3_5", "images and text"),
    ],
)
def test_equal_numbers_give_equal_bytes(one: str, other: str, answers: dict[str, Answer]) -> None:
    first, second = (answers[name]["document"]["file"] for name in (one, other))

    assert first == second


def test_experts_that_are_kept_stacked_run_like_others(answers: dict[str, Answer]) -> None:
    kept = input_amax(answers["stacked and kept"])

    assert kept
    assert kept.items() <= input_amax(answers["stacked"]).items()


def test_chained_modes_are_the_larger_of_each_alone(answers: dict[str, Answer]) -> None:
    text, images, both = (answers[name]["tensors"] for name in ("text", "images", "qwen3_5"))

    assert both.keys() == text.keys() == images.keys()
    for name in both:
        join = np.maximum if name.endswith("amax") else np.add
        assert both[name] == join(text[name], images[name]).tolist(), name
    assert text != both != images


def test_the_document_says_what_was_measured(answers: dict[str, Answer]) -> None:
    document = answers["qwen3_5"]["document"]

    assert [part["modality"] for part in document["data"]] == ["Text", "Image"]
    assert document["unroutedExperts"] == "SeeAllTokens"
    assert [name for name, _ in document["versions"]] == [
        "compressed-tensors", "llmcompressor", "torch", "transformers",
    ]  # fmt: skip
    assert answers["llama"]["document"]["digest"] == answers["the same again"]["document"]["digest"]


@pytest.mark.parametrize("name", WHOLE | ALIKE)
def test_progress_adds_up_and_nothing_is_printed_or_left(
    name: str, answers: dict[str, Answer]
) -> None:
    total, done, skipped = answers[name]["progress"]

    assert (done, skipped) == (total, 0)
    assert answers[name]["said"] == ""
    assert answers[name]["files"] == ["statistics.json", "statistics.safetensors"]


def test_statistics_that_are_there_are_returned(answers: dict[str, Answer]) -> None:
    assert answers["there already"]["document"] == answers["llama"]["document"]
    assert answers["there already"]["progress"] == [0, 0, 0]
    assert answers["llama"]["progress"][0] == 3 * (2 + 1)


@pytest.mark.parametrize(
    ("name", "kind", "reason", "subject", "said"),
    [
        ("not a number", "RefusedInput", "NonFiniteActivation",
         "model.layers.1.self_attn.o_proj", "NaN or infinite"),
        ("another shape", "RefusedInput", "ModelNotRunnable",
         "model.layers.0.mlp.gate_proj.weight", "it has the shape [128, 128], and"),
        ("fewer layers", "RefusedInput", "ModelNotRunnable",
         "model.layers.1.self_attn.q_proj.weight", "has no place for"),
        ("no expert is chosen", "RefusedInput", "ModuleUnmeasured",
         "model.layers.0.mlp.experts.gate_up_proj", "No token of the calibration data reached"),
        ("unknown to transformers", "RefusedInput", "ModelNotRunnable", "config.json", "'novel'"),
        ("a tower without images", "RefusedInput", "ModuleUnmeasured", TOWER,
         "lies in no decoder layer, and no sample reaches it before them, so"),
        ("too large", "EnvironmentFault", "TooLittleMemory", "model.layers.0", " GB are available"),
        ("another process", "EnvironmentFault", "OutputBusy", None, "Another process"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_and_leaves_nothing(
    name: str, kind: str, reason: str, subject: str | None, said: str, answers: dict[str, Answer]
) -> None:
    answer = answers[name]

    assert answer["refused"][:2] == [kind, reason]
    assert subject in {None, answer["refused"][2]}
    assert said in answer["refused"][3]
    assert answer["left"] == ([".statistics.partial"] if name == "another process" else None)


def test_statistics_of_another_plan_are_not_replaced(answers: dict[str, Answer]) -> None:
    answer = answers["another plan there"]

    assert answer["refused"][1] == "OutputNotEmpty"
    assert "holds statistics of another plan" in answer["refused"][3]
    assert answer["left"] == ["statistics.json", "statistics.safetensors"]

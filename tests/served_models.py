"""The reference models at full size as a server finds them: headers, configurations, and no data.

    model = served_model(tmp_path, "S0")          # halftone.serve.served_model.ServedModel
    draft = assistant(tmp_path)                   # Gemma's, for S2
    arguments = engine_arguments(endpoint(modes=["tools"]), model, None, DEVICES["B200"])

Called by tests of the endpoint's arguments. A checkpoint is what the plan of its recipe lays out,
with holes in place of weights; of 256 experts, which are all alike, it has 32.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from halftone.plan.planning import Planned
from halftone.quantize.configuration import configuration_files
from halftone.serve.arguments.device import DeviceFacts
from halftone.serve.served_model import ServedModel
from halftone.spec.documents import Plan
from halftone.spec.job import MultiTokenPrediction
from halftone.spec.serving import Accelerator, Endpoint
from tests.builders import Tensor, full_size_config, write_safetensors, write_sparse
from tests.commands import plan_directory

_DIGEST = "0" * 64
_EXPERTS = 32


class Reference(NamedTuple):
    """A row of the table of reference models: its base and its recipe."""

    base: str
    recipe: str
    drop: bool = False


REFERENCES = {
    "S0": Reference("27B", "nvfp4a16"),
    "S1": Reference("35B-A3B", "nvfp4a16"),
    "S2": Reference("Gemma-12B", "nvfp4-mlp"),
    "S3": Reference("27B", "nvfp4-language", drop=True),
    "S4": Reference("35B-A3B", "fp8-dynamic"),
}


def _gpu(name: str, capability: str, count: int = 8) -> DeviceFacts:
    return DeviceFacts(Accelerator.GPU, name, capability, count, "vllm 0.32.0")


DEVICES = {
    "B200": _gpu("NVIDIA B200", "10.0"),
    "GB10": _gpu("NVIDIA GB10", "12.1", 1),
    "H100": _gpu("NVIDIA H100 80GB HBM3", "9.0"),
    "A100": _gpu("NVIDIA A100-SXM4-80GB", "8.0"),
    "CPU": DeviceFacts(Accelerator.CPU, "CPU", None, 1, "vllm 0.32.0+cpu"),
}


def endpoint(**fields: Any) -> Endpoint:
    """An endpoint of some artifact; `fields` are its own."""
    plain: dict[str, Any] = {
        "servedModelName": "model",
        "artifact": {"uri": "s3://models/artifact"},
        "trust": {"signature": "NotRequired"},
        "cache": {"directory": "/cache"},
        "engineArguments": {},
    }
    return Endpoint.model_validate(plain | fields)


def served_model(folder: Path, name: str) -> ServedModel:
    """The reference model `name` below `folder`."""
    base, recipe, drop = REFERENCES[name]
    source, out = folder / f"{name}-source", folder / name
    config = full_size_config(base)
    if "num_experts" in config["text_config"]:
        config["text_config"]["num_experts"] = _EXPERTS
    write_sparse(source, config, layer_scalars=False)
    changes = {"multiTokenPrediction": MultiTokenPrediction.Drop} if drop else {}
    return planned_model(source, out, plan_directory(source, recipe, **changes))


def planned_model(source: Path, out: Path, planned: Planned) -> ServedModel:
    """What the plan of `source` lays out, below `out`: everything but weights, which are zeros."""
    document = planned.full_document()
    assert document.output is not None
    out.mkdir()
    for shard in planned.shards:
        with (out / shard.file).open("wb") as file:
            file.write(shard.header)
            file.truncate(shard.size_bytes)
    config = json.loads((source / "config.json").read_text())
    for name, content in configuration_files(planned, config).items():
        (out / name).write_text(json.dumps(content))
    for name in document.output.carried:
        shutil.copy(source / name, out / name)
    places = {row.name: shard.file for shard in planned.shards for row in shard.rows}
    index = {"weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    return opened(out, document)


def opened(directory: Path, plan: Plan | None = None) -> ServedModel:
    """A checkpoint on disk, as if it had been fetched and verified."""
    config = json.loads((directory / "config.json").read_text())
    return ServedModel(directory, f"s3://models/{directory.name}", _DIGEST, config, plan, None)


def assistant(folder: Path, vocabulary: int = 262_144) -> ServedModel:
    """A draft of the kind that Gemma 4 comes with; it reads the model's own cache."""
    text = {
        "model_type": "gemma4_text",
        "vocab_size": vocabulary,
        "max_position_embeddings": 262_144,
    }
    config = {
        "architectures": ["Gemma4AssistantForCausalLM"],
        "model_type": "gemma4_unified_assistant",
        "text_config": text,
    }
    return _draft(folder / "assistant", config)


def small_model(folder: Path, **changes: Any) -> ServedModel:
    """A small model of another family, as a draft with Gemma's number of tokens."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 262_144,
        "max_position_embeddings": 40_960,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    return _draft(folder / "small", config | changes)


def _draft(directory: Path, config: dict[str, Any]) -> ServedModel:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    weight = Tensor("BF16", (64,), bytes(128))
    write_safetensors(directory / "model.safetensors", {"model.norm.weight": weight})
    return opened(directory)

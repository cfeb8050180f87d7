"""What vLLM makes of an endpoint's arguments; run in the serving environment.

    python vllm_engine_arguments.py REQUEST.json ANSWER.json

REQUEST is {cases: [{model, arguments}], sources, kernels, live: {model, uri, endpoint, tokens}}.
ANSWER gets {names, missing, cases, live}. For each case vLLM's own engine and server arguments are
made as Ray makes them, and its whole configuration of them, which is what refuses; nothing is
loaded. `live` is loaded and asked: what `kernel_check` finds, what it generates, and how much of it
was drafted. `missing` are files and classes that vLLM does not have.
"""

import asyncio
import dataclasses
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.v1.engine.async_llm import AsyncLLM
from vllm_argument_names import names  # type: ignore[import-not-found]  # beside this script

from halftone.serve import kernel_check
from halftone.serve.arguments.checkpoint_facts import read_facts
from halftone.serve.arguments.device import this_device
from halftone.serve.arguments.engine_arguments import engine_arguments
from halftone.serve.measuring.speculation import count_speculation
from halftone.serve.served_model import ServedModel
from halftone.spec.errors import HalftoneError
from halftone.spec.serving import Accelerator, Endpoint

SERVER = {field.name for field in dataclasses.fields(FrontendArgs)}
ENGINE = {field.name for field in dataclasses.fields(AsyncEngineArgs)}


def split(arguments: dict[str, Any]) -> tuple[dict[str, Any], FrontendArgs]:
    """Arguments of the engine, and those of the server."""
    unknown = arguments.keys() - SERVER - ENGINE
    assert not unknown, unknown
    server = FrontendArgs(**{name: value for name, value in arguments.items() if name in SERVER})
    return {name: value for name, value in arguments.items() if name not in SERVER}, server


def resolved(case: dict[str, Any]) -> dict[str, Any]:
    """What vLLM decides for a case, or how it refuses."""
    engine, server = split(case["arguments"])
    try:
        config = AsyncEngineArgs(model=case["model"], **engine).create_engine_config()
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    multimodal, speculation = config.model_config.multimodal_config, config.speculative_config
    return {
        "maxModelLen": config.model_config.max_model_len,
        "kvCacheDtype": config.cache_config.cache_dtype,
        "prefixCaching": config.cache_config.enable_prefix_caching,
        "maxSequences": config.scheduler_config.max_num_seqs,
        "tensorParallel": config.parallel_config.tensor_parallel_size,
        "sees": multimodal is not None and multimodal.get_limit_per_prompt("image"),
        "speculation": speculation and [speculation.method, speculation.num_speculative_tokens],
        "parsers": [
            server.tool_call_parser in ToolParserManager.list_registered(),
            config.structured_outputs_config.reasoning_parser
            in ReasoningParserManager.list_registered(),
        ],
    }


def missing(sources: list[str], kernels: list[str]) -> list[str]:
    """The files and the classes that are not in vLLM."""
    root = Path(vllm.__file__).parent.parent
    folders = ("vllm/model_executor/kernels", "vllm/model_executor/layers/fused_moe")
    code = "".join(path.read_text() for name in folders for path in (root / name).rglob("*.py"))
    classes = set(re.findall(r"^class (\w+)", code, re.MULTILINE))
    return [source for source in sources if not (root / source).is_file()] + sorted(
        set(kernels) - classes
    )


async def live(asked: dict[str, Any]) -> dict[str, Any]:
    """Serve a checkpoint as a replica would, and look."""
    directory = Path(asked["model"])
    config = json.loads((directory / "config.json").read_text())
    model = ServedModel(directory, asked["uri"], "0" * 64, config, None, None)
    endpoint = Endpoint.model_validate(asked["endpoint"])
    device = this_device(Accelerator.CPU)
    engine, _ = split(engine_arguments(endpoint, model, None, device))
    client = AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(directory), **engine))
    speculation = count_speculation(client)
    try:
        loaded = await kernel_check.check(client.collective_rpc, endpoint, model, device)
        spoiled = dataclasses.replace(loaded, kernels=())
        tokens = [await generated(client, asked["tokens"]) for _ in range(2)]
    finally:
        client.shutdown()
    facts = read_facts(model)
    return {
        "device": dataclasses.asdict(device),
        "withoutGpu": gpu_fault(),
        "kernels": loaded.kernels,
        "cacheScales": loaded.cache_scales,
        "withoutKernels": complaint(spoiled, facts),
        "tokens": tokens,
        "drafts": counted("vllm:spec_decode_num_drafts"),
        "accepted": counted("vllm:spec_decode_num_accepted_tokens"),
        "told": speculation.found and speculation.found.model_dump(),
    }


def gpu_fault() -> str:
    """What is said where a GPU is wanted and none is there."""
    try:
        this_device(Accelerator.GPU)
    except HalftoneError as error:
        return error.message
    return ""


def complaint(loaded: kernel_check.LoadedFacts, facts: Any) -> str:
    """What the check says of an engine that is not as it should be."""
    try:
        kernel_check.require_expected(loaded, facts, fp8_cache=True)
    except HalftoneError as error:
        return error.message
    return ""


async def generated(client: AsyncLLM, tokens: list[int]) -> list[int]:
    """The likeliest tokens after `tokens`."""
    options = vllm.SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    last = None
    async for output in client.generate({"prompt_token_ids": tokens}, options, "request"):
        last = output
    assert last is not None
    return list(last.outputs[0].token_ids)


def counted(name: str) -> float:
    """The sum of a counter over all its labels."""
    from vllm.v1.metrics.reader import get_metrics_snapshot

    return float(sum(m.value for m in get_metrics_snapshot() if m.name == name))


def main(request: Path, answer: Path) -> None:
    """Answer everything with one import of vLLM."""
    asked = json.loads(request.read_text())
    found = {
        "names": names(),
        "missing": missing(asked["sources"], asked["kernels"]),
        "cases": [resolved(case) for case in asked["cases"]],
        "live": asyncio.run(live(asked["live"])) if asked["live"] else None,
    }
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

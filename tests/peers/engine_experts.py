"""What vLLM makes of checkpoints with experts, by our plugin; run in the serving environment.

    python engine_experts.py REQUEST.json ANSWER.json

The request is a list of `directory` (a checkpoint), `prompts` (token ids) and `layers` (null, or a
file). The answer gives for each, in order: `logProbabilities` of every token of the vocabulary at
every position of each prompt, `generated` token ids, `kernels` of ours that came into use with it,
`log` (warnings of vLLM) and `error`. `layers` gets, of every layer of routed experts, what vLLM
handed to it and got back while it read the first prompt: `<name>.input`, `.experts`, `.weights`
and `.output`.

One process serves all checkpoints, one after the other: importing vLLM takes longer than loading.
"""

import gc
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = os.environ.get("XLOG", "WARNING")
os.environ["VLLM_PLUGINS"] = ""  # ours is called below, whatever this environment has installed

import torch

torch.cpu._is_amx_tile_supported = lambda: False  # some hosts promise AMX and die of it

from safetensors.torch import save_file
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

import halftone.engine

Case = dict[str, Any]

NEW_TOKENS = 4


def keep_warnings(lines: list[str]) -> None:
    """Put what vLLM warns of into `lines`; its handlers do not last, as it sets them up anew."""
    make = logging.getLogRecordFactory()

    def kept(*given: Any, **named: Any) -> logging.LogRecord:
        record = make(*given, **named)
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())
        return record

    logging.setLogRecordFactory(kept)


def observe(model: torch.nn.Module, seen: dict[str, torch.Tensor]) -> None:
    """Write down what each layer of routed experts is asked and says, the first time."""
    for name, layer in model.named_modules():
        method: Any = getattr(layer, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.apply = _observed(name, method.apply, seen)


def _observed(name: str, apply: Any, seen: dict[str, torch.Tensor]) -> Any:
    def observed(layer: Any, **asked: Any) -> Any:
        before = asked["x"].clone()
        out = apply(layer, **asked)
        if f"{name}.input" not in seen:
            seen[f"{name}.input"] = before
            seen[f"{name}.experts"] = asked["topk_ids"].to(torch.int64)
            seen[f"{name}.weights"] = asked["topk_weights"].float()
            seen[f"{name}.output"] = out.clone()
        return out

    return observed


def serve(case: Case) -> Case:
    """Load one checkpoint, read its prompts and write a few tokens."""
    llm = LLM(
        model=case["directory"],
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=2,
        max_logprobs=-1,
        enable_prefix_caching=False,
        limit_mm_per_prompt={"image": 0, "video": 0},
        disable_log_stats=True,
        num_gpu_blocks_override=16,  # else a gigabyte is filled with zeros
        skip_tokenizer_init=True,
    )
    seen: dict[str, torch.Tensor] = {}
    if case["layers"]:
        llm.apply_model(lambda model: observe(model, seen))
    wanted = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, prompt_logprobs=-1, detokenize=False
    )
    probabilities, generated = [], []
    for prompt in case["prompts"]:
        (said,) = llm.generate({"prompt_token_ids": prompt}, wanted, use_tqdm=False)
        probabilities.append(
            [[row[token].logprob for token in sorted(row)] for row in said.prompt_logprobs[1:]]
        )
        generated.append(list(said.outputs[0].token_ids))
    if case["layers"]:
        save_file({k: v.contiguous() for k, v in seen.items()}, case["layers"])
    del llm
    return {"logProbabilities": probabilities, "generated": generated}


def answer(case: Case, lines: list[str]) -> Case:
    """What vLLM says to one case; an error is an answer too."""
    gc.freeze()  # vLLM collects garbage nine times a load; a million objects of its modules stay
    lines.clear()
    before = set(halftone.engine.kernels_in_use())
    found: Case = {"error": None}
    try:
        found |= serve(case)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    cleanup_dist_env_and_memory()
    used = sorted(set(halftone.engine.kernels_in_use()) - before)
    return found | {"kernels": used, "log": list(lines)}


def main(request: Path, answers: Path) -> None:
    """Answer every case of a file."""
    halftone.engine.register()
    lines: list[str] = []
    keep_warnings(lines)
    cases = json.loads(request.read_text())
    answers.write_text(json.dumps([answer(case, lines) for case in cases]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""What our scoring finds beside what vLLM itself says of the whole vocabulary.

    python vllm_scoring.py REQUEST.json ANSWERS.json

REQUEST: {model, prompts, topK, tokenBudget}. The model is loaded as `validate.serving` does;
a prompt longer than the budget is computed in parts. ANSWERS: `score` and `follow` of
`scoring`, `every` (`score` with the whole vocabulary as its top) and, for each text, `whole`: every
token id's log probability at every position, from vLLM's public `prompt_logprobs=-1`.

All these ask one prompt at a time, because BF16 gives other last bits in other batches; `batched`
is `follow` with all prompts at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HALFTONE_CPU_AMX": "Off"})
os.environ.update({"TORCH_COMPILE_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"})

from vllm import SamplingParams

from halftone.validate.serving import loading, scoring


def whole(llm: Any, prompts: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Log probabilities by prompt, position and token id."""
    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=-1, flat_logprobs=True)
    found = {}
    for prompt in prompts:
        (output,) = llm.generate([prompt["text"]], asked, use_tqdm=False)
        said = output.prompt_logprobs
        rows = []
        for begin, end in zip(said.start_indices[1:], said.end_indices[1:], strict=True):
            row = dict(zip(said.token_ids[begin:end], said.logprobs[begin:end], strict=True))
            rows.append([row[token] for token in range(len(row))])
        found[prompt["id"]] = rows
    return found


def alone(llm: Any, prompts: list[dict[str, Any]], top: int) -> dict[str, Any]:
    """`scoring.score` of one prompt at a time, put together."""
    said = [scoring.score(llm, {"prompts": [prompt], "topK": top}) for prompt in prompts]
    return {**said[0], "prompts": [row for one in said for row in one["prompts"]]}


def main(request: Path, answers: Path) -> None:
    """Load once, ask everything, write it down."""
    asked = json.loads(request.read_text())
    options = {
        "model": asked["model"],
        "maxModelLen": None,
        "maxSequences": 16,
        "tokenBudget": asked["tokenBudget"],
        "kvCacheBytes": None,
        "arguments": {},
    }
    llm, _ = loading.load(options, True)
    texts = [prompt for prompt in asked["prompts"] if "image" not in prompt]
    score = alone(llm, asked["prompts"], asked["topK"])
    parameters = {"prompts": asked["prompts"], "source": score["prompts"], "reversed": True}
    document = {
        "score": score,
        "every": alone(llm, texts, 1 << 20),
        "follow": scoring.follow(llm, {**parameters, "together": 1}),
        "batched": scoring.follow(llm, parameters),
        "whole": whole(llm, texts),
    }
    answers.write_text(json.dumps(document))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

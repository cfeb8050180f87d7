"""What vLLM alone answers to prompts, started with the arguments of an endpoint.

Reads `[endpoint, prompts, tokens, candidates]`, writes `{tokens, chosen, top}` of each prompt as
the completions of OpenAI's API give log-probabilities.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1"}
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "VLLM_NO_USAGE_STATS": "1"}

import dataclasses

from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs

from halftone.serve.arguments.device import this_device
from halftone.serve.arguments.engine_arguments import engine_arguments
from halftone.serve.weights import obtain
from halftone.spec.serving import Endpoint


def main(questions: str, answers: str) -> None:
    document, prompts, tokens, candidates = json.loads(Path(questions).read_text())
    endpoint = Endpoint.model_validate(document)
    assert endpoint.artifact is not None
    lease = obtain(endpoint.artifact, endpoint.trust, endpoint.cache)
    arguments = engine_arguments(endpoint, lease.model, None, this_device(endpoint.accelerator))
    known = {field.name for field in dataclasses.fields(EngineArgs)}
    llm = LLM(
        model=str(lease.model.path),
        distributed_executor_backend="uni",
        **{name: value for name, value in arguments.items() if name in known},
    )
    options = SamplingParams(max_tokens=tokens, temperature=0, logprobs=candidates)
    found = [_answer(output.outputs[0]) for output in llm.generate(prompts, options)]
    Path(answers).write_text(json.dumps(found))


def _answer(output: Any) -> dict[str, Any]:
    places = list(zip(output.token_ids, output.logprobs, strict=True))
    chosen = [place[token] for token, place in places]
    return {
        "tokens": [one.decoded_token for one in chosen],
        "chosen": [one.logprob for one in chosen],
        "top": [
            {one.decoded_token: max(one.logprob, -9999.0) for one in place.values()}
            for _, place in places
        ],
    }


main(*sys.argv[1:])

"""Puts load on endpoints with vLLM's own benchmark: the process behind `load.LoadProcess`.

    python -m halftone.serve.measuring.load_process

Runs in the environment that has vLLM. Reads one load a line on standard input, JSON with the fields
of `load.Load`; answers each with one line on standard output, the benchmark's result with all its
requests, or {"error": sentence}. Ends when standard input does. What the benchmark prints goes to
standard error. Keys come in the loads, so that no list of processes shows them.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any, Final

from halftone.serve.measuring.engine_document import ENGINE_PATH, ServedEngine, Speculation

_ASKING_S: Final = 30.0  # an endpoint is busy before and after a load


def main() -> None:
    """Answer loads until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    with redirect_stdout(sys.stderr):
        for line in sys.stdin:
            try:
                result = asyncio.run(_put(json.loads(line)))
            except Exception as error:  # whatever the benchmark raises is the answer
                result = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(result), file=answers, flush=True)


async def _put(load: dict[str, Any]) -> dict[str, Any]:
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.serve import TaskType, benchmark

    requests = [
        SampleRequest(
            prompt=tokens,
            prompt_len=len(tokens),
            expected_output_len=load["outputTokens"],
        )
        for tokens in load["prompts"]
    ]
    before = await drafts_of(load)
    result: dict[str, Any] = await benchmark(
        task_type=TaskType.GENERATION,
        endpoint_type="openai",
        api_url=f"{load['url']}/v1/completions",
        base_url=load["url"],
        model_id=load["model"],
        model_name=load["model"],
        tokenizer=None,  # prompts are token ids, and the endpoint counts what it gives
        input_requests=requests,
        logprobs=None,
        request_rate=float("inf"),
        burstiness=1.0,
        disable_tqdm=True,
        num_warmups=0,
        profile=False,
        selected_percentile_metrics=["ttft", "tpot", "itl"],
        selected_percentiles=[50.0, 95.0],
        ignore_eos=True,
        goodput_config_dict={},
        max_concurrency=load["concurrency"],
        lora_modules=None,
        extra_headers=load["headers"],
        extra_body={"temperature": 0},
        ready_check_timeout_sec=0,
    )
    after = await drafts_of(load)
    if before and after and after.drafts >= before.drafts:  # else a replica began anew meanwhile
        result["spec_decode_num_drafts"] = after.drafts - before.drafts
        result["spec_decode_accepted_tokens"] = after.acceptedTokens - before.acceptedTokens
    return result | {"generated_texts": []}


async def drafts_of(load: Mapping[str, Any]) -> Speculation | None:
    """What one of our endpoints counted; vLLM's own server tells its benchmark in `/metrics`.

    None also of several replicas, each of which knows its own part, and of an endpoint that does
    not answer this as ours do: what was measured must not be lost for it.
    """
    import httpx

    try:
        async with httpx.AsyncClient(
            base_url=load["url"], headers=load["headers"], timeout=_ASKING_S
        ) as client:
            response = await client.get(ENGINE_PATH)
        told = ServedEngine.model_validate_json(response.content)
    except (httpx.HTTPError, ValueError):  # pydantic's error is one
        return None
    return told.speculation if told.replicas == 1 else None


if __name__ == "__main__":
    main()

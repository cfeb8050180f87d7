"""Real vLLM servers, several in one process: the API process is imported once for all of them.

    python openai_servers.py REQUEST.json

REQUEST: a list of {model, port, name, key, replicas, digest, arguments}; `key` may be null, and
`arguments` are further ones of the command line. Each gets vLLM's own application around an engine
of its own, and what a replica of ours adds for `halftone bench`: `GET /halftone/engine`, of as many
`replicas`; 0 leaves it out, as a bare server does. Prints one line when all answer, and ends when
its standard input does.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any


def main(request: Path) -> None:
    # One process less an engine: the tests' models need no threads of a worker's own.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    asyncio.run(serve_all(json.loads(request.read_text())))


async def serve_all(asked: list[dict[str, Any]]) -> None:
    async with AsyncExitStack() as stack:
        # Engines load beside each other, each in a process of its own.
        loop = asyncio.get_running_loop()
        started = [loop.run_in_executor(None, start_engine, each) for each in asked]
        engines = await asyncio.gather(*started)
        for engine in engines:
            stack.callback(engine.shutdown)
        servers = [await server(each, engine) for each, engine in zip(asked, engines, strict=True)]
        serving = [asyncio.create_task(each.serve()) for each in servers]
        while not all(each.started for each in servers):
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        for each in servers:
            each.should_exit = True
        await asyncio.gather(*serving)


def arguments(asked: dict[str, Any]) -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from halftone.serve.measuring.engine_facts import EXTENSION

    command = ["--model", asked["model"], "--served-model-name", asked["name"]]
    command += ["--max-model-len", "512", "--enforce-eager", "--max-num-seqs", "16"]
    command += ["--kv-cache-memory-bytes", str(256 << 20), "--worker-extension-cls", EXTENSION]
    command += ["--distributed-executor-backend", "uni", "--seed", "0"]
    command += ["--limit-mm-per-prompt", '{"image": 0, "video": 0}']
    if asked["key"]:
        command += ["--api-key", asked["key"]]
    command += asked["arguments"]
    return make_arg_parser(FlexibleArgumentParser()).parse_args(command)


def start_engine(asked: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    begun = monotonic()
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(arguments(asked)))
    asked["loadSeconds"] = monotonic() - begun
    return engine


async def server(asked: dict[str, Any], engine: Any) -> Any:
    import uvicorn
    from fastapi import Response
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    from halftone.serve.measuring.engine_document import ENGINE_PATH
    from halftone.serve.measuring.engine_facts import served_engine

    parsed = arguments(asked)
    tasks = await engine.get_supported_tasks()
    application = build_app(parsed, tasks, engine.model_config)
    await init_app_state(engine, application.state, parsed, tasks)
    if asked["replicas"]:
        document = await served_engine(
            engine,
            asked["name"],
            asked["digest"],
            replicas=asked["replicas"],
            load_seconds=asked["loadSeconds"],
        )

        async def engine_route() -> Response:
            return Response(document.model_dump_json(), media_type="application/json")

        application.add_api_route(ENGINE_PATH, engine_route, methods=["GET"])

    config = uvicorn.Config(application, port=asked["port"], log_level="error", access_log=False)
    return uvicorn.Server(config)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests end us
    main(Path(sys.argv[1]))

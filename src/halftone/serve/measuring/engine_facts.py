"""Asks a running engine what it made of its model, for `GET /halftone/engine`.

Called by the replica once its engine is up; the answer does not change while it lives:

    document = await served_engine(
        engine, "pocket-model", digest, replicas=1, load_seconds=42.0
    )
    return Response(document.model_dump_json(), media_type="application/json")

The engine must have been started with `worker_extension_cls=EXTENSION`, whose methods are called by
name. Runs in the environment that has vLLM only.
"""

from typing import Any

from halftone.serve.measuring.engine_document import ServedEngine
from halftone.validate.serving.loading import EXTENSION, INSIDE, described
from halftone.validate.serving.session import EngineFacts

__all__ = ["EXTENSION", "engine_facts", "served_engine"]


async def engine_facts(engine: Any, load_seconds: float) -> EngineFacts:
    """Of vLLM's `EngineClient` (`AsyncLLM`); `load_seconds` from its start until it was warm."""
    from vllm.platforms import current_platform

    inside = {name: await engine.collective_rpc(name) for name in INSIDE}
    answer = described(engine.vllm_config, inside, load_seconds, current_platform.is_cpu())
    return EngineFacts.from_answer(answer)


async def served_engine(
    engine: Any,
    served_model_name: str,
    checkpoint_digest: str,
    *,
    replicas: int,
    load_seconds: float,
) -> ServedEngine:
    """The document that a replica answers `ENGINE_PATH` with."""
    return ServedEngine(
        servedModelName=served_model_name,
        checkpointDigest=checkpoint_digest,
        replicas=replicas,
        engine=await engine_facts(engine, load_seconds),
    )

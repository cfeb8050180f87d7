"""A replica: verifies its weights, starts vLLM on them, and answers as OpenAI's clients expect.

Ray Serve makes one `EndpointServer` a replica, in an environment that has ray and vllm. `nodes` has
the weights brought to every node, `engine_arguments` says how vLLM is started, `kernel_check`
whether it does what it should, `http` what clients see. A replica that may not serve raises, and
Ray Serve shows the sentence in its status; those that serve already go on.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, TypeVar

from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import CompletionRequest
from ray.llm._internal.serve.core.server.llm_server import LLMServer, _add_middleware_to_built_app
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.util.metrics import Counter, Gauge
from starlette.responses import Response

from halftone.serve import kernel_check, nodes
from halftone.serve.application import ENDPOINT_KEY
from halftone.serve.arguments.device import this_device
from halftone.serve.arguments.engine_arguments import engine_arguments
from halftone.serve.http.admission import Admission
from halftone.serve.http.keys import client_keys
from halftone.serve.http.middleware import GENERATING, Door, Rules
from halftone.serve.load_failures import tell
from halftone.serve.measuring.engine_document import ENGINE_PATH
from halftone.serve.measuring.engine_facts import served_engine
from halftone.serve.measuring.known_capacity import known_capacity, unknown_sentence
from halftone.serve.measuring.speculation import count_speculation
from halftone.spec.errors import EnvironmentFault, HalftoneError
from halftone.spec.names import Reason
from halftone.spec.reports import Verdict
from halftone.spec.serving import Accelerator, Endpoint, WarmUp
from halftone.telemetry.endpoint import EndpointMetrics

Result = TypeVar("Result")

_LOG: Final = logging.getLogger("ray.serve")
_WARM_UP_TOKENS: Final = 8
_WARM_UP_S: Final = 600
# How often gauges are brought up to date.
_GAUGES_S: Final = 2
# What vLLM on a CPU reads from the environment of the replica, whose processes inherit it. Nothing
# is compiled for development, and threads that wait do not burn the cores of the others.
_ON_A_CPU: Final = {"OMP_WAIT_POLICY": "PASSIVE", "TORCH_COMPILE_DISABLE": "1"}


class EndpointEngine(VLLMEngine):  # type: ignore[misc]  # Ray has no types here
    """vLLM as Ray starts it; on one CPU without a further process for the one worker."""

    def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
        arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
        parallel = config.parallel_config
        if parallel.world_size == 1 and parallel.distributed_executor_backend == "mp":
            parallel.distributed_executor_backend = "uni"
        return arguments, frontend, config

    def _start_async_llm_engine(self, *arguments: Any, **named: Any) -> Any:
        client = super()._start_async_llm_engine(*arguments, **named)
        self.speculation = count_speculation(client)
        return client


class EndpointServer(LLMServer):  # type: ignore[misc]  # Ray has no types here
    """Ray Serve's deployment class; one instance is one replica."""

    _default_engine_cls = EndpointEngine

    async def start(self) -> None:
        """Bring this replica up, or raise with the reason.

        Raises what `weights.obtain`, `engine_arguments` and `kernel_check` raise, and
        EnvironmentFault(EngineFailed) where vLLM does not start.
        """
        self._endpoint = Endpoint.model_validate(
            self._llm_config.experimental_configs[ENDPOINT_KEY]
        )
        self._metrics = EndpointMetrics(self._endpoint.servedModelName, Counter, Gauge)
        try:
            await self._start()
        except HalftoneError as error:
            await tell(self._endpoint.servedModelName, error)
            raise

    async def _start(self) -> None:
        endpoint = self._endpoint
        client_keys(os.environ)  # before hours of loading
        if endpoint.accelerator is Accelerator.CPU:
            for name, value in _ON_A_CPU.items():
                os.environ.setdefault(name, value)
        self._weights = await self._timed("weights", nodes.obtain(endpoint, self._llm_config))
        model = self._weights.model
        device = await asyncio.to_thread(this_device, endpoint.accelerator)
        # Headers of a model with many experts take seconds to read.
        arguments = await asyncio.to_thread(
            engine_arguments, endpoint, model, self._weights.draft, device
        )
        nodes.point_at(self._llm_config, model, arguments)
        began = monotonic()
        await self._timed("engine", self._start_vllm())
        await self._weights.require_unchanged()
        await self._timed("check", kernel_check.check(self.collective_rpc, endpoint, model, device))
        if endpoint.warmUp is WarmUp.Enabled:
            await self._timed("warmUp", self._warm_up())
        client = self.engine._engine_client
        # Of the replicas Ray knows the number, when it is asked.
        self._served = await served_engine(
            client,
            endpoint.servedModelName,
            model.digest,
            replicas=1,
            load_seconds=monotonic() - began,
        )
        config = client.vllm_config.scheduler_config
        self._admission = Admission(config.max_num_seqs, endpoint.limits.maxQueuedRequests)
        self._tell_what_is_served()
        self._gauges = asyncio.create_task(self._keep_gauges())

    async def _timed(self, step: str, work: Awaitable[Result]) -> Result:
        began = monotonic()
        result = await work
        self._metrics.set_load_seconds(step, monotonic() - began)
        return result

    async def _start_vllm(self) -> None:
        try:
            await super().start()
        except Exception as error:
            raise EnvironmentFault(
                Reason.EngineFailed,
                self._weights.model.uri,
                f"vLLM did not start on '{self._weights.model.uri}': {_cause(error)}; see the "
                "replica's log.",
            ) from error

    async def _start_engine(self) -> None:
        """As Ray does, without its actor of 0.7 GB that tells Ray's makers what is served."""
        await self.engine.start()

    async def _warm_up(self) -> None:
        """One short answer through the engine, so that the first client does not pay for it."""
        request = CompletionRequest(
            model=self._endpoint.servedModelName,
            prompt="1 + 1 =",
            max_tokens=_WARM_UP_TOKENS,
            temperature=0,
            ignore_eos=True,
        )
        said = f"nothing in {_WARM_UP_S} s"
        with suppress(TimeoutError):
            async with asyncio.timeout(_WARM_UP_S):
                async for answer in self.engine.completions(request):
                    if (error := getattr(answer, "error", None)) is not None:
                        said = str(error.message)
                        break
                else:
                    return
        raise EnvironmentFault(
            Reason.EngineFailed,
            self._weights.model.uri,
            f"vLLM started on '{self._weights.model.uri}', and did not answer: {said}; see the "
            "replica's log.",
        )

    def _tell_what_is_served(self) -> None:
        """Once and for all: a replica serves one artifact, by one engine."""
        model = self._weights.model
        verdict = Verdict.Unmeasured if model.report is None else model.report.verdict
        self._metrics.set_artifact(model.digest, verdict)
        capacity = known_capacity(model.cards, self._served.engine)
        if capacity is None:
            _LOG.warning("halftone: %s", unknown_sentence(self._served.engine))
        else:
            fields, is_exact = capacity
            self._metrics.set_capacity(fields, is_exact=is_exact)

    async def _keep_gauges(self) -> None:
        while True:
            self._metrics.set_requests(self._admission.in_flight, self._admission.limit)
            self._metrics.repeat()
            await asyncio.sleep(_GAUGES_S)

    async def __serve_build_asgi_app__(self) -> Any:
        """vLLM's own application behind our door."""
        app = await super().__serve_build_asgi_app__()
        # Listed models name the artifact, not where it lies on a node.
        for path in app.state.openai_serving_models.base_model_paths:
            path.model_path = f"sha256:{self._weights.model.digest}"
        app.add_api_route(ENGINE_PATH, self._engine_document, methods=["GET"])
        rules = Rules(
            fields=_known_fields(),
            keys=client_keys(os.environ),
            max_request_s=self._endpoint.limits.maxRequestSeconds,
            count=self._metrics.count_answer,
        )
        _add_middleware_to_built_app(app, Door, rules=rules, admission=self._admission)
        return app

    async def _engine_document(self) -> Response:
        """What `halftone bench` makes a capacity card of."""
        replicas = serve.get_replica_context().world_size
        found = {"replicas": replicas, "speculation": self.engine.speculation.found}
        document = self._served.model_copy(update=found)
        return Response(document.model_dump_json(), media_type="application/json")


def _known_fields() -> dict[str, frozenset[str]]:
    """The top-level fields that vLLM reads, by path."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest as Completion

    known = {}
    for path, request in zip(GENERATING, (ChatCompletionRequest, Completion), strict=True):
        fields = request.model_fields
        aliases = {field.alias for field in fields.values() if field.alias}
        known[path] = frozenset(fields) | aliases
    return known


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].strip().rstrip(".")[:500]

"""A Ray Serve application whose replicas ask for what the endpoint's ask for, and load nothing.

    import_path: pool_application:build        # with the chart's own `args`

Where a GPU is only simulated vLLM has nothing to compute with. Deployment, bundles and patience are
those that `halftone.serve.application` gives Ray; the replica answers every request with one word.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve

from halftone.serve.application import DEPLOYMENT, configuration, read_endpoint

_SAME = ("placement_group_bundles", "placement_group_strategy", "graceful_shutdown_timeout_s")


class EndpointServer:
    async def __call__(self, request: Any) -> str:
        return "here"


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """The application, as large as the endpoint in `arguments` would be."""
    # Not above, or each replica would import vLLM.
    from ray.llm._internal.serve.core.server.llm_server import LLMServer
    from ray.serve.llm import LLMConfig

    asked = LLMServer.get_deployment_options(
        LLMConfig(**configuration(read_endpoint(arguments))),
    )
    options = {name: asked[name] for name in _SAME}
    return serve.deployment(EndpointServer).options(name=DEPLOYMENT, **options).bind()

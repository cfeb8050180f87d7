"""The configuration that Ray Serve writes for HAProxy, for replicas that a test has.

    python haproxy_configuration.py REQUEST_JSON ANSWER_JSON

The request has `environment`, `directory`, `ports` (of clients, statistics and metrics), `replicas`
(ports by name), `router` and `fallback` (ports). The answer has it three times: `served`, `routed`
with a router beside the replicas, and `building` as it is while Ray builds a changed application.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def configurations(request: dict[str, Any]) -> dict[str, str]:
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    directory = Path(request["directory"])
    config = HAProxyConfig(
        socket_path=str(directory / "admin.sock"),
        server_state_base=str(directory),
        server_state_file=str(directory / "server-state"),
        metrics_socket_path=str(directory / "metrics.sock"),
        stats_port=request["ports"]["statistics"],
        metrics_port=request["ports"]["metrics"],
        http_options=HTTPOptions(host="127.0.0.1", port=request["ports"]["clients"]),
        has_received_routes=True,
        has_received_servers=True,
    )
    replicas = [
        ServerConfig(f"SERVE_REPLICA_{name}", "127.0.0.1", port, replica_id=name)
        for name, port in request["replicas"].items()
    ]
    router = [ServerConfig("SERVE_REPLICA_router", "127.0.0.1", request["router"])]
    fallback = ServerConfig("SERVE_PROXY_ACTOR-fallback", "127.0.0.1", request["fallback"])

    def rendered(**servers: Any) -> str:
        backend = BackendConfig(
            name="http-halftone",
            path_prefix="/",
            app_name="halftone",
            fallback_server=fallback,
            **servers,
        )
        path = directory / "haproxy.cfg"
        HAProxyApi(config, {backend.name: backend}, str(path))._generate_config_file_internal()
        return path.read_text()

    return {
        "served": rendered(servers=replicas),
        "routed": rendered(servers=replicas, ingress_request_router_servers=router),
        "building": rendered(servers=[]),
    }


def main(asked: str, answered: str) -> None:
    request = json.loads(Path(asked).read_text())
    os.environ.update(request["environment"])  # Ray reads them when it is imported
    Path(answered).write_text(json.dumps(configurations(request)))


main(*sys.argv[1:])

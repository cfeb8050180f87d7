"""A stand-in for the half of a kubelet that the API server asks for logs: a Node, and its port.

Called by tests of the API tier. Pods are made by the tests, bound to the node by name; nothing else
is scheduled to it. The path, the answer as a stream and `follow` are a kubelet's.
"""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane

NODE = "only-logs"


class KubeletLogs:
    """Logs of pods by their names, as the tests let them speak."""

    def __init__(self, cluster: ControlPlane, client: Client) -> None:
        self._cluster = cluster
        self._client = client
        self._lines: dict[str, list[str]] = {}
        self._over: set[str] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        authority = self._cluster.authority
        authority.issue(NODE, NODE, addresses=["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.folder / f"{NODE}.crt", authority.folder / f"{NODE}.key")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"unschedulable": True},
        }
        self._client.create("/api/v1/nodes", node)
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_port}},
        }
        self._client.patch(f"/api/v1/nodes/{NODE}/status", {"status": status})
        return self

    def __exit__(self, *error: object) -> None:
        self._client.delete(f"/api/v1/nodes/{NODE}")
        with self._changed:
            self._over |= self._lines.keys()
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def say(self, pod: str, *lines: str, over: bool = False) -> None:
        """Let a pod print lines, and end if it is `over`."""
        with self._changed:
            self._lines.setdefault(pod, []).extend(lines)
            if over:
                self._over.add(pod)
            self._changed.notify_all()

    def _next(self, pod: str, after: int, follow: bool) -> list[str]:
        """Lines that were not read yet; none once there are no more to come."""
        with self._changed:
            if follow:
                self._changed.wait_for(
                    lambda: len(self._lines.get(pod, ())) > after or pod in self._over, 60
                )
            return self._lines.get(pod, [])[after:]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        logs = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                where = urlsplit(self.path)
                _, kind, _namespace, pod, container = where.path.split("/")
                if (kind, container) != ("containerLogs", "stage"):
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                follow = parse_qs(where.query).get("follow") == ["true"]
                told = 0
                while lines := logs._next(pod, told, follow):
                    told += len(lines)
                    self._chunk("".join(f"{line}\n" for line in lines).encode())
                self._chunk(b"")

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler

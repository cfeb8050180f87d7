"""A Ray of our own for one endpoint, and Ray Serve in it.

    with LocalRay(endpoint, Address("127.0.0.1", 8000)) as ray:
        ray.deploy(endpoint)          # again with another one: the running replicas are replaced
        ray.wait_until_running()

Called by `cli.serving` and by tests. It imports ray inside functions, after its variables are
set: Ray reads them when it is imported. It must not end a process that it did not start.
"""

import logging
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from halftone.serve.application import APPLICATION, described
from halftone.serve.local.leftovers import MARK, end, marked
from halftone.serve.local.lifelines import Lifelines
from halftone.serve.ray_environment import environment
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import Accelerator, Endpoint

_LOOK_S: Final = 0.25
_OBJECT_STORE_BYTES: Final = 100 * 1024 * 1024  # requests do not go through it
# A window in which HAProxy learns that a replica goes; there is one HAProxy, on this machine.
_DRAIN_WINDOW_S: Final = "2"
_REPORT_MS: Final = "2000"
_OURS: Final = "halftone.spec.errors."
_ATTEMPTS: Final = 4
_TOO_SLOW: Final = "timed out during startup"
# Ray starts all others again when they end.
_VITAL: Final = frozenset({"gcs_server", "raylet"})
# Ray's workers have those below, its replicas those above.
_PORTS: Final = range(20_000, 30_000)
_LONGEST_DIRECTORY: Final = 97 - len("/ht-123456/h/" + 56 * "0" + "/metrics.sock")


@dataclass(frozen=True)
class Address:
    """Where clients come in."""

    host: str
    port: int


@dataclass(frozen=True)
class State:
    """What Ray Serve says of the application: its status in capitals, and why."""

    status: str
    message: str
    deployments: dict[str, str]


class LocalRay:
    """Starts on entering, and ends all its processes on leaving, or when this process dies."""

    def __init__(self, endpoint: Endpoint, address: Address, *, most_replicas: int = 0) -> None:
        self.address = address
        self._endpoint = endpoint
        self._most_replicas = max(most_replicas, endpoint.replicas)
        self._mark = secrets.token_hex(8)
        self._directory = _short_directory() / f"ht-{self._mark[:6]}"
        self._reaper: subprocess.Popen[bytes] | None = None
        self._lifelines = Lifelines()
        self.metrics_port = 0

    @property
    def log_directory(self) -> Path:
        """Where Ray and vLLM log."""
        return self._directory / "session_latest" / "logs"

    def __enter__(self) -> Self:
        _require_free(self.address)
        self._directory.mkdir(mode=0o700)
        self._reaper = subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "halftone.serve.local.leftovers", self._mark, self._directory],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of this Ray. This one must not use ray any more."""
        if self._reaper is None:
            return
        ray = sys.modules.get("ray")
        if ray is not None and self._lifelines.ended() is None:
            ray.shutdown()  # or this process would wait for a Ray that is gone
        self._lifelines.close()
        self._reaper.communicate()
        self._reaper = None

    def _start(self) -> None:
        os.environ.update(self._variables())
        self._write_front_door()
        self.metrics_port = _free_port()
        import ray
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._start_ray(ray)
        self._hold_ray()
        serve.start(
            http_options={"host": self.address.host, "port": self.address.port},
            logging_config={"log_level": "WARNING"},
        )

    def _start_ray(self, ray: Any) -> None:
        """Ray gives its processes 30 seconds, which a busy machine may not have for them at once.

        Raises EnvironmentFault when they did not start in several attempts.
        """
        replicas = self._most_replicas + 1  # one more while they are replaced
        devices = self._endpoint.tensorParallel * self._endpoint.pipelineParallel
        for left in reversed(range(_ATTEMPTS)):
            try:
                ray.init(
                    address="local",  # never one that runs already
                    _temp_dir=str(self._directory),
                    _node_ip_address="127.0.0.1",
                    _metrics_export_port=self.metrics_port,
                    namespace="halftone",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                    # Names that place processes; nobody is held to them.
                    num_cpus=replicas * (devices + 1) + 2,
                    object_store_memory=_OBJECT_STORE_BYTES,
                )
            except Exception as error:
                ray.shutdown()
                end(self._mark)
                if not left or _TOO_SLOW not in str(error):
                    raise EnvironmentFault(
                        Reason.EngineFailed,
                        "ray",
                        f"Ray did not start on this machine: {error}",
                    ) from error
            else:
                return

    def _hold_ray(self) -> None:
        for process in marked(self._mark):
            with suppress(OSError):
                command = Path(f"/proc/{process}/cmdline").read_bytes().partition(b"\0")[0]
                name = Path(os.fsdecode(command)).name
                if name in _VITAL:
                    self._lifelines.hold(process, name)
        if missing := _VITAL - self._lifelines.names:
            for name in missing:
                self._lifelines.lose(name)  # so that `close` does not wait for it
            raise EnvironmentFault(
                Reason.EngineFailed,
                "ray",
                f"Ray started on this machine, and its {' and '.join(sorted(missing))} ended "
                "again; see whether there is memory for it, and start once more.",
            )

    def _variables(self) -> dict[str, str]:
        haproxy = self._directory / "h"
        variables = environment(self._endpoint) | {
            MARK: self._mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(self._front_door),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(_free_port()),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAIN_WINDOW_S,
            "RAY_metrics_report_interval_ms": _REPORT_MS,
            "PYTHONUNBUFFERED": "1",
        }
        if self._endpoint.accelerator is Accelerator.CPU:
            variables["CUDA_VISIBLE_DEVICES"] = ""
            # As vLLM's own server: one core is left to those who bring it requests. Ray would give
            # the engine one thread, however many cores there are.
            cores = len(os.sched_getaffinity(0))
            variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores - 1)))
        return variables

    @property
    def _front_door(self) -> Path:
        return self._directory / "haproxy"

    def _write_front_door(self) -> None:
        """What Ray runs as `haproxy`; the image has the same as `halftone-haproxy`."""
        python = shlex.quote(sys.executable)
        script = f'#!/bin/sh\nexec {python} -m halftone.serve.http.front_door "$@"\n'
        self._front_door.write_text(script)
        self._front_door.chmod(0o700)

    def require_alive(self, wait_s: float = 0) -> None:
        """Return after `wait_s`; raise EnvironmentFault(EngineFailed) as soon as Ray is no more."""
        lost = self._lifelines.ended(wait_s)
        if lost is not None:
            raise EnvironmentFault(
                Reason.EngineFailed,
                "ray",
                f"Ray's process {lost} ended, and the endpoint with it; a machine without free "
                "memory ends processes so. See what else runs here, and start it again.",
            )

    def deploy(self, endpoint: Endpoint) -> None:
        """Have `endpoint` served, in the place of what is served now. Returns at once."""
        from ray import serve
        from ray.serve.schema import ServeDeploySchema

        serve.context._get_global_client().deploy_apps(
            ServeDeploySchema.model_validate({"applications": [described(endpoint)]})
        )

    def state(self) -> State:
        """What became of the last `deploy`."""
        from ray import serve

        found: Any = serve.status().applications.get(APPLICATION)
        if found is None:
            return State("NOT_STARTED", "", {})
        deployments = {name: str(d.message) for name, d in found.deployments.items()}
        return State(str(found.status.value), str(found.message), deployments)

    def wait_until_running(self, waiting: Callable[[float], None] = lambda _: None) -> None:
        """Return when the last `deploy` answers; `waiting` gets the seconds since it began.

        Raises what the replica raised, or EnvironmentFault with Ray Serve's last words, also where
        Ray itself has ended.
        """
        began = monotonic()
        while True:
            self.require_alive(_LOOK_S)
            state = self.state()
            if state.status == "RUNNING":
                return
            if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                kind = _kind(state)
                raise kind(
                    Reason.EngineFailed, "endpoint", f"The endpoint did not start: {told(state)}"
                )
            waiting(monotonic() - began)


def told(state: State) -> str:
    """Our own sentence out of Ray Serve's message, which is a traceback; else its last line."""
    lines = _lines(state)
    ours = [line for line in lines if line.startswith(_OURS)]
    return ours[-1].partition(": ")[2] if ours else lines[-1].strip()


def _kind(state: State) -> type[HalftoneError]:
    """Which of our errors that sentence was, which decides the exit code."""
    for kind in (RefusedInput, CheckFailed):
        if any(line.startswith(f"{_OURS}{kind.__name__}: ") for line in _lines(state)):
            return kind
    return EnvironmentFault


def _lines(state: State) -> list[str]:
    text = "\n".join([state.message, *state.deployments.values()])
    return [line for line in text.splitlines() if line.strip()] or ["Ray Serve gives no reason."]


def _short_directory() -> Path:
    """Where temporary files go, unless names of sockets there would be too long for the system.

    HAProxy's are longest: 97 characters at most, with a node's 56 hexadecimal digits in between.
    """
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) <= _LONGEST_DIRECTORY else Path("/tmp")  # noqa: S108


def _require_free(address: Address) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise RefusedInput(
                Reason.InvalidEndpoint,
                "--port",
                f"`--host {address.host} --port {address.port}` cannot be listened on: "
                f"{error.strerror}; give another `--port`, or an IPv4 address as `--host`.",
            ) from error


def _free_port() -> int:
    """A port that is free, outside those that Ray and the system give away on their own."""
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, suppress(OSError):  # somebody listens there
            probe.bind(("", port))
            return port

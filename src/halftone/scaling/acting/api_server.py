"""The API server of Kubernetes as the controller uses it: a few requests, its errors ours.

Called by `deployment_scale` and `leading`, and by `halftone.serve.from_job`. It gets a way to
connect and never reads a kubeconfig: in a pod that is `in_cluster`, elsewhere the command line
makes one.
"""

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from halftone.spec.errors import HalftoneError

# Where a pod has its account, and where it finds its API server.
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST: Final = "KUBERNETES_SERVICE_HOST"
_PORT: Final = "KUBERNETES_SERVICE_PORT"
_TIMEOUT_S: Final = 10.0


class ApiError(Exception):
    """The server said no, or nothing. `code` is 0 for no answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Connection:
    """Where the server is, whom it trusts, and who we are; `token` may be empty."""

    server: str
    verify: ssl.SSLContext | bool
    token: str


class ApiServer:
    """Requests by path. `connect` is asked again when a credential has run out."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._http: httpx.Client | None = None

    def get(self, path: str) -> dict[str, Any]:
        """GET. Raises ApiError."""
        return self._call("GET", path, None)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST to a collection. Raises ApiError: 409 where the name is taken."""
        return self._call("POST", path, body)

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT. Raises ApiError: 409 where it is not the version that `body` names any more."""
        return self._call("PUT", path, body)

    def close(self) -> None:
        """Close what is open to the server."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            answer = self._request(method, path, body)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self.close()  # a token that was renewed is read again
                answer = self._request(method, path, body)
            found = answer.json()
        except (httpx.HTTPError, OSError, ValueError, HalftoneError) as error:
            self.close()
            said = str(error) or type(error).__name__
            raise ApiError(0, f"The API server gives no answer ({said})") from error
        if answer.is_success and isinstance(found, dict):
            return found
        told = found.get("message") if isinstance(found, dict) else None
        raise ApiError(answer.status_code, str(told or answer.text[:200]))

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        if self._http is None:
            to = self._connect()
            if not to.token.isprintable():  # the client would repeat it in its error
                raise ValueError("the token is more than one line of text")
            headers = {"Authorization": f"Bearer {to.token}"} if to.token else {}
            self._http = httpx.Client(
                base_url=to.server,
                verify=to.verify,
                headers=headers,
                timeout=_TIMEOUT_S,
                trust_env=False,
            )
        return self._http.request(method, path, json=body)


def is_in_cluster() -> bool:
    """Whether this is a pod with an account."""
    return HOST in os.environ and (ACCOUNT / "token").exists()


def in_cluster(account: Path = ACCOUNT) -> Connection:
    """As this pod's account. Raises OSError where its files cannot be read."""
    host = os.environ[HOST]
    place = f"[{host}]" if ":" in host else host
    verify = ssl.create_default_context(cafile=str(account / "ca.crt"))
    token = (account / "token").read_text(encoding="utf-8").strip()
    return Connection(f"https://{place}:{os.environ.get(_PORT, '443')}", verify, token)

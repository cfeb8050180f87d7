"""The API server as the operator uses it: a few verbs over kr8s, its errors ours.

Called by `observe`, `apply` and `lease`. The only module that imports kr8s. What they ask for
is what the chart's Role allows; `tests/contract/test_rbac.py` compares the two.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import httpx
import kr8s
import kr8s.asyncio

from halftone.spec.cluster import FIELD_MANAGER, GROUP, PLURAL, VERSION

_SECONDS: Final = 30.0
_APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
_JSON: Final = {"Content-Type": "application/json"}


class ApiError(Exception):
    """The server said no, or nothing. `code` is 0 for no answer."""

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Api:
    """One connection pool. `requests` counts what was sent, for the metrics."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.requests = 0

    @classmethod
    async def connect(cls, kubeconfig: str | None) -> "Api":
        """With the service account of this pod, or a kubeconfig. Raises ApiError without either."""
        try:
            client = await kr8s.asyncio.api(kubeconfig=kubeconfig)
        except (ValueError, OSError, kr8s.APITimeoutError, httpx.HTTPError) as error:
            raise ApiError(0, "Unreachable", str(error)) from error
        client.timeout = _SECONDS
        return cls(client)

    async def get(self, group: str, version: str, namespace: str, path: str) -> dict[str, Any]:
        """GET of one object or list; `path` may carry a query."""
        found: dict[str, Any] = json.loads(await self._call("GET", group, version, namespace, path))
        return found

    async def log(self, namespace: str, pod: str) -> str:
        """The end of a pod's log."""
        path = f"pods/{pod}/log?tailLines=10&limitBytes=8192"
        return await self._call("GET", "", "v1", namespace, path)

    async def create(self, namespace: str, plural: str, manifest: Mapping[str, Any]) -> None:
        """POST; ApiError(409) where the name is taken."""
        group, _, version = manifest["apiVersion"].rpartition("/")
        await self._call(
            "POST", group, version, namespace, f"{plural}?fieldManager={FIELD_MANAGER}", manifest
        )

    async def replace(
        self, namespace: str, plural: str, name: str, manifest: Mapping[str, Any]
    ) -> None:
        """PUT; ApiError(409) where somebody else was faster."""
        group, _, version = manifest["apiVersion"].rpartition("/")
        await self._call("PUT", group, version, namespace, f"{plural}/{name}", manifest)

    async def delete(self, namespace: str, group: str, version: str, path: str, uid: str) -> None:
        """DELETE of exactly the object with `uid`, in the background. Nothing if it is gone."""
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._call("DELETE", group, version, namespace, path, options)
        except ApiError as error:
            if error.code not in (404, 409):  # 409: another object has the name by now
                raise

    async def apply(
        self, namespace: str, name: str, manifest: Mapping[str, Any], subresource: str = ""
    ) -> str:
        """Server-side apply to a QuantizationJob, as the owner of the fields that it names.

        Returns the resource version that the object has now.
        """
        path = f"{PLURAL}/{name}{subresource}?fieldManager={FIELD_MANAGER}&force=true"
        found = await self._call("PATCH", GROUP, VERSION, namespace, path, manifest, _APPLY)
        return str(json.loads(found)["metadata"]["resourceVersion"])

    async def _call(
        self,
        method: str,
        group: str,
        version: str,
        namespace: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] = _JSON,
    ) -> str:
        self.requests += 1
        content = None if body is None else json.dumps(body).encode()
        try:
            async with self._client.call_api(
                method,
                version=version,
                base=f"/apis/{group}" if group else "",
                namespace=namespace,
                url=path,
                content=content,
                headers=dict(headers),
            ) as response:
                text: str = response.text
                return text
        except kr8s.ServerError as error:
            raise _translated(error) from error
        except (kr8s.APITimeoutError, httpx.HTTPError, OSError) as error:
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error


def _translated(error: Any) -> ApiError:
    response = error.response
    told = error.status if isinstance(error.status, dict) else {}
    after = response.headers.get("Retry-After", "") if response is not None else ""
    return ApiError(
        response.status_code if response is not None else 0,
        str(told.get("reason") or ""),
        str(told.get("message") or error),
        float(after) if after.isdigit() else 0.0,
    )

"""The API server as the operator uses it: a few verbs over kr8s, its errors ours.

Called by `watch`, `observe`, `apply` and `lease`. The only module that imports kr8s. What they ask
for is what the chart's Role allows; `tests/api/test_rbac.py` compares the two.
"""

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import httpx

if importlib.util.find_spec("sniffio") is None:
    # httpcore tries to import it several times a request, and every time all of the path is
    # searched: a tenth of this process's time. An entry None makes the import fail at once.
    sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]
import kr8s
import kr8s.asyncio

from halftone.spec.cluster import FIELD_MANAGER, GROUP, PLURAL, VERSION

_SECONDS: Final = 30.0
_APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
_MERGE: Final = {"Content-Type": "application/merge-patch+json"}
_JSON: Final = {"Content-Type": "application/json"}
_GONE: Final = 410
# What kr8s raises where nobody answers, and where an answer or a credential cannot be read.
_NO_ANSWER: Final = (kr8s.APITimeoutError, httpx.HTTPError, OSError)
_UNREADABLE: Final = (ValueError, KeyError, TypeError)

# Called after each request with its method and the status of its answer, 0 for none.
Count = Callable[[str, int], None]


class ApiError(Exception):
    """The server said no, or nothing. `code` is 0 for no answer."""

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def is_gone(self) -> bool:
        """Whether the version that a watch began at is too old."""
        return self.code == _GONE


class Api:
    """One connection pool; `count` is told of every request."""

    def __init__(self, client: Any, count: Count) -> None:
        self._client = client
        self._count = count

    @classmethod
    async def connect(cls, kubeconfig: str | None, count: Count) -> "Api":
        """With the service account of this pod, or a kubeconfig. Raises ApiError without either."""
        try:
            async with asyncio.timeout(_SECONDS):
                client = await kr8s.asyncio.api(kubeconfig=kubeconfig)
        except (*_NO_ANSWER, *_UNREADABLE, kr8s.ServerError) as error:
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error
        client.timeout = _SECONDS
        return cls(client, count)

    async def close(self) -> None:
        """Close what is open to the server."""
        session = self._client._session  # kr8s has no other way
        if session is not None:
            await session.aclose()

    async def get(
        self, group: str, version: str, namespace: str | None, path: str
    ) -> dict[str, Any]:
        """GET of one object or list; `path` may carry a query."""
        return _object(await self._call("GET", group, version, namespace, path))

    async def watch(
        self, group: str, version: str, namespace: str | None, path: str, silence: float
    ) -> AsyncIterator[dict[str, Any]]:
        """Events of a watch, until the server ends it.

        Raises ApiError: 410 where it has to be listed anew, 0 after `silence` seconds without a
        word (bookmarks come every minute) and where the connection breaks.
        """
        try:
            async with self._client.call_api(
                "GET",
                version=version,
                base=_base(group),
                namespace=namespace,
                url=path,
                raise_for_status=False,
                stream=True,
                timeout=httpx.Timeout(_SECONDS, read=silence),
            ) as response:
                self._count("WATCH", response.status_code)
                if response.is_error:
                    await response.aread()
                    raise _refused(response)
                async for line in response.aiter_lines():
                    yield _event(line)
        except (kr8s.ServerError, *_NO_ANSWER) as error:
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error

    async def log(self, namespace: str, pod: str) -> str:
        """The end of a pod's log. It comes from the pod's node, which may be long in answering."""
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

    async def delete(
        self,
        namespace: str,
        group: str,
        version: str,
        path: str,
        uid: str,
        policy: str = "Background",
    ) -> None:
        """DELETE of exactly the object with `uid`. Nothing if it is gone.

        ApiError(409) where another object has the name by now, or the server asks to look again.
        With the `policy` Foreground it stays, marked, until what belongs to it has gone.
        """
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": policy,
            "preconditions": {"uid": uid},
        }
        try:
            await self._call("DELETE", group, version, namespace, path, options)
        except ApiError as error:
            if error.code != 404:
                raise

    async def apply(
        self, namespace: str, name: str, manifest: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """Server-side apply to a QuantizationJob, as the owner of the fields that it names.

        Returns the object as it is now.
        """
        path = f"{PLURAL}/{name}{subresource}?fieldManager={FIELD_MANAGER}&force=true"
        found = await self._call("PATCH", GROUP, VERSION, namespace, path, manifest, _APPLY)
        return _object(found)

    async def merge(
        self, namespace: str, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """A merge patch of a QuantizationJob: null removes a field, whoever owns it."""
        path = f"{PLURAL}/{name}{subresource}?fieldManager={FIELD_MANAGER}"
        found = await self._call("PATCH", GROUP, VERSION, namespace, path, patch, _MERGE)
        return _object(found)

    async def _call(
        self,
        method: str,
        group: str,
        version: str,
        namespace: str | None,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] = _JSON,
    ) -> str:
        request = {
            "version": version,
            "base": _base(group),
            "namespace": namespace,
            "url": path,
            "content": None if body is None else json.dumps(body).encode(),
            "headers": dict(headers),
        }
        code = 0
        try:
            # kr8s takes a 403 for an expired token and makes its session anew, under the feet of
            # all other requests. So only a 401 is left to it, which means just that.
            for may_renew in (False, True):
                async with self._client.call_api(
                    method, raise_for_status=may_renew, **request
                ) as response:
                    code = response.status_code
                    if code == 401 and not may_renew:
                        continue
                    if response.is_error:
                        raise _refused(response)
                    return str(response.text)
            raise AssertionError("the second request answers or raises")
        except kr8s.ServerError as error:
            if error.response is None:
                raise ApiError(0, "Unreachable", str(error)) from error
            code = error.response.status_code
            raise _refused(error.response) from error
        except (*_NO_ANSWER, *_UNREADABLE) as error:  # kr8s reads answers, and credentials anew
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error
        finally:
            self._count(method, code)


def _base(group: str) -> str:
    return f"/apis/{group}" if group else ""


def _object(text: str) -> dict[str, Any]:
    """An answer of the API. Raises ApiError for one that somebody else gave."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ApiError(0, "Unreadable", f"the answer is no JSON: {text[:200]}") from error
    if not isinstance(found, dict) or not {"apiVersion", "metadata"} <= set(found):
        raise ApiError(0, "Unreadable", f"the answer is no object of the API: {text[:200]}")
    return found


def _event(line: str) -> dict[str, Any]:
    """One line of a watch. Raises ApiError for an event that is an error."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise ApiError(0, "Unreadable", "a watch was cut in the middle of an event") from error
    if not isinstance(event, dict) or not {"type", "object"} <= set(event):
        raise ApiError(0, "Unreadable", f"a watch says {line[:200]}")
    if event["type"] == "ERROR":
        told = event["object"]
        raise ApiError(
            int(told.get("code") or 0), str(told.get("reason")), str(told.get("message"))
        )
    return event


def _refused(response: httpx.Response) -> ApiError:
    """The server's answer as an error; what stands before a server may answer anything."""
    try:
        told = response.json()
    except ValueError:
        told = {}
    told = told if isinstance(told, dict) else {}
    after = response.headers.get("Retry-After", "")
    return ApiError(
        response.status_code,
        str(told.get("reason") or ""),
        str(told.get("message") or response.text[:200]),
        float(after) if after.isdigit() else 0.0,
    )

"""The API server as the verbs `submit`, `watch` and `logs` use it: over kr8s, its errors ours.

Called by those verbs alone. What they may do is what the user's own kubeconfig may.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import httpx
import kr8s
import kr8s.asyncio

from halftone.spec.cluster import GROUP, PLURAL, VERSION
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason

# Whose fields a submitted job's are, in server-side apply.
_MANAGER: Final = "halftone-submit"
_APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
_SECONDS: Final = 30.0

Answer = TypeVar("Answer")


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run `work` to its end."""
    return asyncio.run(work)


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    async def apply(self, job: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
        """Server-side apply; with `dry_run` the server only says whether it would."""
        name = job["metadata"]["name"]
        dry = "&dryRun=All" if dry_run else ""
        path = f"{PLURAL}/{name}?fieldManager={_MANAGER}{dry}"
        text = await self._call("PATCH", path, json.dumps(job).encode(), _APPLY)
        found: dict[str, Any] = json.loads(text)
        return found

    async def job(self, name: str) -> dict[str, Any]:
        """The QuantizationJob called `name`."""
        found: dict[str, Any] = json.loads(await self._call("GET", f"{PLURAL}/{name}"))
        return found

    async def follow(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """The job now, and again whenever it changes; ends when it is deleted."""
        while True:
            found = await self.job(name)
            yield found
            version = found["metadata"]["resourceVersion"]
            query = f"?watch=1&fieldSelector=metadata.name={name}&resourceVersion={version}"
            async for line in self._lines(f"{PLURAL}{query}"):
                event = json.loads(line)
                if event["type"] == "DELETED":
                    return
                if event["type"] == "ERROR":
                    break  # too old: list again
                yield event["object"]

    async def pods(self, selector: str) -> list[dict[str, Any]]:
        """Pods with these labels, the oldest first."""
        path = f"pods?labelSelector={selector}"
        found = json.loads(await self._call("GET", path, base="/api", version="v1"))
        items: list[dict[str, Any]] = found["items"]
        return sorted(items, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    async def log(self, pod: str, *, follow: bool) -> AsyncIterator[str]:
        """The lines of a pod's log."""
        path = f"pods/{pod}/log?follow={'true' if follow else 'false'}"
        async for line in self._lines(path, base="/api", version="v1"):
            yield line

    async def _call(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        base: str = f"/apis/{GROUP}",
        version: str = VERSION,
    ) -> str:
        with _translated(path):
            async with self._client.call_api(
                method,
                version=version,
                base=base,
                namespace=self.namespace,
                url=path,
                content=content,
                headers=dict(headers or {}),
            ) as response:
                text: str = response.text
                return text

    async def _lines(
        self, path: str, *, base: str = f"/apis/{GROUP}", version: str = VERSION
    ) -> AsyncIterator[str]:
        with _translated(path):
            async with self._client.call_api(
                "GET",
                version=version,
                base=base,
                namespace=self.namespace,
                url=path,
                stream=True,
                timeout=httpx.Timeout(_SECONDS, read=None),
            ) as response:
                async for line in response.aiter_lines():
                    yield line


@asynccontextmanager
async def connected(
    namespace: str | None, kubeconfig: str | None, context: str | None
) -> AsyncIterator[Cluster]:
    """The cluster of the kubeconfig, and of its context `context` or the present one."""
    try:
        client = await kr8s.asyncio.api(kubeconfig=kubeconfig, context=context)
    except (ValueError, OSError, kr8s.APITimeoutError, httpx.HTTPError) as error:
        raise _unreachable(error) from error
    client.timeout = _SECONDS
    yield Cluster(client, namespace or client.namespace)


class _translated:  # noqa: N801 - reads as a verb where it is used
    """Turn what the server and the client say into a sentence."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        if isinstance(error, kr8s.ServerError):
            raise _refusal(error, self._path) from error
        if isinstance(error, kr8s.APITimeoutError | httpx.HTTPError | OSError):
            raise _unreachable(error) from error


def _refusal(error: Any, path: str) -> HalftoneError:
    """The server's own words: they name the field."""
    code = error.response.status_code if error.response is not None else 0
    told = error.status if isinstance(error.status, dict) else {}
    message = str(told.get("message") or error)
    subject = path.partition("?")[0]
    if code in (401, 403):
        said = f"The cluster does not let you: {message}"
        return RefusedInput(Reason.AccessDenied, subject, said)
    if code == 404 and "could not find the requested resource" in message:
        return EnvironmentFault(
            Reason.MissingDependency,
            subject,
            "The cluster knows no QuantizationJobs; install the chart `halftone-operator` first.",
        )
    if code in (400, 404, 409, 422):
        return RefusedInput(Reason.InvalidJob, subject, message)
    return EnvironmentFault(Reason.StoreUnavailable, subject, message)


def _unreachable(error: BaseException) -> EnvironmentFault:
    return EnvironmentFault(
        Reason.StoreUnavailable,
        "kubeconfig",
        f"The cluster cannot be reached ({error or type(error).__name__}); check `--kubeconfig` "
        "and `--context`.",
    )

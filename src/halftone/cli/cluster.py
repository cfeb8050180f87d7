"""The API server as the verbs `submit`, `watch` and `logs` use it: over kr8s, its errors ours.

Called by those verbs alone. What they may do is what the user's own kubeconfig may.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

import httpx
from pydantic import ValidationError

from halftone.cli.cluster_access import SECONDS, NotThere, connection, translated
from halftone.spec.cluster import GROUP, PLURAL, VERSION
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.status import JobStatus

# Whose fields a submitted job's are, in server-side apply.
_MANAGER: Final = "halftone-submit"
_APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
# The server ends a watch after this; one that is silent for longer has been cut on the way.
_WATCH_SECONDS: Final = 240
# For how long a server that answered before may be away, and how often it is asked meanwhile.
_PATIENCE: Final = 600.0
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0

Answer = TypeVar("Answer")


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run `work` to its end."""
    return asyncio.run(work)


class Change(StrEnum):
    """What applying did, or would do."""

    Created = "created"
    Changed = "changed"
    Unchanged = "unchanged"


@dataclass(frozen=True)
class Applied:
    """An object as it is after it was applied, and what the server warned of."""

    found: Mapping[str, Any]
    change: Change
    warnings: tuple[str, ...]


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    def beside(self, namespace: str) -> "Cluster":
        """The same cluster, and another namespace of it."""
        return Cluster(self._client, namespace)

    async def apply(self, job: Mapping[str, Any], *, dry_run: bool) -> Applied:
        """Server-side apply, unknown fields refused; with `dry_run` nothing is kept."""
        name = job["metadata"]["name"]
        try:
            before: Mapping[str, Any] | None = await self.job(name)
        except NotThere:
            before = None
        dry = "&dryRun=All" if dry_run else ""
        path = f"{PLURAL}/{name}?fieldManager={_MANAGER}&fieldValidation=Strict{dry}"
        response = await self._call("PATCH", path, json.dumps(job).encode(), _APPLY)
        found = _object(response)
        change = Change.Created
        if before is not None:
            same = _wanted(before) == _wanted(found)
            change = Change.Unchanged if same else Change.Changed
        return Applied(found, change, _warnings(response.headers))

    async def job(self, name: str) -> dict[str, Any]:
        """The QuantizationJob called `name`. Raises NotThere."""
        try:
            return _object(await self._call("GET", f"{PLURAL}/{name}"))
        except NotThere as error:
            said = f"There is no QuantizationJob '{name}' in the namespace '{self.namespace}'; "
            said += "`kubectl get qj --all-namespaces` lists them."
            raise NotThere(error.reason, name, said) from error

    async def claim_modes(self, name: str) -> frozenset[str] | None:
        """The access modes of a PersistentVolumeClaim. Raises NotThere; None if it is hidden."""
        path = f"persistentvolumeclaims/{name}"
        try:
            found = _object(await self._call("GET", path, base="/api", version="v1"))
        except NotThere:
            raise
        except RefusedInput:
            return None  # whoever may submit a job need not be able to read claims
        return frozenset(found["spec"].get("accessModes") or ())

    async def follow(
        self, name: str, tell: Callable[[str], None]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The job now, and again whenever it changes; ends when it is deleted.

        Outlives watches that end and servers that restart; what is waited for goes to `tell`.
        """
        uid, away, pause = None, None, _PAUSE
        while True:
            try:
                found = await self.job(name)
                if uid is not None and found["metadata"]["uid"] != uid:
                    return  # another of the same name
                if away is not None:
                    tell("the cluster answers again.")
                uid, away, pause = found["metadata"]["uid"], None, _PAUSE
                yield found
                version = found["metadata"]["resourceVersion"]
                async with aclosing(self._events(name, version)) as events:
                    async for event in events:
                        if event["type"] == "DELETED":
                            return
                        yield event["object"]
            except NotThere:
                if uid is None:
                    raise
                return
            except EnvironmentFault as error:
                if uid is None or error.reason is not Reason.StoreUnavailable:
                    raise
                if away is None:
                    away = time.monotonic()
                    tell(f"{error.message} Trying again; the job goes on meanwhile.")
                elif time.monotonic() - away > _PATIENCE:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE) if away is not None else _PAUSE

    async def pods(self, selector: str) -> list[dict[str, Any]]:
        """Pods with these labels, the oldest first."""
        path = f"pods?labelSelector={selector}"
        response = await self._call("GET", path, base="/api", version="v1")
        return sorted(_object(response).get("items") or (), key=_age)

    async def log(self, pod: str, container: str, *, follow: bool) -> AsyncGenerator[str, None]:
        """The lines of what `container` says; a mesh may have put others beside it."""
        path = f"pods/{pod}/log?container={container}&follow={'true' if follow else 'false'}"
        async with aclosing(self._lines(path, None, base="/api", version="v1")) as lines:
            async for line in lines:
                yield line

    async def _events(self, name: str, version: str) -> AsyncGenerator[dict[str, Any], None]:
        """What happens to the job after `version`, until the watch ends for whatever reason."""
        query = f"watch=1&fieldSelector=metadata.name={name}&resourceVersion={version}"
        path = f"{PLURAL}?{query}&timeoutSeconds={_WATCH_SECONDS}"
        async with aclosing(self._lines(path, _WATCH_SECONDS + SECONDS)) as lines:
            async for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    return  # cut in the middle, by something on the way
                if event["type"] == "ERROR":
                    return  # too old: read it again
                yield event

    async def _call(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        base: str = f"/apis/{GROUP}",
        version: str = VERSION,
    ) -> httpx.Response:
        with translated(path):
            async with self._client.call_api(
                method,
                version=version,
                base=base,
                namespace=self.namespace,
                url=path,
                content=content,
                headers=dict(headers or {}),
            ) as response:
                found: httpx.Response = response
                return found

    async def _lines(
        self,
        path: str,
        silence: float | None,
        *,
        base: str = f"/apis/{GROUP}",
        version: str = VERSION,
    ) -> AsyncGenerator[str, None]:
        """Lines as they come. A connection that is silent for `silence` seconds is given up."""
        with translated(path):
            async with self._client.call_api(
                "GET",
                version=version,
                base=base,
                namespace=self.namespace,
                url=path,
                stream=True,
                timeout=httpx.Timeout(SECONDS, read=silence),
            ) as response:
                async for line in response.aiter_lines():
                    yield line


@asynccontextmanager
async def connected(
    namespace: str | None, kubeconfig: str | None, context: str | None
) -> AsyncIterator[Cluster]:
    """The cluster of the kubeconfig, and of its context `context` or the present one."""
    async with connection(namespace, kubeconfig, context) as (client, own):
        yield Cluster(client, own)


def status_of(job: Mapping[str, Any]) -> JobStatus:
    """What the operator says of `job`; nothing before its first visit.

    Raises EnvironmentFault for words that a later version may have written.
    """
    try:
        return JobStatus.model_validate(job.get("status") or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("status", *first["loc"])))
        raise EnvironmentFault(
            Reason.MissingDependency,
            field,
            f"`{field}` of '{job['metadata']['name']}' is '{first['input']}', which this version "
            "of halftone does not know; take the version of the operator in that cluster.",
        ) from error


def _object(response: httpx.Response) -> dict[str, Any]:
    """An object or a list of the API. Raises EnvironmentFault for what somebody else answered."""
    try:
        found = response.json()
    except ValueError:
        found = None
    if isinstance(found, dict) and "metadata" in found:
        return found
    raise EnvironmentFault(
        Reason.StoreUnavailable,
        "kubeconfig",
        f"What answers at {response.url.host} is not an API server, or a login stands before it; "
        "log in to the cluster again, or check `--kubeconfig` and `--context`.",
    )


def _age(pod: Mapping[str, Any]) -> tuple[str, str]:
    return str(pod["metadata"]["creationTimestamp"]), str(pod["metadata"]["name"])


def _wanted(job: Mapping[str, Any]) -> tuple[Any, ...]:
    """What people write of an object; the rest is the server's and the operator's."""
    metadata = job["metadata"]
    return job["spec"], metadata.get("labels"), metadata.get("annotations")


def _warnings(headers: httpx.Headers) -> tuple[str, ...]:
    """The texts of `Warning: 299 - "text"`, as the API server sends them."""
    found = (one.partition('"')[2].rpartition('"')[0] for one in headers.get_list("Warning"))
    return tuple(text.replace('\\"', '"') for text in found if text)

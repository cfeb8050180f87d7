"""Leader election with a Lease, as client-go does it: one replica acts, the others stand by.

Called by `__main__`. Two leaders at once do no harm (names of children are those of the work, and a
status is written against the version that was read), so a skewed clock costs requests, no bytes.
Time is measured here, from when a change of the Lease was seen, and no other clock is compared.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any, Final

from operators.quantizationjob.api import Api, ApiError

log = logging.getLogger(__name__)

# In seconds: how long a lease holds, how long to try to renew it, how often. Shorter than the
# defaults of client-go (15, 10, 2): two leaders do no harm, and a killed one is missed sooner.
DURATION: Final = 10.0
RENEW: Final = 7.0
RETRY: Final = 2.0
_GROUP: Final = "coordination.k8s.io"


class Lease:
    """One replica's side of the Lease `name` in `namespace`."""

    def __init__(self, api: Api, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        while not await self._try(RENEW):
            await asyncio.sleep(RETRY)

    async def keep(self) -> None:
        """Renew until that fails for too long; returns when this replica leads no more.

        That is `RENEW` after the last renewal was sent off, however slow the server is; others
        wait for `DURATION` after they saw it.
        """
        renewed = time.monotonic()
        while (left := renewed + RENEW - time.monotonic()) > 0:
            await asyncio.sleep(min(RETRY, left))
            began = time.monotonic()
            if await self._try(renewed + RENEW - began):
                renewed = began

    async def release(self) -> None:
        """Let another replica take over at once."""
        try:
            async with asyncio.timeout(RETRY):
                found = await self._read()
                spec = (found or {}).get("spec") or {}
                if found is not None and spec.get("holderIdentity") == self._identity:
                    spec["holderIdentity"] = ""
                    await self._api.replace(self._namespace, "leases", self._name, found)
        except (ApiError, TimeoutError) as error:
            log.info("the lease could not be released: %s", error)

    async def _try(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._take()
        except ApiError as error:
            if error.code != 409:
                log.warning("the lease cannot be taken or renewed: %s", error)
        except TimeoutError:
            log.warning("the lease cannot be taken or renewed: no answer")
        return False

    async def _take(self) -> bool:
        found = await self._read()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if found is None:
            await self._api.create(self._namespace, "leases", self._new(now))
            return True
        spec = found.setdefault("spec", {})
        holder = str(spec.get("holderIdentity") or "")
        if holder not in ("", self._identity) and not self._is_over(spec, holder):
            return False
        if holder != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec |= {"holderIdentity": self._identity, "renewTime": now}
        spec["leaseDurationSeconds"] = int(DURATION)
        await self._api.replace(self._namespace, "leases", self._name, found)
        return True

    def _is_over(self, spec: dict[str, Any], holder: str) -> bool:
        """Whether the holder has not renewed for the duration, by this machine's clock."""
        state = holder, str(spec.get("renewTime"))
        if state != self._seen:
            self._seen, self._seen_at = state, time.monotonic()
            return False
        return time.monotonic() - self._seen_at > float(spec.get("leaseDurationSeconds") or 0)

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._api.get(_GROUP, "v1", self._namespace, f"leases/{self._name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def _new(self, now: str) -> dict[str, Any]:
        return {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }

"""One watch: everything of a kind is listed, then followed, for ever.

Called by `pump`. A list replaces what is known, so what was deleted while nobody watched is known
to be gone. (kopf, which was here before, keeps such objects in its indexes for ever, and takes half
of a core for a hundred events a second.)
"""

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.indexes import Index, name_of

log = logging.getLogger(__name__)

# Objects a page of a list; a page is all that is in memory at once.
_PAGE: Final = 250
# Seconds for which the server is asked to keep a watch open, as client-go does it: not all at once.
_OPEN: Final = (300, 600)
# The server does not know us: a token has expired.
_UNKNOWN: Final = 401
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 15.0


@dataclass(frozen=True)
class Kind:
    """What is watched; `selector` is a label's name."""

    group: str
    version: str
    plural: str
    selector: str = ""

    def query(self, **others: str) -> str:
        """The path below a namespace."""
        found = {"labelSelector": self.selector} if self.selector else {}
        pairs = (f"{name}={quote(value, safe='')}" for name, value in (found | others).items())
        return f"{self.plural}?{'&'.join(pairs)}"


class Watch:
    """Keeps `index` like the server, in `namespace` or (None) in all.

    After `silence` seconds without a word a watch is taken for broken and begun anew.
    """

    def __init__(
        self, api: Api, kind: Kind, namespace: str | None, index: Index[Any], silence: float
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.listed = asyncio.Event()
        # What the server said last, if it was a no.
        self.trouble = ""
        self._api = api
        self._index = index
        self._silence = silence
        self._heard = time.monotonic()
        self._failures = 0

    def lateness(self) -> float:
        """Seconds since the server was last heard, beyond those that it may be silent."""
        return max(0.0, time.monotonic() - self._heard - self._silence)

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                version = await self._list()
                await self._follow(version)
            except ApiError as error:
                await self._pause(error)

    async def _list(self) -> str:
        """Read everything; returns the version of the list."""
        names: set[tuple[str, str]] = set()
        more: dict[str, str] = {}
        while True:
            found = await self._get(self.kind.query(limit=str(_PAGE), **more))
            for body in found.get("items") or ():
                names.add(name_of(body))
                self._put(body)
            version, rest = found["metadata"]["resourceVersion"], found["metadata"].get("continue")
            if not rest:
                break
            more = {"continue": rest}
        self._index.keep_only(names, self.namespace)
        self._hear()
        self.listed.set()
        return str(version)

    async def _get(self, path: str) -> dict[str, Any]:
        return await self._api.get(self.kind.group, self.kind.version, self.namespace, path)

    async def _follow(self, version: str) -> None:
        """Take changes in until the server has forgotten the version that we have, or us."""
        while True:
            heard = self._heard
            try:
                async for event in self._api.watch(
                    self.kind.group,
                    self.kind.version,
                    self.namespace,
                    self.kind.query(
                        watch="1",
                        allowWatchBookmarks="true",
                        resourceVersion=version,
                        timeoutSeconds=str(random.randint(*_OPEN)),  # noqa: S311
                    ),
                    self._silence,
                ):
                    self._hear()  # that a watch began says nothing: it may be silent for ever
                    version = self._take(event)
                if heard == self._heard:
                    raise ApiError(0, "Silent", "the server ended the watch without a word")
            except ApiError as error:
                if error.is_gone:
                    log.info("%s are listed anew: %s", self.kind.plural, error.message)
                    return
                await self._pause(error)
                if (
                    error.code == _UNKNOWN
                ):  # a watch does not renew what it is known by; a list does
                    return

    def _take(self, event: dict[str, Any]) -> str:
        """Note one event; returns the version that it brings us to."""
        body = event["object"]
        if event["type"] == "DELETED":
            self._index.drop(name_of(body))
        elif event["type"] in ("ADDED", "MODIFIED"):
            self._put(body)
        return str(body["metadata"]["resourceVersion"])

    def _put(self, body: dict[str, Any]) -> None:
        """Note an object; one that we cannot read says nothing, and ends no watch.

        Anybody may make objects with our labels, so anything can stand in them.
        """
        try:
            self._index.put(body)
        except Exception:
            log.exception("%s %s/%s cannot be read", self.kind.plural, *name_of(body))

    def _hear(self) -> None:
        self._heard = time.monotonic()
        self._failures = 0
        self.trouble = ""

    async def _pause(self, error: ApiError) -> None:
        """Longer each time, and as long as the server asks for."""
        log.log(
            logging.DEBUG if error.code == 0 and self._failures == 0 else logging.WARNING,
            "the watch of %s: %s",
            self.kind.plural,
            error,
        )
        self._failures += 1
        self.trouble = str(error)
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self._failures - 1, 10))
        await asyncio.sleep(max(error.retry_after, delay * random.uniform(0.8, 1.2)))  # noqa: S311

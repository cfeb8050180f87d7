"""Leader election with a Lease: of several controllers one acts, the others look on.

Called by `controlling`, once a look. Time is measured here, from when a change of the Lease was
seen, and no other clock is compared. The Lease carries a note for whoever leads next: the count
that was set last. Whoever takes the note away says that the count that is there is right
(`kubectl annotate lease NAME halftone.dev/replicas-`).
"""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from halftone.scaling.acting.api_server import ApiError, ApiServer

log = logging.getLogger(__name__)

NOTE: Final = "halftone.dev/replicas"
_GROUP: Final = "coordination.k8s.io/v1"
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


@dataclass(frozen=True, slots=True)
class Held:
    """What came of `hold`: whether we lead, and since now; the note of whoever led before us, and
    whether somebody has taken ours away.
    """

    leads: bool
    is_new: bool = False
    note: str | None = None
    cleared: bool = False


class Lease:
    """One controller's side of the Lease `name` in `namespace`.

    `duration_s` is how long it holds without being renewed: some looks long.
    """

    def __init__(
        self, api: ApiServer, namespace: str, name: str, identity: str, duration_s: float
    ) -> None:
        self._api = api
        self._place = f"/apis/{_GROUP}/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._duration_s = duration_s
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._noted: str | None = None

    def hold(self, note: str | None) -> Held:
        """Take the Lease or renew it, with `note`.

        It is no error when that fails: we lead on for as long as the others keep away.
        """
        led = self.leads
        before, cleared = None, False
        try:
            before, cleared = self._take(note)
        except ApiError as error:
            if error.code != _CONFLICT:
                log.warning("the lease cannot be taken or renewed: %s", error)
        return Held(self.leads, self.leads and not led, before, cleared)

    @property
    def leads(self) -> bool:
        """Whether nobody else can have taken over: others wait for the whole duration."""
        if self._renewed_at is None:
            return False
        return time.monotonic() - self._renewed_at < 0.7 * self._duration_s

    def release(self) -> None:
        """Let another one take over at once."""
        if self._renewed_at is None:
            return
        try:
            found = self._read()
            if found is not None and found["spec"].get("holderIdentity") == self._identity:
                found["spec"]["holderIdentity"] = ""
                self._api.replace(f"{self._place}/{self._name}", found)
        except ApiError as error:
            log.info("the lease could not be released: %s", error)
        self._renewed_at = None

    def _take(self, note: str | None) -> tuple[str | None, bool]:
        """The note that was there, and whether somebody took ours away. Raises ApiError."""
        began = time.monotonic()
        found = self._read()
        if found is None:
            self._api.create(self._place, self._new(note))
            self._renewed_at, self._noted = began, note
            return None, False
        spec = found.setdefault("spec", {})
        holder = str(spec.get("holderIdentity") or "")
        if holder not in ("", self._identity) and not self._is_over(spec, holder):
            self._renewed_at = None
            return None, False
        annotations = found["metadata"].setdefault("annotations", {})
        before, cleared = annotations.pop(NOTE, None), False
        if holder != self._identity:
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = _now()
            note = before  # we have not set anything yet
        elif before is None and self._noted is not None:
            note, cleared = None, True
        if note is not None:
            annotations[NOTE] = note
        found["spec"] = spec | self._spec()
        self._api.replace(f"{self._place}/{self._name}", found)
        self._renewed_at, self._noted = began, note
        return before, cleared

    def _is_over(self, spec: dict[str, Any], holder: str) -> bool:
        """Whether the holder has not renewed for the duration, by this machine's clock."""
        state = holder, str(spec.get("renewTime"))
        if state != self._seen:
            self._seen, self._seen_at = state, time.monotonic()
            return False
        return time.monotonic() - self._seen_at > float(spec.get("leaseDurationSeconds") or 0)

    def _read(self) -> dict[str, Any] | None:
        try:
            return self._api.get(f"{self._place}/{self._name}")
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return None
            raise

    def _spec(self) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration_s)),
            "renewTime": _now(),
        }

    def _new(self, note: str | None) -> dict[str, Any]:
        return {
            "apiVersion": _GROUP,
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "annotations": {} if note is None else {NOTE: note},
            },
            "spec": {**self._spec(), "acquireTime": _now(), "leaseTransitions": 0},
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""All reads: what the watches know of one job, and the little that has to be asked for.

Called by `workers`. Gives `halftone.control.Observed` and judges nothing.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from halftone.control.naming import volume_name
from halftone.control.observed import Observed, ObservedChild, ObservedClaim, ObservedPod
from halftone.spec.cluster import ChildStage
from halftone.spec.running import Runner
from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.apply import Written
from operators.quantizationjob.indexes import Indexes
from operators.quantizationjob.pipelines import Pipelines
from operators.quantizationjob.reading import Key, OwnedPod, progress_of

# A Job controller that may make pods makes them at once; after this somebody has to be asked why.
_NO_POD: Final = timedelta(seconds=5)
# Seconds after which that is asked again.
_ASK_AGAIN: Final = 30.0
# Seconds after which a watch has surely shown a write, or what was written has gone again.
_SURELY_SEEN: Final = 5.0
# A log comes from the pod's node, which may be dead. Seconds for all logs of a job together, how
# many are read at once, and how many times as long it takes until slow ones are asked for again.
_LOG_SECONDS: Final = 3.0
_LOGS_AT_ONCE: Final = 16
_LATER: Final = 5
# Of workers; what one has done that has ended is a part of the whole too.
_TELLING: Final = frozenset({"Running", "Succeeded"})


class NotYet(Exception):
    """The watches do not show yet what we wrote; to judge now would be to write it again."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Observer:
    """Joins indexes and requests, and remembers for a while what writes have found out."""

    def __init__(
        self,
        api: Api,
        indexes: Indexes,
        log_seconds: float = _LOG_SECONDS,
        *,
        identity: str = "",
        pipelines: Pipelines | None = None,
    ) -> None:
        self._api = api
        self._identity = identity
        self._pipelines = pipelines
        self._log_seconds = log_seconds
        self._indexes = indexes
        self._taken: dict[Key, tuple[frozenset[str], float]] = {}
        self._refused: dict[Key, tuple[dict[str, str], float]] = {}
        # The uid of the job in whose namespace nothing can be made any more.
        self._terminating: dict[Key, str] = {}
        # What a Job controller said when it made no pod, and when it is asked again.
        self._refusals: dict[Key, dict[str, tuple[tuple[str, str] | None, float]]] = {}
        # What running workers said last, and of which children they are: (done, total).
        self._progress: dict[Key, tuple[frozenset[str], tuple[int, int]]] = {}
        # Bytes that each pod which quantizes had read when it was last asked.
        self._bytes: dict[Key, dict[str, int]] = {}
        self._asked: dict[Key, float] = {}
        self._expected: dict[Key, tuple[Written, float]] = {}

    def expect(self, key: Key, written: Written) -> None:
        """Wait with the next visit of `key` until the watches show `written`."""
        if written.resource_version is not None or written.children:
            self._expected[key] = written, time.monotonic() + _SURELY_SEEN

    def note_taken(self, key: Key, names: frozenset[str], seconds: float) -> bool:
        """Objects of others have these names; they send us no event, so it holds for a while.

        Returns whether that is news.
        """
        known = self._names_taken(key)
        self._taken[key] = names, time.monotonic() + seconds
        return not names <= known

    def note_refused(self, key: Key, name: str, message: str, seconds: float) -> bool:
        """The API server does not let us make this object; that too holds for a while.

        Returns whether that is news.
        """
        # Beside what was noted before: of two that are refused, each is found out by itself.
        known = self._names_refused(key)
        self._refused[key] = {**known, name: message}, time.monotonic() + seconds
        return name not in known

    def note_terminating(self, key: Key) -> None:
        """Nothing can be made in this job's namespace."""
        found = self._indexes.object(key)
        if found is not None:
            self._terminating[key] = found["metadata"]["uid"]

    async def observe(self, key: Key) -> Observed | None:
        """Everything about `key`, None if there is no such job. Raises ApiError and NotYet."""
        found = self._indexes.object(key)
        if found is None:
            self.forget(key)
            return None
        self._require_seen(key, found["metadata"])
        uid = found["metadata"]["uid"]
        pods = self._indexes.pods.get(key)
        children, foreign = [], set()
        for owned in list(self._indexes.children.get(key)):
            if owned.owner_uid != uid:
                foreign.add(owned.child.name)  # of an earlier job of this name, or of nobody
                continue
            child = replace(owned.child, pods=_pods_of(owned.child.uid, pods))
            children.append(await self._with_refusal(key, child) if owned.tried else child)
        # Workers that write shards are made later, and have to share the claim.
        writes = found["spec"].get("parallelism", 1) > 1
        asked = {ChildStage.Quantize} if writes else {ChildStage.Plan}
        begun = any(child.stage in asked for child in children)
        begun = begun or "pipelineRun" in found["status"]
        unseen = begun or self._runs_elsewhere(key, found["spec"])
        observed = Observed(
            metadata=found["metadata"],
            spec=found["spec"],
            status=found["status"],
            now=datetime.now(UTC),
            children=tuple(sorted(children, key=lambda child: (child.created, child.name))),
            taken=self._names_taken(key) | foreign,
            refused=self._names_refused(key),
            claims={} if unseen else await self._claims(key, found["spec"]),
            progress=self._progress_now(key, children),
            namespace_terminating=self._terminating.get(key) == uid,
            identity=self._identity,
        )
        return observed if self._pipelines is None else await self._pipelines.see(key, observed)

    def _runs_elsewhere(self, key: Key, spec: Mapping[str, Any]) -> bool:
        """Whether claims of the job are in a namespace that we may not read, with its pods."""
        by_run = spec.get("runner") == Runner.KubeflowPipelines
        return by_run and self._pipelines is not None and self._pipelines.is_elsewhere(key)

    async def ask_progress(self, key: Key, names: Collection[str], every: float) -> int:
        """Read from their logs how far the workers of the children `names` are, and keep the sum.

        Asked `every` so many seconds at most, however often the job is looked at. Returns the bytes
        that those which quantize have read since they were last asked.

        A log that cannot be read is left out: progress is a courtesy, and never stops the work.
        """
        now = time.monotonic()
        if now - self._asked.get(key, -every) < every:
            return 0
        self._asked[key] = now
        stages = {
            owned.child.uid: owned.child.stage
            for owned in self._indexes.children.get(key)
            if owned.child.name in names
        }
        running = {
            owned.pod.name: stages[owned.job_uid]
            for owned in self._indexes.pods.get(key)
            if owned.job_uid in stages and owned.pod.phase in _TELLING
        }
        if not running:
            self._progress.pop(key, None)
            return 0
        few = asyncio.Semaphore(_LOGS_AT_ONCE)
        told = await asyncio.gather(*(self._one_progress(key, pod, few) for pod in running))
        found = {pod: one for pod, one in zip(running, told, strict=True) if one is not None}
        if found:
            done, total = (sum(counts) for counts in zip(*found.values(), strict=True))
            self._progress[key] = frozenset(names), (done, total)
        if time.monotonic() - now >= self._log_seconds:
            self._asked[key] = now + _LATER * every  # not so often: it holds a worker up
        return self._bytes_since(
            key, {p: one[0] for p, one in found.items() if running[p] is ChildStage.Quantize}
        )

    def _bytes_since(self, key: Key, done: Mapping[str, int]) -> int:
        """By how many bytes these pods went on. What a pod says first may be an earlier one's."""
        former = self._bytes.setdefault(key, {})
        more = sum(max(0, count - former.get(pod, count)) for pod, count in done.items())
        former.update(done)
        return more

    def _progress_now(self, key: Key, children: Iterable[ObservedChild]) -> tuple[int, int] | None:
        """What was said last, if those who said it still work: else it is of a former stage."""
        names, told = self._progress.get(key, (frozenset(), None))
        working = {c.name for c in children if not c.complete and c.failure is None}
        return told if names <= working else None

    def _require_seen(self, key: Key, metadata: Mapping[str, Any]) -> None:
        expected = self._expected.get(key)
        if expected is None:
            return
        written, until = expected
        names = {owned.child.name for owned in self._indexes.children.get(key)}
        version = written.resource_version
        seen = version is None or int(metadata["resourceVersion"]) >= int(version)
        left = until - time.monotonic()
        if left > 0 and not (seen and written.children <= names):
            raise NotYet(left)
        del self._expected[key]

    def forget(self, key: Key) -> None:
        """Drop what is kept about a job that is gone."""
        self._expected.pop(key, None)
        self._taken.pop(key, None)
        self._refused.pop(key, None)
        self._terminating.pop(key, None)
        self._progress.pop(key, None)
        self._bytes.pop(key, None)
        self._asked.pop(key, None)
        self._refusals.pop(key, None)

    async def _one_progress(
        self, key: Key, pod: str, few: asyncio.Semaphore
    ) -> tuple[int, int] | None:
        try:
            async with asyncio.timeout(self._log_seconds), few:
                return progress_of(await self._api.log(key.namespace, pod))
        except (ApiError, TimeoutError):
            return None

    def _names_taken(self, key: Key) -> frozenset[str]:
        names, until = self._taken.get(key, (frozenset(), 0.0))
        return names if time.monotonic() < until else frozenset()

    def _names_refused(self, key: Key) -> dict[str, str]:
        words, until = self._refused.get(key, ({}, 0.0))
        return words if time.monotonic() < until else {}

    async def _with_refusal(self, key: Key, child: ObservedChild) -> ObservedChild:
        """`child` with what the Job controller says when it may not make pods.

        The server finds an event by reading all of the namespace, so it is not asked often.
        """
        ended = child.complete or child.failure is not None or child.deleting or child.suspended
        made = child.pods or child.active or child.failed or child.succeeded
        known = self._refusals.get(key, {})
        if ended or made or datetime.now(UTC) - child.created < _NO_POD:
            known.pop(child.uid, None)
            return child
        told, until = known.get(child.uid, (None, 0.0))
        if time.monotonic() >= until:
            told = await self._refusal(key, child)
            known = self._refusals.setdefault(key, known)
            known[child.uid] = told, time.monotonic() + _ASK_AGAIN
        return child if told is None else replace(child, refusal=told)

    async def _refusal(self, key: Key, child: ObservedChild) -> tuple[str, str] | None:
        selector = f"involvedObject.uid={child.uid},reason=FailedCreate"
        found = await self._api.get("", "v1", key.namespace, f"events?fieldSelector={selector}")
        events = sorted(found.get("items") or (), key=lambda e: str(e.get("lastTimestamp")))
        return (str(events[-1]["reason"]), str(events[-1]["message"])) if events else None

    async def _claims(self, key: Key, spec: dict[str, Any]) -> dict[str, ObservedClaim | None]:
        """The claims that the job names, and the one that is made for it."""
        names = set(_claim_names(spec))
        if (spec.get("workVolume") or {}).get("storageClassName"):
            names.add(volume_name(key.name))
        return {name: await self._claim(key, name) for name in sorted(names)}

    async def _claim(self, key: Key, name: str) -> ObservedClaim | None:
        try:
            found = await self._api.get("", "v1", key.namespace, f"persistentvolumeclaims/{name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        modes = (found.get("spec") or {}).get("accessModes") or ()
        owners = found["metadata"].get("ownerReferences") or ()
        job = self._indexes.object(key)
        ours = job is not None and any(o["uid"] == job["metadata"]["uid"] for o in owners)
        return ObservedClaim(name, frozenset(map(str, modes)), ours)


def _pods_of(uid: str, pods: Iterable[OwnedPod]) -> tuple[ObservedPod, ...]:
    mine = [owned.pod for owned in pods if owned.job_uid == uid]
    return tuple(sorted(mine, key=lambda pod: (pod.created, pod.name)))


def _claim_names(block: Any) -> Iterable[str]:
    """Every `claimName` in a spec, wherever it stands."""
    if isinstance(block, dict):
        for field, value in block.items():
            if field == "claimName" and isinstance(value, str):
                yield value
            else:
                yield from _claim_names(value)
    elif isinstance(block, list):
        for value in block:
            yield from _claim_names(value)

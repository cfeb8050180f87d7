"""Workers: take a name, observe, judge, apply; and see to it that a failure comes back later.

Called by `__main__`. Several names are worked on at once, one name by one worker.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from halftone.control.decision import Decision
from halftone.control.reconciling import reconcile
from halftone.control.settings import Settings
from halftone.kubeflow.errors import Refused, Unreachable
from halftone.spec.cluster import EventReason
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import ApiError
from operators.quantizationjob.apply import Applier, ChildRefused, NamespaceTerminating, NamesTaken
from operators.quantizationjob.observe import NotYet, Observer
from operators.quantizationjob.pipelines import RunRefused
from operators.quantizationjob.queue import Queue
from operators.quantizationjob.reading import Key

log = logging.getLogger(__name__)

# When a name that is taken is tried again; its owner sends us no event.
_TAKEN_SECONDS = 10.0


class Workers:
    """What one replica does while it leads."""

    def __init__(
        self,
        queue: Queue,
        observer: Observer,
        applier: Applier,
        settings: Settings,
        metrics: OperatorMetrics,
        pipeline: Mapping[str, Any] | None = None,
    ) -> None:
        self._queue = queue
        self._observer = observer
        self._applier = applier
        self._settings = settings
        self._metrics = metrics
        self._pipeline = pipeline

    async def work(self) -> None:
        """For ever, one name after the other."""
        while True:
            key = await self._queue.get()
            began = time.monotonic()
            failed, least, result = True, 0.0, "error"
            try:
                await self._visit(key)
                failed, result = False, "done"
            except NotYet as error:
                self._queue.add_after(key, error.seconds)
                failed, result = False, "early"
            except NamesTaken as error:
                is_news = self._observer.note_taken(key, error.names, _TAKEN_SECONDS)
                self._come_back(key, is_news)
                failed, result = False, "done"
            except (ChildRefused, RunRefused) as error:
                is_news = self._observer.note_refused(
                    key, error.name, error.message, _TAKEN_SECONDS
                )
                self._come_back(key, is_news)
                failed, result = False, "done"
            except Unreachable as error:
                # Look again at once, and say so.
                log.warning("%s/%s: %s", *key, error)
                self._queue.add(key)
                failed = False
            except Refused as error:
                log.warning("%s/%s: %s", *key, error)
            except NamespaceTerminating:
                self._observer.note_terminating(key)
            except ApiError as error:
                least = error.retry_after
                result = "conflict" if error.code == 409 else "error"
                level = logging.DEBUG if error.code == 409 else logging.WARNING
                log.log(level, "%s/%s: %s", *key, error)
            except Exception:
                log.exception("%s/%s: this is a bug, please report", *key)
            finally:
                self._queue.done(key, failed=failed, least=least)
                self._metrics.reconciles.labels(result).inc()
                self._metrics.reconcile_seconds.observe(time.monotonic() - began)

    def _come_back(self, key: Key, is_news: bool) -> None:
        """Look again at once to tell what is new; and when that is over, to try again."""
        if is_news:
            self._queue.add(key)
        self._queue.add_after(key, _TAKEN_SECONDS)

    async def _visit(self, key: Key) -> None:
        observed = await self._observer.observe(key)
        if observed is None:
            self._queue.forget(key)
            return
        decision = reconcile(observed, self._settings, self._pipeline)
        self._observer.expect(key, await self._applier.apply(key, observed.metadata, decision))
        self._count_bytes(decision)
        if decision.requeue_seconds is not None:
            self._queue.add_after(key, decision.requeue_seconds)
        if observed.taken or observed.refused:
            self._queue.add_after(key, _TAKEN_SECONDS)
        if decision.progress_wanted:
            every = float(self._settings.progressSeconds)
            read = await self._observer.ask_progress(key, decision.progress_wanted, every)
            self._metrics.bytes_read.inc(read)

    def _count_bytes(self, decision: Decision) -> None:
        """What a written status says for the first time; events are told just then."""
        reasons = {event.reason for event in decision.events if not event.warning}
        status = decision.status
        if status is None:
            return
        if EventReason.CheckpointWritten in reasons and status.checkpoint is not None:
            self._metrics.bytes_written.inc(status.checkpoint.sizeBytes)
        if EventReason.ArtifactPublished in reasons and status.artifact is not None:
            self._metrics.bytes_published.inc(status.artifact.sizeBytes)

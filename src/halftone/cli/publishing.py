"""The stage `publish`: what has to be true first, the artifact's tree, and its way out.

Called by `halftone.cli.stages`. It joins what `publish` prepares with what `stores` can reach;
neither knows the other.
"""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

from halftone.cli.progress import progress
from halftone.publish.licences import refuse_unacknowledged
from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import RefusedInput
from halftone.spec.job import QuantizationJob
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    CONFIG_FILE,
    MODEL_CARD,
    PLAN_FILE,
    REPORT_FILE,
    SIGNING_KEY_FILE,
    Reason,
)
from halftone.spec.reports import Report
from halftone.spec.targets import Existing, Publish
from halftone.stores.opening import open_target


def refuse_unpublishable(publish: Publish, plan: Plan, workdir: Path) -> None:
    """Raise what publishing would raise after hours of work: licence, key, target, its content.

    The artifact of the same plan is in nobody's way.
    """
    from halftone.stores.directory_target import refuse_nested

    refuse_unacknowledged(None if plan.source is None else plan.source.licence, publish)
    key = signing_key(publish)
    if key is not None:
        from halftone.publish.signing import refuse_unusable_key

        refuse_unusable_key(key)
    if publish.directory is not None:
        refuse_nested(Path(publish.directory.path), workdir)
    with closing(open_target(publish)) as target:
        existing = target.current()
        if existing is None or existing.planDigest != plan.digest:
            target.refuse_unusable()
        occupied = existing is not None and existing.planDigest != plan.digest
        if existing is not None and occupied and publish.existing is Existing.Refuse:
            raise RefusedInput(
                Reason.TargetOccupied,
                "publish",
                f"`{target.uri}` holds the artifact {existing.checkpointDigest[:12]} of another "
                "plan; publish under another name, or set `publish.existing: Replace`, which keeps "
                "the former reachable by its digest.",
            )


def signing_key(publish: Publish) -> Path | None:
    """The file of the private key: what the job names, else the environment's, else None.

    A Secret is mounted by the runner in the cluster, which says where in the environment.
    """
    named = os.environ.get(SIGNING_KEY_FILE)
    ref = publish.signingKeyRef
    if ref is not None and ref.path is not None:
        return Path(ref.path)
    if ref is not None and not named:
        raise RefusedInput(
            Reason.KeyUnusable,
            "publish.signingKeyRef",
            f"`publish.signingKeyRef` names a Secret, which only a runner in the cluster mounts; "
            f"set {SIGNING_KEY_FILE} to the key's file here.",
        )
    return Path(named) if named else None


def publish_workdir(workdir: Path, job: QuantizationJob, report_digest: str) -> None:
    """Publish the checkpoint of `workdir`, opened by the report with `report_digest`.

    Does nothing for a job without target. Raises what `require_publishable` and the target raise.
    """
    from halftone.publish.permission import require_publishable
    from halftone.publish.preparing import prepare

    publish = job.spec.publish
    plan = Plan.load(workdir / PLAN_FILE)
    checkpoint = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
    report = require_publishable(workdir / REPORT_FILE, report_digest, plan, checkpoint)
    if publish is None:
        return
    refuse_unacknowledged(None if plan.source is None else plan.source.licence, publish)
    card = _card(workdir, plan, checkpoint, report, publish)
    prepared = prepare(workdir, plan, checkpoint, report, card, signing_key(publish))
    with (
        closing(open_target(publish)) as target,
        progress("publish", prepared.artifact.sizeBytes) as shown,
    ):
        artifact: Artifact = target.publish(
            prepared.tree, prepared.artifact, publish.existing, shown.advance
        )
        target.add_cards(prepared.tree, prepared.cards)
    artifact.save(workdir / ARTIFACT_FILE)


def _card(
    workdir: Path, plan: Plan, checkpoint: CheckpointDocument, report: Report, publish: Publish
) -> bytes:
    from halftone.publish.card import model_card

    folder = workdir / CHECKPOINT_DIRECTORY
    card = folder / MODEL_CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    return model_card(plan, checkpoint, report, _evidence(workdir, report), text, publish, config)


def _evidence(workdir: Path, report: Report) -> dict[str, dict[str, Any]]:
    """By the gate's name; `prepare` holds the files against the report's digests."""
    found = {}
    for gate in report.gates:
        if gate.evidence is not None:
            found[gate.name] = json.loads((workdir / gate.evidence).read_bytes())
    return found

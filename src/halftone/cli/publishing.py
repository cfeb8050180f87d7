"""The stage `publish`: what has to be true first, the artifact's tree, and its way out.

Called by `halftone.cli.stages`. It joins what `publish` prepares with what `stores` can reach;
neither knows the other.
"""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halftone.cli.progress import progress
from halftone.control.saying import occupied_message
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
    REPORT_PAGE,
    SIGNING_KEY_FILE,
    Reason,
)
from halftone.spec.reports import Report
from halftone.spec.targets import Existing, Publish
from halftone.stores.credentials import Credential, GivenFor, given
from halftone.stores.opening import open_target

if TYPE_CHECKING:
    from halftone.publish.preparing import Prepared


def refuse_unpublishable(
    publish: Publish, plan: Plan, workdir: Path, *, with_target: bool = True
) -> None:
    """Raise what publishing would raise after hours of work: licence, key, target, its content.

    The artifact of the same plan is in nobody's way. Without `with_target` only the licence.
    """
    from halftone.stores.directory_target import refuse_nested

    refuse_unacknowledged(None if plan.source is None else plan.source.licence, publish)
    if not with_target:
        return
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
        refuse_occupied(target.uri, existing, plan.digest, publish)


def refuse_occupied(uri: str, there: Artifact | None, plan_digest: str, publish: Publish) -> None:
    """Raise RefusedInput(TargetOccupied) where `there`, the artifact at `uri`, is in the way of
    that of `plan_digest`.
    """
    occupied = there is not None and there.planDigest != plan_digest
    if there is not None and occupied and publish.existing is Existing.Refuse:
        raise RefusedInput(
            Reason.TargetOccupied,
            "publish",
            occupied_message(uri, there.checkpointDigest),
        )


def signing_key(publish: Publish) -> Path | None:
    """The file of the private key: what the job names, else the environment's, else None.

    A runner in the cluster gives the text of a Secret's key. Raises RefusedInput(KeyUnusable).
    """
    named = os.environ.get(SIGNING_KEY_FILE)
    ref = publish.signingKeyRef
    if ref is not None and ref.path is not None:
        return Path(ref.path)
    secret = ref.secret if ref is not None else None
    key = given(GivenFor.SigningKey, secret, "publish.signingKeyRef.secret")
    if key is not None:
        return _file_of(key)
    if ref is not None and not named:
        raise RefusedInput(
            Reason.KeyUnusable,
            "publish.signingKeyRef",
            f"`publish.signingKeyRef` names a Secret, which only a runner in the cluster gives; "
            f"set {SIGNING_KEY_FILE} to the key's file here.",
        )
    return Path(named) if named else None


def _file_of(key: Credential) -> Path:
    """The key in a file that no disk holds and no other user can open; it goes with this process.

    Raises RefusedInput(KeyUnusable) for a text that is no usable key.
    """
    from halftone.publish.signing import refuse_unusable_key

    descriptor = os.memfd_create("signing-key")
    os.fchmod(descriptor, 0o600)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(key.text.encode())
    path = Path(f"/proc/self/fd/{descriptor}")
    try:
        refuse_unusable_key(path)
    except RefusedInput as error:
        told = error.message.replace(f"'{path}'", f"The text of {key.place}")
        raise RefusedInput(error.reason, key.field, told) from None
    return path


def publish_workdir(workdir: Path, job: QuantizationJob, report_digest: str) -> None:
    """Publish the checkpoint of `workdir`, opened by the report with `report_digest`.

    Does nothing for a job without target. Raises what `require_publishable` and the target raise.
    """
    from halftone.publish.permission import require_publishable
    from halftone.publish.preparing import prepare
    from halftone.stores.directory_target import refuse_nested
    from halftone.validate.page import write_page

    publish = job.spec.publish
    plan = Plan.load(workdir / PLAN_FILE)
    checkpoint = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
    report = require_publishable(workdir / REPORT_FILE, report_digest, plan, checkpoint)
    if publish is None:
        (workdir / ARTIFACT_FILE).unlink(missing_ok=True)  # of an earlier job, which had a target
        return
    if publish.directory is not None:
        refuse_nested(Path(publish.directory.path), workdir)
    refuse_unacknowledged(None if plan.source is None else plan.source.licence, publish)
    evidence = _evidence(workdir, report)
    # For people, and no document lists it: only a page made now is surely that of this report.
    write_page(report, plan, checkpoint, evidence, workdir / REPORT_PAGE)
    card = _card(workdir, plan, checkpoint, report, evidence, publish)
    prepared = prepare(workdir, plan, checkpoint, report, card, signing_key(publish))
    with (
        closing(open_target(publish)) as target,
        progress("publish", prepared.artifact.sizeBytes) as shown,
    ):
        artifact: Artifact = target.publish(
            prepared.tree, prepared.artifact, publish.existing, shown.advance
        )
        if not _would_unseal(artifact, prepared):
            target.add_cards(prepared.tree, prepared.cards)
    artifact.save(workdir / ARTIFACT_FILE)


def _would_unseal(published: Artifact, prepared: "Prepared") -> bool:
    """Whether cards that nobody signed would lie beside a signed artifact, which then fails."""
    unsigned = published.signature is not None and prepared.artifact.signature is None
    if unsigned and prepared.cards:
        click.echo(
            f"halftone: {published.uri} is signed and these capacity cards are not, so they were "
            f"not added; set `publish.signingKeyRef` or {SIGNING_KEY_FILE} and publish again.",
            err=True,
        )
    return unsigned


def _evidence(workdir: Path, report: Report) -> dict[str, dict[str, Any]]:
    """By the gate's name, from the files that the report lists."""
    from halftone.publish.preparing import listed_bytes

    listed = {file.path: file for file in report.evidence}
    return {
        gate.name: json.loads(listed_bytes(workdir, listed[gate.evidence]))
        for gate in report.gates
        if gate.evidence in listed
    }


def _card(
    workdir: Path,
    plan: Plan,
    checkpoint: CheckpointDocument,
    report: Report,
    evidence: dict[str, dict[str, Any]],
    publish: Publish,
) -> bytes:
    """The model card, from files of the checkpoint that are those that its document lists."""
    from halftone.publish.card import model_card
    from halftone.publish.preparing import listed_bytes

    folder = workdir / CHECKPOINT_DIRECTORY
    listed = {file.path: file for file in checkpoint.files}
    config = json.loads(listed_bytes(folder, listed[CONFIG_FILE]))
    text = None
    if MODEL_CARD in listed:
        text = listed_bytes(folder, listed[MODEL_CARD]).decode(errors="replace")
    return model_card(plan, checkpoint, report, evidence, text, publish, config)

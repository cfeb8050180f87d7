"""The statistics of a calibrated checkpoint: where they lie in its artifact, and what binds them.

`checkpoint.json` states the digest of the statistics that its scales came from, and they state the
SHA-256 of their tensors; so whoever has an artifact can make its calibrated scales again. They lie
in a folder of their own, as servers load every *.safetensors beside `config.json`. Called by
`preparing` for a work directory, by `published_documents` for an artifact.
"""

from pathlib import Path
from typing import Any, Final

from halftone.publish.permission import Disagreement
from halftone.spec.calibration import FewerSamples
from halftone.spec.documents import CheckpointDocument, Plan, WrittenFile
from halftone.spec.errors import RefusedInput
from halftone.spec.job import Recipe
from halftone.spec.names import (
    CALIBRATION_DIRECTORY,
    CHECKPOINT_FILE,
    PLAN_FILE,
    REPORT_FILE,
    STATISTICS_FILE,
    STATISTICS_TENSORS,
    Reason,
)
from halftone.spec.presentation import dataset_name
from halftone.spec.reports import Report
from halftone.spec.statistics import StatisticsDocument

_SECRETS: Final = frozenset({"tokenSecretRef", "credentialsSecretRef"})
DOCUMENT_PATH: Final = f"{CALIBRATION_DIRECTORY}/{STATISTICS_FILE}"
TENSORS_PATH: Final = f"{CALIBRATION_DIRECTORY}/{STATISTICS_TENSORS}"


def own_statistics(
    workdir: Path, plan: Plan, checkpoint: CheckpointDocument, report: Report
) -> StatisticsDocument | None:
    """The statistics in a work directory; None for a data-free checkpoint.

    Raises RefusedInput(WorkdirInconsistent) for those of another checkpoint.
    """
    if checkpoint.statisticsDigest is None:
        return None
    statistics = StatisticsDocument.load(workdir / STATISTICS_FILE)
    found = first_flaw(statistics, plan, checkpoint, report)
    if found is not None:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            found.subject,
            f"{found.subject} does not belong to the documents beside it ({found.how}); run the "
            "stages again in a new work directory.",
        )
    return statistics


def first_flaw(
    statistics: StatisticsDocument, plan: Plan, checkpoint: CheckpointDocument, report: Report
) -> Disagreement | None:
    """What `statistics` have to do with the other documents and have not; None when all agree."""
    if statistics.compute_digest() != statistics.digest:
        return Disagreement(STATISTICS_FILE, "its content does not have the digest that it states")
    if statistics.digest != checkpoint.statisticsDigest:
        return Disagreement(STATISTICS_FILE, f"{CHECKPOINT_FILE} was made with others")
    if statistics.planDigest != plan.digest:
        return Disagreement(STATISTICS_FILE, "it was measured for another plan")
    if statistics.file.path != STATISTICS_TENSORS:
        return Disagreement(STATISTICS_FILE, f"its tensors are not in {STATISTICS_TENSORS}")
    field = _not_as_planned(statistics, plan)
    if field is not None:
        return Disagreement(STATISTICS_FILE, f"`{field}` is not what {PLAN_FILE} asks for")
    if [row.sha256 for row in report.calibration] != [row.sha256 for row in statistics.data]:
        return Disagreement(REPORT_FILE, "it names other calibration data")
    return None


def _not_as_planned(statistics: StatisticsDocument, plan: Plan) -> str | None:
    """The first field of the plan's `calibration` that was not measured by; None when all were."""
    asked = None if plan.recipe is None else plan.recipe.calibration
    if asked is None:
        return "calibration"  # nobody measures for a plan that names no data
    modalities = [row.modality for row in statistics.data]
    for field, planned, measured in (
        ("seed", asked.seed, statistics.seed),
        ("maxSequenceLength", asked.maxSequenceLength, statistics.maxSequenceLength),
        ("unroutedExperts", asked.unroutedExperts, statistics.unroutedExperts),
        ("modalities", sorted(asked.modalities), sorted(modalities)),
    ):
        if planned != measured:
            return field
    fewest = 1 if asked.fewerSamples is FewerSamples.Allow else asked.samples
    if not all(fewest <= row.samples <= asked.samples for row in statistics.data):
        return "samples"
    return None


def published_tensors(statistics: StatisticsDocument) -> WrittenFile:
    """The statistics' tensors as a file of the artifact."""
    return statistics.file.model_copy(update={"path": TENSORS_PATH})


def data_dependencies(report: Report) -> list[dict[str, Any]]:
    """The data as dependencies of provenance. Their digest is over token ids and images.

    A local file has no address that would mean something elsewhere, and keeps its name.
    """
    rows = []
    for data in report.calibration:
        name = dataset_name(data.uri)
        row: dict[str, Any] = {"name": name, "digest": {"samplesSha256": data.sha256}}
        if "://" in name:
            row["uri"] = name
        known: dict[str, Any] = {"modality": data.modality, "samples": data.samples}
        known |= {"tokens": data.tokens, "images": data.images}
        if data.revision is not None:
            known["revision"] = data.revision
        rows.append(row | {"annotations": known})
    return rows


def public_recipe(recipe: Recipe, **options: Any) -> dict[str, Any]:
    """The recipe as JSON for strangers; `options` are `model_dump`'s.

    A local data set stands there by its name, and Secrets of somebody's cluster do not.
    """
    fields: dict[str, Any] = recipe.model_dump(mode="json", **options)
    dataset = (fields.get("calibration") or {}).get("dataset") or {}
    if dataset.get("path"):
        dataset["path"] = dataset_name(dataset["path"])
    for store in (dataset.get("huggingFace"), dataset.get("s3")):
        for field in _SECRETS:
            (store or {}).pop(field, None)
    return fields

"""`provenance.json`: how the checkpoint came to be, in words that other tools know.

An in-toto statement v1 with a SLSA provenance v1 predicate. Made by `prepare` from documents alone,
never from the clock, so a second run gives the same bytes; held against the artifact by `verify`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from halftone.publish.calibration import data_dependencies, public_recipe
from halftone.spec.documents import (
    CheckpointDocument,
    Plan,
    PlanSource,
    WrittenFile,
    canonical_json,
)
from halftone.spec.names import MODEL_CARD, REPORT_FILE
from halftone.spec.reports import Report

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "https://halftone.dev/quantization/v1"
BUILDER: Final = "https://halftone.dev/builder/v1"

_GIT_COMMIT: Final = re.compile(r"^[0-9a-f]{40}$")


def provenance(
    plan: Plan,
    checkpoint: CheckpointDocument,
    report: Report,
    byproducts: Iterable[WrittenFile],
    calibration: Iterable[WrittenFile] = (),
) -> bytes:
    """The statement for the files of `checkpoint`, as canonical JSON.

    `byproducts` are the documents beside them. The source's README.md is no subject: the model card
    takes its place. `calibration` are the files of statistics, where there are any.
    """
    if plan.source is None or plan.recipe is None:
        raise AssertionError(
            "an accepted plan has source and recipe. This is a bug. Please report."
        )
    dependencies = [
        *_dependencies(plan.source),
        *map(_descriptor, calibration),
        *data_dependencies(report),
    ]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [_descriptor(file) for file in subjects(checkpoint)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "source": {"uri": plan.source.uri, "revision": plan.source.revision},
                    "recipe": public_recipe(plan.recipe),
                },
                "internalParameters": {
                    "planDigest": plan.digest,
                    "architecture": plan.architecture,
                    "method": plan.method,
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"halftone": checkpoint.halftoneVersion}},
                # No document says when the work began: a resumed one begins more than once.
                "metadata": {"invocationId": report.digest, "finishedOn": report.completionTime},
                "byproducts": [_byproduct(file, report) for file in byproducts],
            },
        },
    }
    return canonical_json(statement)


def subjects(checkpoint: CheckpointDocument) -> tuple[WrittenFile, ...]:
    """The files that provenance is about."""
    return tuple(file for file in checkpoint.files if file.path != MODEL_CARD)


def stated_digests(data: bytes) -> Mapping[str, Mapping[str, str]]:
    """SHA-256 by name, as a statement gives them: of `subject`, `byproducts` and `dependencies`.

    Of dependencies only files of the artifact have one.
    Raises ValueError for anything that is no statement of ours.
    """
    try:
        statement = json.loads(data)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("another type of statement or predicate")
        details = statement["predicate"]["runDetails"]
        dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        hashed = [row for row in dependencies if "sha256" in row.get("digest", {})]
        return {
            "subject": {row["name"]: row["digest"]["sha256"] for row in statement["subject"]},
            "byproducts": {row["name"]: row["digest"]["sha256"] for row in details["byproducts"]},
            "dependencies": {row["name"]: row["digest"]["sha256"] for row in hashed},
        }
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no statement with provenance ({error!r})") from error


def _dependencies(source: PlanSource) -> list[dict[str, Any]]:
    """The source as a whole, then each of its shards with what its header says."""
    known: dict[str, Any] = {"bytes": source.bytes, "tensors": source.tensors}
    # Over `config.json` as canonical JSON, so it is no digest of the file.
    known["configSha256"] = source.configSha256
    if source.licence is not None:
        known["licence"] = source.licence
    whole: dict[str, Any] = {"uri": _as_uri(source.uri), "annotations": known}
    if source.revision is not None:
        if _GIT_COMMIT.match(source.revision):
            whole["digest"] = {"gitCommit": source.revision}
        else:
            known["revision"] = source.revision
    # in-toto asks for an address or a digest of each; of a shard's bytes no digest is known.
    folder = _as_uri(source.uri).rstrip("/")
    shards = [
        {
            "name": file.path,
            "uri": f"{folder}/{quote(file.path)}",
            "annotations": {"headerSha256": file.headerSha256, "sizeBytes": file.sizeBytes},
        }
        for file in source.files
    ]
    return [whole, *shards]


def _byproduct(file: WrittenFile, report: Report) -> dict[str, Any]:
    row = _descriptor(file)
    if file.path == REPORT_FILE:
        platform = report.platform
        row["annotations"] = {
            "verdict": report.verdict,
            "halftoneVersion": report.halftoneVersion,
            "engine": None if platform is None else platform.engine,
            "startTime": report.startTime,
            "completionTime": report.completionTime,
        }
    return row


def _descriptor(file: WrittenFile) -> dict[str, Any]:
    return {"name": file.path, "digest": {"sha256": file.sha256}}


def _as_uri(place: str) -> str:
    """A path as `file://`; a URI as it is."""
    return place if "://" in place else Path(place).absolute().as_uri()

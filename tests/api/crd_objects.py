"""Whole QuantizationJobs: between them they have every field of the CRD. And edits of them.

Called by the tests of the CRD. Paths are those of `tests.crd_schema`; in an object, `[]` is the
first item of a list that has what follows, `[2]` the third, and `{}` the first key of a map.
"""

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from halftone.spec.names import API_VERSION, JOB_KIND

Object = dict[str, Any]
REMOVED: Final = object()
DIGEST: Final = "d" * 64
TIME: Final = "2026-01-01T00:00:00Z"

_SECRET: Final = {"name": "team.hub-1", "key": ".aws_Credentials-1"}
_S3: Final = {
    "uri": "s3://models/prefix",
    "endpointUrl": "https://storage.example:9000",
    "credentialsSecretRef": _SECRET,
}
_GATES: Final = [
    {"name": "weight-error", "metric": "WeightError", "maximum": "0.1"},
    {"name": "loads", "metric": "EngineLoads"},
    {"name": "divergence", "metric": "KlDivergence", "maximum": "0.02"},
    {"name": "agreement", "metric": "TopOneAgreement", "minPercent": 90},
    {"name": "perplexity", "metric": "Perplexity", "maxIncreasePercent": 5},
    {
        "name": "arithmetic",
        "metric": "Task",
        "task": "tasks/arithmetic.yaml",
        "sampleLimit": 500,
        "minRecoveryPercent": 95,
    },
    {"name": "speed", "metric": "Speed", "concurrency": 8, "minRatioPercent": 70},
    {"name": "length", "metric": "AcceptanceLength", "minimum": "2.5"},
]


def _job(spec: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": JOB_KIND,
        "metadata": {"name": "small"},
        "spec": json.loads(json.dumps(spec)),  # nothing is shared with another block
    }


_CLAIM: Final = _job(
    {
        "source": {
            "huggingFace": {"repository": "a/b", "revision": "v1", "tokenSecretRef": _SECRET}
        },
        "quantization": {
            "precision": [{"role": "Attention", "format": "NVFP4A16"}],
            "scaleSearch": "MinMax",
            "blockScale": "Free",
            "kvCache": {"format": "FP8", "scales": "Calibrated"},
            "calibration": {
                "dataset": {"path": "rows.jsonl", "claimName": "data"},
                "samples": 8,
                "maxSequenceLength": 64,
                "modalities": ["Text"],
                "unroutedExperts": "Report",
                "fewerSamples": "Allow",
                "seed": 1,
            },
            "multiTokenPrediction": "Drop",
            "checkpointFormat": "ModelOpt",
            "genericArchitecture": "Allow",
            "maxShardBytes": 5_000_000,
        },
        "validation": {"gates": _GATES, "promptFile": "prompts.jsonl", "claimName": "data"},
        "publish": {
            "huggingFace": {
                "repository": "org/Model_1.x",
                "visibility": "Public",
                "transfer": "Xet",
                "tokenSecretRef": _SECRET,
            },
            "existing": "Replace",
            "licence": "Acknowledged",
            "signingKeyRef": {"secret": _SECRET},
        },
        "workVolume": {"claimName": "work"},
        "serviceAccountName": "quantizer",
        "stages": [
            {
                "name": "Quantize",
                "serviceAccountName": "reader",
                "resources": {
                    "requests": {"memory": "16Gi"},
                    "limits": {"nvidia.com/gpu": 1},
                },
            }
        ],
        "parallelism": 2,
        "suspend": True,
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 60,
        "runner": "Jobs",
    }
)
_BUCKET: Final = _job(
    {
        "source": {"s3": _S3},
        "quantization": {
            "preset": "nvfp4-language",
            "calibration": {
                "dataset": {
                    "huggingFace": {
                        "repository": "org/rows",
                        "revision": "main",
                        "path": "train",
                        "tokenSecretRef": _SECRET,
                    }
                }
            },
        },
        "publish": {"s3": _S3, "signingKeyRef": {"path": "key.pem"}},
        "workVolume": {"s3": {"credentialsSecretRef": _SECRET}},
    }
)
_MADE: Final = _job(
    {
        "source": {"directory": {"path": "model", "claimName": "models"}},
        "quantization": {"preset": "nvfp4-language", "calibration": {"dataset": {"s3": _S3}}},
        "publish": {"directory": {"path": "out", "claimName": "published"}},
        "workVolume": {
            "storageClassName": "fast",
            "size": "500Gi",
            "accessMode": "ReadWriteMany",
        },
    }
)
_OBSERVED: Final = _BUCKET | {
    "status": {
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "Recipe nvfp4a16.",
                "lastTransitionTime": TIME,
                "observedGeneration": 1,
            }
        ],
        "observedGeneration": 1,
        "startTime": TIME,
        "completionTime": TIME,
        "source": "s3://models/prefix",
        "recipe": "nvfp4a16",
        "plan": {
            "digest": DIGEST,
            "method": "DataFree",
            "recipe": "nvfp4a16",
            "sourceRevision": "v1",
            "sizeBytes": 5,
            "memoryBytes": 7,
            "shards": 2,
        },
        "progress": {"bytesDone": 1, "bytesTotal": 5},
        "checkpoint": {"digest": DIGEST, "sizeBytes": 5},
        "gates": [{"name": "loads", "outcome": "Passed", "value": "1"}],
        "report": {"digest": DIGEST, "verdict": "Passed"},
        "recoveryPercent": 99,
        "artifact": {
            "uri": "s3://models/prefix",
            "revision": "v1",
            "digest": DIGEST,
            "sizeBytes": 5,
            "helmCommand": "helm upgrade --install small halftone/halftone-endpoint",
        },
        "pipelineRun": {
            "name": "team.small-uid-1-1",
            "claimedBy": "operator-1",
            "claimTime": TIME,
            "id": "run",
            "url": "https://pipelines.example/run",
        },
        "retry": "1",
    }
}
WHOLE: Final = {"claim": _CLAIM, "bucket": _BUCKET, "made": _MADE, "observed": _OBSERVED}


def with_edits(base: Object, edits: Mapping[str, Any]) -> Object:
    """A copy of `base` with a value at each path of `edits`; `REMOVED` takes one away."""
    found = copy.deepcopy(base)
    for path, value in edits.items():
        keys = _find(found, _parts(path), adding=False) or _find(found, _parts(path), adding=True)
        if keys is None:
            raise LookupError(f"there is no place for `{path}`")
        holder: Any = found
        for key in keys[:-1]:
            holder = holder[key]
        if value is REMOVED:
            del holder[keys[-1]]
        else:
            holder[keys[-1]] = copy.deepcopy(value)
    return found


def value_at(base: Object, path: str) -> Any:
    """What stands at `path`; raises LookupError where there is nothing."""
    keys = _find(base, _parts(path), adding=False)
    if keys is None:
        raise LookupError(f"there is no `{path}`")
    found: Any = base
    for key in keys:
        found = found[key]
    return found


def base_with(path: str) -> str:
    """Which of `WHOLE` has something at `path`; raises LookupError for none."""
    for name, base in WHOLE.items():
        if _find(base, _parts(path), adding=False) is not None:
            return name
    raise LookupError(f"no object has `{path}`; add it to one of them")


def _parts(path: str) -> list[str]:
    return re.findall(r"\[\]|\{\}|[^.\[\]{}]+", path)


def _find(holder: Any, parts: list[str], *, adding: bool) -> list[Any] | None:
    """The keys that lead to `parts`, None if there are none; `adding` a last one that is new."""
    if not parts:
        return []
    part, rest = parts[0], parts[1:]
    keys: list[Any] = []
    if part == "[]" or part.isdigit():
        keys = list(range(len(holder))) if part == "[]" else [int(part)]
    elif part == "{}":
        keys = list(holder)
    elif part in holder or (adding and not rest):
        keys = [part]
    for key in keys:
        if adding and not rest:
            return [key]
        below = _find(holder[key], rest, adding=adding)
        if below is not None:
            return [key, *below]
    return None

"""For every CEL rule, edits of whole objects that it lets pass and edits that it stops.

Called by the test of rules, which fails for a rule of the CRD without a row here. A rule of
transitions is tried with updates of the stored object, others with new objects.
"""

from typing import Any, Final, NamedTuple

from tests.api.crd_objects import REMOVED, WHOLE, value_at, with_edits

Edits = dict[str, Any]

_IN_A_CLAIM: Final = with_edits(WHOLE["bucket"], {"spec.workVolume": {"claimName": "work"}})
# Whole objects, and some whose blocks can come and go.
BASES: Final = WHOLE | {
    "in-a-claim": _IN_A_CLAIM,
    "no-publish": with_edits(_IN_A_CLAIM, {"spec.publish": REMOVED}),
    "no-volume": with_edits(WHOLE["bucket"], {"spec.workVolume": REMOVED}),
}


class Row(NamedTuple):
    """A rule, by its place and message, and edits of the object `base`: `passes` and `stops`."""

    path: str
    message: str
    base: str
    passes: tuple[Edits, ...]
    stops: tuple[Edits, ...]


_PUBLISH: Final = WHOLE["bucket"]["spec"]["publish"]["s3"]
_SECRET: Final = {"name": "a", "key": "b"}
_GATE: Final = "spec.validation.gates"


def _gate(**fields: Any) -> Edits:
    """A job with one gate alone."""
    return {_GATE: [{"name": "mine", **fields}]}


def _fixed(field: str, base: str, *changes: Edits) -> Row:
    message = f"`{field}` may not change after creation; create a new QuantizationJob"
    return Row(f"spec.{field}", message, base, ({}, {"spec.parallelism": 4}), changes)


def _stays(field: str) -> tuple[Row, Row]:
    """A block may neither come nor go."""
    message = f"`{field}` may not be added or removed after creation; create a new QuantizationJob"
    there, absent = {
        "validation": ("claim", "bucket"),
        "publish": ("in-a-claim", "no-publish"),
        "workVolume": ("bucket", "no-volume"),
    }[field]
    block = BASES[there]["spec"][field]
    return (
        Row("spec", message, there, ({},), ({f"spec.{field}": REMOVED},)),
        Row("spec", message, absent, ({},), ({f"spec.{field}": block},)),
    )


def _exactly_one(path: str, names: tuple[str, str, str], base: str, added: Edits) -> Row:
    """`base` has one of three, `added` is another."""
    first, second, third = names
    message = f"exactly one of `{first}`, `{second}` and `{third}` must be set"
    (there,) = value_at(WHOLE[base], path).keys() & set(names)
    none = {f"{path}.{there}": REMOVED}
    return Row(path, message, base, ({},), (none, added))


_PLACES: Final = ("huggingFace", "s3", "directory")
_DATA: Final = ("path", "huggingFace", "s3")
_VOLUMES: Final = ("claimName", "storageClassName", "s3")


def _endpoint(path: str, base: str) -> tuple[Row, Row]:
    return (
        Row(
            path,
            "`endpointUrl` must hold no user name and no password; name a Secret in "
            "`credentialsSecretRef`",
            base,
            ({path: "https://h/a@b"}, {path: "https://h?a@b"}),
            ({path: "https://user@h"}, {path: "http://user:word@h/p"}),
        ),
        Row(
            path,
            "`endpointUrl` must be the address of a server, such as 'https://storage.example:9000'",
            base,
            ({path: "http://[::1]:9000"}, {path: "https://storage.example/a?b"}),
            ({path: "http://[::1"},),
        ),
    )


def _resources(name: str) -> Row:
    path = f"spec.stages[].resources.{name}"
    good = ("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "hugepages-2Mi")
    return Row(
        path,
        "a resource in `requests` or `limits` must be called as Kubernetes calls it, such as "
        "'memory' or 'nvidia.com/gpu'",
        "claim",
        ({path: dict.fromkeys(good, 1)}, {path: {}}, {path: {"a" * 253: 1}}),
        ({path: {"a b": 1}}, {path: {"/gpu": 1}}, {path: {"-": 1}}, {path: {"a" * 254: 1}}),
    )


def _metric(field: str, metrics: str, passes: Edits, value: Any) -> Row:
    """A gate without the field of its metric, and with that of another."""
    without = {name: text for name, text in passes.items() if name != field}
    return Row(
        f"{_GATE}[]",
        f"`{field}` must be set when `metric` is {metrics}, and for no other",
        "claim",
        (_gate(**passes),),
        (_gate(**without), _gate(metric="EngineLoads", **{field: value})),
    )


_TASK: Final = {"metric": "Task", "task": "arithmetic", "minRecoveryPercent": 95}
_SPEED: Final = {"metric": "Speed", "concurrency": 1, "minRatioPercent": 0}
_NO_VOLUME: Final = {"spec.workVolume": REMOVED}

ROWS: Final = (
    Row(
        "",
        "`metadata.name` must have at most 40 characters, because names of Jobs and pods are "
        "derived from it",
        "claim",
        ({"metadata.name": "a" * 40},),
        ({"metadata.name": "a" * 41},),
    ),
    Row(
        "",
        "`metadata.name` must consist of lower-case letters, digits and '-', because it becomes "
        "the value of a label",
        "claim",
        ({"metadata.name": "0-a"},),
        ({"metadata.name": "a.b"},),
    ),
    *_stays("validation"),
    *_stays("publish"),
    *_stays("workVolume"),
    Row(
        "spec",
        "`publish.s3` must be set when `workVolume.s3` is, which lies beside it; or set "
        "`workVolume.claimName`",
        "bucket",
        ({},),
        ({"spec.publish": REMOVED}, {"spec.publish": {"directory": {"path": "out"}}}),
    ),
    Row(
        "spec",
        "`workVolume` must be set unless `publish.s3` is; set `workVolume.claimName`, or "
        "`workVolume.storageClassName` and `workVolume.size`",
        "claim",
        ({}, _NO_VOLUME | {"spec.publish": {"s3": _PUBLISH}}, {"spec.publish": REMOVED}),
        (_NO_VOLUME, _NO_VOLUME | {"spec.publish": REMOVED}),
    ),
    _exactly_one("spec.source", _PLACES, "claim", {"spec.source.s3": _PUBLISH}),
    _exactly_one("spec.publish", _PLACES, "made", {"spec.publish.s3": _PUBLISH}),
    _exactly_one(
        "spec.quantization.calibration.dataset",
        _DATA,
        "claim",
        {"spec.quantization.calibration.dataset.s3": _PUBLISH},
    ),
    _exactly_one("spec.workVolume", _VOLUMES, "bucket", {"spec.workVolume.claimName": "work"}),
    _fixed(
        "source",
        "claim",
        {"spec.source.huggingFace.revision": "v2"},
        {"spec.source": {"s3": _PUBLISH}},
    ),
    _fixed(
        "quantization",
        "claim",
        {"spec.quantization.scaleSearch": "Exhaustive"},
        {"spec.quantization.kvCache": None},
        {"spec.quantization.calibration.seed": REMOVED},
    ),
    _fixed("validation", "claim", {f"{_GATE}[].maximum": "0.2"}, {_GATE: []}),
    _fixed("publish", "claim", {"spec.publish.existing": "Refuse"}),
    _fixed("workVolume", "claim", {"spec.workVolume.claimName": "other"}),
    _fixed("runner", "claim", {"spec.runner": "KubeflowPipelines"}),
    Row(
        "spec.quantization",
        "exactly one of `preset` and `precision` must be set",
        "claim",
        ({}, {"spec.quantization": {"preset": "nvfp4a16"}}),
        ({"spec.quantization.preset": "nvfp4a16"}, {"spec.quantization.precision": REMOVED}),
    ),
    *_endpoint("spec.source.s3.endpointUrl", "bucket"),
    *_endpoint("spec.publish.s3.endpointUrl", "bucket"),
    *_endpoint("spec.quantization.calibration.dataset.s3.endpointUrl", "made"),
    Row(
        _GATE,
        "`gates` may hold one gate with `metric: WeightError`; remove the others",
        "claim",
        (_gate(metric="WeightError", maximum="1"),),
        (
            {
                _GATE: [
                    {"name": name, "metric": "WeightError", "maximum": "1"} for name in ("a", "b")
                ]
            },
        ),
    ),
    Row(
        _GATE,
        "`name` may not be 'structure', a gate that always runs; give yours another name",
        "claim",
        (_gate(metric="EngineLoads"),),
        ({_GATE: [{"name": "structure", "metric": "EngineLoads"}]},),
    ),
    Row(
        _GATE,
        "`name` may not be 'weight-error', a gate that always runs, unless `metric` is "
        "WeightError; give yours another name",
        "claim",
        ({_GATE: [{"name": "weight-error", "metric": "WeightError", "maximum": "1"}]},),
        ({_GATE: [{"name": "weight-error", "metric": "EngineLoads"}]},),
    ),
    _metric(
        "maximum",
        "WeightError or KlDivergence",
        {"metric": "KlDivergence", "maximum": "1"},
        "1",
    ),
    _metric("minimum", "AcceptanceLength", {"metric": "AcceptanceLength", "minimum": "1"}, "1"),
    _metric("minPercent", "TopOneAgreement", {"metric": "TopOneAgreement", "minPercent": 0}, 0),
    _metric(
        "maxIncreasePercent", "Perplexity", {"metric": "Perplexity", "maxIncreasePercent": 0}, 0
    ),
    Row(
        f"{_GATE}[]",
        "`task` and `minRecoveryPercent` must be set when `metric` is Task",
        "claim",
        (_gate(**_TASK), _gate(**_TASK, sampleLimit=1)),
        (_gate(metric="Task", task="a"), _gate(metric="Task", minRecoveryPercent=1)),
    ),
    Row(
        f"{_GATE}[]",
        "`task`, `minRecoveryPercent` and `sampleLimit` may be set when `metric` is Task only; "
        "remove them",
        "claim",
        (_gate(**_TASK, sampleLimit=1),),
        tuple(
            _gate(metric="EngineLoads", **{field: value})
            for field, value in (("task", "a"), ("minRecoveryPercent", 1), ("sampleLimit", 1))
        ),
    ),
    Row(
        f"{_GATE}[]",
        "`concurrency` and `minRatioPercent` must be set when `metric` is Speed",
        "claim",
        (_gate(**_SPEED),),
        (_gate(metric="Speed", concurrency=1), _gate(metric="Speed", minRatioPercent=1)),
    ),
    Row(
        f"{_GATE}[]",
        "`concurrency` and `minRatioPercent` may be set when `metric` is Speed only; remove them",
        "claim",
        (_gate(**_SPEED),),
        (
            _gate(metric="EngineLoads", concurrency=1),
            _gate(metric="EngineLoads", minRatioPercent=1),
        ),
    ),
    Row(
        "spec.publish.huggingFace.repository",
        "`repository` must not hold '--' or '..', nor end with '.git', which the Hub refuses",
        "claim",
        ({"spec.publish.huggingFace.repository": "a/b-.git-c"},),
        tuple(
            {"spec.publish.huggingFace.repository": name}
            for name in ("a/b--c", "a/b..c", "a/b.git")
        ),
    ),
    Row(
        "spec.publish.signingKeyRef",
        "exactly one of `secret` and `path` must be set",
        "claim",
        ({}, {"spec.publish.signingKeyRef": {"path": "key.pem"}}),
        (
            {"spec.publish.signingKeyRef": {}},
            {"spec.publish.signingKeyRef": {"path": "key.pem", "secret": _SECRET}},
        ),
    ),
    Row(
        "spec.workVolume",
        "`storageClassName` and `size` must be set together",
        "made",
        ({},),
        ({"spec.workVolume.size": REMOVED}, {"spec.workVolume": {"claimName": "a", "size": "1"}}),
    ),
    Row(
        "spec.workVolume",
        "`accessMode` may be set beside `storageClassName` only; remove it",
        "made",
        ({}, {"spec.workVolume.accessMode": REMOVED}),
        ({"spec.workVolume": {"claimName": "a", "accessMode": "ReadWriteMany"}},),
    ),
    Row(
        "spec.workVolume.size",
        "`size` must be more than 0, such as '500Gi'",
        "made",
        ({"spec.workVolume.size": "0.5Ti"}, {"spec.workVolume.size": "010"}),
        ({"spec.workVolume.size": "0"}, {"spec.workVolume.size": "0.00Gi"}),
    ),
    _resources("requests"),
    _resources("limits"),
)

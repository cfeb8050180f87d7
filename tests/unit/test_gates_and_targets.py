"""The `validation` and `publish` blocks: what they accept, and what they say to the rest."""

from typing import Any

import pytest

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Metric
from halftone.spec.job import QuantizationJob
from halftone.spec.recipes import parse_job
from halftone.spec.targets import Existing, LicenceConsent, Transfer, Visibility


def job(**spec: Any) -> QuantizationJob:
    return parse_job(
        {
            "apiVersion": "halftone.dev/v1alpha1",
            "kind": "QuantizationJob",
            "metadata": {"name": "small"},
            "spec": {
                "source": {"directory": {"path": "model"}},
                "quantization": {"preset": "nvfp4a16"},
                **spec,
            },
        },
        "job.yaml",
    )


EVERY_METRIC: list[dict[str, Any]] = [
    {"name": "weights", "metric": "WeightError", "maximum": "0.11"},
    {"name": "loads", "metric": "EngineLoads"},
    {"name": "kl", "metric": "KlDivergence", "maximum": "0.05"},
    {"name": "top", "metric": "TopOneAgreement", "minPercent": 90},
    {"name": "ppl", "metric": "Perplexity", "maxIncreasePercent": 3},
    {"name": "task", "metric": "Task", "task": "gsm8k", "minRecoveryPercent": 95},
    {"name": "speed", "metric": "Speed", "concurrency": 16, "minRatioPercent": 90},
    {"name": "mtp", "metric": "AcceptanceLength", "minimum": "1.5"},
]


def test_every_metric_has_its_own_fields() -> None:
    gates = job(validation={"gates": EVERY_METRIC}).spec.validation.gates
    assert [gate.metric for gate in gates] == [m for m in Metric if m is not Metric.Structure]


def test_a_job_without_gates_needs_no_engine() -> None:
    assert not job().spec.validation.needs_engine
    assert not job(validation={"gates": EVERY_METRIC[:1]}).spec.validation.needs_engine
    assert job(validation={"gates": EVERY_METRIC[:2]}).spec.validation.needs_engine


@pytest.mark.parametrize(
    ("gates", "told"),
    [
        ([{"name": "a", "metric": "KlDivergence"}], "maximum"),
        (
            [{"name": "a", "metric": "KlDivergence", "maximum": 0.05}],
            r"gates\.0\.maximum`: is a number; write it as a string, '0\.05'",
        ),
        (
            [{"name": "a", "metric": "EngineLoads", "maximum": "1"}],
            r"gates\.0\.maximum`: there is no such field; there are name, metric",
        ),
        ([{"name": "a"}], r"gates\.0\.metric`: must be given; one of AcceptanceLength, "),
        ([{"name": "a", "metric": "KlDivergence", "maximum": "-1"}], "maximum"),
        (
            [{"name": "a", "metric": "Perplexitty"}],
            r"gates\.0\.metric`: 'Perplexitty' is not one of AcceptanceLength, EngineLoads, ",
        ),
        ([{"name": "A b", "metric": "EngineLoads"}], "name"),
        ([{"name": "a", "metric": "EngineLoads"}] * 2, "more than once"),
        ([{"name": "structure", "metric": "EngineLoads"}], "always runs"),
        ([{"name": "weight-error", "metric": "EngineLoads"}], "always runs"),
        ([{"name": "a", "metric": "TopOneAgreement", "minPercent": 101}], "minPercent"),
        ([{**EVERY_METRIC[0], "name": n} for n in ("a", "b")], "one gate with"),
    ],
)
def test_a_wrong_gate_is_refused_with_its_place(gates: list[Any], told: str) -> None:
    with pytest.raises(RefusedInput, match=told) as refused:
        job(validation={"gates": gates})
    assert "validation" in refused.value.message


def test_a_target_on_the_hub_is_private_and_uploads_by_lfs_unless_told() -> None:
    publish = job(publish={"huggingFace": {"repository": "org/small"}}).spec.publish
    assert publish is not None
    assert publish.huggingFace is not None
    assert publish.huggingFace.visibility is Visibility.Private
    assert publish.huggingFace.transfer is Transfer.Lfs
    assert (publish.existing, publish.licence) == (Existing.Refuse, LicenceConsent.Inherit)
    assert publish.uri == "hf://org/small"


@pytest.mark.parametrize(
    ("publish", "told"),
    [
        ({}, "exactly one"),
        ({"s3": {"uri": "s3://b/p"}, "directory": {"path": "x"}}, "exactly one"),
        *[
            ({"huggingFace": {"repository": name}}, "repository")
            for name in ("small", "../..", "org/na..me", "org/na--me", "org/x.git", "-org/x", "ö/x")
        ],
        ({"s3": {"uri": "b/p"}}, "uri"),
        ({"directory": {"path": "x"}, "existing": "Overwrite"}, "existing"),
        ({"directory": {"path": "x"}, "signingKeyRef": {}}, "exactly one"),
    ],
)
def test_a_wrong_target_is_refused_with_its_place(publish: dict[str, Any], told: str) -> None:
    with pytest.raises(RefusedInput, match=told) as refused:
        job(publish=publish)
    assert "publish" in refused.value.message

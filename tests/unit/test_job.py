"""The object: what a `QuantizationJob` may say, and that refusals name the field."""

from typing import Any

import pytest
from pydantic import ValidationError

from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.job import Quantization, QuantizationJob, Recipe, RolePrecision
from halftone.spec.names import Reason
from halftone.spec.recipes import parse_job
from halftone.spec.roles import QUANTIZABLE_ROLES, Role


def job(**spec: Any) -> dict[str, Any]:
    base = {
        "source": {"directory": {"path": "model"}},
        "quantization": {"preset": "nvfp4a16"},
    }
    return {
        "apiVersion": "halftone.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "small"},
        "spec": base | spec,
    }


def stage(**resources: Any) -> dict[str, Any]:
    return {"stages": [{"name": "Plan", "resources": resources}]}


def refusal(document: dict[str, Any]) -> RefusedInput:
    with pytest.raises(RefusedInput) as refused:
        parse_job(document, "job.yaml")
    assert refused.value.reason is Reason.InvalidJob
    return refused.value


def test_what_is_no_job_and_what_is_missing_is_named() -> None:
    values = {"artifact": {"fromJob": "small"}, "replicas": 2}
    assert "'job.yaml' is no QuantizationJob: it has neither `kind` nor" in str(refusal(values))
    nameless = {key: value for key, value in job().items() if key != "metadata"}
    assert "`metadata`: must be given." in str(refusal(nameless))


def test_a_whole_job_is_understood() -> None:
    parsed = parse_job(job(publish={"directory": {"path": "out"}}), "job.yaml")

    assert parsed.spec.quantization.preset == "nvfp4a16"
    assert parsed.spec.publish is not None
    assert parsed == QuantizationJob.model_validate(parsed.model_dump(mode="json"))


@pytest.mark.parametrize(
    "source",
    [
        {"huggingFace": {"repository": "org/name"}},
        {"huggingFace": {"repository": "org/name", "revision": "v1"}},
        {"s3": {"uri": "s3://bucket/prefix"}},
        {"directory": {"path": "/models/base"}},
    ],
)
def test_each_kind_of_source_is_understood(source: dict[str, Any]) -> None:
    assert parse_job(job(source=source), "job.yaml").spec.source is not None


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (job() | {"kind": "Job"}, "kind"),
        (job() | {"apiVersion": "halftone.dev/v2"}, "apiVersion"),
        (job() | {"metadata": {"name": "Small_Model"}}, "metadata.name"),
        (job() | {"metadata": {"name": "a" * 41}}, "metadata.name"),
        (job() | {"metadata": {}}, "metadata.name"),
        (job() | {"status": {}}, "status"),
        (job(source={}), "spec.source"),
        (
            job(source={"directory": {"path": "a"}, "s3": {"uri": "s3://b/c"}}),
            "spec.source",
        ),
        (job(source={"s3": {"uri": "https://b/c"}}), "spec.source.s3.uri"),
        (job(source={"directory": {"path": "x" * 5000}}), "spec.source.directory.path"),
        (job(source={"directory": {"path": "a\0b"}}), "spec.source.directory.path"),
        (job(publish={"directory": {"path": "a\0b"}}), "spec.publish.directory.path"),
        (job(quantization={}), "spec.quantization"),
        (job(quantization={"preset": "a", "scaleSearch": "Best"}), "spec.quantization.scaleSearch"),
        (job(publish={}), "spec.publish"),
        (job(**stage(requests={"cpu": "many"})), "spec.stages.0.resources.requests.cpu"),
        (job(**stage(limits={"cpu": -1})), "spec.stages.0.resources.limits.cpu"),
        (job(**stage(limits={"c p u": 1})), "spec.stages.0.resources.limits.c p u"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(document: dict[str, Any], field: str) -> None:
    refused = refusal(document)

    assert refused.subject == field
    assert refused.message.startswith(f"In 'job.yaml', `{field}`: ")
    assert "\n" not in refused.message


def test_a_value_that_was_found_is_shown() -> None:
    assert "(found 'Best')" in refusal(job(quantization={"scaleSearch": "Best"})).message


def test_a_long_value_is_shown_on_one_line_and_in_part() -> None:
    message = refusal(job(quantization={"preset": "a\n" * 200})).message

    assert f"(found '{'a?' * 50}…')" in message


@pytest.mark.parametrize(
    "block",
    [
        {"source": {"huggingFace": {"repository": "a/b", "tokenSecretRef": "hf_Planted"}}},
        {"source": {"huggingFace": {"repository": "a/b", "token": "hf_Planted"}}},
        {
            "source": {
                "huggingFace": {
                    "repository": "a/b",
                    "tokenSecretRef": {"name": "hf_Planted", "key": "token"},
                }
            }
        },
        {"publish": {"directory": {"path": "a"}, "signingKeyRef": {"secret": "hf_Planted"}}},
    ],
    ids=["in place of a reference", "in a field of its own", "as a name", "as a key"],
)
def test_what_may_be_a_secret_in_the_wrong_place_is_not_shown(block: dict[str, Any]) -> None:
    refused = refusal(job(**block))

    assert "Planted" not in refused.message + refused.subject


@pytest.mark.parametrize("role", sorted(set(Role) - QUANTIZABLE_ROLES))
def test_roles_that_are_always_kept_cannot_be_quantized(role: Role) -> None:
    with pytest.raises(ValidationError, match=f"role '{role}' is always kept"):
        RolePrecision(role=role, format=Format.NVFP4A16)


def test_a_recipe_names_at_most_sixteen_roles() -> None:
    lines = tuple(RolePrecision(role=Role.Mlp, format=Format.NVFP4A16) for _ in range(17))

    with pytest.raises(ValidationError, match="at most 16"):
        Quantization(precision=lines)


def test_objects_cannot_be_changed() -> None:
    recipe = Recipe(name="mine", precision=())

    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"


def test_a_role_that_is_not_named_keeps_its_precision() -> None:
    recipe = Recipe(
        name="mine", precision=(RolePrecision(role=Role.Mlp, format=Format.FP8_DYNAMIC),)
    )

    assert recipe.format_of(Role.Mlp) is Format.FP8_DYNAMIC
    assert recipe.format_of(Role.Experts) is None

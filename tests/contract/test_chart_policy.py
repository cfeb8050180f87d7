"""The chart's admission policy and the CRD: every place that a policy must look at.

We test these aspects:
- the policy reads each Secret, endpoint and service account that the CRD's schema lets a job name;
- it has the rules that were asked for, and no others;
- a place that the CRD did not have when the policy was written would be missed by no test.
"""

import re
from collections.abc import Iterator

import pytest

from tests.cluster.chart import render
from tests.cluster.references import KINDS, Schema, leaves, places, spec_schema


def read_by_the_policy(kind: str) -> set[str]:
    objects = render("jobs", "--set", "policy.enabled=true")
    policy = next(one for one in objects if one["kind"] == "ValidatingAdmissionPolicy")
    variables = {one["name"]: one["expression"] for one in policy["spec"]["variables"]}
    text = variables[kind].replace(".?stages.orValue([]).map(stage, stage", ".?stages[]", 1)
    found = re.findall(r"object\.spec((?:\.\??[a-zA-Z0-9]+(?:\[\])?)+)", text)
    return {path.replace("?", "").removeprefix(".") for path in found}


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_reads_every_place_that_the_crd_has(kind: str) -> None:
    known = places(kind)
    assert known
    assert read_by_the_policy(kind) == known


def test_every_secret_of_the_crd_is_among_them() -> None:
    """A Secret is whatever has a name and a key, under whichever name its block goes."""

    def pairs(schema: Schema, path: str = "") -> Iterator[str]:
        fields = schema.get("properties", {})
        if set(fields) == {"name", "key"}:
            yield path
        for name, below in fields.items():
            yield from pairs(below, f"{path}.{name}" if path else name)
        if "items" in schema:
            yield from pairs(schema["items"], f"{path}[]")

    assert {f"{path}.name" for path in pairs(spec_schema())} == places("secrets")


def test_visibility_is_asked_for_in_one_place() -> None:
    found = {path for path, field in leaves(spec_schema()) if "Public" in field.get("enum", ())}
    assert found == {"publish.huggingFace.visibility"}


def test_a_new_place_would_be_seen() -> None:
    grown = spec_schema()
    prompts = {"s3": {"properties": {"endpointUrl": {"type": "string"}}}}
    grown["properties"]["validation"]["properties"]["prompts"] = {"properties": prompts}
    assert places("endpoints", grown) - read_by_the_policy("endpoints") == {
        "validation.prompts.s3.endpointUrl"
    }


def test_it_has_the_rules_that_were_asked_for() -> None:
    def rules(*options: str) -> list[str]:
        objects = render("jobs", "--set", "policy.enabled=true", *options)
        policy = next(one for one in objects if one["kind"] == "ValidatingAdmissionPolicy")
        return [one["message"] for one in policy["spec"]["validations"]]

    endpoints = "`endpointUrl` must be one of these, or below one: (none is allowed)"
    public = "`visibility: Public` is not allowed here; publish privately, or ask who installed "
    public += "Halftone"
    nothing = "--set-json=policy.allowedEndpoints=null"
    allowed = "--set=policy.publicRepositories=Allow"
    assert rules() == [endpoints, public]
    assert rules(nothing) == [public]
    assert rules(allowed) == [endpoints]
    assert rules(nothing, "--set-json=policy.allowedSecrets=[]") == [
        "a job may name only these Secrets: (none is allowed)",
        public,
    ]
    assert rules(nothing, allowed, "--set=policy.allowedServiceAccounts={a,b}") == [
        "`serviceAccountName` must be one of: a, b"
    ]

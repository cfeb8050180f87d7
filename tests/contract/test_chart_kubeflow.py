"""The chart's values for Kubeflow Pipelines, rendered with Helm.

We test these aspects:
- values become settings that the operator reads; without an endpoint there are none
- a token and certificates are mounted where the settings say
- pods of runs may be listed where they are, and nothing else there
- a NetworkPolicy lets the operator reach the server, by its port or those that are given
- values that do not go together are refused in a sentence
"""

from typing import Any

import pytest
import yaml

from halftone.control.settings import Settings
from tests.cluster.chart import render, settings_of

ENDPOINT = "http://ml-pipeline.kubeflow:8888"
GIVEN = ["--set", f"kubeflowPipelines.endpoint={ENDPOINT}"]


def sets(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", f"kubeflowPipelines.{value}")]


def read(*options: str) -> Settings:
    return Settings.model_validate(yaml.safe_load(settings_of(render("team", *options))))


def kinds(objects: list[dict[str, Any]], kind: str, namespace: str) -> list[dict[str, Any]]:
    found = [one for one in objects if one["kind"] == kind]
    return [one for one in found if one["metadata"]["namespace"] == namespace]


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in objects if one["kind"] == "Deployment")
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def test_values_become_settings() -> None:
    assert read().kubeflowPipelines is None
    assert read().taskImage is None
    found = read(
        *GIVEN,
        *sets("uiUrl=https://k.example/pipeline", "experiment=models", "pipelineRoot=s3://b/r"),
        *sets("serviceAccountName=runner", "podNamespace=kubeflow"),
    )
    kubeflow = found.kubeflowPipelines
    assert kubeflow is not None
    assert (kubeflow.endpoint, kubeflow.page) == (ENDPOINT, "https://k.example/pipeline")
    assert (kubeflow.experiment, kubeflow.pipelineRoot) == ("models", "s3://b/r")
    assert (kubeflow.serviceAccountName, kubeflow.podNamespace) == ("runner", "kubeflow")
    assert (kubeflow.tokenFile, kubeflow.caFile, kubeflow.claimSeconds) == (None, None, 90)
    assert found.taskImage is not None
    assert "/halftone-task:" in found.taskImage


@pytest.mark.parametrize("token", ["audience=pipelines.kubeflow.org", "secretName=kfp"])
def test_token_and_certificates_are_where_the_settings_say(token: str) -> None:
    options = [*GIVEN, *sets(f"token.{token}", "caBundle.configMapName=trust")]
    settings, spec = read(*options).kubeflowPipelines, pod(render("team", *options))
    assert settings is not None
    places = {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
    assert settings.tokenFile == places["pipelines-token"] + "/token"
    assert settings.caFile == places["pipelines-ca"] + "/ca.crt"
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert ("projected" if "audience" in token else "secret") in volumes["pipelines-token"]
    assert {"pipelines-token", "pipelines-ca"}.isdisjoint(
        one["name"] for one in pod(render("team", *GIVEN))["volumes"]
    )


def test_pods_may_be_listed_where_runs_are() -> None:
    objects = render("team", *GIVEN, *sets("podNamespace=kubeflow"))
    (role,) = kinds(objects, "Role", "kubeflow")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    (binding,) = kinds(objects, "RoleBinding", "kubeflow")
    assert binding["subjects"][0]["namespace"] == "team"
    assert kinds(render("team", *GIVEN, *sets("podNamespace=team")), "Role", "kubeflow") == []


@pytest.mark.parametrize(
    ("options", "ports"),
    [
        (GIVEN, [8888]),
        (["--set", "kubeflowPipelines.endpoint=https://k.example/pipeline"], [443]),
        (["--set", "kubeflowPipelines.endpoint=http://k.example"], [80]),
        ([*GIVEN, "--set", "networkPolicy.pipelinePorts={8080,8081}"], [8080, 8081]),
    ],
)
def test_the_server_may_be_reached(options: list[str], ports: list[int]) -> None:
    objects = render("team", "--set", "networkPolicy.enabled=true", *options)
    policy = next(one for one in objects if one["kind"] == "NetworkPolicy")
    assert [one["port"] for one in policy["spec"]["egress"][-1]["ports"]] == ports


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (sets("podNamespace=kubeflow"), "without `kubeflowPipelines.endpoint`"),
        ([*GIVEN, *sets("token.audience=a", "token.secretName=b")], "set one of them"),
        (sets("endpoint=ml-pipeline:8888"), "endpoint"),
    ],
)
def test_what_does_not_go_together_is_refused(options: list[str], sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        render("team", *options)

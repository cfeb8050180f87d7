"""The chart's admission policy on a real API server: what jobs may name, and what they may not.

We test these aspects:
- every place of the CRD that names a Secret, an endpoint or a service account is bounded;
- what is allowed is accepted, beside the policy's other bounds;
- an address that only begins like an allowed one is refused;
- other namespaces are not bounded;
- a job that was there before goes on: its finalizers may change, and its status, and it ends.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from halftone.spec.cluster import FINALIZER
from tests.cluster.answers import job
from tests.cluster.chart import render
from tests.cluster.client import MERGE, Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.references import places

Spec = dict[str, Any]
Table = dict[str, Callable[[str], Spec]]
BOUNDS = (
    "policy.enabled=true,policy.allowedSecrets={known,also},policy.allowedServiceAccounts={worker},"
    "policy.allowedEndpoints={https://s3.test,http://s3.test:9000/minio/}"
)


def dataset(**where: Any) -> Spec:
    return {"quantization": {"preset": "nvfp4", "calibration": {"dataset": where}}}


def secret(name: str) -> Spec:
    return {"name": name, "key": "token"}


def target(**more: Any) -> Spec:
    return {"publish": {"s3": {"uri": "s3://models/out"}, **more}}


# A spec that names something at each place that the CRD has for it.
SECRETS: Table = {
    "source.huggingFace.tokenSecretRef.name": lambda name: {
        "source": {"huggingFace": {"repository": "a/b", "tokenSecretRef": secret(name)}}
    },
    "source.s3.credentialsSecretRef.name": lambda name: {
        "source": {"s3": {"uri": "s3://a", "credentialsSecretRef": secret(name)}}
    },
    "quantization.calibration.dataset.huggingFace.tokenSecretRef.name": lambda name: dataset(
        huggingFace={"repository": "a/b", "tokenSecretRef": secret(name)}
    ),
    "quantization.calibration.dataset.s3.credentialsSecretRef.name": lambda name: dataset(
        s3={"uri": "s3://a/b", "credentialsSecretRef": secret(name)}
    ),
    "workVolume.s3.credentialsSecretRef.name": lambda name: {
        "workVolume": {"s3": {"credentialsSecretRef": secret(name)}}
    },
    "publish.huggingFace.tokenSecretRef.name": lambda name: {
        "publish": {"huggingFace": {"repository": "a/b", "tokenSecretRef": secret(name)}},
        "workVolume": {"claimName": "work"},
    },
    "publish.s3.credentialsSecretRef.name": lambda name: {
        "publish": {"s3": {"uri": "s3://models/out", "credentialsSecretRef": secret(name)}}
    },
    "publish.signingKeyRef.secret.name": lambda name: target(
        signingKeyRef={"secret": secret(name)}
    ),
}
ENDPOINTS: Table = {
    "source.s3.endpointUrl": lambda url: {"source": {"s3": {"uri": "s3://a", "endpointUrl": url}}},
    "quantization.calibration.dataset.s3.endpointUrl": lambda url: dataset(
        s3={"uri": "s3://a/b", "endpointUrl": url}
    ),
    "publish.s3.endpointUrl": lambda url: {
        "publish": {"s3": {"uri": "s3://m", "endpointUrl": url}}
    },
}
ACCOUNTS: Table = {
    "serviceAccountName": lambda name: {"serviceAccountName": name},
    "stages[].serviceAccountName": lambda name: {
        "stages": [{"name": "Plan"}, {"name": "Publish", "serviceAccountName": name}]
    },
}
TABLES = {"secrets": SECRETS, "endpoints": ENDPOINTS, "accounts": ACCOUNTS}
KNOWN = {"secrets": "also", "endpoints": "https://s3.test/path", "accounts": "worker"}
OTHER = {"secrets": "root", "endpoints": "https://elsewhere.test", "accounts": "admin"}
TOLD = {
    "secrets": "a job may name only these Secrets: known, also",
    "endpoints": "`endpointUrl` must be one of these, or below one: https://s3.test, "
    "http://s3.test:9000/minio",
    "accounts": "`serviceAccountName` must be one of: worker",
}
CASES = [(kind, place) for kind, table in TABLES.items() for place in table]


def try_to_create(client: Client, namespace: str, **spec: Any) -> httpx.Response:
    """Ask for a job without keeping it."""
    body = job("asked", namespace, **spec)
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    return client.http.post(jobs_path(namespace), json=body, params=query)


def told(answer: httpx.Response) -> str:
    """The message of a refusal; empty for what was accepted."""
    return "" if answer.is_success else str(answer.json()["message"])


@pytest.fixture(scope="module")
def bounded(cluster: ControlPlane, client: Client) -> Iterator[str]:
    """A namespace with the policy in force. A job named `before` was there already."""
    namespace = client.namespace("bounded-by-a-policy")
    before = job("before", namespace, **SECRETS["source.s3.credentialsSecretRef.name"]("root"))
    client.create(jobs_path(namespace), before)
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    objects = [one for one in render(namespace, "--set", BOUNDS) if one["kind"] in kinds]
    text = yaml.safe_dump_all(objects)
    cluster.kubectl("apply", "-f", "-", text=text)
    refused = ACCOUNTS["serviceAccountName"]("admin")
    client.wait(
        "the policy to be in force",
        lambda: try_to_create(client, namespace, **refused).status_code == 422,
    )
    yield namespace
    cluster.kubectl("delete", "-f", "-", text=text)


def test_there_is_a_case_for_every_place_of_the_crd() -> None:
    assert {kind: set(table) for kind, table in TABLES.items()} == {
        kind: places(kind) for kind in TABLES
    }


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_only_what_is_known_may_be_named(
    client: Client, bounded: str, kind: str, place: str
) -> None:
    spec = TABLES[kind][place]
    assert told(try_to_create(client, bounded, **spec(KNOWN[kind]))) == ""
    refusal = told(try_to_create(client, bounded, **spec(OTHER[kind])))
    assert refusal.endswith(TOLD[kind])


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.test.elsewhere.test",
        "https://s3.test:444",
        "https://s3.testing",
        "http://s3.test",
        "http://s3.test:9000",
        "http://s3.test:9000/minio-of-others",
        "https://s3.test?x=https://s3.test/",
    ],
)
def test_an_address_that_only_looks_alike_is_refused(
    client: Client, bounded: str, url: str
) -> None:
    spec = ENDPOINTS["publish.s3.endpointUrl"](url)
    assert told(try_to_create(client, bounded, **spec)).endswith(TOLD["endpoints"])


@pytest.mark.parametrize(
    "url",
    ["https://s3.test", "https://s3.test/", "http://s3.test:9000/minio", "https://s3.test/a/b"],
)
def test_a_known_address_and_what_is_below_it_are_accepted(
    client: Client, bounded: str, url: str
) -> None:
    assert told(try_to_create(client, bounded, **ENDPOINTS["source.s3.endpointUrl"](url))) == ""


def test_visibility(client: Client, bounded: str) -> None:
    def public(visibility: str) -> str:
        repository = {"repository": "a/b", "visibility": visibility}
        spec = {"publish": {"huggingFace": repository}, "workVolume": {"claimName": "work"}}
        return told(try_to_create(client, bounded, **spec))

    assert public("Private") == ""
    assert "`visibility: Public` is not allowed here" in public("Public")


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"quantization": {"preset": "nvfp4a16", "calibration": None, "kvCache": None}},
        {"publish": target()["publish"], "stages": []},
        {"validation": {}},
        {"source": {"directory": {"path": "/m", "claimName": "models"}}},
    ],
)
def test_a_job_that_names_nothing_is_accepted(client: Client, bounded: str, spec: Spec) -> None:
    assert told(try_to_create(client, bounded, **spec)) == ""


def test_other_namespaces_are_not_bounded(client: Client, bounded: str, namespace: str) -> None:
    for kind, place in CASES:
        assert told(try_to_create(client, namespace, **TABLES[kind][place](OTHER[kind]))) == ""


def test_the_api_server_finds_no_wrong_type_in_it(client: Client, bounded: str) -> None:
    group = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    path = f"{group}/halftone.{bounded}.halftone.dev"
    client.wait("its types to be checked", lambda: "typeChecking" in client.get(path)["status"])
    assert client.get(path)["status"]["typeChecking"] == {}


def test_a_job_that_was_there_before_goes_on_and_ends(client: Client, bounded: str) -> None:
    path = f"{jobs_path(bounded)}/before"
    client.patch(path, {"metadata": {"finalizers": [FINALIZER]}})
    client.patch(f"{path}/status", {"status": {"recipe": "nvfp4a16"}})
    refused = client.http.patch(
        path, json={"spec": {"parallelism": 2}}, headers=MERGE, params={"dryRun": "All"}
    )
    assert told(refused).endswith(TOLD["secrets"])
    client.delete(path)
    client.patch(path, {"metadata": {"finalizers": None}})
    client.wait("the job to be gone", lambda: client.find(path) is None)

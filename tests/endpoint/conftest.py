"""The tier of the endpoint's chart on a real node: Ray, KubeRay and vLLM in pods, minutes a test.

One cluster a run, in a network namespace of its own, which this process enters. Needs root,
`.venvs/serve`, `python -m tools.packages` and some 8 GB of memory. No target but its own collects
this folder. `-s` shows what happened when.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from halftone.spec.artifacts import Artifact
from halftone.spec.targets import Existing
from halftone.stores.credentials import Credential
from halftone.stores.s3_target import S3ArtifactTarget
from tests.cluster import endpoint_environment, kuberay, s3_in_cluster
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import ADDRESS, Network
from tests.cluster.node import Node
from tests.cluster.s3_in_cluster import S3InCluster
from tests.endpoint.release import API_KEY, BUCKET, NAMESPACE, Release
from tests.endpoints import pocket_artifact
from tests.node.jobs import secret


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """All that runs, and two artifacts of which none is installed yet."""
    folder = tmp_path_factory.mktemp("endpoint-tier")
    begun = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {what}", flush=True)

    archives = [
        endpoint_environment.image(),
        kuberay.image(folder),
        s3_in_cluster.image(folder),
    ]
    tell("images are built and saved")
    with (
        Network(f"halftone-{os.getpid()}") as network,
        ControlPlane(folder / "cluster", address=ADDRESS, network=network.path) as cluster,
        Node(cluster, network, archives),
        network.entered(),
        Client(cluster) as client,
    ):
        tell("the node is ready and has the images")
        s3 = S3InCluster(cluster)
        kuberay.install(cluster)
        tell("S3 and KubeRay's operator are ready")
        client.wait("S3", lambda: _answers(s3))
        public = _signing_key(folder / "key.pem")
        digests = {
            name: _publish(s3, folder / name, recipe, folder / "key.pem")
            for name, recipe in (("first", "nvfp4a16"), ("second", "fp8-block"))
        }
        _prepare(cluster, client, s3, folder, public)
        tell("two signed artifacts are published")
        yield Release(cluster, client, s3.endpoint, digests, tell)
        s3.client.close()


def _answers(s3: S3InCluster) -> bool:
    try:
        s3.client.create_bucket(Bucket=BUCKET)
    except BotoCoreError:
        return False
    return True


def _signing_key(path: Path) -> str:
    """A key for whoever publishes; what endpoints verify with, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    info = PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(Encoding.PEM, info).decode()


def _publish(s3: S3InCluster, folder: Path, recipe: str, key: Path) -> str:
    """The pocket model in S3, under the folder's name; its digest."""
    published = pocket_artifact(folder, recipe=recipe, key=key)
    artifact = Artifact.load(published / "artifact.json")
    tree = shutil.copytree(
        published, folder / "tree", ignore=shutil.ignore_patterns("artifact.json")
    )
    credentials = Credential("publish", "s3", "credentials", s3.credentials_file)
    uri = f"s3://{BUCKET}/{folder.name}"
    with closing(S3ArtifactTarget(uri, s3.outside, credentials=credentials)) as target:
        found = target.publish(tree, artifact, Existing.Refuse, lambda nbytes: None)
    return found.checkpointDigest


def _prepare(
    cluster: ControlPlane, client: Client, s3: S3InCluster, folder: Path, public: str
) -> None:
    """A namespace under Pod Security "restricted", with all that the chart's values name."""
    client.namespace(NAMESPACE)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    client.patch(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": labels}})
    core = f"/api/v1/namespaces/{NAMESPACE}"
    client.create(f"{core}/secrets", secret("s3", "credentials", s3.credentials_file))
    client.create(f"{core}/secrets", secret("clients", "api-key", API_KEY))
    signer = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "signer"},
        "data": {"publickey.pem": public},
    }
    client.create(f"{core}/configmaps", signer)
    volumes = endpoint_environment.listed(NAMESPACE, folder / "environment")
    cluster.kubectl("apply", "-f", "-", text=json.dumps(volumes))

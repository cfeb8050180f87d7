"""What jobs of a real cluster find there: Secrets, one for each use, and the pocket model in S3.

Called by the fixtures of `tests/node` and `tests/kubeflow`.
"""

from pathlib import Path

from botocore.exceptions import BotoCoreError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.cluster.client import Client
from tests.cluster.s3_in_cluster import S3InCluster
from tests.conftest import ROOT
from tests.node.jobs import BUCKET, SOURCE_PREFIX, secret

POCKET_MODEL = ROOT / "examples" / "pocket-model" / "checkpoint"


def provide(client: Client, s3: S3InCluster, namespace: str, public_key: Path) -> None:
    """The Secrets of jobs in `namespace`, and the source; the verifying key goes into a file."""
    held = {
        "s3-read": ("credentials", s3.credentials_file),
        "s3-work": ("credentials", s3.credentials_file),
        "s3-publish": ("credentials", s3.credentials_file),
        "signing-key": ("key.pem", _signing_key(public_key)),
    }
    for name, (key, text) in held.items():
        client.create(f"/api/v1/namespaces/{namespace}/secrets", secret(name, key, text))
    client.wait("S3 answers", lambda: _answers(s3))
    s3.client.create_bucket(Bucket=BUCKET)
    s3.upload(POCKET_MODEL, BUCKET, SOURCE_PREFIX)


def _answers(s3: S3InCluster) -> bool:
    try:
        s3.client.list_buckets()
    except BotoCoreError:
        return False
    return True


def _signing_key(public: Path) -> str:
    """A signing key as PEM; its public half goes into the file `public`."""
    key = ec.generate_private_key(ec.SECP256R1())
    info = PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, info))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

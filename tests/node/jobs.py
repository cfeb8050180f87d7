"""QuantizationJobs of the pocket model in S3, as the node tier applies them.

Called by the tests of this folder.
"""

from typing import Any, Final

from halftone.spec.names import API_VERSION, JOB_KIND
from tests.cluster.s3_in_cluster import S3InCluster

BUCKET: Final = "models"
SOURCE_PREFIX: Final = "pocket-model"
# Five files, so that there is something to share for two workers.
SHARD_BYTES: Final = 2_000_000


def secret(name: str, key: str, text: str) -> dict[str, Any]:
    """A Secret with one key."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {key: text},
    }


def job(s3: S3InCluster, name: str, **spec: Any) -> dict[str, Any]:
    """A data-free job with two workers, signed; `spec` replaces or adds fields."""

    def ref(secret_name: str, key: str = "credentials") -> dict[str, str]:
        return {"name": secret_name, "key": key}

    source = {
        "uri": f"s3://{BUCKET}/{SOURCE_PREFIX}",
        "endpointUrl": s3.endpoint,
        "credentialsSecretRef": ref("s3-read"),
    }
    target = {
        "uri": f"s3://{BUCKET}/out/{name}",
        "endpointUrl": s3.endpoint,
        "credentialsSecretRef": ref("s3-publish"),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": JOB_KIND,
        "metadata": {"name": name},
        "spec": {
            "source": {"s3": source},
            "quantization": {"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES},
            "workVolume": {"s3": {"credentialsSecretRef": ref("s3-work")}},
            "publish": {
                "s3": target,
                "signingKeyRef": {"secret": ref("signing-key", "key.pem")},
            },
            "parallelism": 2,
            **spec,
        },
    }

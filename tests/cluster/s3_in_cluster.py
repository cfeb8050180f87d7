"""versitygw as a pod of the cluster: the S3 that jobs read from and publish to.

Called by the node tier. Data lies in an emptyDir, and is gone with the pod. A client on the node,
which has no name service, asks the Service's address.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.cluster.archives import single_binary_image
from tests.cluster.control_plane import ControlPlane
from tests.servers.versitygw import REGION, Account
from tools.servers import program

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NAMESPACE: Final = "storage"
IMAGE: Final = "localhost/versitygw:1"
_PORT: Final = 7070


def image(folder: Path) -> Path:
    """The archive of its image."""
    archive = folder / "versitygw.tar"
    single_binary_image(archive, IMAGE, program("versitygw"))
    return archive


class S3InCluster:
    """A server that is ready once this is made. `endpoint` is for pods, `outside` for the node."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._root = Account.new("root")
        self.secret_key = self._root.secret_key
        self.endpoint = f"http://s3.{NAMESPACE}.svc.cluster.local:{_PORT}"
        objects = {"apiVersion": "v1", "kind": "List", "items": self._objects()}
        cluster.kubectl("apply", "-f", "-", text=json.dumps(objects))
        cluster.kubectl("rollout", "status", "deployment/s3", "-n", NAMESPACE, "--timeout=120s")
        self.outside = f"http://{cluster.service('s3', NAMESPACE)}:{_PORT}"

    @property
    def credentials_file(self) -> str:
        """What a job's Secret holds."""
        return self._root.credentials_file

    @property
    def environment(self) -> dict[str, str]:
        """What a client on the node finds its way and its keys by."""
        return self._root.environment(self.outside)

    @cached_property
    def client(self) -> "S3Client":
        """A boto3 client on the node."""
        return self._root.client(self.outside)

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Put every file of `folder` below `prefix`."""
        for path in sorted(folder.iterdir()):
            self.client.put_object(
                Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes()
            )

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Every key below `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def _objects(self) -> list[dict[str, Any]]:
        labels = {"app": "s3"}
        settings = {
            "ROOT_ACCESS_KEY": self._root.access_key,
            "ROOT_SECRET_KEY": self.secret_key,
            "VGW_PORT": f":{_PORT}",
            "VGW_REGION": REGION,
            "HOME": "/data",
        }
        container = {
            "name": "s3",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "args": ["--quiet", "posix", "/data/buckets"],
            "workingDir": "/data",
            "env": [{"name": name, "value": value} for name, value in settings.items()],
            "readinessProbe": {"tcpSocket": {"port": _PORT}, "periodSeconds": 1},
            "volumeMounts": [
                {"name": "data", "mountPath": "/data"},
                {"name": "buckets", "mountPath": "/data/buckets"},
            ],
        }
        pod = {
            "securityContext": {"fsGroup": 65532},
            "containers": [container],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "buckets", "emptyDir": {}}],
        }
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "s3", "namespace": NAMESPACE},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "s3", "namespace": NAMESPACE},
                "spec": {
                    "selector": labels,
                    "ports": [{"port": _PORT, "targetPort": _PORT}],
                },
            },
        ]

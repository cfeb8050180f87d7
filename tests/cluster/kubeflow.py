"""The real back end of Kubeflow Pipelines for a cluster with a node: nothing of it is a double.

    with Node(cluster, network, images=[*kubeflow.images(folder), …]), Kubeflow(cluster) as kfp:
        kfp.endpoint            # its REST interface, inside the cluster's network

API server, persistence agent, Argo's controller, MariaDB, ML Metadata and an S3 server run beside
the cluster, on the node's network; drivers, launchers and executors in pods, from one image.
Called by `make e2e-kfp` and `make record-kfp`. `python -m tools.servers build kubeflow` builds the
programs, `.venvs/kubeflow` has the metadata store, Debian's mariadb-server-core the database.
"""

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, Self

from tests.cluster.archives import binaries_image
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import DNS_SERVICE
from tests.servers.versitygw import Account
from tools.environments import interpreter
from tools.servers import kubeflow_definitions, program

NAMESPACE: Final = "kubeflow"
IMAGE: Final = "localhost/kubeflow:1"
# What runs in pods; the API server is told their names, and Argo its executor's.
_IN_PODS: Final = ("driver", "launcher-v2", "argoexec")
_MANIFEST: Final = Path(__file__).parent / "manifests" / "kubeflow.yaml"
_METADATA: Final = Path(__file__).parent / "kubeflow_metadata.py"
# The servers look for these names, and take these ports for granted.
_SERVICES: Final = {
    "ml-pipeline": ("10.96.0.30", {"http": 8888, "grpc": 8887}),
    "metadata-grpc-service": ("10.96.0.31", {"grpc-api": 8080}),
    "minio-service": ("10.96.0.32", {"http": 9000}),
}
_HEALTH: Final = "/apis/v2beta1/healthz"
_BUCKET: Final = "mlpipeline"
# The launcher takes any S3 server that is called `minio://` for one of this region.
_REGION: Final = "minio"
_DATABASE_PORT: Final = 3307
# As in a pod: names come from the cluster, and the token lies where the agent looks for it.
_AS_IN_A_POD: Final = """
mount --bind "$0/resolv.conf" /etc/resolv.conf
mount -t tmpfs tmpfs /run
mkdir -p /run/secrets/kubeflow/tokens
cp "$0/token" /run/secrets/kubeflow/tokens/persistenceagent-sa-token
exec "$@"
"""
_SYSTEM_TABLES: Final = Path("/usr/share/mysql")
_TABLES: Final = ("mysql_system_tables", "mysql_performance_tables", "mysql_system_tables_data")


def images(folder: Path) -> list[Path]:
    """Docker archives that the node needs for the pods of a run, beside those of the tasks."""
    archive = folder / "kubeflow.tar"
    binaries_image(archive, IMAGE, *map(program, _IN_PODS))
    return [archive]


class Kubeflow:
    """A back end that answers once it is entered. `endpoint` is for whoever is in the network."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._cluster = cluster
        self._folder = cluster.folder / "kubeflow"
        # A socket's path has 108 bytes at most.
        self._state = Path(tempfile.mkdtemp(prefix="ht-", dir="/run"))
        self._account = Account.new("kubeflow")
        self._database_password = secrets.token_hex(16)
        self.metadata = self._folder / "metadata.sqlite"
        self.endpoint = f"http://{cluster.address}:8888"

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir()
            self._start_stores()
            self._prepare_cluster()
            self._start_servers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        # Processes are the cluster's, and end with it.
        shutil.rmtree(self._state, ignore_errors=True)

    def objects(self) -> Path:
        """Where the artifacts of runs lie as files."""
        return self._folder / "objects" / _BUCKET

    def _start_stores(self) -> None:
        self._start_database()
        processes, address = self._cluster.processes, self._cluster.address
        processes.start(
            "kfp-metadata", interpreter("kubeflow"), _METADATA, f"{address}:8080", self.metadata
        )
        self.objects().mkdir(parents=True)
        settings = {
            "ROOT_ACCESS_KEY": self._account.access_key,
            "ROOT_SECRET_KEY": self._account.secret_key,
            "VGW_PORT": f"{address}:9000",
            "VGW_REGION": _REGION,
        }
        gateway = (program("versitygw"), "--quiet", "posix", self._folder / "objects")
        processes.start("kfp-objects", *gateway, environment=settings)

    def _start_database(self) -> None:
        data = self._folder / "database"
        data.mkdir()
        common = ("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}")
        # What `mariadb-install-db` does, which wants a package of clients for it.
        first = "".join((_SYSTEM_TABLES / f"{name}.sql").read_text() for name in _TABLES)
        subprocess.run(
            [*common, "--bootstrap"],
            input=f"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n{first}",
            text=True,
            check=True,
            capture_output=True,
        )
        begin = self._folder / "begin.sql"
        # It reads one statement a line.
        begin.write_text(
            "CREATE DATABASE mlpipeline;\n"
            f"CREATE USER kfp@'%' IDENTIFIED BY '{self._database_password}';\n"
            "GRANT ALL ON mlpipeline.* TO kfp@'%';\n"
        )
        socket = self._state / "db.sock"
        self._cluster.processes.start(
            "kfp-database",
            *common,
            f"--socket={socket}",
            f"--pid-file={self._state / 'db.pid'}",
            "--bind-address=127.0.0.1",
            f"--port={_DATABASE_PORT}",
            f"--init-file={begin}",
        )
        self._cluster.processes.wait("the database", socket.exists)

    def _prepare_cluster(self) -> None:
        kubectl = self._cluster.kubectl
        for path in kubeflow_definitions():
            kubectl("apply", "--server-side", "-f", str(path))
        kubectl("apply", "-f", str(_MANIFEST))
        made = [self._keys(), *(made for name in _SERVICES for made in self._service(name))]
        kubectl(
            "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
        )

    def _keys(self) -> dict[str, Any]:
        keys = {"accesskey": self._account.access_key, "secretkey": self._account.secret_key}
        meta = {"name": "mlpipeline-minio-artifact", "namespace": NAMESPACE}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": keys}

    def _service(self, name: str) -> list[dict[str, Any]]:
        """A Service whose only endpoint is the process beside the cluster."""
        address, ports = _SERVICES[name]
        named = [{"name": word, "port": port} for word, port in ports.items()]
        meta = {"name": name, "namespace": NAMESPACE}
        slice_meta = {**meta, "labels": {"kubernetes.io/service-name": name}}
        return [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {"clusterIP": address, "ports": named},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": slice_meta,
                "addressType": "IPv4",
                "endpoints": [{"addresses": [self._cluster.address]}],
                "ports": named,
            },
        ]

    def _start_servers(self) -> None:
        self._make_pod_files()
        (self._folder / "config.json").write_text(json.dumps(self._config()))
        kubeconfig = f"--kubeconfig={self._cluster.kubeconfig}"
        self._start(
            "kfp-apiserver",
            f"--config={self._folder}",
            "-logtostderr=true",
            V2_DRIVER_IMAGE=IMAGE,
            V2_LAUNCHER_IMAGE=IMAGE,
            # Of no server here; without them it does not start.
            ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_HOST="127.0.0.1",
            ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_PORT="8889",
        )
        self._cluster.processes.wait("Kubeflow's API server", self._answers)
        self._start(
            "kfp-persistence",
            kubeconfig,
            f"--namespace={NAMESPACE}",
            f"--mlPipelineAPIServerName={self._cluster.address}",
            "--logLevel=info",
        )
        self._start(
            "workflow-controller",
            kubeconfig,
            "--namespaced",
            f"--namespace={NAMESPACE}",
            f"--executor-image={IMAGE}",
            "--executor-image-pull-policy=IfNotPresent",
            # It looks at a run again ten seconds after a change, if not told otherwise.
            DEFAULT_REQUEUE_TIME="1s",
            LEADER_ELECTION_DISABLE="true",
        )

    def _start(self, name: str, *options: str, **settings: str) -> None:
        as_in_a_pod = ("unshare", "--mount", "sh", "-ec", _AS_IN_A_POD, self._folder)
        where = {"KUBECONFIG": str(self._cluster.kubeconfig), "POD_NAMESPACE": NAMESPACE}
        self._cluster.processes.start(
            name, *as_in_a_pod, program(name), *options, environment={**where, **settings}
        )

    def _make_pod_files(self) -> None:
        (self._folder / "resolv.conf").write_text(f"nameserver {DNS_SERVICE}\n")
        # A server for many users would know the agent by it; this one does not ask.
        command = ("create", "token", "default", "-n", NAMESPACE, "--duration=3h")
        (self._folder / "token").write_text(self._cluster.kubectl(*command))

    def _config(self) -> dict[str, Any]:
        store, ports = _SERVICES["minio-service"]
        return {
            "DBDriverName": "mysql",
            "DBConfig": {
                "MySQLConfig": {
                    "Host": "127.0.0.1",
                    "Port": str(_DATABASE_PORT),
                    "User": "kfp",
                    "Password": self._database_password,
                    "DBName": "mlpipeline",
                    "GroupConcatMaxLen": "4194304",
                },
                "ConMaxLifeTime": "120s",
            },
            "ObjectStoreConfig": {
                "Host": store,
                "Port": str(ports["http"]),
                "AccessKey": self._account.access_key,
                "SecretAccessKey": self._account.secret_key,
                "BucketName": _BUCKET,
                "PipelinePath": "pipelines",
                "Region": _REGION,
                "Secure": False,
            },
            "InitConnectionTimeout": "60s",
            "DEFAULTPIPELINERUNNERSERVICEACCOUNT": "pipeline-runner",
            "CacheEnabled": "true",
            "ARCHIVE_CONFIG_LOG_FILE_NAME": "main.log",
            "ARCHIVE_CONFIG_LOG_PATH_PREFIX": "/artifacts",
            "CRON_SCHEDULE_TIMEZONE": "UTC",
        }

    def _answers(self) -> bool:
        asking = f"import httpx; httpx.get('{self.endpoint}{_HEALTH}').raise_for_status()"
        command = self._cluster.processes.inside(sys.executable, "-c", asking)
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

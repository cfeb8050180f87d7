"""etcd, API server, controller manager and scheduler: a cluster without a node, in seconds.

    with ControlPlane(folder) as cluster:
        cluster.kubectl("apply", "-f", "-", text=manifest)

Called by fixtures. Needs no root. Everything listens on `address`,
which is loopback, or the namespace's own when a node is to reach it.
"""

import json
import secrets
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.cluster.pki import Authority
from tests.cluster.processes import Processes
from tests.servers.ports import free_port
from tools.servers import program

SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
# The first address of the services is the API server's own.
API_SERVICE = "10.96.0.1"
_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
# Every request once it is answered: tests count what the operator asked for.
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata"}],
}


class ControlPlane:
    """A cluster in `folder`. `kubeconfig` is an administrator's."""

    def __init__(
        self, folder: Path, *, address: str = "127.0.0.1", network: str | None = None
    ) -> None:
        self.folder = folder
        self.address = address
        self.kubeconfig = folder / "kubeconfig"
        self.audit_log = folder / "audit.log"
        self.processes = Processes(folder, network)
        self.authority = Authority(folder / "pki")
        self.url = f"https://{address}:{free_port()}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process, and forget what the cluster held."""
        self.processes.stop()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """What kubectl prints, as the administrator. Raises with what it says when it fails."""
        command = self.processes.inside(
            str(program("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments
        )
        found = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if found.returncode:
            raise subprocess.SubprocessError(f"kubectl {' '.join(arguments)}: {found.stderr}")
        return found.stdout

    def get(self, *arguments: str) -> Any:
        """An object or a list, read with kubectl."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def connection(self) -> httpx.Client:
        """An administrator's connection to the API server; the caller closes it."""
        pki = self.authority.folder
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        return httpx.Client(base_url=self.url, verify=context, timeout=60, trust_env=False)

    def service(self, name: str, namespace: str) -> str:
        """The address of a Service, which answers on every node."""
        address: str = self.get("service", name, "-n", namespace)["spec"]["clusterIP"]
        return address

    def write_kubeconfig(self, path: Path, name: str, server: str | None = None) -> Path:
        """A kubeconfig for whom `authority` issued the certificate `name`."""
        pki = self.authority.folder
        user = {
            "client-certificate": str(pki / f"{name}.crt"),
            "client-key": str(pki / f"{name}.key"),
        }
        return self._write(path, user, server)

    def write_token_kubeconfig(
        self, path: Path, namespace: str, account: str, server: str | None = None
    ) -> Path:
        """A kubeconfig with a token of a service account."""
        token = self.kubectl("create", "token", account, "-n", namespace, "--duration=3h").strip()
        return self._write(path, {"token": token}, server)

    def _write(self, path: Path, user: dict[str, str], server: str | None) -> Path:
        cluster = {
            "server": server or self.url,
            "certificate-authority": str(self.authority.folder / "ca.crt"),
        }
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(body))
        return path

    def _start(self) -> None:
        addresses = [*_NAMES, "127.0.0.1", API_SERVICE, self.address]
        self.authority.issue("apiserver", "kube-apiserver", addresses=addresses)
        self.authority.issue("admin", "admin", ["system:masters"])
        self.authority.issue("controllers", "system:kube-controller-manager")
        self.authority.issue("scheduler", "system:kube-scheduler")
        self.write_kubeconfig(self.kubeconfig, "admin")
        self._start_etcd()
        self._start_api_server()
        self.processes.wait("the API server", lambda: self.kubectl("get", "--raw=/readyz") == "ok")
        self._start_controllers()
        self.processes.wait(
            "the default service account",
            lambda: bool(self.get("serviceaccount", "default", "-n", "default")),
        )

    def _start_etcd(self) -> None:
        self._store = f"http://127.0.0.1:{free_port()}"
        peers = f"http://127.0.0.1:{free_port()}"
        self.processes.start(
            "etcd",
            program("etcd"),
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={self._store}",
            f"--advertise-client-urls={self._store}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_api_server(self) -> None:
        pki = self.authority.folder
        policy = self.folder / "audit.yaml"
        policy.write_text(yaml.safe_dump(_AUDIT))
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{secrets.token_hex(16)},root,root,"system:masters"\n')
        self.processes.start(
            "kube-apiserver",
            program("kube-apiserver"),
            f"--etcd-servers={self._store}",
            f"--secure-port={self.url.rpartition(':')[2]}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--token-auth-file={tokens}",
            f"--service-account-key-file={pki}/sa.key",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--endpoint-reconciler-type=lease",
            "--profiling=false",
            f"--kubelet-client-certificate={pki}/admin.crt",
            f"--kubelet-client-key={pki}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
        )

    def _start_controllers(self) -> None:
        pki = self.authority.folder
        fast = ("--kube-api-qps=500", "--kube-api-burst=1000")
        for name in ("controllers", "scheduler"):
            self.write_kubeconfig(self.folder / "kubeconfigs" / name, name)
        self.processes.start(
            "kube-controller-manager",
            program("kube-controller-manager"),
            f"--kubeconfig={self.folder}/kubeconfigs/controllers",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={PODS}",
            f"--service-cluster-ip-range={SERVICES}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--node-monitor-grace-period=30s",
            "--profiling=false",
            "--controller-start-interval=0s",
            *fast,
        )
        self.processes.start(
            "kube-scheduler",
            program("kube-scheduler"),
            f"--kubeconfig={self.folder}/kubeconfigs/scheduler",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--profiling=false",
            *fast,
        )

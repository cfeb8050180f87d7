"""The tool that builds servers: when it works, where to, and what a fault leaves.

The tool is copied into an empty checkout and run there as a process, as `make` runs it. A script
stands for Go; it writes down how it was called and makes an empty binary. That the real Go builds
the real server is seen by whoever publishes to it in an integration test.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Says its version; builds slowly enough for another builder to come, unless the module is broken.
STAND_IN = """#!/bin/sh
case "$1" in
    env) echo "go{version}" ;;
    version) echo "go version go{version} linux/amd64" ;;
    build)
        echo "$GOTOOLCHAIN $CGO_ENABLED $*" >> "{log}"
        grep -q broken go.sum && {{ echo "no such module" >&2; exit 1; }}
        sleep 0.2
        while [ "$1" != -o ]; do shift; done
        : > "$2" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the tool, its modules, and a Go that is new enough on PATH."""
    files = [*(ROOT / "tools" / "go").glob("*/go.mod"), ROOT / "tools" / "go" / "toolchain.txt"]
    tools = [ROOT / "tools" / f"{name}.py" for name in ("__init__", "kubeflow", "servers")]
    for path in (*files, *tools):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        if path.name == "go.mod":
            copy.with_name("go.sum").write_text("sums\n")
    install_go(tmp_path, "1.26.1")
    return tmp_path


def install_go(checkout: Path, version: str) -> None:
    program = checkout / "path" / "go"
    program.parent.mkdir(exist_ok=True)
    program.write_text(STAND_IN.format(version=version, log=checkout / "log"))
    program.chmod(0o755)


def begin(checkout: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start the tool as the Makefile does."""
    return start(checkout, "-m", "tools.servers", *words, **variables)


def start(checkout: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start Python in the checkout."""
    settings = {"PATH": f"{checkout / 'path'}:/usr/bin:/bin", "HOME": str(checkout / "home")}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=checkout,
        env={**settings, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(checkout: Path, *words: str, **variables: str) -> tuple[int, str, str]:
    process = begin(checkout, *words, **variables)
    out, err = process.communicate()
    return process.returncode, out, err


def builds(checkout: Path) -> list[str]:
    log = checkout / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_a_server_is_built_once_and_its_path_is_told(checkout: Path) -> None:
    assert run(checkout, "build", "versitygw") == (0, "building versitygw …\n", "")
    assert run(checkout, "build", "versitygw") == (0, "", "")

    [line] = builds(checkout)
    assert line.startswith("local 0 build -trimpath -buildvcs=false")
    assert line.endswith(" github.com/versity/versitygw/cmd/versitygw")
    path = Path(run(checkout, "path", "versitygw")[1].strip())
    assert path.is_file()
    assert path.parent.parent == checkout / "home" / ".cache" / "halftone" / "tools"


def test_all_are_built_where_none_is_named(checkout: Path) -> None:
    code, out, _ = run(checkout, "build")
    assert code == 0
    names = [line.split()[1] for line in out.splitlines()]
    assert {"versitygw", "kube-apiserver", "kubelet", "etcd", "helm"} <= set(names)
    assert all(Path(run(checkout, "path", name)[1].strip()).is_file() for name in names)


@pytest.mark.parametrize("variable", ["HALFTONE_TOOLS_DIR", "XDG_CACHE_HOME"])
def test_the_cache_lies_where_the_environment_says(checkout: Path, variable: str) -> None:
    place = str(checkout / "elsewhere")
    assert run(checkout, "build", "versitygw", **{variable: place})[0] == 0
    assert len(list((checkout / "elsewhere").rglob("versitygw"))) == 1


@pytest.mark.parametrize("change", ["sums", "go"])
def test_other_sums_or_another_go_mean_another_binary(checkout: Path, change: str) -> None:
    run(checkout, "build", "versitygw")
    if change == "sums":
        (checkout / "tools" / "go" / "versitygw" / "go.sum").write_text("other sums\n")
    else:
        install_go(checkout, "1.27.0")
    run(checkout, "build", "versitygw")

    assert len(builds(checkout)) == 2
    assert len(list((checkout / "home").rglob("versitygw"))) == 2


def test_of_two_builders_one_builds_and_the_other_waits(checkout: Path) -> None:
    both = [begin(checkout, "build", "versitygw") for _ in range(2)]
    ended = [process.communicate() for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert sorted(out for out, _ in ended) == ["", "building versitygw …\n"]
    assert len(builds(checkout)) == 1


def test_a_failed_build_is_told_and_leaves_nothing(checkout: Path) -> None:
    (checkout / "tools" / "go" / "versitygw" / "go.sum").write_text("broken\n")

    code, _, err = run(checkout, "build", "versitygw")

    assert code == 1
    assert "no such module\n" in err
    assert err.endswith("tools: versitygw could not be built; mend what Go says above.\n")
    assert [path.name for path in (checkout / "home").rglob("*") if path.is_file()] == ["lock"]


def test_sources_that_go_does_not_have_are_named(checkout: Path) -> None:
    asking = "from tools import servers; print(servers.kuberay_definitions())"
    process = start(checkout, "-c", asking)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert "the sources of github.com/ray-project/kuberay/ray-operator are not" in err
    assert err.endswith("ray-operator` in tools/go/kuberay.\n")


def test_without_a_go_that_is_new_enough_the_way_out_is_told(checkout: Path) -> None:
    install_go(checkout, "1.21.0")

    code, _, err = run(checkout, "build", "versitygw", PIP_NO_INDEX="1", PIP_FIND_LINKS=os.devnull)

    assert code == 1
    assert "Go 1.25.0 or newer is missing, and installing it failed" in err
    assert err.endswith("install Go from your distribution, then run `make tools`.\n")
    assert not (checkout / ".tools" / "go").exists()
    assert builds(checkout) == []


@pytest.mark.parametrize("words", [("make",), ("build", "minio")])
def test_what_is_no_verb_or_server_is_refused(checkout: Path, words: tuple[str, ...]) -> None:
    code, _, err = run(checkout, *words)
    assert code == 1
    assert err.startswith("tools: `build` or `path`, then names of versitygw, prometheus, ")

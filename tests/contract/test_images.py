"""The Dockerfiles: what they may hold, and the tool that builds them here.

We test these aspects:
- an image begins at a short name, installs only what is pinned with hashes, and copies only files
  that the checkout has and `.dockerignore` lets through
- it runs as a user that is not root, and all its caches lie in one place that anybody may write
- it holds no address and no secret
- what compiles kernels in it fits the libraries that they are linked to
- gigabytes are not built anew with every commit, what is for no release says so, and each image of
  a pipeline's tasks has kfp
- the tool builds every stage that is meant for users, makes the base image once, and says what is
  missing
- its check lets a container write to nothing but its cache and work directory, and refuses images
  that outgrow their limit or hold a file that anybody may write
- an image is saved once, and again when it has changed
- what the worker's image cuts from a library is nothing that loading it needs

Stand-ins take the place of buildah and mmdebstrap here. Whether an image builds and runs is seen by
`make images`, which needs root, the network and minutes.
"""

import ctypes
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools import images, requirements

DOCKERFILES = sorted((ROOT / "images").glob("*/Dockerfile"))
FILES = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)

ENTRYPOINTS = {"operator": ["python", "-m", "operators.quantizationjob"]}
# What no wheel has, of Debian's own packages, which its keys vouch for: a compiler for what runs on
# a GPU (with headers where the base has none), a library of vLLM's, and what KubeRay calls.
DEBIANS = {"endpoint": {"g++", "libnuma1", "libpython3.11-dev", "wget"}}

# Requirement files that a Dockerfile cuts out of others, with their hashes.
CUT = {
    "kfp.txt": "requirements/task.txt",
    "cuda-cpu.txt": "requirements/serve.txt",
    "cuda.txt": "requirements/serve-gpu.txt",
}

# Stands for both programs: writes down how it was called, and has an image once one is committed.
STAND_IN = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
    *" --format "*" {base}") echo 176 MB ;;
    *" --format "*) echo "$SIZE" ;;
    *" find / "*) echo "$WRITABLE" ;;
    *" inspect "*) grep -q " commit " "{log}" ;;
    *" push "*) touch "$(echo "$*" | sed 's/.*docker-archive:\\([^:]*\\):.*/\\1/')" ;;
    *" from "*) echo working-container ;;
esac
"""


@dataclass(frozen=True)
class Stage:
    """One `FROM` and what follows: (instruction, its text)."""

    name: str
    parent: str
    lines: tuple[tuple[str, str], ...]


def instructions(path: Path) -> Iterator[tuple[str, str]]:
    """Every instruction of a Dockerfile; comments gone, continued lines joined."""
    kept = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, text = line.strip().partition(" ")
            yield word.upper(), " ".join(text.split())


def stages(path: Path) -> dict[str, Stage]:
    """The stages by name, in order."""
    found: dict[str, Stage] = {}
    for word, text in instructions(path):
        if word == "FROM":
            parent, _, name = text.partition(" AS ")
            found[name] = Stage(name, parent, ())
        elif found:
            name, stage = list(found.items())[-1]
            found[name] = Stage(name, stage.parent, (*stage.lines, (word, text)))
    return found


def inherited(found: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    """What holds in a stage: its ancestors' instructions, then its own."""
    stage = found[name]
    before = inherited(found, stage.parent) if stage.parent in found else []
    return [*before, *stage.lines]


def commands(path: Path) -> Iterator[list[str]]:
    """Every command that a `RUN` holds, as words; what it mounts is none of them."""
    for word, text in instructions(path):
        if word == "RUN":
            plain = re.sub(r"^(--mount=\S+ )+", "", text)
            yield from (shlex.split(part) for part in re.split(r"&&|\|\|", plain))


def variables(lines: list[tuple[str, str]]) -> dict[str, str]:
    """What `ENV` sets."""
    pairs = [word for kind, text in lines if kind == "ENV" for word in shlex.split(text)]
    return dict(pair.split("=", 1) for pair in pairs)


def targets(path: Path) -> list[str]:
    """The stages that the tool builds of a file."""
    return [one.target for one in images.IMAGES.values() if one.dockerfile == path]


def test_there_are_images_and_the_tool_knows_all() -> None:
    assert {one.dockerfile for one in images.IMAGES.values()} == set(DOCKERFILES)
    for image in images.IMAGES.values():
        assert image.target in stages(image.dockerfile)
        assert (image.check / "check.sh").is_file()


@FILES
def test_every_stage_begins_at_a_short_name_or_at_an_earlier_stage(path: Path) -> None:
    arguments = dict(text.split("=", 1) for word, text in instructions(path) if word == "ARG")
    earlier: set[str] = set()
    for name, stage in stages(path).items():
        parent = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], stage.parent)
        assert parent in earlier or parent == images.BASE, name
        assert "/" not in parent
        earlier.add(name)


@FILES
def test_whatever_is_installed_is_pinned_with_hashes(path: Path) -> None:
    own = DEBIANS.get(path.parent.name, set())
    debians = [c for c in commands(path) if c[0] == "apt-get"]
    for command in debians:
        named = {word.strip("()") for word in command[2:] if re.match(r"[a-z]", word)}
        assert command[1] in ("update", "install", "clean")
        assert named <= own
    installing = [c for c in commands(path) if {"install", "sync", "build"} & set(c[1:4])]
    installing = [command for command in installing if command not in debians]
    assert len(installing) >= 3
    for command in installing:
        if command[-1] in CUT:  # a line above
            command[-1] = CUT[command[-1]]
        files = [word for word in command if word.startswith("requirements/")]
        if "--no-deps" in command:  # our own wheel, built a line above
            assert "--offline" in command
            continue
        assert "--require-hashes" in command, command
        assert files, command
        assert not any(requirements.check(Path(file).stem) for file in files), command
    assert {"curl", "wget", "git"} & {command[0] for command in commands(path)} == set()


@FILES
def test_whatever_is_copied_is_there(path: Path) -> None:
    ignored, *let_through = (ROOT / ".dockerignore").read_text().split("\n*\n")[-1].split("!")
    allowed = {line.strip() for line in "".join(let_through).splitlines()}
    copied = [t.split() for word, t in instructions(path) if word in ("COPY", "ADD")]
    own = [words for words in copied if not words[0].startswith("--from=")]
    assert own
    assert not ignored.strip()
    for *sources, _ in own:
        for source in sources:
            assert (ROOT / source).exists(), source
            assert Path(source).parts[0] in allowed, source
    others = {words[0].removeprefix("--from=") for words in copied if words not in own}
    assert others <= stages(path).keys()


@FILES
def test_it_runs_as_another_user_than_root_with_one_place_for_caches(path: Path) -> None:
    found = stages(path)
    assert list(found)[-1] in targets(path)  # what `docker build` makes unasked
    for target in targets(path):
        lines = inherited(found, target)
        users = [text for word, text in lines if word == "USER"]
        assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1])
        begins = [json.loads(t) for word, t in lines if word == "ENTRYPOINT"][-1]
        assert begins == ENTRYPOINTS.get(path.parent.name, ["halftone"])
        settings = variables(lines)
        caches = {settings[name] for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
        assert caches == {images.CACHE}
        assert ["mkdir", "-m", "1777", images.CACHE] in list(commands(path))
        assert settings["PYTHONDONTWRITEBYTECODE"] == "1"


@FILES
def test_it_says_what_it_is_and_holds_no_address_and_no_secret(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    for target in targets(path):
        lines = inherited(stages(path), target)
        named = " ".join(t for word, t in lines if word in ("ENV", "ARG", "LABEL")).upper()
        assert not re.search(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY", named)
        labels = {label.split("=")[0] for w, t in lines if w == "LABEL" for label in shlex.split(t)}
        wanted = ("title", "description", "licenses", "version", "revision")
        assert labels >= {f"org.opencontainers.image.{name}" for name in wanted}


def test_what_takes_gigabytes_is_not_built_anew_with_every_commit() -> None:
    path = ROOT / "images" / "endpoint" / "Dockerfile"
    for target in targets(path):
        lines = inherited(stages(path), target)
        since = lines[lines.index(("ARG", "VERSION=unknown")) :]
        assert {word for word, _ in since} == {"ARG", "LABEL"}


def test_what_is_for_no_release_says_so_and_is_not_built_unasked() -> None:
    path = ROOT / "images" / "endpoint" / "Dockerfile"
    found = stages(path)
    stubbed = {n for n in found if ("COPY", "--from=stub /stub /opt/halftone") in found[n].lines}
    labelled = {n for n in found if 'dev.halftone.released="never"' in str(found[n].lines)}
    assert stubbed == labelled == {"endpoint-cpu"}
    assert list(found)[-1] == "endpoint"


def test_every_image_of_a_pipelines_tasks_has_kfp() -> None:
    packages = "/opt/halftone/lib/python3.11/site-packages"
    with_kfp = {
        image.target
        for image in images.IMAGES.values()
        if ("COPY", f"--from=kfp /kfp {packages}")
        in inherited(stages(image.dockerfile), image.target)
    }
    assert with_kfp == {"task", "cpu", "gpu", "endpoint", "endpoint-cpu"}


def test_the_compiler_for_gpus_is_of_the_version_of_the_libraries() -> None:
    pinned = requirements.pins((ROOT / "requirements" / "serve-gpu.txt").read_text())
    parts = ("cuda-runtime", "cuda-nvrtc", "cuda-nvcc", "cuda-crt", "nvvm", "cuda-cccl")
    versions = {part: pinned[f"nvidia-{part}"].split(".")[:2] for part in parts}
    assert len({tuple(version) for version in versions.values()}) == 1, versions


def run_tool(tmp_path: Path, *words: str, path: str | None = None, **said: str) -> tuple[int, str]:
    """The tool with stand-ins for both programs: its status, and what it said was wrong.

    `said` is what they answer: `SIZE` of an image, `WRITABLE` files in a container.
    """
    folder = tmp_path / "path"
    folder.mkdir(exist_ok=True)
    for name in ("buildah", "mmdebstrap"):
        (folder / name).write_text(STAND_IN.format(log=tmp_path / "log", base=images.BASE))
        (folder / name).chmod(0o755)
    settings = {**os.environ, "PATH": path or f"{folder}:/usr/bin:/bin"}
    settings |= {"HALFTONE_IMAGES_DIR": str(tmp_path / "store"), "SIZE": "4 GB", **said}
    command = [sys.executable, "-m", "tools.images", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_the_base_is_made_once_and_nothing_is_pulled_or_copied_from_the_machine(
    tmp_path: Path,
) -> None:
    code, said = run_tool(tmp_path, "build")
    assert (code, said) == (0, "")
    called = (tmp_path / "log").read_text().splitlines()
    assert len([line for line in called if f" {images.BASE}" in line and "commit" in line]) == 1
    built = [line for line in called if " bud " in line]
    assert len(built) == len(images.IMAGES)
    for line in built:
        assert "--pull=never" in line
        assert all(mount.endswith(":ro") for mount in re.findall(r"--volume (\S+)", line))
        assert f"--root {tmp_path}/store/" in line


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A store with all images."""
    assert run_tool(tmp_path, "build") == (0, "")
    (tmp_path / "log").write_text(" commit \n")
    return tmp_path


def test_a_check_runs_twice_with_nothing_to_write_but_cache_and_work(built: Path) -> None:
    code, said = run_tool(built, "check", WRITABLE=images.CACHE, SIZE="200 MB")
    assert (code, said) == (0, "")
    runs = [line for line in (built / "log").read_text().splitlines() if " run " in line]
    checks = [line for line in runs if line.endswith(" sh /check/check.sh")]
    assert len(checks) == 2 * len(images.IMAGES)
    assert len([line for line in checks if " --user " in line]) == len(images.IMAGES)
    for line in runs:
        mounts = [mount.split(":", 1)[1] for mount in re.findall(r"--volume (\S+)", line)]
        writable = {place for place in mounts if not place.endswith(":ro")}
        assert writable == ({images.CACHE, "/work"} if line in checks else {images.CACHE})
        assert {"/tmp:ro", "/var/tmp:ro", "/run/lock:ro"} <= set(mounts)


def test_an_image_that_outgrows_its_limit_is_told(built: Path) -> None:
    code, said = run_tool(built, "check", "halftone-calibrator", SIZE="9 GB")
    limit = images.IMAGES["halftone-calibrator"].most_mb
    assert code == 1
    assert said == (f"images: halftone-calibrator is 8824 MB above its base, more than {limit}.\n")


def test_a_file_that_its_user_may_write_is_told(built: Path) -> None:
    code, said = run_tool(built, "check", "halftone-calibrator", WRITABLE="/opt/halftone/.lock")
    assert code == 1
    assert said == ("images: the user of halftone-calibrator can write to /opt/halftone/.lock.\n")


def test_an_image_that_is_not_built_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    code, said = run_tool(tmp_path, "check", "halftone-calibrator")
    assert code == 1
    assert said == (
        "images: halftone-calibrator is not built; "
        "run `python -m tools.images build halftone-calibrator`.\n"
    )


def test_a_saved_image_is_written_again_only_when_it_is_another(built: Path) -> None:
    archive = built / "image.tar"
    for _ in range(2):
        assert run_tool(built, "save", "halftone-worker", str(archive), SIZE="id") == (0, "")
    pushed = [line for line in (built / "log").read_text().splitlines() if " push " in line]
    wanted = f"docker-archive:{archive}:localhost/halftone-worker:{images.version()}"
    assert [line.split()[-1] for line in pushed] == [wanted]
    assert run_tool(built, "save", "halftone-worker", str(archive), SIZE="another") == (0, "")
    pushed = [line for line in (built / "log").read_text().splitlines() if " push " in line]
    assert len(pushed) == 2


def test_the_table_of_symbols_is_cut_from_a_library_that_still_loads(tmp_path: Path) -> None:
    found = find_spec("llvmlite")
    assert found is not None
    assert found.origin is not None
    whole = Path(found.origin).parent / "binding" / "libllvmlite.so"
    library = tmp_path / "library.so"
    library.write_bytes(whole.read_bytes())
    before = library.stat().st_size
    tool = ROOT / "images" / "worker" / "cut_symbols.py"
    subprocess.run([sys.executable, str(tool), str(library)], check=True)
    assert library.stat().st_size < before
    assert ctypes.CDLL(str(library)).LLVMPY_AddModule


def test_a_missing_program_is_named_with_its_remedy(tmp_path: Path) -> None:
    code, said = run_tool(tmp_path, "build", path=str(tmp_path / "nothing"))
    assert code == 1
    assert said.endswith("is missing; `apt-get install buildah mmdebstrap` brings it.\n")


@pytest.mark.parametrize("words", [("push",), ("build", "nginx"), ("run",), ("save",)])
def test_what_is_no_verb_or_image_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    code, said = run_tool(tmp_path, *words)
    assert code == 1
    assert said.startswith(
        "images: `build`, `check`, `run`, `save IMAGE FILE` or `clean`, and names of halftone-"
    )

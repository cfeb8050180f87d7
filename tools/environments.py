"""Makes the environments: uv itself, `.venv`, and those in `.venvs`.

Called by the Makefile before whatever needs one. It runs on a bare Python 3.11 with nothing but
its standard library, installs exactly what `requirements/*.txt` pins, and leaves a file `ready`
in the environment, with the digest of what was installed. It must not resolve versions
(`tools/requirements.py` does) and must not take anything that has no hash.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.requirements import FOLDER, ROOT, UV


@dataclass(frozen=True)
class Environment:
    """A virtual environment, its requirement file, and sources of this checkout that it holds:
    our own, unless `checkout` is False, and `stubs`.
    """

    folder: Path
    requirements: str
    stubs: tuple[Path, ...] = ()
    checkout: bool = True

    @property
    def python(self) -> Path:
        """The interpreter inside."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """The file that says what was installed last; absent while an installation runs."""
        return self.folder / "ready"


UV_FOLDER = UV.parent.parent
DEVELOPMENT = Environment(ROOT / ".venv", "dev.txt")
ENVIRONMENTS = {
    "dev": DEVELOPMENT,
    "quantize": Environment(ROOT / ".venvs" / "quantize", "quantize-dev.txt"),
    "serve": Environment(
        ROOT / ".venvs" / "serve", "serve.txt", stubs=(ROOT / "stubs" / "vllm-dist",)
    ),
    "serve-gpu": Environment(ROOT / ".venvs" / "serve-gpu", "serve-gpu.txt"),
    "kubeflow": Environment(ROOT / ".venvs" / "kubeflow", "kubeflow-e2e.txt", checkout=False),
}


def interpreter(name: str) -> Path:
    """The Python to run peers of `name` with: `HALFTONE_<NAME>_PYTHON`, else the one made here."""
    variable = f"HALFTONE_{name.upper().replace('-', '_')}_PYTHON"
    return Path(os.environ.get(variable) or ENVIRONMENTS[name].python)


def make_uv() -> None:
    """Install the pinned uv with the standard library's own venv and pip."""
    run(sys.executable, "-m", "venv", "--clear", UV_FOLDER)
    pip = (UV_FOLDER / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--require-hashes", "-r", FOLDER / "bootstrap.txt")
    (UV_FOLDER / "ready").write_text(digest("bootstrap.txt"))


def make(environment: Environment) -> None:
    """Bring an environment to what its requirement file pins, and put the checkout in it.

    Does nothing but renew the checkout's own metadata when the pins have not changed.
    """
    wanted = digest(environment.requirements)
    if not environment.stamp.exists() or environment.stamp.read_text() != wanted:
        print(f"making {environment.folder.relative_to(ROOT)} …", flush=True)
        environment.stamp.unlink(missing_ok=True)
        if not environment.python.exists():
            run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, environment.folder)
        pins = ("--require-hashes", "--compile-bytecode", FOLDER / environment.requirements)
        run(UV, "pip", "sync", "--quiet", "--python", environment.python, *pins)
    if environment.checkout:
        install_sources(environment)
    environment.stamp.write_text(wanted)


def install_sources(environment: Environment) -> None:
    """Install the checkout (editable) and the stubs, built by the pinned hatchling of `.venv`."""
    with tempfile.TemporaryDirectory() as folder:
        hatchling = (DEVELOPMENT.python, "-m", "hatchling", "build", "--directory", folder)
        run(*hatchling, "--target", "wheel:editable", cwd=ROOT)
        for stub in environment.stubs:
            run(*hatchling, "--target", "wheel", cwd=stub)
        wheels = sorted(Path(folder).glob("*.whl"))
        # Reinstalled because neither version changes when the content does.
        options = ("--quiet", "--no-deps", "--offline", "--no-cache", "--reinstall")
        run(UV, "pip", "install", "--python", environment.python, *options, *wheels)


def digest(requirements: str) -> str:
    """The SHA-256 of a requirement file."""
    return hashlib.sha256((FOLDER / requirements).read_bytes()).hexdigest()


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command and show what it said only when it failed; then leave with its status."""
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="", file=sys.stderr)
        sys.exit(f"`{' '.join(map(str, command))}` failed with status {done.returncode}.")


@contextmanager
def alone() -> Iterator[None]:
    """Wait for any other process that makes environments in this checkout."""
    UV_FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with (UV_FOLDER.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(names: list[str]) -> None:
    """Make `uv` or the environments that are named, in that order."""
    with alone():
        for name in names:
            if name == "uv":
                make_uv()
            else:
                make(ENVIRONMENTS[name])


if __name__ == "__main__":
    main(sys.argv[1:])

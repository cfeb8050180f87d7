"""Obtains programs out of Debian's packages without installing any, for tests.

Called by `make debian-tools`, and by the tests to find what it obtained. It runs on a bare Python
3.11 with nothing but its standard library, on Debian 12 and with any user's rights: apt gets a
state of its own, so neither the system's lists nor its packages change. The programs go into the
cache of tools/servers.py, once a machine:

    python -m tools.debian obtain            what is not there yet
    python -m tools.debian path promtool     where it lies

A program of another version than the one that we hold ourselves to is refused. It must not install:
that is tools/packages.py, and a package of a server would start it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.servers import alone, cache_folder


@dataclass(frozen=True)
class Packaged:
    """One program: its package, where it lies in there, and the version that it must say."""

    package: str
    path: str
    version: str


# What Debian 12 has; rules and suites pass it too.
PROGRAMS = {"promtool": Packaged("prometheus", "usr/bin/promtool", "2.42")}


def program(name: str) -> Path:
    """Where the program lies once it is obtained."""
    wanted = PROGRAMS[name]
    return cache_folder() / f"debian-{wanted.package}-{wanted.version}" / name


def obtain(name: str) -> None:
    """Fetch its package and take it out, unless it is there; leaves with a sentence otherwise."""
    wanted, target = PROGRAMS[name], program(name)
    with alone(target.exists):
        if target.exists():
            return
        if any(shutil.which(each) is None for each in ("apt-get", "dpkg-deb")):
            sys.exit(
                f"debian: {name} {wanted.version} comes from Debian 12's package "
                f"`{wanted.package}`, and apt-get and dpkg-deb are not here; run it on Debian 12."
            )
        print(f"fetching {name} of Debian's {wanted.package} …", flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            found = _taken_out(wanted, Path(folder))
            _check(name, wanted, found)
            found.rename(target)


def _taken_out(wanted: Packaged, folder: Path) -> Path:
    """The program out of the package that apt downloads into a folder."""
    state = folder / "state"
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "archives" / "partial").mkdir(parents=True)
    apt = (
        *("apt-get", "--quiet", "--yes"),
        *("--option", f"Dir::State::Lists={state / 'lists'}"),
        *("--option", f"Dir::Cache={state}"),
        # Whom root hands downloads to may not write into this folder.
        *("--option", "APT::Sandbox::User=root"),
    )
    _run((*apt, "update"), folder)
    _run((*apt, "download", wanted.package), folder)
    packages = sorted(folder.glob(f"{wanted.package}_*.deb"))
    if len(packages) != 1:
        sys.exit(f"debian: apt-get downloaded no `{wanted.package}`.")
    _run(("dpkg-deb", "--extract", str(packages[0]), str(folder / "files")), folder)
    return folder / "files" / wanted.path


def _run(command: tuple[str, ...], folder: Path) -> None:
    settings = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, cwd=folder, env=settings, check=False, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        shown = " ".join(word for word in command if "::" not in word and word != "--option")
        sys.exit(f"debian: `{shown}` failed, see above; it needs a mirror of Debian 12.")


def _check(name: str, wanted: Packaged, path: Path) -> None:
    """Leave with a sentence unless the program is there, runs, and says the version."""
    said = ""
    if path.exists():
        done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)
        said = done.stdout + done.stderr
    if not re.search(rf"version {re.escape(wanted.version)}\b", said):
        told = said.partition("\n")[0] or "nothing"
        sys.exit(
            f"debian: {name} of this machine's Debian says {told!r}, and we hold ourselves to "
            f"{wanted.version}, which Debian 12 has; run it there."
        )


def main(arguments: list[str]) -> None:
    """`obtain [NAME …]` or `path NAME`."""
    verb, *names = arguments or ["obtain"]
    if set(names) - PROGRAMS.keys() or verb not in ("obtain", "path"):
        sys.exit(f"debian: `obtain` or `path`, then names of {', '.join(PROGRAMS)}.")
    for name in names or PROGRAMS:
        if verb == "obtain":
            obtain(name)
        else:
            print(program(name))


if __name__ == "__main__":
    main(sys.argv[1:])

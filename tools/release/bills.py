"""What each image holds, as a bill of materials in CycloneDX (`*.cdx.json`).

Called by `python -m tools.release check`. Python's packages are those of the requirement files that
the Dockerfile installs, for Linux on x86_64, less those that it takes out again; cyclonedx-bom
reads them. Debian's are those that the Dockerfile names. Their versions, and what the base image
has, are known of a built image alone:

    python -m tools.images run NAME dpkg-query --show > build/release/dpkg/NAME.txt

Where there is such a file, all of it is listed. Where there is one of what Python finds inside
(build/release/python/NAME.txt, a `name==version` a line), the bill is held against it. What a bill
does not hold, it says itself (`notListed` in its properties). It must not state a version that
nothing pins.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.images import IMAGES, version
from tools.requirements import FOLDER

_TARGET: Final = {
    "python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux",
    "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix",
    "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
}  # fmt: skip
_CLIENTS: Final = (
    "httpcore", "httpx", "httpx-ws", "kr8s", "pygments", "python-box", "python-jsonpath", "wsproto",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What an image is made of: requirement set, packages taken out, `kfp` put in, Debian's own;
    `ours` are distributions of this checkout.
    """

    requirements: str
    without: tuple[str, ...] = ()
    kfp: bool = False
    debian: tuple[str, ...] = ()
    ours: tuple[str, ...] = ("halftone",)


PARTS: Final = {
    "halftone-operator": Parts("operator", ("numpy",)),
    "halftone-worker": Parts("default", _CLIENTS),
    "halftone-task": Parts("default", _CLIENTS, kfp=True),
    "halftone-calibrator": Parts("quantize", ("triton",), kfp=True),
    "halftone-calibrator-gpu": Parts("quantize", kfp=True),
    "halftone-endpoint": Parts("serve-gpu", kfp=True, debian=("g++", "wget", "libpython3.11-dev")),
    "halftone-endpoint-cpu": Parts(
        "serve", ("triton",), kfp=True, debian=("libnuma1", "wget"), ours=("halftone", "vllm")
    ),
}
_BASE: Final = (
    "The Debian packages of the base image, Python among them, and versions of those that the "
    "Dockerfile installs: they are known of a built image alone."
)
_ALWAYS: Final = (
    "Libraries that wheels carry inside. Which files of a package the Dockerfile removes. "
    "Dependencies between packages. Licences: licences.json has them."
)


def requirements_of(name: str) -> str:
    """The text of the requirements that are in the image, one pinned package a line."""
    parts = PARTS[name]
    lines = [*_pinned(FOLDER / f"{parts.requirements}.txt")]
    if parts.kfp:
        known = {Requirement(line.split(" --hash")[0]).name for line in lines}
        more = _pinned(FOLDER / "task.txt")
        lines += [line for line in more if line.startswith("kfp==") and "kfp" not in known]
    kept = (line for line in lines if line.split("==")[0] not in parts.without)
    return "\n".join(sorted(kept)) + "\n"


def _pinned(path: Path) -> Iterator[str]:
    """`name==version --hash=…` of all that Linux on x86_64 gets."""
    for entry in path.read_text(encoding="utf-8").replace(" \\\n", " ").splitlines():
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        stated, *hashes = entry.split(" --hash=")
        requirement = Requirement(stated.strip())
        if requirement.marker is None or requirement.marker.evaluate(_TARGET):
            pin = f"{requirement.name}{requirement.specifier}"
            yield " ".join([pin, *(f"--hash={one.strip()}" for one in hashes)])


def write(name: str, output: Path, packages: Path | None = None) -> Path:
    """The bill of one image. `packages` is what `dpkg-query --show` says inside of it.

    Raises subprocess.CalledProcessError with what cyclonedx-bom says.
    """
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "-", "--output-reproducible"]
    found = subprocess.run(
        [*command, "--output-format", "JSON"],
        input=requirements_of(name), capture_output=True, text=True, check=True,
    )  # fmt: skip
    bill = completed(json.loads(found.stdout), name, packages)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}.cdx.json"
    path.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    return path


def completed(bill: dict[str, Any], name: str, packages: Path | None) -> dict[str, Any]:
    """A bill of requirements as that of the image: with its name, Halftone, Debian's packages, and
    what it does not hold.
    """
    components = [*bill["components"], _halftone(), *debian_packages(name, packages)]
    image = {"type": "container", "name": name, "version": version(), "bom-ref": name}
    missing = _ALWAYS if packages is not None else f"{_BASE} {_ALWAYS}"
    told = [{"name": "notListed", "value": missing}]
    metadata = {**bill["metadata"], "component": image, "properties": told}
    return {**bill, "components": components, "metadata": metadata}


def _halftone() -> dict[str, Any]:
    return {
        "type": "application", "name": "halftone", "version": version(), "bom-ref": "halftone",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "purl": f"pkg:pypi/halftone@{version()}",
    }  # fmt: skip


def debian_packages(name: str, packages: Path | None) -> Iterator[dict[str, Any]]:
    """Debian's packages: all of a built image, or the Dockerfile's without a version."""
    if packages is None:
        for package in PARTS[name].debian:
            yield _package(package, None)
        return
    for line in packages.read_text(encoding="utf-8").splitlines():
        package, _, stated = line.partition("\t")
        yield _package(package.partition(":")[0], stated)


def _package(name: str, stated: str | None) -> dict[str, Any]:
    at = {"version": stated, "purl": f"pkg:deb/debian/{name}@{stated}"} if stated else {
        "purl": f"pkg:deb/debian/{name}"
    }  # fmt: skip
    return {"type": "library", "name": name, "bom-ref": f"debian-{name}", **at}


def differences(name: str, inside: str) -> list[str]:
    """Where the bill of an image and what Python finds inside of it, a line each, disagree."""
    listed = requirements_of(name).splitlines()
    stated = {_pin(line.split(" --hash")[0]) for line in listed}
    found = {_pin(line) for line in inside.splitlines() if line.strip()}
    found = {(package, at) for package, at in found if package not in PARTS[name].ours}
    return [
        *(f"{name} has {what} {at}, and its bill has not." for what, at in sorted(found - stated)),
        *(f"The bill of {name} has {what} {at}, and the image has not."
          for what, at in sorted(stated - found)),
    ]  # fmt: skip


def _pin(line: str) -> tuple[str, str]:
    name, _, at = line.strip().partition("==")
    return canonicalize_name(name), at


def problems(output: Path) -> list[str]:
    """Write every bill; say what one lacks. `output`'s sisters `dpkg` and `python` may hold lists
    of what built images have.
    """
    sentences = [f"No bill says what {name} is made of." for name in IMAGES.keys() - PARTS.keys()]
    for name in PARTS:
        listed = output.parent / "dpkg" / f"{name}.txt"
        path = write(name, output, listed if listed.is_file() else None)
        held = {one["name"] for one in json.loads(path.read_text(encoding="utf-8"))["components"]}
        wanted = {line.split("==")[0] for line in requirements_of(name).splitlines()}
        sentences += [f"{path.name} lacks {package}." for package in sorted(wanted - held)]
        inside = output.parent / "python" / f"{name}.txt"
        if inside.is_file():
            sentences += differences(name, inside.read_text(encoding="utf-8"))
    return sentences

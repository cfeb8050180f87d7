"""Installs what tests need of Debian: a container runtime, its plugins, image builders, Node.

Called by `make test` before anything else, as root on a bare Python 3.11:

    python -m tools.packages             installs what is missing, and nothing when it is all there
    python -m tools.packages kubeflow    what only `make e2e-kfp` needs

Where it cannot (no root, no apt, no mirror), it ends with a sentence that names what is missing:
tests then fail, for skipping them would prove nothing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# By package: a program that it brings, as a name on PATH or as a path.
PACKAGES: Mapping[str, str] = {
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "mount": "umount",
    "nftables": "nft",
    # Node, for the types that dashboards are held to.
    "nodejs": "node",
    "npm": "npm",
    "runc": "runc",
    "util-linux": "nsenter",
}
# A database, and a compiler for servers that have C in them.
KUBEFLOW: Mapping[str, str] = {
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "mariadb-server-core": "mariadbd",
}
# A user's PATH may lack where Debian puts the programs of administrators.
_PLACES = "/usr/local/sbin:/usr/sbin:/sbin"
_APT = ("apt-get", "--quiet", "--yes", "--option", "Dpkg::Use-Pty=0")


def missing(packages: Mapping[str, str] = PACKAGES) -> list[str]:
    """Those of the packages whose programs are not there."""
    return [package for package, program in packages.items() if not _is_there(program)]


def _is_there(program: str) -> bool:
    if program.startswith("/"):
        return Path(program).exists()
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PLACES}") is not None


def install(packages: list[str]) -> None:
    """Install them with apt; leaves with a sentence where that fails."""
    wanted = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(
            f"packages: {wanted} missing, which the node tier needs; run it as root on Debian, or "
            "install what brings these programs yourself."
        )
    print(f"packages: installing {wanted} …", flush=True)
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (
        (*_APT, "update"),
        (*_APT, "install", "--no-install-recommends", *packages),
    )
    for command in commands:
        done = subprocess.run(command, check=False, env=settings, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            sys.exit(f"packages: `{' '.join(command)}` failed, see above; {wanted} missing.")


def main(arguments: list[str]) -> None:
    """Install what is missing, and see that it is there."""
    packages = KUBEFLOW if arguments == ["kubeflow"] else PACKAGES
    wanted = missing(packages)
    if wanted:
        install(wanted)
    left = missing(packages)
    if left:
        sys.exit(f"packages: {' '.join(left)} installed, and still without their programs.")


if __name__ == "__main__":
    main(sys.argv[1:])

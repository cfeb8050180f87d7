"""What serves, as pods of a test's node get it without an image of seven gigabytes.

    with Node(cluster, network, [endpoint_environment.image(), …]):
        cluster.kubectl("apply", "-f", "-", text=json.dumps(listed(namespace, folder)))
        helm("install", …, "--values", …)        # with `VALUES`

The image is all of `images/endpoint` but Python's packages: those of `.venvs/serve` come from the
node through a read-only claim, and another claim brings the programs and a copy of our sources.
Called by `tests/endpoint`. The interpreter is the image's own, of the same minor version.
"""

import shutil
import stat
from pathlib import Path
from typing import Any, Final

from tests.cluster import own_images
from tests.conftest import ROOT
from tools.environments import interpreter

# Where the image has its environment, and where packages lie there.
_PLACE: Final = "/opt/halftone"
_PACKAGES: Final = "lib/python3.11/site-packages"
_ENVIRONMENT, _LIBRARIES = "environment", "packages"
VOLUMES: Final = (_ENVIRONMENT, _LIBRARIES)
# For the chart: the image, and the claims in their places.
VALUES: Final[dict[str, Any]] = {
    "image": {"registry": own_images.REGISTRY, "pullPolicy": "Never"},
    "images": {"endpoint": own_images.ENDPOINT_BARE},
    "extraVolumes": [
        {"name": name, "persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        for name in VOLUMES
    ],
    "extraVolumeMounts": [
        {"name": _ENVIRONMENT, "mountPath": _PLACE, "readOnly": True},
        {"name": _LIBRARIES, "mountPath": f"{_PLACE}/{_PACKAGES}", "readOnly": True},
    ],
    # Packages name a checkout that pods do not have.
    "environment": {"PYTHONPATH": f"{_PLACE}/src"},
}


def image() -> Path:
    """The archive of the image, built if something of it has changed; as root."""
    (archive,) = own_images.saved(own_images.ENDPOINT_BARE)
    return archive


def listed(namespace: str, folder: Path) -> dict[str, Any]:
    """Volumes and claims for `namespace`; what `.venvs/serve` lacks is written into `folder`."""
    # A link to one elsewhere has programs that name that place.
    serve = interpreter("serve").parent.parent.resolve()
    _write(folder, serve)
    places = {_ENVIRONMENT: folder, _LIBRARIES: serve / _PACKAGES}
    items = [one for name, at in places.items() for one in _volume(namespace, name, at)]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _write(folder: Path, serve: Path) -> None:
    """An environment without packages: the interpreter, the programs, our sources."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (folder / _PACKAGES).mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n", encoding="utf-8")
    for name in ("python", "python3"):
        (programs / name).symlink_to("/usr/bin/python3")
    begins = f"#!{serve}/bin/python".encode()
    for path in (serve / "bin").iterdir():
        if path.is_symlink() or not (text := path.read_bytes()).startswith(begins):
            continue
        written = programs / path.name
        written.write_bytes(f"#!{_PLACE}/bin/python".encode() + text.removeprefix(begins))
        written.chmod(path.stat().st_mode | stat.S_IXOTH)
    shutil.copytree(
        ROOT / "src" / "halftone",
        folder / "src" / "halftone",
        ignore=shutil.ignore_patterns("__pycache__"),
    )


def _volume(namespace: str, name: str, place: Path) -> list[dict[str, Any]]:
    """A folder of the node, and the claim that is bound to it and to nothing else."""
    shape = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    size = {"storage": "20Gi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                **shape,
                "capacity": size,
                "hostPath": {"path": str(place), "type": "Directory"},
                "claimRef": {"namespace": namespace, "name": name},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**shape, "volumeName": name, "resources": {"requests": size}},
        },
    ]

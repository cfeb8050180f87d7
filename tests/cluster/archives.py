"""Images of static binaries, as a docker archive: for what clusters need beside our own images.

Called by `node`, and by what brings further servers into a cluster.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path


def single_binary_image(archive: Path, name: str, binary: Path) -> None:
    """Write an image called `name` that holds `binary` and runs it."""
    # Not at the top, where pods mount their data by the name of the program.
    place = f"bin/{binary.name}"
    layer = _tar({place: (binary.read_bytes(), 0o755)})
    _write(archive, name, layer, {"Entrypoint": [f"/{place}"], "User": "65532"})


def binaries_image(archive: Path, name: str, *binaries: Path) -> None:
    """Write an image called `name` with all of them on its PATH; what runs it says which."""
    _write(archive, name, _tar({f"bin/{b.name}": (b.read_bytes(), 0o755) for b in binaries}), {})


def _write(archive: Path, name: str, layer: bytes, runs: dict[str, object]) -> None:
    """An archive of one layer; `runs` is what a container of it does if not told otherwise."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": runs,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
        }
    ).encode()
    described = f"{_sha256(config)}.json"
    manifest = [{"Config": described, "RepoTags": [name], "Layers": ["layer.tar"]}]
    archive.write_bytes(
        _tar(
            {
                described: (config, 0o644),
                "layer.tar": (layer, 0o644),
                "manifest.json": (json.dumps(manifest).encode(), 0o644),
            }
        )
    )


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""Builds the images of `images/` where there is neither Docker nor a registry of images.

Called by `make images`. Elsewhere `docker build -f images/NAME/Dockerfile .` does the same. It runs
as root on a bare Python 3.11 with nothing but its standard library, and needs two programs of
Debian, buildah and mmdebstrap:

    python -m tools.images build [IMAGE …]     and the base image first, when it is not there
    python -m tools.images check [IMAGE …]     what is built: its size, its files, and that it works
    python -m tools.images run IMAGE COMMAND …
    python -m tools.images save IMAGE FILE     a docker archive, for a machine that cannot pull
    python -m tools.images clean               remove all of it; rebuilding leaves old layers behind

The base image that a Dockerfile names is made of Debian's own packages: the same distribution and
the same minor version of Python. Certificates and the settings of pip and uv are only mounted, so
no layer holds an address. A container runs as on a cluster that allows little: as no root, and with
nothing that it can write but its cache and what is mounted. It must not push anything.
"""

import fcntl
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES_FOLDER = ROOT / "images"
BASE = "python:3.11-slim-bookworm"

# What the official image of that name has, as far as ours use it.
_BASE_PACKAGES = "ca-certificates,netbase,tzdata,python3,python3-venv"
_UNREAD = ("doc", "info", "locale", "man")
_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_SETTINGS = ("/etc/pip.conf", "/etc/uv/uv.toml", "/etc/apt/sources.list.d/debian.sources")

# Where an image keeps what it can make again; on a cluster an empty volume.
CACHE = "/var/cache/halftone"
# Where anybody may write on a base image, and nobody where the root is read-only.
_EVERYBODYS = ("/tmp", "/var/tmp", "/run/lock")  # noqa: S108 - sealed, not used
# Some clusters choose the user: an id that the image does not know, of the group root.
_ANOTHER_USER = "4711:0"
_WRITABLE = "find / -xdev -writable ! -type l 2>/dev/null || true"


@dataclass(frozen=True)
class Image:
    """One image: the folder of `images` that describes it, the stage to build, the most it may be.

    The folder holds a `Dockerfile` and, in its folder `checks`, a `check.sh` that runs inside.
    `most_mb` are megabytes (10^6) above the base image.
    """

    folder: str
    target: str
    most_mb: int
    checks: str = "check"

    @property
    def dockerfile(self) -> Path:
        """Where it is described."""
        return IMAGES_FOLDER / self.folder / "Dockerfile"

    @property
    def check(self) -> Path:
        """The folder with its own check."""
        return IMAGES_FOLDER / self.folder / self.checks


IMAGES = {
    "halftone-operator": Image("operator", "operator", most_mb=130),
    "halftone-worker": Image("worker", "worker", most_mb=370),
    "halftone-task": Image("worker", "task", most_mb=380, checks="check-task"),
    "halftone-calibrator": Image("calibrator", "cpu", most_mb=5300),
    "halftone-calibrator-gpu": Image("calibrator", "gpu", most_mb=6000),
    "halftone-endpoint": Image("endpoint", "endpoint", most_mb=10500),
    "halftone-endpoint-cpu": Image("endpoint", "endpoint-cpu", most_mb=6900, checks="check-cpu"),
}
# Not built by default: the one above without Python's packages, which tests on a node mount.
BARE = {"halftone-endpoint-bare": Image("endpoint", "runtime-cpu", most_mb=10)}


def build(name: str) -> None:
    """Build one image into the store; unchanged steps are taken from the last build."""
    image = (IMAGES | BARE)[name]
    if not _exists(BASE):
        make_base()
    print(f"building {name} …", flush=True)
    begun = time.monotonic()
    with _mounts() as mounts:
        _buildah(
            "bud", "--quiet", "--layers", "--isolation", "chroot", "--pull=never",
            "--network", "host", *mounts,
            "--build-arg", f"VERSION={version()}", "--build-arg", f"REVISION={_revision()}",
            "--target", image.target, "--file", image.dockerfile, "--tag", name, ROOT,
        )  # fmt: skip
    took = time.monotonic() - begun
    print(f"{name}: {megabytes(name):.0f} MB, base included; {took:.0f} s", flush=True)


def make_base() -> None:
    """Make the stand-in for the official image from packages of Debian; takes minutes."""
    print(f"making a stand-in for {BASE} from Debian's packages …", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "base.tar")
        unread = [f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in _UNREAD]
        options = ["--quiet", "--variant=minbase", f"--include={_BASE_PACKAGES}", *unread]
        # The archive's lists name the mirror that was used.
        forget = '--customize-hook=rm -rf "$1"/etc/apt/sources.list* "$1"/var/lib/apt/lists/*'
        _run(_program("mmdebstrap"), *options, forget, BASE.rpartition("-")[2], archive)
        container = _said("from", "scratch")
        try:
            _buildah("add", "--quiet", container, archive, "/")
            link = "ln -s /usr/bin/python3 /usr/local/bin/python"
            _buildah("run", "--isolation", "chroot", container, "--", "/bin/sh", "-c", link)
            _buildah("config", "--cmd", "python3", "--env", "LANG=C.UTF-8", container)
            _buildah("commit", "--quiet", container, BASE)
        finally:
            _buildah("rm", container, quiet=True)


def megabytes(name: str) -> float:
    """The size of an image in the store, all its layers unpacked, to three digits."""
    number, unit = _said("images", "--format", "{{.Size}}", name).split()
    return float(number) * {"B": 1e-6, "kB": 1e-3, "MB": 1, "GB": 1e3}[unit]


def check(name: str) -> None:
    """Check the image's size and files, then run its own check as its user, and as another one.

    Each run has an empty work directory and the examples. Leaves with a sentence when it fails.
    """
    print(f"checking {name} …", flush=True)
    _require_built(name)
    image, above = IMAGES[name], megabytes(name) - megabytes(BASE)
    print(f"{name}: {above:.0f} MB above its base, at most {image.most_mb}", flush=True)
    if above > image.most_mb:
        sys.exit(f"images: {name} is {above:.0f} MB above its base, more than {image.most_mb}.")
    with _container(name) as (container, sealed):
        found = _said("run", *sealed, container, "--", "sh", "-c", _WRITABLE).splitlines()
    loose = sorted({*found} - {CACHE})
    if loose:
        sys.exit(f"images: the user of {name} can write to {', '.join(loose[:5])}.")
    for user in (None, _ANOTHER_USER):
        with tempfile.TemporaryDirectory() as work:
            Path(work).chmod(0o777)
            shared = (
                f"{image.check}:/check:ro",
                f"{ROOT / 'examples'}:/examples:ro",
            )
            run(name, ("sh", "/check/check.sh"), (*shared, f"{work}:/work"), user)


def run(
    name: str, command: tuple[str, ...], mounts: tuple[str, ...] = (), user: str | None = None
) -> None:
    """Run a command in a fresh container, as the image's user or another one.

    Nothing can be written but the cache and what is mounted. Leaves with a sentence when it fails.
    """
    _require_built(name)
    shares = [word for mount in mounts for word in ("--volume", mount)]
    as_user = ("--user", user) if user else ()
    with _container(name) as (container, sealed):
        _buildah("run", *sealed, *as_user, *shares, container, "--", *command)


def save(name: str, archive: Path, reference: str) -> None:
    """Write the image to a docker archive, as `reference`; one that holds it stays as it is."""
    _require_built(name)
    known = _said("inspect", "--type", "image", "--format", "{{.FromImageID}}", name)
    holds = f"{known} {reference}"
    note = archive.with_name(f"{archive.name}.holds")
    if archive.exists() and note.exists() and note.read_text() == holds:
        return
    archive.parent.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    archive.unlink(missing_ok=True)
    _buildah("push", "--quiet", name, f"docker-archive:{archive}:{reference}", quiet=True)
    note.write_text(holds)


def clean() -> None:
    """Remove every image, container and layer of the store."""
    if store().exists():
        _buildah("rm", "--all", quiet=True)
        _buildah("rmi", "--all", "--force", quiet=True)
        subprocess.call(["umount", str(store() / "images" / "overlay")], stderr=subprocess.DEVNULL)
        shutil.rmtree(store())


def _require_built(name: str) -> None:
    if not _exists(name):
        sys.exit(f"images: {name} is not built; run `python -m tools.images build {name}`.")


@contextmanager
def _container(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A fresh container, and the options of a run in it that leave nothing to write but a cache.

    All else belongs to root, who does not run here, so that is what a read-only root leaves too.
    """
    # HAProxy asks for ten thousand open files, which buildah does not allow by itself.
    container = _said("from", "--pull-never", "--ulimit", "nofile=16384:16384", name)
    try:
        with tempfile.TemporaryDirectory() as folder:
            cache, nothing = Path(folder, "cache"), Path(folder, "nothing")
            nothing.mkdir()
            cache.mkdir()
            cache.chmod(0o777)
            mounts = [f"{cache}:{CACHE}", *(f"{nothing}:{place}:ro" for place in _EVERYBODYS)]
            volumes = [word for mount in mounts for word in ("--volume", mount)]
            yield container, ("--isolation", "chroot", *volumes)
    finally:
        _buildah("rm", container, quiet=True)


@contextmanager
def _mounts() -> Iterator[list[str]]:
    """What the build sees of this machine, read-only: certificates, settings of pip and uv."""
    with tempfile.TemporaryDirectory() as folder:
        trusting = Path(folder, "uv.toml")
        trusting.write_text("system-certs = true\n")
        shared = {_CA_BUNDLE: ssl.get_default_verify_paths().cafile or _CA_BUNDLE}
        shared |= {path: path for path in _SETTINGS if Path(path).exists()}
        shared.setdefault("/etc/uv/uv.toml", str(trusting))
        yield [word for to, at in shared.items() for word in ("--volume", f"{at}:{to}:ro")]


def _exists(name: str) -> bool:
    command = [*_command(), "inspect", "--type", "image", name]
    return subprocess.run(command, check=False, capture_output=True, env=_env()).returncode == 0


def _buildah(*arguments: str | Path, quiet: bool = False) -> None:
    _run(*_command(), *arguments, env=_env(), quiet=quiet)


def _said(*arguments: str | Path) -> str:
    """What buildah prints; leaves with a sentence when it fails, for it has then said why."""
    command = [*_command(), *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=_env())
    if done.returncode:
        sys.exit(f"images: `buildah {arguments[0]}` failed; see above.")
    return done.stdout.strip()


def _command() -> list[str]:
    """buildah with a store of our own, outside of the checkout."""
    folder = store()
    return [
        _program("buildah"), "--root", str(folder / "images"), "--runroot", str(folder / "run"),
        "--storage-driver", "overlay",
    ]  # fmt: skip


def _env() -> dict[str, str]:
    """Our environment, with layers that are being written in the store too: they have gigabytes."""
    temporary = store() / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {**os.environ, "TMPDIR": str(temporary)}


def store() -> Path:
    """`HALFTONE_IMAGES_DIR`, else this user's cache folder."""
    own = os.environ.get("HALFTONE_IMAGES_DIR")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own).absolute() if own else Path(caches) / "halftone" / "images"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        sys.exit(f"images: {name} is missing; `apt-get install buildah mmdebstrap` brings it.")
    return found


def _run(*command: str | Path, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command; leaves with a sentence when it fails, for it has then said why."""
    out = subprocess.DEVNULL if quiet else None
    if subprocess.call([str(word) for word in command], stdout=out, env=env) != 0:
        sys.exit(f"images: `{Path(command[0]).name} {command[-1]}` failed; see above.")


def version() -> str:
    """Halftone's own, which is the tag that the chart asks for."""
    text = (ROOT / "src" / "halftone" / "__init__.py").read_text()
    return text.partition('__version__ = "')[2].partition('"')[0]


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


@contextmanager
def _alone() -> Iterator[None]:
    """Wait for any other process that uses this store."""
    store().parent.mkdir(parents=True, exist_ok=True)
    with store().with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> None:
    """`build` or `check` with names, `run IMAGE COMMAND …`, `save IMAGE FILE`, or `clean`."""
    verb, *words = arguments or ["build"]
    names = words[:1] if verb in ("run", "save") else words or list(IMAGES)
    known = verb in ("build", "check", "run", "clean") or (verb == "save" and len(words) == 2)
    images = IMAGES if verb == "check" else IMAGES | BARE
    if not known or set(names) - images.keys() or not names:
        sys.exit(
            "images: `build`, `check`, `run`, `save IMAGE FILE` or `clean`, and names of "
            f"{', '.join(IMAGES)}."
        )
    with _alone():
        if verb == "run":
            run(names[0], tuple(words[1:]))
        elif verb == "save":
            save(names[0], Path(words[1]), f"localhost/{names[0]}:{version()}")
        elif verb == "clean":
            clean()
        else:
            for name in names:
                (build if verb == "build" else check)(name)


if __name__ == "__main__":
    main(sys.argv[1:])

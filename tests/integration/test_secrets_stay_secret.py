"""Secrets of the environment are used and never written: a whole job, and every way it can fail.

Keys, tokens and passwords are planted; then everything that was written is searched for them: work
directory, target, caches, home and temporary files, standard output and error, and tracebacks with
all that led to them. We test these aspects:
- the search finds what lies somewhere, in any of the forms that it knows
- a whole signed job to a real S3 server, and to the Hub's double
- a wrong key, a denied session, a read-only token, a signing key that is none
- a refused connection whose address holds a password
"""

import base64
import os
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from halftone.cli.stages import STAGES
from halftone.publish.keys import generate_key
from halftone.spec.errors import HalftoneError
from halftone.spec.names import CACHE_DIRECTORY, SIGNING_KEY_FILE
from tests.builders import write_checkpoint
from tests.commands import halftone
from tests.conftest import is_foreign
from tests.destinations import Destination, in_bucket, on_hub
from tests.doubles.hub_writing import HubWritingDouble
from tests.jobs import write_job
from tests.servers.versitygw import VersityGateway

TOKEN = "hf_" + "PlantedToken" * 3
SESSION = "PlantedSession" * 3
WRONG_KEY = "PlantedWrongKey+/" * 3
PASSWORD = "PlantedPassword"
NO_KEY = "-----BEGIN PRIVATE KEY-----\nUGxhbnRlZEtleVRoYXRJc05vS2V5\n-----END PRIVATE KEY-----\n"

Environment = dict[str, str]


@dataclass(frozen=True)
class Finished:
    """A model, a work directory with a passed report, and the report's digest."""

    model: Path
    workdir: Path
    digest: str


@dataclass(frozen=True)
class Said:
    """How a command in a process of its own ended."""

    code: int
    out: str
    err: str


class Secrets:
    """What was planted, and the search for it."""

    def __init__(self, s3_secret: str, key: Path) -> None:
        self.key = key
        self._forms: dict[str, list[bytes]] = {}
        texts = {
            "AWS_SECRET_ACCESS_KEY": s3_secret,
            "AWS_SESSION_TOKEN": SESSION,
            "HF_TOKEN": TOKEN,
            "the wrong key": WRONG_KEY,
            "the password": PASSWORD,
            "the key that is none": NO_KEY.splitlines()[1],
        }
        for name, text in texts.items():
            plain = text.encode()
            self._forms[name] = [
                plain,
                quote(text, safe="").encode(),
                base64.b64encode(plain),
                plain.hex().encode(),
            ]
        private = load_pem_private_key(key.read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        scalar = private.private_numbers().private_value.to_bytes(32, "big")
        lines = key.read_bytes().splitlines()[1:-1]
        self._forms["the private key"] = [*lines, scalar, scalar.hex().encode()]

    def found_in(self, data: bytes) -> set[str]:
        """The names of the secrets that `data` holds in any form."""
        return {
            name for name, forms in self._forms.items() if any(form in data for form in forms)
        }

    def found_below(self, *folders: Path) -> dict[str, set[str]]:
        """By path: what lies in files, their names included; the private key's own is left out."""
        found = {}
        for folder in folders:
            for path in folder.rglob("*"):
                data = str(path).encode()
                if path.is_file() and path != self.key:
                    data += path.read_bytes()
                if names := self.found_in(data):
                    found[str(path)] = names
        return found


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for all commands, and searched like everything else."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """All stages but publishing, done."""
    folder = tmp_path_factory.mktemp("finished")
    write_checkpoint(folder / "model", "qwen3_5")
    work, job = folder / "work", write_job(folder, publish=None)
    assert halftone("stage", "plan", "--workdir", work, "--job", job).code == 0
    assert halftone("stage", "quantize", "--workdir", work).code == 0
    return Finished(
        folder / "model", work, halftone("stage", "validate", "--workdir", work).out.strip()
    )


@pytest.fixture
def secrets(tmp_path: Path, s3_server: VersityGateway) -> Secrets:
    key = tmp_path / "key"
    generate_key(key)
    return Secrets(s3_server.secret_key, key)


@pytest.fixture
def hub() -> Iterator[HubWritingDouble]:
    with HubWritingDouble(TOKEN) as double:
        yield double


@pytest.fixture
def planted(
    secrets: Secrets, s3_server: VersityGateway, hub: HubWritingDouble, kernels: Path, tmp_path: Path
) -> Environment:
    """An environment with every secret, in which all servers are reached and all files are ours."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    return s3_server.environment | {
        "HF_TOKEN": TOKEN,
        "HF_ENDPOINT": hub.endpoint,
        SIGNING_KEY_FILE: str(secrets.key),
        CACHE_DIRECTORY: str(kernels),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "AWS_MAX_ATTEMPTS": "2",
    }


@pytest.fixture
def destinations(
    s3_server: VersityGateway, bucket: str, hub: HubWritingDouble
) -> dict[str, Destination]:
    return {"s3": in_bucket(s3_server, bucket), "hub": on_hub(hub)}


def command(environment: Environment, *arguments: str | Path) -> Said:
    kept = {name: value for name, value in os.environ.items() if not is_foreign(name)}
    done = subprocess.run(
        [sys.executable, "-m", "halftone", *map(str, arguments)],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def job_for(finished: Finished, destination: Destination, folder: Path) -> Path:
    source = {"directory": {"path": str(finished.model)}}
    return write_job(folder, source=source, publish=destination.publish)


def closed_port() -> int:
    """A port on loopback where nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def objects_of(server: VersityGateway, bucket: str) -> bytes:
    """Every object of a bucket with its key."""
    rows = server.client.list_objects_v2(Bucket=bucket).get("Contents", [])
    bodies = (server.client.get_object(Bucket=bucket, Key=row["Key"])["Body"] for row in rows)
    return b"".join(
        row["Key"].encode() + body.read() for row, body in zip(rows, bodies, strict=True)
    )


def commits_of(hub: HubWritingDouble) -> bytes:
    """Every file of every commit, and every large file."""
    return b"".join(
        path.encode() + file.content
        for repository in hub.repositories.values()
        for _, files in repository.commits
        for path, file in files.items()
    ) + b"".join(data for one in hub.repositories.values() for data in one.large.values())


@pytest.mark.parametrize("form", [str, lambda s: quote(s, safe=""), lambda s: s.encode().hex()])
def test_the_search_finds_what_lies_somewhere(form: object, secrets: Secrets, tmp_path: Path) -> None:
    assert callable(form)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "log").write_text(f"key={form(WRONG_KEY)};")
    (tmp_path / "deep" / PASSWORD).touch()
    shutil.copy(secrets.key, tmp_path / "copy")

    assert secrets.found_below(tmp_path) == {
        str(tmp_path / "deep" / "er" / "log"): {"the wrong key"},
        str(tmp_path / "deep" / PASSWORD): {"the password"},
        str(tmp_path / "copy"): {"the private key"},
    }


@pytest.mark.parametrize("kind", ["s3", "hub"])
def test_a_whole_signed_job_writes_no_secret(
    kind: str,
    finished: Finished,
    planted: Environment,
    destinations: dict[str, Destination],
    secrets: Secrets,
    s3_server: VersityGateway,
    bucket: str,
    hub: HubWritingDouble,
    kernels: Path,
    tmp_path: Path,
) -> None:
    there = destinations[kind]
    if kind == "hub":  # the S3 server denies whoever brings a session's token
        planted |= {"AWS_SESSION_TOKEN": SESSION}
    job = job_for(finished, there, tmp_path)

    ran = command(planted, "run", job, "--workdir", tmp_path / "work")
    public = ("--public-key", f"{secrets.key}.pub", "--require", "signature")
    verified = command(planted, "verify", there.uri, *public)

    assert ran.code == 0, ran.err
    assert verified.code == 0, verified.err  # the key was used
    published = objects_of(s3_server, bucket) if kind == "s3" else commits_of(hub)
    assert b"artifact.json" in published
    said = "".join((ran.out, ran.err, verified.out, verified.err))
    assert secrets.found_in(published + said.encode()) == set()
    assert secrets.found_below(tmp_path, kernels, s3_server.data) == {}


def failures(secrets: Secrets) -> dict[str, tuple[str, Environment, int, str]]:
    """By name: the kind of target, what is other than it should be, exit code, and words said."""
    nobody = f"http://someone:{PASSWORD}@127.0.0.1:{closed_port()}"
    secrets.key.with_name("no-key").write_text(NO_KEY)
    secrets.key.with_name("no-key").chmod(0o600)
    return {
        "wrong secret key": ("s3", {"AWS_SECRET_ACCESS_KEY": WRONG_KEY}, 2, "give credentials"),
        "denied session": ("s3", {"AWS_SESSION_TOKEN": SESSION}, 2, "give credentials"),
        "no S3 there": ("s3", {"AWS_ENDPOINT_URL": nobody}, 3, "AWS_ENDPOINT_URL"),
        "wrong token": ("hub", {"HF_TOKEN": WRONG_KEY.replace("+/", "")}, 2, "set HF_TOKEN"),
        "read-only token": ("hub", {}, 2, "set HF_TOKEN"),
        "no Hub there": ("hub", {"HF_ENDPOINT": nobody}, 3, "HF_ENDPOINT"),
        "no key": ("hub", {SIGNING_KEY_FILE: f"{secrets.key.with_name('no-key')}"}, 2, "key"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "wrong secret key",
        "denied session",
        "no S3 there",
        "wrong token",
        "read-only token",
        "no Hub there",
        "no key",
    ],
)
def test_a_failure_tells_no_secret(
    name: str,
    finished: Finished,
    planted: Environment,
    destinations: dict[str, Destination],
    secrets: Secrets,
    s3_server: VersityGateway,
    hub: HubWritingDouble,
    kernels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job ends when it is planned; the stage `publish` ends although all before it is done."""
    kind, changes, code, words = failures(secrets)[name]
    if name == "read-only token":
        hub.role = "read"
    planted |= changes
    job = job_for(finished, destinations[kind], tmp_path)
    shutil.copytree(finished.workdir, tmp_path / "work")
    shutil.copy(job, tmp_path / "again.yaml")
    digest = ("--report-digest", finished.digest)

    ran = command(planted, "run", job, "--workdir", tmp_path / "new")
    published = command(planted, "publish", tmp_path / "work", *digest, "--job", job)
    for variable, value in planted.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(HalftoneError) as caught:
        STAGES["publish"](tmp_path / "work", finished.digest)
    traced = "".join(traceback.format_exception(caught.value))

    assert (ran.code, published.code, caught.value.exit_code) == (code, code, code), published.err
    assert words in ran.err
    assert words in published.err
    assert destinations[kind].contents() == []
    said = "".join((ran.out, ran.err, published.out, published.err))
    assert "Traceback" not in said
    assert secrets.found_in(said.encode()) == set()
    assert secrets.found_in(traced.encode()) == set(), traced
    own = {secrets.key.with_name("no-key")}
    written = secrets.found_below(tmp_path, kernels, s3_server.data)
    assert {path for path in written if Path(path) not in own} == set()

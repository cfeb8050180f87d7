"""Secrets of the environment are used and never written: a whole job, and every way it can fail.

Keys, tokens and passwords are planted; then everything that was written is searched for them: work
directory, target, caches, home and temporary files, standard output and error, and tracebacks with
all that led to them. We test these aspects:
- the search finds what lies somewhere, in any of the forms that it knows
- a whole signed job to a real S3 server, and to the Hub's double
- a wrong key, a denied session, a read-only token, a signing key that is none
- a refused connection whose address holds a password, and a job with such an address
"""

import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from halftone.cli.stages import STAGES
from halftone.cli.workdir import write_job as put_job
from halftone.publish.keys import generate_key
from halftone.spec.errors import EnvironmentFault, HalftoneError
from halftone.spec.names import CACHE_DIRECTORY, SIGNING_KEY_FILE
from halftone.spec.recipes import parse_job, read_yaml
from halftone.stores import open_source
from tests.builders import write_checkpoint
from tests.commands import halftone
from tests.conftest import is_foreign
from tests.destinations import Destination, in_bucket, on_hub
from tests.doubles.hub_server import Fault, Place
from tests.doubles.hub_writing import HubWritingDouble
from tests.jobs import write_job
from tests.planted import FORMS, NO_KEY, PASSWORD, SESSION, TOKEN, WRONG_KEY, Secrets
from tests.servers.versitygw import VersityGateway

Environment = dict[str, str]

# Nobody answers there, and the system gives it to no other test's server.
NOBODYS_PORT = 1


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
    secrets: Secrets,
    s3_server: VersityGateway,
    hub: HubWritingDouble,
    kernels: Path,
    tmp_path: Path,
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


def begin(environment: Environment, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command with nothing in its environment but what was planted."""
    kept = {name: value for name, value in os.environ.items() if not is_foreign(name)}
    return subprocess.Popen(
        [sys.executable, "-m", "halftone", *map(str, arguments)],
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate()
    return Said(process.returncode, out, err)


def command(environment: Environment, *arguments: str | Path) -> Said:
    return end(begin(environment, *arguments))


def job_for(finished: Finished, destination: Destination, folder: Path) -> Path:
    source = {"directory": {"path": str(finished.model)}}
    return write_job(folder, source=source, publish=destination.publish)


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


@pytest.mark.parametrize("form", FORMS, ids=["plain", "in an address", "base64", "hexadecimal"])
def test_the_search_finds_what_lies_somewhere(
    form: Callable[[str], str], secrets: Secrets, tmp_path: Path
) -> None:
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


@dataclass(frozen=True)
class Failure:
    """A target of `kind` that cannot be reached: with which exit code, and which way out."""

    kind: str
    changes: Environment
    code: int
    words: str


def failure(name: str, secrets: Secrets, hub: HubWritingDouble) -> Failure:
    """What is other than it should be, by its name in the test's parameters."""
    nobody = f"http://someone:{PASSWORD}@127.0.0.1:{NOBODYS_PORT}"
    match name:
        case "wrong secret key":
            return Failure("s3", {"AWS_SECRET_ACCESS_KEY": WRONG_KEY}, 2, "give credentials")
        case "denied session":
            return Failure("s3", {"AWS_SESSION_TOKEN": SESSION}, 2, "give credentials")
        case "no S3 server":
            return Failure("s3", {"AWS_ENDPOINT_URL": nobody}, 3, "AWS_ENDPOINT_URL")
        case "no address":
            no_address = f"someone:{PASSWORD}@nowhere"
            return Failure("s3", {"AWS_ENDPOINT_URL": no_address}, 2, "AWS_ENDPOINT_URL")
        case "wrong token":
            return Failure("hub", {"HF_TOKEN": WRONG_KEY}, 2, "set HF_TOKEN")
        case "read-only token":
            hub.role = "read"
            hub.fail(Place.Create, Fault.Forbidden, 10)
            return Failure("hub", {}, 2, "set HF_TOKEN")
        case "no Hub":
            return Failure("hub", {"HF_ENDPOINT": nobody}, 3, "HF_ENDPOINT")
        case _:
            no_key = secrets.key.with_name("no-key")
            no_key.write_text(NO_KEY)
            no_key.chmod(0o600)
            return Failure("hub", {SIGNING_KEY_FILE: str(no_key)}, 2, "no-key")


def traced(
    workdir: Path, digest: str, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Exit code and traceback of the stage `publish`, with all that led to the error."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(HalftoneError) as caught:
        STAGES["publish"](workdir, digest)
    return caught.value.exit_code, "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "name",
    [
        "wrong secret key",
        "denied session",
        "no S3 server",
        "no address",
        "wrong token",
        "read-only token",
        "no Hub",
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
    """A job ends when it is planned; so does the stage `publish`, with all before it done."""
    found = failure(name, secrets, hub)
    planted |= found.changes
    job = job_for(finished, destinations[found.kind], tmp_path)
    work, own = tmp_path / "work", tmp_path / "own"
    for workdir in (work, own):  # one for each publisher
        shutil.copytree(finished.workdir, workdir)
        put_job(job, workdir)

    run = begin(planted, "run", job, "--workdir", tmp_path / "new")
    publish = begin(planted, "publish", work, "--report-digest", finished.digest)
    code, told = traced(own, finished.digest, planted, monkeypatch)
    ran, published = end(run), end(publish)

    assert (ran.code, published.code, code) == (found.code,) * 3, ran.err + published.err
    assert found.words in ran.err
    assert found.words in published.err
    assert destinations[found.kind].contents() == []
    said = "".join((ran.out, ran.err, published.out, published.err))
    assert "Traceback" not in said
    assert secrets.found_in(said.encode()) == set()
    written = secrets.found_below(tmp_path, kernels, s3_server.data)
    assert set(written) <= {str(secrets.key.with_name("no-key"))}
    assert secrets.found_in(told.encode()) == set(), told


@pytest.mark.parametrize(
    ("uri", "variable"),
    [("s3://models/small", "AWS_ENDPOINT_URL"), ("hf://org/small", "HF_ENDPOINT")],
)
def test_a_source_that_nobody_serves_tells_no_secret(
    uri: str,
    variable: str,
    planted: Environment,
    secrets: Secrets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody = f"http://someone:{PASSWORD}@127.0.0.1:{NOBODYS_PORT}"
    for name, value in (planted | {variable: nobody}).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(EnvironmentFault) as caught:
        open_source(uri)

    assert variable in caught.value.message
    told = "".join(traceback.format_exception(caught.value))
    assert secrets.found_in(told.encode()) == set(), told


@pytest.mark.parametrize("scheme", ["https", "htps"])
def test_an_address_with_a_password_is_refused_and_not_repeated(
    scheme: str, finished: Finished, secrets: Secrets, tmp_path: Path
) -> None:
    address = f"{scheme}://someone:{PASSWORD}@127.0.0.1:9000"
    target = {"s3": {"uri": "s3://models/small", "endpointUrl": address}}
    job = write_job(tmp_path, publish=target)

    ended = halftone("run", job, "--workdir", tmp_path / "work")
    with pytest.raises(HalftoneError) as caught:
        parse_job(read_yaml(job), str(job))

    assert ended.code == 2
    assert "`spec.publish.s3.endpointUrl`" in ended.err
    told = "".join(traceback.format_exception(caught.value))
    assert secrets.found_in((ended.out + ended.err + told).encode()) == set()
    assert set(secrets.found_below(tmp_path)) == {str(job)}

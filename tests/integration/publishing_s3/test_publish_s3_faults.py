"""Publishing to S3 when things go wrong: on the way, at the server, and to the publisher itself.

We test these aspects:
- kills at seeded points, and the next run, which continues
- a server that is restarted in the middle
- faults that are waited out, and faults that end in a sentence; in neither case is anything visible
  that is not whole, nor when a part of a long file fails that nobody waits for yet
- that memory is bounded and that no secret is written or printed
"""

import json
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.targets import Existing
from halftone.stores.s3_target import S3ArtifactTarget
from tests.commands import files_of
from tests.doubles.faulty_proxy import Fault, FaultyProxy
from tests.servers.versitygw import VersityGateway
from tests.uploads import MIB, SMALL, draft_of, read_through, start, unfinished, write_tree

PART = "PUT .*partNumber="
NAME = "PUT /[^/]+/model/artifact.json"
KILLS_IN_CI, KILLS_IN_SOAK = 3, 20
# Where more than an upload is known to go wrong: between its last byte and the name.
ENDS = ("POST .*uploadId=", "PUT .*-[0-9a-f]{8}/artifact.json", NAME)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published") / "tree"


@pytest.fixture(scope="module")
def draft(tree: Path) -> Artifact:
    return write_tree(tree)


@pytest.fixture
def proxy(s3_server: VersityGateway) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def target(proxy: FaultyProxy, bucket: str) -> Iterator[S3ArtifactTarget]:
    """A target behind the proxy; the environment leads to the server itself."""
    with closing(S3ArtifactTarget(f"s3://{bucket}/model", proxy.endpoint)) as target:
        yield target


@pytest.fixture
def hasty(
    proxy: FaultyProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3ArtifactTarget]:
    """A target that soon gives up."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with closing(S3ArtifactTarget(f"s3://{bucket}/model", proxy.endpoint)) as target:
        yield target


def ignore(nbytes: int) -> None:
    """Progress that nobody looks at."""


def environment(server: VersityGateway, endpoint: str) -> dict[str, str]:
    return {**server.environment, "AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": "src"}


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


def kill_and_go_on(
    server: VersityGateway, proxy: FaultyProxy, bucket: str, tree: Path, draft: Artifact, at: float
) -> None:
    """Kill a publisher once that part of all bytes has come; then let another one finish."""
    uri = f"s3://{bucket}/model"
    variables = environment(server, proxy.endpoint)
    child = start(uri, tree, draft, variables)
    proxy.at_bytes(int(at * draft.sizeBytes), child.kill)
    assert ended(child)[0] == -9
    with closing(S3ArtifactTarget(uri)) as target:
        assert target.current() is None

    sent = proxy.uploaded
    code, out, err = ended(start(uri, tree, draft, variables))

    assert (code, err) == (0, "")
    done = json.loads(out)
    assert done["bytes"] == draft.sizeBytes  # what was there counts as progress too
    assert done["peak"] < 300e6
    assert proxy.uploaded - sent < draft.sizeBytes * (1 - at) + 10 * 16 * MIB
    assert read_through(uri) == files_of(tree)
    assert unfinished(server, bucket) == []
    with closing(S3ArtifactTarget(uri)) as target:
        assert target.leftovers() == []


@pytest.mark.parametrize("seed", range(KILLS_IN_CI))
def test_a_killed_publisher_shows_nothing_and_the_next_one_continues(
    s3_server: VersityGateway,
    proxy: FaultyProxy,
    bucket: str,
    tree: Path,
    draft: Artifact,
    seed: int,
) -> None:
    at = random.Random(seed).uniform(0, 1)
    kill_and_go_on(s3_server, proxy, bucket, tree, draft, at)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(KILLS_IN_CI, KILLS_IN_CI + KILLS_IN_SOAK))
def test_kills_at_many_points(
    s3_server: VersityGateway,
    proxy: FaultyProxy,
    bucket: str,
    tmp_path: Path,
    seed: int,
) -> None:
    numbers = random.Random(seed)
    sizes = {f"model-{n}.safetensors": numbers.randrange(60 * MIB) for n in range(4)}
    draft = write_tree(tmp_path / "tree", seed, sizes)
    kill_and_go_on(s3_server, proxy, bucket, tmp_path / "tree", draft, numbers.uniform(0, 1))


@pytest.mark.parametrize("at", ENDS)
def test_a_publisher_that_is_killed_at_its_last_steps_is_gone_on_with(
    s3_server: VersityGateway, proxy: FaultyProxy, bucket: str, tree: Path, draft: Artifact, at: str
) -> None:
    uri = f"s3://{bucket}/model"
    variables = environment(s3_server, proxy.endpoint)
    child = start(uri, tree, draft, variables)
    proxy.on_request(at, child.kill)  # the server still gets this request

    assert ended(child)[0] == -9
    visible = at == NAME
    with closing(S3ArtifactTarget(uri)) as target:
        assert (target.current() is not None) == visible
    code, _, err = ended(start(uri, tree, draft, variables))
    assert (code, err) == (0, "")
    assert read_through(uri) == files_of(tree)


def test_a_replacement_that_is_killed_leaves_the_former_visible(
    s3_server: VersityGateway,
    proxy: FaultyProxy,
    bucket: str,
    tree: Path,
    draft: Artifact,
    tmp_path: Path,
) -> None:
    uri = f"s3://{bucket}/model"
    with closing(S3ArtifactTarget(uri)) as target:
        former = target.publish(
            tmp_path / "former", write_tree(tmp_path / "former", 9, SMALL), Existing.Refuse, ignore
        )
    variables = environment(s3_server, proxy.endpoint)
    child = start(uri, tree, draft, variables, Existing.Replace)
    proxy.at_bytes(draft.sizeBytes // 2, child.kill)
    assert ended(child)[0] == -9
    assert read_through(uri) == files_of(tmp_path / "former")

    code, _, err = ended(start(uri, tree, draft, variables, Existing.Replace))

    assert (code, err) == (0, "")
    assert read_through(uri) == files_of(tree)
    assert read_through(former.uri) == files_of(tmp_path / "former")


def test_a_server_that_loses_power_in_the_middle_is_waited_for(
    bucket: str, s3_server: VersityGateway, tree: Path, draft: Artifact
) -> None:
    told = 0

    def restart_at_half(nbytes: int) -> None:
        nonlocal told
        half = draft.sizeBytes // 2
        if told < half <= told + nbytes:
            s3_server.restart()
        told += nbytes

    uri = f"s3://{bucket}/model"
    with closing(S3ArtifactTarget(uri)) as target:
        target.publish(tree, draft, Existing.Refuse, restart_at_half)

    assert told == draft.sizeBytes
    assert read_through(uri) == files_of(tree)
    assert unfinished(s3_server, bucket) == []


@pytest.mark.parametrize(
    ("fault", "times", "match"),
    [
        (Fault.Unavailable, 3, ""),
        (Fault.Unavailable, 4, PART),
        (Fault.Broken, 2, NAME),
        (Fault.Broken, 2, "POST"),
        (Fault.Reset, 3, PART),
        (Fault.Reset, 1, "PUT .*config.json"),
        (Fault.Lost, 1, NAME),
        (Fault.Lost, 1, "POST .*uploadId="),
        (Fault.Lost, 2, PART),
        (Fault.WrongEtag, 3, PART),
        (Fault.Garbled, 1, PART),
        (Fault.Garbled, 2, "PUT .*config.json"),
        (Fault.Slow, 3, PART),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else None,
)
def test_what_passes_is_waited_out(
    proxy: FaultyProxy,
    target: S3ArtifactTarget,
    tree: Path,
    draft: Artifact,
    fault: Fault,
    times: int,
    match: str,
) -> None:
    proxy.fail(fault, times, match)

    published = target.publish(tree, draft, Existing.Refuse, ignore)

    assert proxy.pending == 0
    assert target.current() == published
    assert read_through(target.uri) == files_of(tree)


@pytest.mark.parametrize(
    ("fault", "match", "kind", "reason", "words"),
    [
        (Fault.Unavailable, PART, EnvironmentFault, Reason.StoreUnavailable, "answered 503"),
        (Fault.Broken, NAME, EnvironmentFault, Reason.StoreUnavailable, "answered 500"),
        (Fault.Reset, PART, EnvironmentFault, Reason.StoreUnavailable, "check the network"),
        (Fault.Nonsense, "POST", EnvironmentFault, Reason.StoreUnavailable, "run the same command"),
        (Fault.Garbled, PART, EnvironmentFault, Reason.StoreUnavailable, "BadDigest"),
        (Fault.Expired, PART, RefusedInput, Reason.AccessDenied, "have expired; renew them"),
        (Fault.Expired, NAME, RefusedInput, Reason.AccessDenied, "have expired; renew them"),
        (Fault.Denied, PART, RefusedInput, Reason.AccessDenied, "The store refused"),
        (Fault.Denied, "PUT", RefusedInput, Reason.AccessDenied, "AWS_ACCESS_KEY_ID"),
        (Fault.Quota, PART, EnvironmentFault, Reason.QuotaExceeded, "`halftone gc`"),
        (Fault.Precondition, NAME, RefusedInput, Reason.TargetOccupied, "somebody else"),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else None,
)
def test_what_does_not_pass_ends_in_a_sentence_and_nothing_is_visible(
    proxy: FaultyProxy,
    hasty: S3ArtifactTarget,
    tree: Path,
    draft: Artifact,
    fault: Fault,
    match: str,
    kind: type[HalftoneError],
    reason: Reason,
    words: str,
) -> None:
    proxy.fail(fault, 10_000, match)

    with pytest.raises(HalftoneError, match=re.escape(words)) as caught:
        hasty.publish(tree, draft, Existing.Refuse, ignore)

    assert (type(caught.value), caught.value.reason) == (kind, reason)
    assert str(caught.value).count("\n") == 0
    with closing(S3ArtifactTarget(hasty.uri)) as reader:
        assert reader.current() is None
    proxy.recover()
    hasty.publish(tree, draft, Existing.Refuse, ignore)
    assert read_through(hasty.uri) == files_of(tree)


def test_one_part_that_is_refused_while_the_file_is_still_read_ends_the_publishing(
    proxy: FaultyProxy, target: S3ArtifactTarget, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "model.safetensors").open("wb") as sparse:
        sparse.truncate(320 * MIB)  # more parts than are held at once
    proxy.fail(Fault.Denied, 1, PART)

    with pytest.raises(RefusedInput, match="The store refused"):
        target.publish(tree, draft_of(tree), Existing.Refuse, ignore)

    assert target.current() is None


def test_a_server_that_is_not_there_is_named_with_what_to_check(
    target: S3ArtifactTarget,
    s3_server: VersityGateway,
    tree: Path,
    draft: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with FaultyProxy(s3_server) as gone:
        nowhere = gone.endpoint
    with (
        closing(S3ArtifactTarget(target.uri, nowhere)) as unreachable,
        pytest.raises(EnvironmentFault, match="AWS_ENDPOINT_URL") as caught,
    ):
        unreachable.publish(tree, draft, Existing.Refuse, ignore)
    assert caught.value.reason is Reason.StoreUnavailable


def test_credentials_that_the_server_does_not_know_are_refused(
    bucket: str, tree: Path, draft: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with (
        closing(S3ArtifactTarget(f"s3://{bucket}/model")) as target,
        pytest.raises(RefusedInput, match="give credentials") as caught,
    ):
        target.publish(tree, draft, Existing.Refuse, ignore)
    assert caught.value.reason is Reason.AccessDenied


def test_memory_does_not_grow_with_the_file(
    s3_server: VersityGateway, bucket: str, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "model.safetensors").open("wb") as sparse:
        sparse.truncate(320 * MIB)
    uri = f"s3://{bucket}/model"

    variables = environment(s3_server, s3_server.endpoint)
    code, out, err = ended(start(uri, tree, draft_of(tree), variables))

    assert (code, err) == (0, "")
    assert json.loads(out)["peak"] < 300e6


@pytest.mark.parametrize("fault", [None, Fault.Denied, Fault.Expired, Fault.Reset])
def test_no_secret_is_written_or_printed(
    s3_server: VersityGateway,
    proxy: FaultyProxy,
    bucket: str,
    tmp_path: Path,
    fault: Fault | None,
) -> None:
    tree = tmp_path / "tree"
    draft = write_tree(tree, 3, SMALL)
    planted = {"HF_TOKEN": "hf_PlantedSecret1", "HALFTONE_SIGNING_KEY_FILE": "/PlantedSecret2"}
    if fault is Fault.Denied:  # this server denies whoever brings a session's token
        planted["AWS_SESSION_TOKEN"] = "PlantedSecret3"
    variables = environment(s3_server, proxy.endpoint) | planted | {"AWS_MAX_ATTEMPTS": "2"}
    if fault is not None:
        proxy.fail(fault, 10_000, "PUT .*config.json")

    code, out, err = ended(start(f"s3://{bucket}/model", tree, draft, variables))

    assert code == (0 if fault is None else 1), err
    assert ("halftone.spec.errors" in err) == (fault is not None)
    everything = (out + err).encode() + b"".join(files_of(s3_server.data / bucket).values())
    names = "\n".join(str(path) for path in s3_server.data.rglob("*")).encode()
    for secret in (*planted.values(), s3_server.secret_key):
        assert secret.encode() not in everything + names

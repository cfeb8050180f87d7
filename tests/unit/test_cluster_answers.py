"""`watch` and `logs` against a server that answers as an API server seldom does.

We test these aspects:
- the log of a pod is that of the container that does the work, in a Job's pod and in that of a run
  of a pipeline, whose tasks can be chosen by `--stage`;
- pods of runs that are in another namespace are found there, and no other job's of the same name;
- a deletion is told once, though it makes a generation that no status will be about; a job that had
  ended before ends as it did;
- a watch that is cut in the middle of an event is begun anew;
- an answer of something that stands before the server, and words of a later version, are sentences.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from halftone.spec.cluster import JOB_LABEL, STAGE_LABEL, Condition
from halftone.spec.pipelines import JOB_UID_LABEL
from tests.commands import halftone
from tests.doubles.loopback import LoopbackHandler, LoopbackServer
from tests.kubeconfigs import write_kubeconfig

_JOB = "/quantizationjobs/small"
_WATCH = "watch=1"
_PODS = "/pods?"


@contextmanager
def _server(answers: Mapping[str, list[bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Answers a path that holds a key with the next of its texts, and the last for ever.

    Yields its address and what it was asked.
    """
    asked: list[str] = []

    class Handler(LoopbackHandler):
        def do_GET(self) -> None:  # noqa: N802  # http.server's name
            asked.append(self.path)
            known = next((texts for key, texts in answers.items() if key in self.path), None)
            text = b'{"gitVersion": "v1.34.4"}'
            if known is not None:
                text = known.pop(0) if len(known) > 1 else known[0]
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            if "/version" in self.path:  # by a client that is then thrown away
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(text)

    server = LoopbackServer(Handler)
    server.start()
    try:
        yield server.origin, asked
    finally:
        server.stop()


def _job(status: str, reason: str, **more: Any) -> bytes:
    """A job whose summary says so; `more` is metadata."""
    row = {
        "type": "Succeeded",
        "status": status,
        "reason": reason,
        "message": "So.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    metadata = {"name": "small", "uid": "u", "resourceVersion": "7", "generation": 1, **more}
    told = {"metadata": metadata, "status": {"observedGeneration": 1, "conditions": [row]}}
    return json.dumps(told).encode()


def _event(kind: str, job: bytes) -> bytes:
    return json.dumps({"type": kind, "object": json.loads(job)}).encode() + b"\n"


RUNNING = _job("Unknown", "Quantizing")
ENDED = _job("True", "Published")
LEAVING = {"generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("stage", "labels", "container"),
    [("plan", {}, "stage"), ("resolve", {JOB_UID_LABEL: "u"}, "main")],
)
def test_a_log_is_that_of_the_container_that_works(
    stage: str, labels: dict[str, str], container: str, tmp_path: Path
) -> None:
    labels = {JOB_LABEL: "small", STAGE_LABEL: stage, **labels}
    metadata = {"name": "p", "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
    pods = {"metadata": {}, "items": [{"metadata": metadata, "status": {"phase": "Succeeded"}}]}
    answers = {_JOB: [ENDED], _PODS: [json.dumps(pods).encode()], "/log?": [b"it works\n"]}
    with _server(answers) as (address, asked):
        way = write_kubeconfig(tmp_path / "kubeconfig", address)
        found = halftone("logs", "small", "--stage", stage, "--kubeconfig", way)
    assert (found.code, found.out) == (0, "it works\n"), found.err
    assert asked[-1].endswith(f"/pods/p/log?container={container}&follow=false")


@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_pods_of_runs_may_be_in_another_namespace(follow: tuple[str, ...], tmp_path: Path) -> None:
    labels = {JOB_LABEL: "small", STAGE_LABEL: "plan", JOB_UID_LABEL: "u"}
    metadata = {"name": "p", "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
    pods = {"metadata": {}, "items": [{"metadata": metadata, "status": {"phase": "Running"}}]}
    running = [RUNNING, RUNNING, ENDED] if follow else [ENDED]
    answers = {_JOB: running, _PODS: [json.dumps(pods).encode()], "/log?": [b"it works\n"]}
    with _server(answers) as (address, asked):
        way = write_kubeconfig(tmp_path / "kubeconfig", address)
        options = ("-n", "mine", "--pod-namespace", "kubeflow", *follow)
        found = halftone("logs", "small", *options, "--kubeconfig", way)
    assert found.code == 0, found.err
    assert found.out == ("[p] it works\n" if follow else "it works\n")
    of_jobs = [path for path in asked if _JOB in path]
    of_pods = [path for path in asked if "/pods" in path]
    assert all("/namespaces/mine/" in path for path in of_jobs)
    assert all("/namespaces/kubeflow/pods" in path for path in of_pods)
    assert f"{JOB_UID_LABEL}=u" in unquote(of_pods[0])


def test_a_deletion_is_told_once(tmp_path: Path) -> None:
    leaving = _job("Unknown", "Quantizing", **LEAVING)
    again = _job("Unknown", "Quantizing", **LEAVING, labels={"a": "b"})
    events = _event("MODIFIED", leaving) + _event("MODIFIED", again) + _event("DELETED", again)
    with _server({_WATCH: [events], _JOB: [RUNNING]}) as (address, _):
        way = write_kubeconfig(tmp_path / "kubeconfig", address)
        found = halftone("watch", "small", "--kubeconfig", way)
    assert found.code == 2
    assert found.err.splitlines() == [
        "halftone: the job is being deleted.",
        "halftone: 'small' was deleted before it ended.",
    ]


def test_a_job_that_had_ended_ends_as_it_did_while_it_is_deleted(tmp_path: Path) -> None:
    with _server({_JOB: [_job("True", "Published", **LEAVING)]}) as (address, _):
        way = write_kubeconfig(tmp_path / "kubeconfig", address)
        found = halftone("watch", "small", "--kubeconfig", way)
    assert (found.code, found.out) == (0, "Published: So.\n")


def test_a_watch_that_is_cut_in_an_event_is_begun_anew(tmp_path: Path) -> None:
    cut = _event("MODIFIED", RUNNING)[:40]
    with _server({_WATCH: [cut], _JOB: [RUNNING, ENDED]}) as (address, asked):
        way = write_kubeconfig(tmp_path / "kubeconfig", address)
        found = halftone("watch", "small", "--kubeconfig", way)
    assert (found.code, found.out) == (0, "Published: So.\n"), found.err
    assert [_WATCH in path for path in asked[1:]] == [False, True, False]


@pytest.mark.parametrize("verb", ["watch", "logs"])
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"<html>Log in</html>", "127.0.0.1 is not an API server, or a login stands before it;"),
        (b"[]", "is not an API server"),
        (
            ENDED.replace(b'"Succeeded"', b'"Distilled"'),
            "`status.conditions.0.type` of 'small' is 'Distilled', which this version of halftone "
            "does not know; take the version of the operator in that cluster.",
        ),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    verb: str, answer: bytes, sentence: str, tmp_path: Path
) -> None:
    with _server({_JOB: [answer]}) as (address, _):
        way = write_kubeconfig(tmp_path / "kubeconfig", address)
        found = halftone(verb, "small", "--kubeconfig", way)
    assert (found.code, found.out) == (3, "")
    assert sentence in found.err
    assert len(found.err.splitlines()) == 1


def test_the_word_that_is_not_known_is_none_of_ours() -> None:
    """Or the case above would show nothing."""
    assert not [one for one in Condition if re.fullmatch("Distilled", one)]

"""The client of Kubeflow's REST interface, over real HTTP against a double of server 2.14.3.

We test these aspects:
- an experiment is made when it is missing; of many that race, all get the same one
- a run is created with exactly the fields that the server knows, read, listed, terminated and
  deleted
- a list has every page, newest first, archived runs too, and nothing that the filter let through
  by accident
- a run that has ended is terminated without an error; an unknown one is NotFound
- each way in which a server is not there, not ours, not willing or not bounded is Unreachable with
  a sentence; what it refuses is Refused with its words
- a POST whose answer is lost took effect, and is found by its name
- the token is read anew for each request, and is in no error
- TLS: a private authority, one that is not trusted, one that is mended while we run
- an endpoint may have a path; namespaces are sent where they are given
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from halftone.kubeflow.errors import KubeflowError, NotFound, Refused, Unreachable
from halftone.kubeflow.rest import Kubeflow
from halftone.spec.pipelines import Run, RunRequest, RunState
from tests.cluster.pki import Authority
from tests.doubles.kubeflow import Fault, KubeflowDouble, Step
from tests.doubles.loopback import LoopbackHandler, LoopbackServer

_SPEC = {
    "root": {"inputDefinitions": {"parameters": {"job": {"parameterType": "STRING"}}}},
    "schemaVersion": "2.1.0",
}


def _request(name: str = "team.pocket-u1-1-1", **given: object) -> RunRequest:
    fields: dict[str, object] = {
        "display_name": name,
        "pipeline_spec": _SPEC,
        "platform_spec": {"platforms": {}},
        "parameters": {"job": "{}"},
    }
    return RunRequest.model_validate(fields | given)


@pytest.fixture
def server() -> Iterator[KubeflowDouble]:
    with KubeflowDouble() as double:
        yield double


_T = TypeVar("_T")


def _asking(server: KubeflowDouble, asks: Callable[[Kubeflow], Awaitable[_T]]) -> _T:
    async def work() -> _T:
        async with Kubeflow(server.endpoint, seconds=20) as kubeflow:
            return await asks(kubeflow)

    return asyncio.run(work())


def _on_the_page(server: KubeflowDouble, run_id: str, verb: str) -> None:
    """What a person does to a run."""
    path = f"{server.endpoint}/apis/v2beta1/runs/{run_id}:{verb}"
    httpx.post(path, json={}, trust_env=False).raise_for_status()


async def _made(kubeflow: Kubeflow, name: str = "team.pocket-u1-1-1") -> Run:
    return await kubeflow.create(_request(name), await kubeflow.experiment("halftone"))


def test_of_many_that_race_for_an_experiment_all_get_the_same_one(server: KubeflowDouble) -> None:
    async def race(kubeflow: Kubeflow) -> list[str]:
        return await asyncio.gather(*(kubeflow.experiment("a+b 50%_é") for _ in range(12)))

    ids = _asking(server, race)
    assert set(ids) == {server.experiments[0]["experiment_id"]}
    assert len(server.experiments) == 1


def test_an_experiment_that_somebody_else_made_in_between_is_taken(server: KubeflowDouble) -> None:
    """The look-up saw nothing, the POST is a conflict: what the slower of two sees."""

    async def beaten(kubeflow: Kubeflow) -> tuple[str, str]:
        server.fail("GET /experiments", Fault.Held)
        slow = asyncio.create_task(kubeflow.experiment("halftone"))
        while not server.asked_for("GET /experiments"):
            await asyncio.sleep(0)
        first = await kubeflow.experiment("halftone")
        server.released.set()
        return first, await slow

    first, slow = _asking(server, beaten)
    assert first == slow
    assert len(server.asked_for("POST /experiments")) == 2


def test_a_run_is_made_of_what_was_rendered(server: KubeflowDouble) -> None:
    async def work(kubeflow: Kubeflow) -> Run:
        request = _request(
            description="what", pipeline_root="s3://b/root", service_account="halftone"
        )
        return await kubeflow.create(request, await kubeflow.experiment("halftone"))

    run = _asking(server, work)
    assert run.state is RunState.Pending
    assert server.created == [
        {
            "display_name": "team.pocket-u1-1-1",
            "description": "what",
            "experiment_id": server.experiments[0]["experiment_id"],
            "pipeline_spec": {"pipeline_spec": _SPEC, "platform_spec": {"platforms": {}}},
            "runtime_config": {"parameters": {"job": "{}"}, "pipeline_root": "s3://b/root"},
            "service_account": "halftone",
        }
    ]


def test_a_run_is_read_with_its_tasks(server: KubeflowDouble) -> None:
    server.script = [
        Step("RUNNING", {"plan": "RUNNING"}),
        Step("FAILED", {"plan": ("FAILED", "no such model")}),
    ]

    async def work(kubeflow: Kubeflow) -> list[Run]:
        run = await _made(kubeflow)
        return [await kubeflow.run(run.run_id) for _ in range(3)]

    running, failed, later = _asking(server, work)
    (task,) = running.run_details.task_details
    assert (running.state, task.display_name, task.state) == ("RUNNING", "plan", "RUNNING")
    assert [change.state for change in failed.state_history] == ["PENDING", "RUNNING", "FAILED"]
    assert failed.error is None
    error = failed.run_details.task_details[0].error
    assert error is not None
    assert error.message == "no such model"
    assert later == failed


def test_a_list_has_every_page_and_archived_runs_newest_first(server: KubeflowDouble) -> None:
    server.page_size = 3

    async def work(kubeflow: Kubeflow) -> list[Run]:
        for number in range(11):
            # SQL's LIKE lets the second of these through, for it knows no case.
            await _made(kubeflow, f"t.job-{'u1' if number % 2 else 'U1'}-{number}")
        _on_the_page(server, (await kubeflow.runs("u1-3"))[0].run_id, "archive")
        return await kubeflow.runs("u1")

    runs = _asking(server, work)
    assert [run.display_name for run in runs] == [f"t.job-u1-{n}" for n in (9, 7, 5, 3, 1)]
    pages = [one for one in server.asked_for("GET /runs") if "page_token" in one.query]
    assert len(pages) == 3
    assert all(one.query["filter"] == pages[0].query["filter"] for one in pages)


def test_a_list_without_an_end_is_given_up(server: KubeflowDouble) -> None:
    class Circle(KubeflowDouble):
        def answer(self, asked: object) -> object:
            return {"runs": [], "next_page_token": "again"}

    with Circle() as circle, pytest.raises(Unreachable, match="has no end"):
        _asking(circle, lambda kubeflow: kubeflow.runs("u1"))


def test_terminating_ends_in_failed_and_may_be_said_twice(server: KubeflowDouble) -> None:
    server.script = [Step("RUNNING")]

    async def work(kubeflow: Kubeflow) -> list[str]:
        run_id = (await _made(kubeflow)).run_id
        await kubeflow.run(run_id)
        await kubeflow.terminate(run_id)
        seen = [server.runs[0].state]
        await kubeflow.terminate(run_id)
        seen.append((await kubeflow.run(run_id)).state)
        await kubeflow.terminate(run_id)
        _on_the_page(server, run_id, "retry")
        return [*seen, (await kubeflow.run(run_id)).state]

    assert _asking(server, work) == ["CANCELING", "FAILED", "RUNNING"]


def test_what_is_not_there_is_not_found(server: KubeflowDouble) -> None:
    async def work(kubeflow: Kubeflow) -> None:
        run_id = (await _made(kubeflow)).run_id
        await kubeflow.delete(run_id)
        for asking in (kubeflow.run, kubeflow.delete, kubeflow.terminate):
            with pytest.raises(NotFound, match=f"Run {run_id} not found"):
                await asking(run_id)
        with pytest.raises(NotFound, match="Experiment gone not found"):
            await kubeflow.create(_request(), "gone")
        # An id out of a status that somebody edited is no way to another address.
        with pytest.raises(Refused, match="not the id of a run"):
            await kubeflow.delete("../experiments/1")

    _asking(server, work)


def test_what_the_server_refuses_has_its_words(server: KubeflowDouble) -> None:
    async def work(kubeflow: Kubeflow) -> None:
        experiment = await kubeflow.experiment("halftone")
        with pytest.raises(Refused, match="parameter job is not optional") as error:
            await kubeflow.create(_request(parameters={}), experiment)
        assert error.value.code == 400
        assert not isinstance(error.value, NotFound)

        # It says 500 where no server could do it.
        with pytest.raises(Refused, match="unknown template format"):
            await kubeflow.create(_request(pipeline_spec={"a": 1}), experiment)
        server.fail("POST /runs", Fault.NotCompiled)
        with pytest.raises(Refused, match=r'unknown field "nonsense" Failed to compile job\.$'):
            await kubeflow.create(_request(), experiment)

    _asking(server, work)
    assert server.created == []


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Fault.Broken, 500, r"cannot answer now \(500\): Internal error: the database is gone\."),
        (Fault.Unavailable, 503, "no healthy upstream"),
        (Fault.TooMany, 429, "Too many requests"),
        (Fault.Unauthorized, 401, "does not let us in .401.: .*Check its token"),
        (Fault.Forbidden, 403, "not authorized"),
        (Fault.Login, 302, "asks for a login"),
        (Fault.Page, 0, "is not the REST interface"),
        (Fault.Garbage, 0, "is not the REST interface"),
        (Fault.Endless, 0, "does not end after 32 MiB"),
        (Fault.Cut, 0, "cannot be reached"),
    ],
)
def test_trouble_is_unreachable(
    server: KubeflowDouble, fault: Fault, code: int, words: str
) -> None:
    async def work(kubeflow: Kubeflow) -> str:
        server.fail("GET /runs", fault)
        with pytest.raises(Unreachable, match=words) as error:
            await kubeflow.runs("u1")
        assert error.value.code == code
        return (await _made(kubeflow)).display_name

    assert _asking(server, work) == "team.pocket-u1-1-1"


class _Deep(LoopbackHandler):
    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        text = b"[" * 100_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def test_an_answer_too_deep_to_be_read_is_none_of_the_interface() -> None:
    server = LoopbackServer(_Deep)
    server.start()

    async def work() -> None:
        async with Kubeflow(server.origin) as kubeflow:
            with pytest.raises(Unreachable, match="is not the REST interface"):
                await kubeflow.runs("u1")

    try:
        asyncio.run(work())
    finally:
        server.stop()


def test_a_silent_server_is_waited_for_no_longer_than_said(server: KubeflowDouble) -> None:
    async def work() -> None:
        async with Kubeflow(server.endpoint, seconds=0.2) as kubeflow:
            with pytest.raises(Unreachable, match=r"said nothing for 0\.2 s"):
                await kubeflow.runs("u1")

    server.fail("GET /runs", Fault.Held)
    asyncio.run(work())


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://127.0.0.1:9", "cannot be reached at http://127.0.0.1:9 "),
        ("http://somebody:secret@127.0.0.1:9/pipeline", "at http://127.0.0.1:9/pipeline "),
        ("http://no-such-host.invalid", "cannot be reached"),
        ("http://127.0.0.1:99999", "cannot be reached"),
        ("nonsense", "cannot be reached"),
    ],
)
def test_nobody_is_there(endpoint: str, words: str) -> None:
    async def work() -> None:
        async with Kubeflow(endpoint) as kubeflow:
            with pytest.raises(Unreachable, match=words) as error:
                await kubeflow.runs("u1")
            assert "secret" not in error.value.sentence

    asyncio.run(work())


def test_a_run_whose_answer_was_lost_is_found_by_its_name(server: KubeflowDouble) -> None:
    async def work(kubeflow: Kubeflow) -> list[Run]:
        server.fail("POST /runs", Fault.Lost)
        with pytest.raises(Unreachable, match="cannot be reached"):
            await _made(kubeflow)
        return await kubeflow.runs("u1")

    assert [run.display_name for run in _asking(server, work)] == ["team.pocket-u1-1-1"]


def test_the_token_is_read_anew_and_told_to_nobody(server: KubeflowDouble, tmp_path: Path) -> None:
    file = tmp_path / "token"
    server.token = "second"

    async def work() -> list[str]:
        sentences = []
        async with Kubeflow(server.endpoint, str(file)) as kubeflow:
            for text in (None, "first-secret", "a secret\nof two lines", "second\n"):
                if text is not None:
                    file.write_text(text)
                try:
                    await kubeflow.runs("u1")
                except KubeflowError as error:
                    sentences.append(error.sentence)
        return sentences

    absent, wrong, odd = asyncio.run(work())
    assert "No such file" in absent
    assert "(401)" in wrong
    assert "signs that no token has" in odd
    assert not any("secret" in sentence for sentence in (absent, wrong, odd))
    sent = [one.authorization for one in server.asked]
    assert sent == ["Bearer first-secret", "Bearer second"]


def test_certificates(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    ours.issue("server", "kubeflow", addresses=["127.0.0.1"])
    bundle = tmp_path / "ca.crt"

    async def work(double: KubeflowDouble) -> list[Run]:
        async with Kubeflow(double.endpoint, ca_file=str(bundle)) as kubeflow:
            with pytest.raises(Unreachable, match="its certificates: No such file"):
                await kubeflow.runs("u1")
            bundle.write_bytes((other.folder / "ca.crt").read_bytes())
            with pytest.raises(Unreachable, match="its certificate is not trusted"):
                await kubeflow.runs("u1")
            bundle.write_bytes((ours.folder / "ca.crt").read_bytes())
            return await kubeflow.runs("u1")

    pair = ours.folder / "server.crt", ours.folder / "server.key"
    with KubeflowDouble(tls=pair) as double:
        assert asyncio.run(work(double)) == []
        with pytest.raises(Unreachable, match="not trusted"):
            _asking(double, lambda kubeflow: kubeflow.runs("u1"))


def test_an_endpoint_with_a_path_and_one_with_profiles() -> None:
    async def work(kubeflow: Kubeflow) -> list[Run]:
        with pytest.raises(Refused, match="empty namespace"):
            await kubeflow.runs("u1")
        for namespace in ("team-a", "team-b"):
            await kubeflow.create(_request(), await kubeflow.experiment("halftone", namespace))
        return await kubeflow.runs("u1", "team-a")

    with KubeflowDouble(prefix="/pipeline", multi_user=True) as double:
        (run,) = _asking(double, work)
        assert [one["namespace"] for one in double.experiments] == ["team-a", "team-b"]
        assert run.run_id == double.runs[-1].run_id  # the one that was made first

"""The reader against HTTP servers that answer as Prometheus does, and against some that do not.

We test these aspects:
- what replicas say they can do is asked for the model and its labels alone;
- names are looked for once, the best family is taken, and again when its series are gone;
- whatever a server or the network does is a sentence, and no exception;
- tokens and headers are sent, read anew each time, and taken nowhere else.
"""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from halftone.scaling.inputs import queries
from halftone.scaling.inputs.asking import Access
from halftone.scaling.inputs.names import NATIVE, RAY, RECORDED, Family
from halftone.scaling.inputs.parsing import Sample, UnusableAnswer
from halftone.scaling.inputs.prometheus import PrometheusReader
from tests.doubles.exporters import AnsweringServer
from tests.input_samples import NOW, SAID, capacity_gauges, ready, replica, vector_of

ACCESS = Access(timeout_s=1.0)


class Answers:
    """Prometheus, as far as the reader asks it. `families` are those that have the model."""

    def __init__(self, *families: Family) -> None:
        self.families = families
        self.queries: list[str] = []

    def __call__(self, body: bytes) -> tuple[int, bytes]:
        (query,) = parse_qs(body.decode())["query"]
        self.queries.append(query)
        return 200, vector_of(self._samples(query))

    def _samples(self, query: str) -> list[Sample]:
        if query == queries.probe({}):
            names = (family.series["running"] for family in self.families)
            return [Sample({"model_name": "qwen", "__name__": name}, 1) for name in names]
        now = Sample({queries.FIELD: queries.NOW}, NOW)
        asked = (each for each in self.families if query == queries.read(each, "qwen", {}))
        return [now, *(sample for family in asked for sample in replica("a", family))]


@contextmanager
def serving(answer: Callable[[bytes], tuple[int, bytes]]) -> Iterator[AnsweringServer]:
    server = AnsweringServer(answer)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def reader(url: str, access: Access = ACCESS) -> PrometheusReader:
    return PrometheusReader(url, "qwen", access=access, clock=lambda: NOW)


def missing(answer: Callable[[bytes], tuple[int, bytes]], access: Access = ACCESS) -> str:
    """The one sentence of a reading from such a server."""
    with serving(answer) as server:
        reading = reader(server.origin, access).read(ready("a"))
    assert (reading.ready, reading.replicas) == (1, ())
    (sentence,) = reading.missing
    return sentence.removeprefix(f"Prometheus at {server.origin} ")


def test_names_are_looked_for_once_and_each_reading_is_one_request() -> None:
    answers = Answers(RAY)
    with serving(answers) as server:
        source = reader(server.origin)
        readings = [source.read(ready("a")) for _ in range(3)]
    assert [each.missing for each in readings] == [(), (), ()]
    assert [each.replicas[0].name for each in readings] == ["a", "a", "a"]
    assert answers.queries == [queries.probe({}), *[queries.read(RAY, "qwen", {})] * 3]


@pytest.mark.parametrize(
    ("there", "taken"),
    [((RAY, NATIVE, RECORDED), RECORDED), ((RAY, NATIVE), NATIVE), ((RAY,), RAY)],
    ids=lambda each: each.title if isinstance(each, Family) else len(each),
)
def test_of_several_families_the_best_is_read_and_no_other(
    there: tuple[Family, ...], taken: Family
) -> None:
    with serving(Answers(*there)) as server:
        source = reader(server.origin)
        reading = source.read(ready("a"))
    assert (source.family, len(reading.replicas)) == (taken.title, 1)


def test_names_are_looked_for_again_when_they_vanish() -> None:
    answers = Answers(RECORDED)
    with serving(answers) as server:
        source = reader(server.origin)
        source.read(ready("a"))
        answers.families = (RAY,)
        reading = source.read(ready("a"))
    assert (source.family, reading.missing) == ("ray", ())


def test_a_model_that_is_not_there_is_told_with_those_that_are() -> None:
    other = Sample({"model_name": "gemma", "__name__": "vllm:num_requests_running"}, 1)
    assert missing(lambda _: (200, vector_of([other]))) == (
        "has no series of `halftone:replica_requests_running`, `vllm:num_requests_running`, "
        "`ray_vllm_num_requests_running` with model_name='qwen'; it knows 'gemma'"
    )


def test_what_replicas_say_they_can_do_is_asked_by_model_and_selector() -> None:
    asked: list[str] = []

    def answer(body: bytes) -> tuple[int, bytes]:
        asked.extend(parse_qs(body.decode())["query"])
        return 200, vector_of(capacity_gauges(SAID))

    with serving(answer) as server:
        source = PrometheusReader(server.origin, "qwen", selector={"namespace": "team"})
        assert source.stated() == SAID
    (query,) = asked
    assert query == (
        '{__name__=~"(ray_)?halftone_endpoint_capacity", model="qwen", namespace="team"}'
    )


def test_what_goes_wrong_when_capacity_is_asked_for_is_a_sentence() -> None:
    with serving(lambda _: (401, b"")) as server:
        said = f"Prometheus at {server.origin} answers with status 401: it does not say why"
        with pytest.raises(UnusableAnswer, match=re.escape(said)):
            reader(server.origin).stated()


REFUSED = json.dumps({"errorType": "execution", "error": "too many samples"}).encode()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", "does not answer in JSON; is it Prometheus?"),
        (401, b"", "answers with status 401: it does not say why"),
        (422, REFUSED, "answers with status 422: execution: too many samples"),
        (302, b"", "answers with status 302: it does not say why"),
    ],
)
def test_what_a_server_says_instead_is_told(status: int, body: bytes, said: str) -> None:
    assert missing(lambda _: (status, body)) == said


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        source = reader(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        (sentence,) = source.read(ready("a")).missing
    assert "does not answer: [Errno 111] Connection refused" in sentence


def test_a_server_that_does_not_answer_is_told() -> None:
    def slowly(_: bytes) -> tuple[int, bytes]:
        time.sleep(0.3)
        return 200, b""

    assert missing(slowly, Access(timeout_s=0.05)) == "does not answer: timed out"


def test_a_server_that_hangs_up_is_told() -> None:
    def hang_up(_: bytes) -> tuple[int, bytes]:
        raise ConnectionAbortedError

    with serving(hang_up) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        (sentence,) = reader(server.origin).read(ready("a")).missing
    assert "does not answer: " in sentence


def test_the_token_is_read_for_each_request_and_headers_are_sent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    access = Access(headers={"X-Scope-OrgID": "team"}, token_file=token)
    with serving(Answers(RAY)) as server:
        source = reader(server.origin, access)
        for each in ("first", "second"):
            token.write_text(f"{each}\n")
            assert source.read(ready("a")).missing == ()
        asked = [(one["Authorization"], one["X-Scope-Orgid"]) for one in server.asked]
    assert asked[0] == ("Bearer first", "team")
    assert asked[-1] == ("Bearer second", "team")


@pytest.mark.parametrize("field", ["token_file", "ca_file"])
def test_a_missing_file_is_told(tmp_path: Path, field: str) -> None:
    access = Access(**{field: tmp_path / "nothing"})  # type: ignore[arg-type]
    url = "https://127.0.0.1:9" if field == "ca_file" else "http://127.0.0.1:9"
    (sentence,) = reader(url, access).read(ready("a")).missing
    assert "is not asked, for a file cannot be read: " in sentence


def test_a_token_that_is_no_header_is_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a\nb")
    with serving(Answers(RAY)) as server:
        source = reader(server.origin, Access(token_file=tmp_path / "token"))
        (sentence,) = source.read(ready("a")).missing
    assert sentence.endswith("is not asked, for the header Authorization is not one line of text")


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://a", "http://", "http://u:p@host"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL of Prometheus"):
        PrometheusReader(url, "qwen")

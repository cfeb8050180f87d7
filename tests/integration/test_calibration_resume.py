"""End a calibration at any moment and run it again: the statistics are those of a quiet run.

Each case is some processes on one output directory, all but the last killed. Moments are counted
inside: every change of the directory, and every sample that went through a layer. Accidents happen
at a step: a disk that is full, credentials that expire, memory that does not suffice.

We test these aspects:
- killed at seeded moments, in CI, and at every moment, by hand: the same bytes, nothing that looks
  like statistics before they are whole, and nothing left over, nor in the temporary folder
- a layer that was measured is not measured again, and what comes before the layers is not lost
- after an accident that may be mended measured layers are kept, and the sentence says what happened
- what lies there of other data or weights is begun anew with a notice, and of another plan refused
- a damaged journal, or a value that is missing, proves nothing
- finished statistics are returned when the data are out of reach, with a notice; of other data or
  weights they are refused; a second process finds the first at work
"""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import write_checkpoint
from tests.builders.datasets import chat_rows, json_lines, text_rows, write_images, write_rows
from tests.disks import small_disk
from tests.doubles.s3 import S3Double
from tests.environments import ask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

pytestmark = pytest.mark.quantize_env

Answer = list[dict[str, Any]]

PARTIAL = ".statistics.partial"
BOTH = ["statistics.json", "statistics.safetensors"]
SEEDS = (1, 2, 3)
# Samples that go through five pieces: what stands before the layers, and four layers.
STEPS = 4 * 5
# In the first layer, and in the second.
FIRST, MIDDLE = 6, 10
TOWER = "model.visual.blocks.0.mlp.linear_fc1"


class Expiring(S3Double):
    """An S3 whose credentials expire when somebody asks for `/expire`, until `/renew`."""

    expired = False

    def _application(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if environ["PATH_INFO"] in {"/expire", "/renew"}:
            self.expired = environ["PATH_INFO"] == "/expire"
            start_response("200 OK", [])
            return [b""]
        if self.expired:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ExpiredToken</Code><Message>on demand</Message></Error>"]
        return super()._application(environ, start_response)


class Work:
    """A source, its rows, and outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = folder / "rows.jsonl"
        (folder / "out").mkdir()
        for name, seed in (("source", 0), ("tuned", 0), ("later", 1)):
            write_checkpoint(folder / name, "qwen3_5", multi_token_prediction=False, seed=seed)
        pictures = write_images(folder / "pictures", 2)
        for name in ("rows", "other"):
            write_rows(folder / f"{name}.jsonl", [*text_rows(3), *chat_rows(2, images=pictures)])
        self.changed = json_lines([*text_rows(3, seed=1), *chat_rows(2, images=pictures)]).decode()

    def case(
        self,
        output: str,
        *moments: int | None,
        source: str = "source",
        rows: str = "rows.jsonl",
        role: str = "Mlp",
        **more: Any,
    ) -> dict[str, Any]:
        """A question to the peer."""
        return {
            "source": source if "://" in source else str(self.folder / source),
            "output": str(self.folder / "out" / output),
            "moments": moments,
            "quantization": {
                "precision": [{"role": role, "format": "NVFP4"}],
                "kvCache": {"format": "FP8", "scales": "Calibrated"},
                "calibration": {
                    "dataset": {"path": str(self.folder / rows)},
                    "samples": 2,
                    "modalities": ["Text", "Image"],
                },
            },
            **more,
        }

    def ask(self, cases: dict[str, dict[str, Any]], timeout_s: int = 250) -> dict[str, Answer]:
        """Every case in order, by processes of one peer."""
        found: list[Answer] = ask(
            "quantize",
            "calibration_kills.py",
            list(cases.values()),
            work=self.folder,
            timeout_s=timeout_s,
        )
        return dict(zip(cases, found, strict=True))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where processes put what is temporary."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def answers(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Answer]]:
    """Every case, by one peer."""
    work = Work(tmp_path_factory.mktemp("resume"))
    cases = {"quiet": work.case("quiet", None)}
    for seed in SEEDS:
        draw = random.Random(seed)
        moments = draw.randrange(1, 210), draw.randrange(1, 150)
        cases[f"killed {seed}"] = work.case(f"killed {seed}", *moments, None)
    cases |= _spoilt(work) | _finished(work)
    with (
        small_disk(work.folder / "disk", 8_000_000) as disk,
        small_disk(work.folder / "full", 180_000) as full,
        Expiring() as s3,
        pytest.MonkeyPatch.context() as patch,
    ):
        for file in (work.folder / "source").iterdir():
            s3.put("models", f"base/{file.name}", file.read_bytes())
        patch.setenv("TMPDIR", str(temporary))
        cases |= _accidents(work, disk, full, s3)
        yield work.ask(cases)


def _spoilt(work: Work) -> dict[str, dict[str, Any]]:
    """Work that was begun, and that cannot be gone on with."""
    folder, partial = str(work.folder), str(work.folder / "out" / "plan" / PARTIAL)
    shards = [path.name for path in (work.folder / "later").glob("*.safetensors")]
    anew = [["move", f"{folder}/later/{name}", f"{folder}/tuned/{name}"] for name in shards]
    other = {"rows": "other.jsonl"}
    tower: dict[str, Any] = {"also": [f"{TOWER}.weight"]}
    return {
        "killed late": work.case("other", 120, **other),
        "other data": work.case(
            "other", None, before=[["write", folder, "other.jsonl", work.changed]], **other
        ),
        "other data, quiet": work.case("other, quiet", None, **other),
        "killed on old weights": work.case("tuned", 120, source="tuned"),
        "other weights": work.case("tuned", None, source="tuned", before=anew),
        "killed again": work.case("plan", 120),
        "other plan": work.case("plan", None, role="Attention"),
        "spoilt journal": work.case("plan", 120, before=[["write", partial, "journal.json", "{}"]]),
        "lost value": work.case("plan", None, before=[["remove", f"{partial}/values", "*"]]),
        "killed after a tower": work.case("tower", None, at=[FIRST, ["kill"]], **tower),
        "a tower": work.case("tower", None, **tower),
    }


def _finished(work: Work) -> dict[str, dict[str, Any]]:
    """Work that is done already, or under way."""
    folder, away = str(work.folder), str(work.folder / "away")
    rows = str(work.rows)
    return {
        "out of reach": work.case("quiet", None, before=[["move", rows, away]]),
        "in reach": work.case("quiet", None, before=[["move", away, rows]]),
        "done on other data": work.case(
            "other",
            None,
            rows="other.jsonl",
            before=[["write", folder, "other.jsonl", work.rows.read_text()]],
        ),
        "done on other weights": work.case(
            "tuned", None, source="tuned", before=[["touch", f"{folder}/tuned", "*.safetensors"]]
        ),
        "two at once": work.case("two", None, meanwhile=rows),
    }


def _accidents(work: Work, disk: Path, full: Path, s3: Expiring) -> dict[str, dict[str, Any]]:
    """What happens in the middle of work, and the same command again after it was mended."""
    remote: dict[str, Any] = {
        "source": "s3://models/base",
        "environment": {
            "AWS_ENDPOINT_URL": s3.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    }
    output = str(disk / "output")
    return {
        "no room": work.case(str(full / "output"), None),
        "full": work.case(output, None, at=[MIDDLE, ["fill", str(disk)]]),
        "freed": work.case(output, None, before=[["remove", str(disk), "filler"]]),
        "expired": work.case("s3", None, at=[MIDDLE, ["ask", f"{s3.endpoint}/expire"]], **remote),
        "renewed": work.case("s3", None, before=[["ask", f"{s3.endpoint}/renew"]], **remote),
        "no memory": work.case("memory", None, at=[MIDDLE, ["allocate"]]),
    }


def assert_as_if_quiet(answer: Answer, quiet: Answer) -> None:
    *killed, last = answer
    whole = False
    for process in killed:
        assert process["ended"] is None
        whole = whole or set(BOTH) <= set(process["left"])
        assert whole or BOTH[0] not in process["left"]
    assert last["left"] == BOTH
    assert last["ended"]["document"] == quiet[-1]["ended"]["document"]
    total, done, skipped = last["ended"]["progress"]
    assert (total, done + skipped) == (0 if whole else STEPS, total)
    assert skipped % 4 == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_calibration_is_taken_up_and_gives_the_same(
    seed: int, answers: dict[str, Answer]
) -> None:
    assert_as_if_quiet(answers[f"killed {seed}"], answers["quiet"])


def test_what_was_measured_is_not_measured_again(answers: dict[str, Answer]) -> None:
    skipped = [answers[f"killed {seed}"][-1]["ended"]["progress"][2] for seed in SEEDS]

    assert max(skipped) >= 8


def test_what_comes_before_the_layers_is_not_lost(answers: dict[str, Answer]) -> None:
    (killed,), (last,) = answers["killed after a tower"], answers["a tower"]

    assert killed == {"left": [PARTIAL], "ended": None}
    assert last["ended"]["progress"] == [STEPS, STEPS - 4, 4]
    assert last["ended"]["tensors"][f"{TOWER}.samples"] == [2]


def test_nothing_is_left_in_the_temporary_folder(
    answers: dict[str, Answer], temporary: Path
) -> None:
    assert answers["quiet"][0]["left"] == BOTH
    assert not list(temporary.glob("halftone*"))


@pytest.mark.parametrize(
    ("accident", "again", "kind", "reason", "said", "kept"),
    [
        ("full", "freed", "EnvironmentFault", "OutOfSpace",
         "is full; free some space and run the same command again: measured layers are kept.", 8),
        ("expired", "renewed", "RefusedInput", "AccessDenied", "", 12),
        ("no memory", None, "EnvironmentFault", "TooLittleMemory",
         "The memory of this machine did not suffice for one layer; choose a larger one", 8),
    ],
)  # fmt: skip
def test_after_an_accident_measured_layers_are_kept(
    accident: str,
    again: str | None,
    kind: str,
    reason: str,
    said: str,
    kept: int,
    answers: dict[str, Answer],
) -> None:
    (process,) = answers[accident]

    assert process["ended"]["refused"][:2] == [kind, reason]
    assert said in process["ended"]["refused"][3]
    assert process["left"] == [PARTIAL]
    if again is not None:
        (mended,) = answers[again]
        quiet = answers["quiet"][0]["ended"]["document"]
        assert mended["ended"]["progress"] == [STEPS, STEPS - kept, kept]
        assert mended["ended"]["document"]["file"] == quiet["file"]


def test_a_disk_that_is_too_small_is_told_before_work_begins(answers: dict[str, Answer]) -> None:
    (process,) = answers["no room"]

    assert process["ended"]["refused"][:2] == ["EnvironmentFault", "OutOfSpace"]
    assert "needs 200,500 more bytes for activations" in process["ended"]["refused"][3]
    assert process["left"] == []


@pytest.mark.parametrize(
    ("name", "killed", "quiet", "said"),
    [
        ("other data", "killed late", "other data, quiet", "was measured on other data,"),
        ("other weights", "killed on old weights", None, "was measured on other weights,"),
    ],
)
def test_work_of_another_origin_is_begun_anew_with_a_notice(
    name: str, killed: str, quiet: str | None, said: str, answers: dict[str, Answer]
) -> None:
    (after,) = answers[name]

    assert answers[killed][0]["left"] == [PARTIAL]
    assert after["ended"]["progress"] == [STEPS, STEPS, 0]
    (notice,) = after["ended"]["notices"]
    assert said in notice
    assert after["ended"]["document"]["file"] != answers["quiet"][0]["ended"]["document"]["file"]
    if quiet is not None:
        assert after["ended"]["document"] == answers[quiet][0]["ended"]["document"]


def test_work_of_another_plan_is_refused_and_kept(answers: dict[str, Answer]) -> None:
    (refused,) = answers["other plan"]

    assert refused["ended"]["refused"][1] == "OutputNotEmpty"
    assert "unfinished work of another plan" in refused["ended"]["refused"][3]
    assert refused["left"] == [PARTIAL]


def test_a_damaged_journal_and_a_lost_value_prove_nothing(answers: dict[str, Answer]) -> None:
    (spoilt,), (lost,) = answers["spoilt journal"], answers["lost value"]

    assert spoilt["left"] == [PARTIAL]
    assert lost["ended"]["progress"] == [STEPS, STEPS, 0]
    assert lost["ended"]["document"] == answers["quiet"][0]["ended"]["document"]
    assert "is damaged" in lost["ended"]["notices"][0]


def test_finished_statistics_do_not_need_their_data(answers: dict[str, Answer]) -> None:
    (away,), (back,) = answers["out of reach"], answers["in reach"]

    for process in (away, back):
        assert process["ended"]["progress"] == [0, 0, 0]
        assert process["ended"]["document"] == answers["quiet"][0]["ended"]["document"]
        assert process["left"] == BOTH
    (notice,) = away["ended"]["notices"]
    assert "The calibration data cannot be reached now" in notice
    assert "rows.jsonl" in notice
    assert back["ended"]["notices"] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("done on other data", "holds statistics of another data set"),
        ("done on other weights", "before the source's shards were written anew"),
    ],
)
def test_finished_statistics_of_others_are_refused_and_kept(
    name: str, said: str, answers: dict[str, Answer]
) -> None:
    (refused,) = answers[name]

    assert refused["ended"]["refused"][1] == "OutputNotEmpty"
    assert said in refused["ended"]["refused"][3]
    assert refused["left"] == BOTH


def test_a_second_process_finds_the_first_at_work(answers: dict[str, Answer]) -> None:
    (first,) = answers["two at once"]
    (second,) = first["ended"]["meanwhile"]

    assert second["refused"][:2] == ["EnvironmentFault", "OutputBusy"]
    assert first["ended"]["document"] == answers["quiet"][0]["ended"]["document"]
    assert first["left"] == BOTH


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_every_moment(tmp_path: Path) -> None:
    work = Work(tmp_path)
    quiet = work.ask({"quiet": work.case("quiet", None)})["quiet"]
    moments = range(1, quiet[0]["ended"]["moments"] + 1)

    found = work.ask({str(at): work.case(str(at), at, None) for at in moments}, timeout_s=7200)

    for answer in found.values():
        assert_as_if_quiet(answer, quiet)

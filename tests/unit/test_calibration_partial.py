"""What calibration leaves behind when it ends early, and what of it is used again.

Values are archives, as torch writes them; nothing else of torch is needed here.

We test these aspects:
- what was measured is kept after whatever may be mended, and removed when it is of no use
- scratch is empty at the beginning and gone at the end; nothing is left where nothing was measured
- work on other data or weights, or by other versions, is not used, and a sentence says why
- values that are missing, short or full of zeros, and names that lead elsewhere, prove nothing
- symbolic links are refused before anything is written or removed through them
- a disk without room is told with numbers
"""

import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from halftone.quantize.calibration.measured import Measured, Seen
from halftone.quantize.calibration.partial import Journal, Partial, SampleState
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

ORIGIN = {"data": "a", "source": "b", "device": "cpu", "versions": "1", "halftoneVersion": "2"}
FOUND = Measured({"mlp": Seen(1.5, 7, 1)}, {}, {})


def measure(output: Path, *, plan: str = "plan", fails: BaseException | None = None) -> None:
    """One layer, in two values of which one is of no use, and then an end."""
    with Partial(output, plan) as partial:
        partial.scratch.mkdir()
        (partial.scratch / "image").write_bytes(b"pixels")
        partial.take_up(ORIGIN)
        for name in ("kept.pt", "useless.pt"):
            with zipfile.ZipFile(partial.value_path(name), "w") as archive:
                archive.writestr("data", bytes(range(256)) * 64)
        states = (SampleState(("input_ids",), {"hidden": "kept.pt"}),)
        partial.commit(Journal(2, 9, states, FOUND))
        partial.value_path("useless.pt").write_bytes(b"of a layer that did not end")
        if fails is not None:
            raise fails


def left(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


def failing(output: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        measure(output, fails=error)


def interrupted(output: Path, work: Callable[[Partial], None]) -> None:
    """A run that ends early, so that nothing of use is removed."""
    with suppress(KeyboardInterrupt), Partial(output, "plan") as partial:
        work(partial)
        raise KeyboardInterrupt


def taken_up(output: Path, **origin: str) -> tuple[Journal | None, str | None]:
    """What the next run finds, and what it says."""
    found: list[tuple[Journal | None, str | None]] = []

    def look(partial: Partial) -> None:
        told = partial.take_up(ORIGIN | origin)
        found.append((partial.journal, told))

    interrupted(output, look)
    return found[0]


KEPT = {
    "credentials that expired": RefusedInput(Reason.AccessDenied, "s3", "..."),
    "data that are gone": RefusedInput(Reason.DatasetNotFound, "rows", "..."),
    "a transient fault of a GPU": RefusedInput(Reason.ModelNotRunnable, "layer", "..."),
    "a full disk": EnvironmentFault(Reason.OutOfSpace, "disk", "..."),
    "Ctrl-C": KeyboardInterrupt(),
    "a bug": ValueError(),
}
SPOILT = ("NonFiniteActivation", "ModuleUnmeasured", "SourceChanged", "NonFiniteWeight")


@pytest.mark.parametrize("name", KEPT)
def test_what_was_measured_is_kept_without_what_is_useless(name: str, tmp_path: Path) -> None:
    output = tmp_path / "output"

    failing(output, KEPT[name])

    partial = ".statistics.partial"
    assert left(output) == {
        f"{partial}/journal.json", f"{partial}/lock", f"{partial}/values/kept.pt"
    }  # fmt: skip
    journal, told = taken_up(output)
    assert journal is not None
    assert (journal.done, journal.measured, told) == (2, FOUND, None)


@pytest.mark.parametrize("reason", SPOILT)
def test_what_is_of_no_use_is_removed(reason: str, tmp_path: Path) -> None:
    output = tmp_path / "output"

    failing(output, RefusedInput(Reason(reason), "module", "..."))

    assert not output.exists()


def test_nothing_is_left_where_nothing_was_measured(tmp_path: Path) -> None:
    def embed(partial: Partial) -> None:
        partial.take_up(ORIGIN)
        partial.value_path("first.pt").write_bytes(b"before any layer")

    interrupted(tmp_path / "output", embed)

    assert not (tmp_path / "output").exists()


def test_work_that_was_not_yet_taken_up_stays(tmp_path: Path) -> None:
    failing(tmp_path, KEPT["a full disk"])

    with pytest.raises(RefusedInput), Partial(tmp_path, "plan"):
        raise KEPT["data that are gone"]

    assert taken_up(tmp_path)[0] is not None


def test_leftovers_in_scratch_are_gone_before_work_begins(tmp_path: Path) -> None:
    copies = tmp_path / ".statistics.partial" / "data" / "halftone" / "7"
    copies.parent.mkdir(parents=True)
    copies.write_bytes(b"a private picture")

    with Partial(tmp_path, "plan") as partial:
        assert not partial.scratch.exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("data", "was measured on other data"),
        ("source", "was measured on other weights"),
        ("device", "was measured on another device"),
        ("versions", "was measured by other versions of the libraries"),
        ("halftoneVersion", "was measured by another version of Halftone"),
    ],
)
def test_work_of_another_origin_is_dropped_with_a_sentence(
    changed: str, said: str, tmp_path: Path
) -> None:
    failing(tmp_path, KEPT["a full disk"])

    journal, told = taken_up(tmp_path, **{changed: "other"})

    assert journal is None
    assert told is not None
    assert told == (
        f"Unfinished work in '{tmp_path / '.statistics.partial'}' {said}, so it cannot be used: "
        "measuring anew."
    )
    assert taken_up(tmp_path) == (None, None)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def zero(path: Path) -> None:
    """As a file system may leave it after a power cut: as long as it was, a page of it empty."""
    body = bytearray(path.read_bytes())
    body[4096:8192] = bytes(4096)
    path.write_bytes(body)


def lead_out(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere.pt")
    journal = path.parents[1] / "journal.json"
    journal.write_text(journal.read_text().replace("kept.pt", "../../elsewhere.pt"))


@pytest.mark.parametrize("damage", [Path.unlink, shorten, zero, lead_out])
def test_a_damaged_value_proves_nothing(damage: Callable[[Path], None], tmp_path: Path) -> None:
    failing(tmp_path, KEPT["a full disk"])
    damage(tmp_path / ".statistics.partial" / "values" / "kept.pt")

    journal, told = taken_up(tmp_path)

    assert journal is None
    assert told is not None
    assert "is damaged, so it cannot be used" in told


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"planDigest": "plan", "origin": 1}'])
def test_a_damaged_journal_proves_nothing(text: str, tmp_path: Path) -> None:
    failing(tmp_path, KEPT["a full disk"])
    (tmp_path / ".statistics.partial" / "journal.json").write_text(text)

    journal, told = taken_up(tmp_path)

    assert journal is None
    assert told is not None
    assert "is damaged" in told


def test_work_of_another_plan_is_refused_and_kept(tmp_path: Path) -> None:
    failing(tmp_path, KEPT["a full disk"])

    with pytest.raises(RefusedInput, match=r"unfinished work of another plan \(plan, this one is"):
        measure(tmp_path, plan="other")

    assert taken_up(tmp_path)[0] is not None


@pytest.mark.parametrize("place", ["", "values", "data", "lock", "journal.json"])
def test_nothing_is_written_or_removed_through_a_link(place: str, tmp_path: Path) -> None:
    output, precious = tmp_path / "output", tmp_path / "precious"
    (precious / "values").mkdir(parents=True)
    for path in (precious / "letter", precious / "values" / "letter"):
        path.write_text("dear")
    link = output / ".statistics.partial" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(precious / "letter" if place in {"lock", "journal.json"} else precious)

    with pytest.raises(RefusedInput) as refused:
        measure(output)

    assert refused.value.subject == str(link)
    assert "is a symbolic link" in refused.value.message
    assert left(precious) == {"letter", "values/letter"}
    assert (precious / "letter").read_text() == "dear"
    assert link.is_symlink()


def test_a_disk_without_room_is_told_with_numbers(tmp_path: Path) -> None:
    with Partial(tmp_path, "plan") as partial:
        partial.require_space(10)
        with pytest.raises(EnvironmentFault) as told:
            partial.require_space(10**18)

    assert told.value.reason is Reason.OutOfSpace
    assert f"'{tmp_path}' needs 1,000,000,000,000,000,000 more bytes" in told.value.message
    assert "its disk has " in told.value.message

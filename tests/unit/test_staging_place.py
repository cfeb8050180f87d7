"""The place beside an output where a sweep or a conversion works.

We test these aspects:
- what a kill left there is cleared at the start, and nothing is left at the end, made parents too;
- what somebody else put there stays, and nothing is removed through a link;
- two processes, and a shell that stands in the output, are refused.
"""

from pathlib import Path

import pytest

from halftone.quantize.staging_place import staging_place
from halftone.spec.errors import EnvironmentFault, RefusedInput

NAMES = ("made",)


def test_what_a_kill_left_is_cleared_and_nothing_stays(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "er" / "out"
    with staging_place(output, "working", NAMES, "--output") as root:
        assert root == output.parent / ".out.working"
        (root / "made").mkdir()
        (root / "made" / "half").write_text("x")
    assert list(tmp_path.iterdir()) == []

    left = tmp_path / ".out.working" / "made"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    with staging_place(tmp_path / "out", "working", NAMES, "--output") as root:
        assert not (root / "made").exists()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_was_finished_keeps_its_parents(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with staging_place(output, "working", NAMES, "--output") as root:
        (root / "made").mkdir()
        (root / "made").rename(output)
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    root = tmp_path / ".out.working"
    root.mkdir()
    (root / "keep").write_text("a stranger's")
    with staging_place(tmp_path / "out", "working", NAMES, "--output"):
        pass
    assert (root / "keep").read_text() == "a stranger's"


@pytest.mark.parametrize("link", ["root", "made"])
def test_nothing_is_removed_through_a_link(tmp_path: Path, link: str) -> None:
    victim = tmp_path / "victim"
    (victim / "made").mkdir(parents=True)
    (victim / "made" / "file").write_text("precious")
    root = tmp_path / ".out.working"
    if link == "root":
        root.symlink_to(victim)
        with (
            pytest.raises(RefusedInput, match="is in the way") as refusal,
            staging_place(tmp_path / "out", "working", NAMES, "--output"),
        ):
            pass
        assert refusal.value.subject == "--output"
    else:
        root.mkdir()
        (root / "made").symlink_to(victim / "made")
        with staging_place(tmp_path / "out", "working", NAMES, "--output"):
            pass
    assert (victim / "made" / "file").read_text() == "precious"


def test_there_is_one_at_a_time(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with staging_place(output, "working", NAMES, "--output") as root:
        (root / "made").mkdir()
        with (
            pytest.raises(EnvironmentFault, match="Another process is making"),
            staging_place(output, "working", NAMES, "--output"),
        ):
            pass
        assert (root / "made").is_dir()


@pytest.mark.parametrize("place", [".", ".."])
def test_the_directory_in_which_somebody_stands_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with (
        pytest.raises(RefusedInput, match="is where you are"),
        staging_place(Path(place), "working", NAMES, "--output"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["here"]

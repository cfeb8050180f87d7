"""We test these aspects of where `halftone sweep` works and what it leaves:

- a recipe that `halftone plan` accepts, with a warning where somebody has to name data first;
- nothing but its three files; nothing at all where it is refused, killed or told to end;
- what lies in the way is left alone, also what appeared while it measured: then it writes beside;
- one sweep at a time works for an output.
"""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from halftone.quantize.sweep.document import SweepDocument
from halftone.quantize.sweep.files import staged
from halftone.spec.errors import RefusedInput
from halftone.spec.names import (
    QUANTIZE_PYTHON,
    SWEEP_FILE,
    SWEEP_PLOT,
    SWEEP_RECIPE,
    Reason,
)
from tests.builders import set_value, write_checkpoint
from tests.commands import Outcome, files_of, halftone, plan_directory, start, wait_until
from tests.disks import small_disk
from tests.refusals import sentence_of

GB = 10**9
FILES = sorted((SWEEP_FILE, SWEEP_PLOT, SWEEP_RECIPE))
# Where a sweep of `out` works until it is done.
STAGED = ".out.sweeping"


def budget_of(source: Path) -> str:
    """Three quarters of the model."""
    sizes = plan_directory(source, "fp8-dynamic").plan.sizes
    assert sizes is not None
    return f"{0.75 * sizes.whole.bytesBefore / GB:.9f}"


def swept(source: Path, output: Path, *options: str | Path) -> Outcome:
    return halftone("sweep", source, "--budget-gb", budget_of(source), "--output", output, *options)


@pytest.fixture(scope="module")
def document(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepDocument:
    output = tmp_path_factory.mktemp("swept") / "out"
    assert swept(tiny_source, output).code == 0
    return SweepDocument.load(output / SWEEP_FILE)


# The recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["nvfp4-mlp", "fp8-block-a16", "nvfp4a16"])
def test_the_proposed_recipe_can_be_planned_whatever_it_began_with(
    base: str, tiny_source: Path, tmp_path: Path
) -> None:
    ended = swept(tiny_source, tmp_path / "out", "--recipe", base)
    recipe = tmp_path / "out" / SWEEP_RECIPE
    planned = halftone("plan", tiny_source, "--recipe", recipe)
    names_no_data = "names no data to measure on"

    assert (ended.code, planned.code) == (0, 0), ended.err + planned.err
    measures = "Calibrated" in recipe.read_text()
    assert measures == (base != "nvfp4a16")
    assert (names_no_data in ended.out) == (names_no_data in planned.out) == measures
    assert ("# It measures the KV cache and names no data" in recipe.read_text()) == measures


# Its place ----------------------------------------------------------------------------------------


def test_only_its_files_stay_below_folders_that_it_makes(tiny_source: Path, tmp_path: Path) -> None:
    assert swept(tiny_source, tmp_path / "new" / "folder" / "out").code == 0

    assert sorted(files_of(tmp_path)) == [f"new/folder/out/{name}" for name in FILES]
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["out"]


def test_an_empty_directory_and_a_link_to_one_will_do(tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to("there")
    assert swept(tiny_source, tmp_path / "out").code == 0

    assert sorted(files_of(tmp_path / "there")) == FILES
    assert (tmp_path / "out").is_symlink()


def test_of_a_sweep_that_fails_not_even_its_folders_stay(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    set_value(source, "model.layers.1.mlp.up_proj.weight", float("nan"))

    assert "holds NaN" in sentence_of(swept(source, tmp_path / "new" / "folder" / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_appeared_meanwhile_is_left_alone_and_the_files_lie_beside(
    document: SweepDocument, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with staged(output) as place:
        output.mkdir()
        (output / SWEEP_RECIPE).write_text("mine")
        with pytest.raises(RefusedInput) as refused:
            place.publish(document)

    (beside,) = (path for path in tmp_path.iterdir() if path != output)
    assert files_of(output) == {SWEEP_RECIPE: b"mine"}
    assert sorted(files_of(beside)) == FILES
    assert refused.value.reason is Reason.OutputNotEmpty
    assert f"what it found lies in '{beside}'" in refused.value.message


def test_a_second_sweep_for_the_same_output_is_told_of_the_first(
    tiny_source: Path, tmp_path: Path
) -> None:
    (tmp_path / STAGED).mkdir()
    with (tmp_path / STAGED / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = swept(tiny_source, tmp_path / "out")

    assert (ended.code, ended.out) == (3, "")
    assert f"Another process is making '{tmp_path / 'out'}'" in ended.err
    assert list(files_of(tmp_path)) == [f"{STAGED}/lock"]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, as a container's volume is."""
    with small_disk(tmp_path / "mount", 1_000_000) as directory:
        yield directory


def test_a_mount_point_is_refused_and_a_directory_in_it_will_do(
    mount: Path, tiny_source: Path
) -> None:
    assert f"such as '{mount / 'sweep'}'" in sentence_of(swept(tiny_source, mount))
    assert swept(tiny_source, mount / "sweep").code == 0
    assert sorted(files_of(mount)) == [f"sweep/{name}" for name in FILES]


# Its end ------------------------------------------------------------------------------------------


class Waiting:
    """A sweep that waits for the other environment, where nothing happens."""

    def __init__(self, source: Path, folder: Path) -> None:
        python = folder / "python"
        waits = f"echo $$ > {folder}/pid\nexec sleep 600\n"
        python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{waits}')
        python.chmod(0o755)
        (folder / "rows.jsonl").write_text('{"text": "a"}\n')
        (folder / "tmp").mkdir()
        self.folder = folder
        self.output = folder / "work" / "out"
        environment = {QUANTIZE_PYTHON: str(python), "TMPDIR": str(folder / "tmp")}
        arguments = ("--budget-gb", budget_of(source), "--dataset", folder / "rows.jsonl")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            self.process = start("sweep", source, *arguments, "--output", self.output)
        wait_until(lambda: (folder / "pid").is_file(), self.process)

    @property
    def left(self) -> list[str]:
        """What lies in its folders, and in the one for temporary files."""
        return sorted(
            str(path.relative_to(self.folder))
            for place in ("work", "tmp")
            for path in (self.folder / place).rglob("*")
        )


def test_a_killed_sweep_leaves_one_place_that_the_next_one_clears(
    tiny_source: Path, tmp_path: Path
) -> None:
    waiting = Waiting(tiny_source, tmp_path)
    waiting.process.kill()
    waiting.process.communicate()
    left = [f"work/{STAGED}", f"work/{STAGED}/lock", f"work/{STAGED}/scratch"]
    assert waiting.left == left

    (tmp_path / "work" / STAGED / "scratch" / "value.pt").write_text("a value of some layer")
    assert swept(tiny_source, waiting.output).code == 0
    assert waiting.left == sorted(["work/out", *(f"work/out/{name}" for name in FILES)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_told_to_end_leaves_nothing(
    number: signal.Signals, tiny_source: Path, tmp_path: Path
) -> None:
    waiting = Waiting(tiny_source, tmp_path)
    os.kill(waiting.process.pid, number)
    out, _ = waiting.process.communicate()

    assert (waiting.process.returncode, out) == (130, "")
    assert waiting.left == []

"""A work area in S3: what comes out of it, whoever wrote there, and when the way to it fails.

We test these aspects:
- documents and folders come as they were left, and what a console adds does not come
- no name leads out of the directory that files are brought to
- a body that breaks off each time ends in a sentence and leaves no half file
- the mark stays until it is forgotten
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from halftone.spec.documents import WrittenFile
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.stores.s3_work_area import S3WorkArea
from tests.commands import files_of
from tests.doubles.s3 import Fault, S3Double

PLAN = "d" * 64
PREFIX = f"small.work/default.small/{PLAN}"


@pytest.fixture
def area(s3_bucket: S3Double) -> Iterator[S3WorkArea]:
    s3_bucket.client.create_bucket(Bucket="models")
    with closing(S3WorkArea("s3://models/small.work/default.small", PLAN)) as area:
        yield area


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A work directory, with room above it that nothing may be written to."""
    directory = tmp_path / "above" / "workdir"
    directory.mkdir(parents=True)
    return directory


def test_what_was_left_is_brought(
    area: S3WorkArea, s3_bucket: S3Double, here: Path, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    (left / "evidence").mkdir(parents=True)
    (left / "plan.json").write_bytes(b"{}")
    (left / "evidence" / "structure.json").write_bytes(b"[]")
    area.push(left, ["plan.json", "evidence/structure.json"])
    s3_bucket.put("models", f"{PREFIX}/evidence/", b"")

    assert area.pull(here, ["plan.json", "report.json"]) == ["plan.json"]
    area.pull_folder(here, "evidence")

    assert files_of(here) == files_of(left)


@pytest.mark.parametrize("name", ["../../outside.json", "a/../../../../outside.json", "/x", "a\\b"])
def test_no_name_in_a_folder_leads_out_of_the_directory(
    area: S3WorkArea, s3_bucket: S3Double, here: Path, name: str
) -> None:
    s3_bucket.put("models", f"{PREFIX}/evidence/{name}", b"forged")

    with pytest.raises(RefusedInput, match="leads out of it") as caught:
        area.pull_folder(here, "evidence")

    assert caught.value.reason is Reason.WorkdirInconsistent
    assert files_of(here.parent) == {}


def test_no_file_of_a_forged_document_leads_out_of_the_directory(
    area: S3WorkArea, here: Path
) -> None:
    forged = WrittenFile(path="../../outside", sizeBytes=6, sha256="0" * 64)

    with pytest.raises(RefusedInput, match="leads out of it"):
        area.pull_checkpoint(here, [forged])

    assert files_of(here.parent) == {}


def test_a_body_that_breaks_off_each_time_is_told(
    area: S3WorkArea, s3_bucket: S3Double, here: Path
) -> None:
    s3_bucket.put("models", f"{PREFIX}/plan.json", bytes(100_000))
    s3_bucket.fail(Fault.Cut, times=50)

    with pytest.raises(EnvironmentFault, match="check the network") as caught:
        area.pull(here, ["plan.json"])

    assert caught.value.reason is Reason.StoreUnavailable
    assert files_of(here) == {}


def test_a_mark_stays_until_it_is_forgotten(area: S3WorkArea) -> None:
    mark = area.mark()

    assert area.mark() == mark
    area.forget_mark()
    assert area.mark() != mark

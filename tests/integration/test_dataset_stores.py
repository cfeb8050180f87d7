"""Calibration data in a directory, on the Hub and in a bucket, opened by the real clients.

We test these aspects:
- what is listed: a file, a folder, a path in a repository, a prefix that is called like a file
- images beside the data: found when a row names them, and nowhere else
- the commit that a repository is pinned to, also when its branch moves on; the token, and ranges
  instead of whole files
- data that are not there, not shown to us, or hold no rows: the sentence, without any secret
"""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from halftone.quantize.calibration.dataset.row_index import RowIndex
from halftone.spec.calibration import Dataset, HuggingFaceDataset, Modality, S3Dataset
from halftone.spec.errors import HalftoneError
from halftone.spec.names import Reason
from halftone.stores.datasets import open_dataset
from halftone.stores.directory import DirectorySource
from halftone.stores.pinned import Listing
from tests.builders.datasets import json_lines, png, text_rows, write_rows
from tests.doubles.hub import HubDouble, Place
from tests.doubles.s3 import Fault, S3Double

ROWS = text_rows(3000, words=40)  # 700 kB: some pieces of a network
TOKEN = "hf_" + "s3cret" * 5


def on_hub(path: str | None = None, revision: str = "main") -> Dataset:
    repository = HuggingFaceDataset(repository="org/rows", path=path, revision=revision)
    return Dataset(huggingFace=repository)


def refusal(dataset: Dataset) -> HalftoneError:
    with pytest.raises(HalftoneError) as caught:
        open_dataset(dataset)
    assert "s3cret" not in str(caught.value)
    return caught.value


def texts(dataset: Dataset, numbers: list[int]) -> list[str | None]:
    """The text of the usable rows with these numbers."""
    with (
        closing(open_dataset(dataset)) as files,
        closing(RowIndex(files, [Modality.Text], Path())) as index,
    ):
        return [row.text for row in index.rows(Modality.Text, numbers)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    write_rows(folder / "data" / "train-1.jsonl", ROWS[:2000])
    write_rows(folder / "data" / "train-2.jsonl", ROWS[2000:])
    write_rows(folder / "test.jsonl", text_rows(2, seed=9))
    (folder / "README.md").write_text("# Rows\n")
    (folder / "dataset_infos.json").write_text(json.dumps({"default": {}}))
    (folder / "data" / "pictures").mkdir()
    (folder / "data" / "pictures" / "a.png").write_bytes(png())
    return folder


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with HubDouble(repository, "org/rows", kind="dataset", large_file_bytes=100_000) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double


def test_a_directory_and_a_file_in_it(repository: Path) -> None:
    folder = open_dataset(Dataset(path=str(repository)))
    assert [file.path for file in folder.files] == [
        "data/train-1.jsonl",
        "data/train-2.jsonl",
        "test.jsonl",
    ]
    assert (folder.uri, folder.revision) == (str(repository), None)
    folder.close()

    file = Dataset(path=str(repository / "data" / "train-2.jsonl"))
    assert texts(file, [0, 999]) == [ROWS[2000]["text"], ROWS[2999]["text"]]


def test_rows_of_a_file_are_read_among_any_number_of_other_files(tmp_path: Path) -> None:
    """Only what may hold rows is listed: a folder of pictures may be as large as it likes."""
    rows = write_rows(tmp_path / "rows.jsonl", text_rows(1))
    (tmp_path / "secret.jsonl").write_text("not looked at")
    (tmp_path / "no\nname.png").write_bytes(png())  # no file of a checkpoint may be called so

    files = open_dataset(Dataset(path=str(rows)))
    assert [entry.path for entry in files.source.files()] == ["rows.jsonl"]
    files.close()
    (tmp_path / "secret.jsonl").unlink()
    files = open_dataset(Dataset(path=str(tmp_path)))
    assert [entry.path for entry in files.source.files()] == ["rows.jsonl"]
    files.close()


def test_files_that_hold_no_rows_do_not_count(tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(b"")
    for index in range(2):
        write_rows(tmp_path / f"{index}.jsonl", text_rows(1))
    listing = Listing(whole="data set", most=2, suffixes=(".jsonl",))

    assert len(DirectorySource(tmp_path, listing).files()) == 2
    write_rows(tmp_path / "2.jsonl", text_rows(1))
    with pytest.raises(HalftoneError, match=r"holds more than 2 files; .* of one data set"):
        DirectorySource(tmp_path, listing)


def test_a_file_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", text_rows(5))
    files = open_dataset(Dataset(path=str(path)))
    index = RowIndex(files, [Modality.Text], tmp_path)
    write_rows(path, text_rows(5, seed=1))

    with pytest.raises(HalftoneError) as caught:
        list(index.rows(Modality.Text, [3]))
    assert caught.value.reason is Reason.SourceChanged
    files.close()


def test_an_image_is_found_beside_its_file_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(png())
    write_rows(tmp_path / "data" / "part" / "rows.jsonl", text_rows(1))
    (tmp_path / "data" / "part" / "a.png").write_bytes(png())
    (tmp_path / "data" / "part" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    files = open_dataset(Dataset(path=str(tmp_path / "data")))
    file = "part/rows.jsonl"

    found = files.beside(file, "a.png")
    assert files.source.read_range(found.path, 0, found.size_bytes) == png()
    assert files.beside(file, "./a.png") == found
    endless = ("x" * 256, "ab/" * 400 + "c", "é" * 128)  # base64, for one, is no path
    for path in ("../a.png", "/etc/passwd", "a//b.png", "file:///a.png", "up\\a.png", *endless):
        with pytest.raises(HalftoneError, match="no path below the folder") as caught:
            files.beside(file, path)
        assert caught.value.reason is Reason.DatasetUnusable
    with pytest.raises(HalftoneError, match="leaves the directory"):
        files.source.read_range(files.beside(file, "link.png").path, 0, 1)
    with pytest.raises(HalftoneError, match="has no file") as caught:
        files.beside(file, "b.png")
    assert caught.value.reason is Reason.SourceNotFound
    files.close()


def test_a_repository_is_pinned_and_read_in_ranges(hub: HubDouble, tmp_path: Path) -> None:
    dataset = open_dataset(on_hub("data"))
    assert dataset.revision == hub.commit
    assert dataset.uri == "hf://datasets/org/rows@main/data"
    assert [file.path for file in dataset.files] == ["data/train-1.jsonl", "data/train-2.jsonl"]

    index = RowIndex(dataset, [Modality.Text], tmp_path)
    assert index.usable(Modality.Text) == 3000
    before = dataset.source.traffic.bytes
    [row] = index.rows(Modality.Text, [2500])
    assert row.text == ROWS[2500]["text"]
    assert dataset.source.traffic.bytes - before < 1000  # the row alone
    assert {seen.path.split("/")[1] for seen in hub.seen(Place.Resolve)} == {"datasets"}
    picture = dataset.beside("data/train-1.jsonl", "pictures/a.png")
    assert dataset.source.read_range(picture.path, 0, picture.size_bytes) == png()


def test_a_revision_that_moves_on_changes_nothing(hub: HubDouble, tmp_path: Path) -> None:
    """The Hub is asked once what `main` is, and all files are read at that commit."""
    then = hub.commit
    dataset = open_dataset(on_hub("data"))
    write_rows(tmp_path / "moved" / "data" / "train-1.jsonl", text_rows(3000, seed=5))
    (tmp_path / "moved" / "data" / "pictures").mkdir()
    (tmp_path / "moved" / "data" / "pictures" / "a.png").write_bytes(png(seed=1))
    hub.move(tmp_path / "moved")

    assert dataset.revision == then != hub.commit
    with closing(RowIndex(dataset, [Modality.Text], tmp_path)) as index:
        found = [row.text for row in index.rows(Modality.Text, (0, 1999, 2000, 2999))]
    assert found == [ROWS[number]["text"] for number in (0, 1999, 2000, 2999)]
    picture = dataset.beside("data/train-1.jsonl", "pictures/a.png")
    assert dataset.source.read_range(picture.path, 0, picture.size_bytes) == png()
    # The double moved: who opens the same address now gets the new rows.
    assert texts(on_hub("data"), [0]) == [text_rows(1, seed=5)[0]["text"]]


def test_a_file_of_a_repository_and_all_of_it(hub: HubDouble) -> None:
    assert texts(on_hub("test.jsonl"), [0]) == [text_rows(2, seed=9)[0]["text"]]
    assert [file.path for file in open_dataset(on_hub()).files] == [
        "data/train-1.jsonl",
        "data/train-2.jsonl",
        "test.jsonl",
    ]


def test_a_private_repository_needs_the_token_of_the_environment(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubDouble(repository, "org/rows", kind="dataset", token=TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        error = refusal(on_hub())
        assert error.reason is Reason.DatasetNotFound
        assert "`quantization.calibration.dataset.huggingFace` leads nowhere" in error.message
        assert "set HF_TOKEN" in error.message
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert len(open_dataset(on_hub()).files) == 3


def test_a_model_is_no_data_set(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubDouble(repository, "org/rows") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert "The Hub shows no `hf://datasets/org/rows@main`" in refusal(on_hub()).message


@pytest.mark.parametrize(
    ("dataset", "reason", "said"),
    [
        (on_hub(revision="v9"), Reason.DatasetNotFound, "has no such revision"),
        (on_hub("nowhere"), Reason.DatasetUnusable, "holds none that ends with .jsonl"),
        (on_hub("README.md"), Reason.DatasetUnusable, "is no file and holds none"),
        (on_hub(revision="a b"), Reason.InvalidJob, "is no dataset on the Hub"),
    ],
)
def test_what_the_hub_does_not_have(
    hub: HubDouble, dataset: Dataset, reason: Reason, said: str
) -> None:
    error = refusal(dataset)

    assert error.reason is reason
    assert said in error.message


def test_a_bucket_s_prefix_file_and_images(
    s3_bucket: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json_lines(ROWS[:50])
    s3_bucket.put("rows", "set/a.jsonl", body)
    s3_bucket.put("rows", "set/a.jsonl.other", b"not this one")
    s3_bucket.put("rows", "set/pictures/1.png", png())
    s3_bucket.put("rows", "set/spark.jsonl/part-0.json", json_lines(ROWS[50:52]))

    prefix = open_dataset(Dataset(s3=S3Dataset(uri="s3://rows/set/")))
    assert [file.path for file in prefix.files] == ["a.jsonl", "spark.jsonl/part-0.json"]
    assert (prefix.uri, prefix.revision) == ("s3://rows/set/", None)
    file = Dataset(s3=S3Dataset(uri="s3://rows/set/a.jsonl"))
    assert texts(file, [49]) == [ROWS[49]["text"]]
    like_a_file = Dataset(s3=S3Dataset(uri="s3://rows/set/spark.jsonl"))
    assert texts(like_a_file, [1]) == [ROWS[51]["text"]]

    opened = open_dataset(file)
    picture = opened.beside("a.jsonl", "pictures/1.png")
    assert opened.source.read_range(picture.path, 0, picture.size_bytes) == png()
    with pytest.raises(HalftoneError, match="has no file"):
        opened.beside("a.jsonl", "pictures/2.png")
    s3_bucket.fail(Fault.Denied)
    with pytest.raises(HalftoneError, match=r"The store refused `pictures/3\.png`"):
        opened.beside("a.jsonl", "pictures/3.png")


@pytest.mark.parametrize(
    ("uri", "reason", "said"),
    [
        ("s3://rows/none", Reason.DatasetNotFound, "`s3://rows/none` holds no objects"),
        ("s3://rows/none.jsonl", Reason.DatasetNotFound, "`s3://rows/none.jsonl` holds no objects"),
        ("s3://nobody/a.jsonl", Reason.DatasetNotFound, "The store has no `s3://nobody/a.jsonl`"),
        ("s3://R/x", Reason.InvalidJob, "is no S3 address"),
    ],
)
def test_what_a_bucket_does_not_have(
    s3_bucket: S3Double, monkeypatch: pytest.MonkeyPatch, uri: str, reason: Reason, said: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret" * 5)
    s3_bucket.put("rows", "set/a.jsonl", b"{}")
    error = refusal(Dataset(s3=S3Dataset(uri=uri)))

    assert error.reason is reason
    assert said in error.message


def test_the_endpoint_of_the_job_is_named_when_it_is_none(s3_bucket: S3Double) -> None:
    error = refusal(Dataset(s3=S3Dataset(uri="s3://rows/a", endpointUrl="http://no where")))

    assert error.subject == "quantization.calibration.dataset.s3.endpointUrl"


@pytest.mark.parametrize("name", ["absent.jsonl", "absent/rows.jsonl", "notes.txt", "empty"])
def test_a_path_without_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("no rows")
    (tmp_path / "empty").mkdir()
    error = refusal(Dataset(path=str(tmp_path / name)))

    is_there = name in {"notes.txt", "empty"}
    assert error.reason is (Reason.DatasetUnusable if is_there else Reason.DatasetNotFound)
    assert error.subject == "quantization.calibration.dataset.path"
    assert f"there is no '{tmp_path / name}'" in error.message or is_there


def test_a_path_that_cannot_be_asked_about_is_refused() -> None:
    error = refusal(Dataset(path="/" + "x" * 300))

    assert error.reason is Reason.DatasetNotFound
    assert "cannot be reached (File name too long); correct it." in error.message

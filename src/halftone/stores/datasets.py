"""Opens calibration data: files of rows in a directory, a repository of the Hub or a bucket.

Called by the calibration stage. The stores are those of checkpoints, and so are their credentials
and errors; only what is listed differs, because images may lie beside the files in any number. What
a row is, and how a file holds rows, is none of its business.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from halftone.spec.calibration import Dataset, HuggingFaceDataset, S3Dataset
from halftone.spec.errors import RefusedInput
from halftone.spec.extras import extra
from halftone.spec.files import FileEntry
from halftone.spec.names import Reason
from halftone.stores.credentials import GivenFor, given
from halftone.stores.directory import DirectorySource
from halftone.stores.pinned import Listing, PinnedSource, is_plain

# How files of rows are called: the part before `.gz`, which any but Parquet may have.
DATA_SUFFIXES: Final = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
# What libraries write beside rows.
_NOT_ROWS: Final = frozenset({"dataset_info.json", "dataset_infos.json", "state.json"})
_ROWS: Final = Listing(whole="data set", suffixes=DATA_SUFFIXES)
# The Hub lists everything in one answer, images too.
_ALL: Final = Listing(whole="data set", most=1_000_000)
_FIELD: Final = "quantization.calibration.dataset"


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a data set, sorted by path, and the place where they lie.

    `field` is the part of the job that names the data; `revision` the commit, on the Hub.
    """

    field: str
    uri: str
    revision: str | None
    source: PinnedSource
    files: tuple[FileEntry, ...]

    def beside(self, file: str, path: str) -> FileEntry:
        """Pin the file that a row of `file` calls `path`, which starts in the folder of `file`.

        Raises RefusedInput(DatasetUnusable) for a path that could leave that folder, or is longer
        than paths are, RefusedInput(SourceNotFound) when there is no such file.
        """
        path = path.removeprefix("./")
        if not is_plain(path) or "://" in path or not _is_short(path):
            raise RefusedInput(
                Reason.DatasetUnusable,
                file,
                f"{path[:100]!a} is no path below the folder of `{file}`; put the file there, and "
                "name it from there on.",
            )
        folder, slash, _ = file.rpartition("/")
        return self.source.admit(f"{folder}{slash}{path}")

    def close(self) -> None:
        """Give back descriptors and connections."""
        self.source.close()


def open_dataset(dataset: Dataset) -> DatasetFiles:
    """List and pin the files that `dataset` names.

        files = open_dataset(Dataset(huggingFace=HuggingFaceDataset(repository="org/name")))
        files.revision  # the commit that it was pinned to

    Raises RefusedInput: DatasetNotFound when nothing is there, DatasetUnusable when no file of it
    holds rows, and as `open_source` does.
    """
    if dataset.huggingFace is not None:
        return _on_the_hub(dataset.huggingFace)
    if dataset.s3 is not None:
        return _in_a_bucket(dataset.s3)
    assert dataset.path is not None
    return _in_a_directory(Path(dataset.path))


def _in_a_directory(path: Path) -> DatasetFiles:
    field = f"{_FIELD}.path"
    try:
        is_folder = path.is_dir()
        said = "" if path.exists() else f"there is no '{path}'"
    except OSError as error:
        said = f"'{path}' cannot be reached ({error.strerror})"
    if said:
        message = f"`{field}` leads nowhere: {said}; correct it."
        raise RefusedInput(Reason.DatasetNotFound, field, message)
    with _missing(field):
        if is_folder:
            source = DirectorySource(path, _ROWS)
        else:
            source = DirectorySource(path.parent, Listing(only=path.name))
    return _found(field, str(path), None, source, source.files())


def _on_the_hub(wanted: HuggingFaceDataset) -> DatasetFiles:
    field = f"{_FIELD}.huggingFace"
    with extra("hub", "This data set"):
        from halftone.stores.hub import HubSource

    uri = f"hf://datasets/{wanted.repository}@{wanted.revision}"
    credentials = given(GivenFor.Dataset, wanted.tokenSecretRef, f"{field}.tokenSecretRef")
    with _missing(field):
        source = HubSource(uri, kind="dataset", listing=_ALL, credentials=credentials)
    inside = (wanted.path or "").strip("/")
    listed = source.files()
    files = tuple(entry for entry in listed if entry.path == inside)
    files = files or tuple(
        entry for entry in listed if not inside or entry.path.startswith(f"{inside}/")
    )
    uri = f"{uri}/{inside}" if inside else uri
    return _found(field, uri, source.revision, source, files)


def _in_a_bucket(wanted: S3Dataset) -> DatasetFiles:
    field = f"{_FIELD}.s3"
    with extra("s3", "This data set"):
        from halftone.stores.s3 import S3Source

    ref = wanted.credentialsSecretRef
    credentials = given(GivenFor.Dataset, ref, f"{field}.credentialsSecretRef")

    def opened(uri: str, listing: Listing) -> S3Source:
        return S3Source(
            uri,
            wanted.endpointUrl,
            listing=listing,
            field=f"{field}.endpointUrl",
            credentials=credentials,
        )

    folder, _, name = wanted.uri.rpartition("/")
    if name.endswith(DATA_SUFFIXES) and folder.count("/") > 1:
        try:
            source = opened(folder, Listing(only=name))
            return _found(field, wanted.uri, None, source, source.files())
        except RefusedInput as error:
            if error.reason is not Reason.SourceNotFound:
                raise
            # Some writers make a folder that is called like a file.
    with _missing(field):
        source = opened(wanted.uri, _ROWS)
    return _found(field, wanted.uri, None, source, source.files())


def _found(
    field: str,
    uri: str,
    revision: str | None,
    source: PinnedSource,
    listed: tuple[FileEntry, ...],
) -> DatasetFiles:
    """The files of rows among those that are `listed`."""
    files = tuple(
        entry
        for entry in listed
        if entry.path.endswith(DATA_SUFFIXES) and (len(listed) == 1 or not _is_aside(entry.path))
    )
    if not files:
        source.close()
        raise RefusedInput(
            Reason.DatasetUnusable,
            field,
            f"`{field}`, '{uri}', is no file and holds none that ends with .jsonl, .json (either "
            "may be followed by .gz) or .parquet; correct it.",
        )
    return DatasetFiles(field, uri, revision, source, files)


def _is_short(path: str) -> bool:
    """Whether a file system could have such a path; what is longer is no path but, say, base64."""
    return len(path) < 1024 and all(len(part.encode()) < 256 for part in path.split("/"))


def _is_aside(path: str) -> bool:
    """Whether a file lies among data and holds no rows."""
    parts = path.split("/")
    return parts[-1] in _NOT_ROWS or any(part.startswith(".") for part in parts)


@contextmanager
def _missing(field: str) -> Iterator[None]:
    """Say in the words of the data, not of the source, that something is not there."""
    try:
        yield
    except RefusedInput as error:
        if error.reason is not Reason.SourceNotFound:
            raise
        message = f"`{field}` leads nowhere: {error.message}"
        raise RefusedInput(Reason.DatasetNotFound, field, message) from error

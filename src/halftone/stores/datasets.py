"""Opens calibration data: files of rows in a directory, a repository of the Hub or a bucket.

Called by the calibration stage through `open_dataset`. What a row is, and how a file holds rows, is
none of its business: it lists files by their suffix and reads ranges of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from halftone.spec.calibration import Dataset
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileEntry, FileSource
from halftone.spec.names import Reason
from halftone.stores.directory import DirectorySource

DATA_SUFFIXES: Final = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a data set, sorted by path, and where to read them.

    `field` is the part of the job that names the data, for messages.
    """

    field: str
    uri: str
    revision: str | None
    source: FileSource
    files: tuple[FileEntry, ...]

    def close(self) -> None:
        """Give back descriptors and connections."""
        self.source.close()


def open_dataset(dataset: Dataset) -> DatasetFiles:
    """List and pin the files that `dataset` names."""
    field = "calibration.dataset.path"
    assert dataset.path is not None
    path = Path(dataset.path)
    folder, only = (path, None) if path.is_dir() else (path.parent, path.name)
    source = DirectorySource(folder)
    files = tuple(
        entry
        for entry in source.files()
        if entry.path.endswith(DATA_SUFFIXES) and only in (None, entry.path)
    )
    if not files:
        raise RefusedInput(Reason.DatasetUnusable, field, f"`{field}` '{path}' holds no data.")
    return DatasetFiles(field, str(path), None, source, files)

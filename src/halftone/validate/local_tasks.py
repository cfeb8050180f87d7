"""Reads a task of lm-evaluation-harness that lies in a YAML file, without the harness.

Called at plan time, where neither the harness nor vLLM is installed, to count a task's items
(`gates/power.py`) and to know the files that decide its score; and by `serving/tasks.py`. Only what
can be known without running the task is told: a task that draws or filters its items in Python has
no count here.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import TASK_FILES
from halftone.spec.names import Reason
from halftone.spec.yaml_text import parse_yaml

# The loaders of `datasets` that read files, and may therefore read files beside the YAML.
_FILE_LOADERS: Final = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas", "xml"})


@dataclass(frozen=True)
class LocalTask:
    """`config`: the YAML, what it includes, and the Python beside it where it names functions;
    `data`: the files of all splits, empty where the data lie elsewhere; `items`: of the evaluated
    split, None where only running it would show; `is_group`: it names other tasks.
    """

    config: tuple[Path, ...]
    data: tuple[Path, ...]
    items: int | None
    is_group: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides a score."""
        return (*self.config, *self.data)


class _Loader(yaml.SafeLoader):
    """YAML as the harness writes it; a Python function is named, never imported."""


_Loader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


def is_local(task: str) -> bool:
    """Whether a gate's `task` names a file; other words are names that the harness knows."""
    return Path(task).suffix in TASK_FILES


def read_local_task(path: Path) -> LocalTask:
    """The task in `path`; relative names in it start at its folder.

    Raises RefusedInput for a file that is not there or no YAML of a task, and for data that are
    not there.
    """
    read: list[Path] = []
    config = _read(path, read)
    if not ({"task", "group"} & config.keys()):
        told = f"'{path}' is not a task of lm-evaluation-harness: it has no field `task`."
        raise RefusedInput(Reason.InvalidJob, str(path), told)
    loading = config.get("dataset_kwargs")
    wanted = loading if isinstance(loading, dict) else {}
    named = wanted.get("data_files")
    if named is None or str(config.get("dataset_path")) not in _FILE_LOADERS:
        return LocalTask(config=tuple(read), data=(), items=None, is_group="group" in config)
    splits = named if isinstance(named, dict) else {"train": named}
    files = {
        str(split): _resolve(path, _listed(path, "data_files", names))
        for split, names in splits.items()
    }
    evaluated = files.get(str(config.get("test_split") or config.get("validation_split")), ())
    computed = {"process_docs", "custom_dataset", "class"} & config.keys()
    items = None if computed or not evaluated or wanted.get("field") else _count(evaluated)
    data = tuple(sorted({file for of_split in files.values() for file in of_split}))
    return LocalTask(config=tuple(read), data=data, items=items)


def _read(path: Path, read: list[Path]) -> dict[str, Any]:
    """The YAML with what it includes below it; `read` gets every file, the given one first."""
    if os.path.realpath(path) in map(os.path.realpath, read):
        told = (
            f"'{path}' is included more than once, which lm-evaluation-harness takes for a circle; "
            "include it in one place."
        )
        raise RefusedInput(Reason.InvalidJob, str(path), told)
    read.append(path)
    try:
        text = path.read_text(encoding="utf-8")
        config = parse_yaml(text, _Loader)
    except OSError as error:
        told = f"The task '{path}' cannot be read ({error.strerror}); give the path of its YAML."
        raise RefusedInput(Reason.SourceNotFound, str(path), told) from error
    except ValueError as error:  # NotYamlError, or no UTF-8
        told = f"'{path}' is not YAML, so no task can be read from it: {error}; correct it."
        raise RefusedInput(Reason.InvalidJob, str(path), told) from error
    if not isinstance(config, dict):
        told = f"'{path}' is not a task of lm-evaluation-harness: it holds no fields."
        raise RefusedInput(Reason.InvalidJob, str(path), told)
    if "!function" in text:  # which may call what stands in any of them
        read.extend(file for file in sorted(path.parent.glob("*.py")) if file not in read)
    merged: dict[str, Any] = {}
    for included in _listed(path, "include", config.pop("include", [])):
        merged |= _read(path.parent / included, read)
    return merged | config


def _listed(path: Path, field: str, names: Any) -> list[str]:
    """What `field` of the YAML in `path` names: one file, or several."""
    listed = names if isinstance(names, list) else [names]
    if not all(isinstance(name, str) for name in listed):
        told = f"`{field}` of '{path}' names no file; write a path, or a list of paths."
        raise RefusedInput(Reason.InvalidJob, str(path), told)
    return listed


def _resolve(path: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Files of the folder; addresses of other places are left out."""
    found: list[Path] = []
    for name in names:
        if "://" in name:
            continue
        pattern = Path(name)
        if any(sign in name for sign in "*?["):
            matched = sorted(path.parent.glob(name)) if not pattern.is_absolute() else []
        else:
            matched = [path.parent / pattern]
        missing = [file for file in matched if not file.is_file()]
        if missing or not matched:
            told = (
                f"The data '{name}' of task '{path}' are not there; `data_files` start at the "
                "folder of the YAML file."
            )
            raise RefusedInput(Reason.SourceNotFound, str(path), told)
        found.extend(matched)
    return tuple(found)


def _count(files: Sequence[Path]) -> int | None:
    """Items in JSON files, one object a line or one list a file; None for other kinds."""
    if any(file.suffix not in (".json", ".jsonl") for file in files):
        return None
    return sum(_count_json(file) for file in files)


def _count_json(file: Path) -> int:
    text = file.read_text(encoding="utf-8", errors="replace")
    if text.lstrip().startswith("["):
        try:
            return len(json.loads(text))
        except ValueError as error:
            told = f"'{file}' is not JSON; it has to hold one list, or one object a line."
            raise RefusedInput(Reason.InvalidJob, str(file), told) from error
    # Other ends of lines may stand within a string.
    return sum(1 for line in text.split("\n") if line.strip())

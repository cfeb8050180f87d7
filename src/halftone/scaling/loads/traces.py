"""Recorded requests become a load: Azure's CSV, and JSON Lines as Mooncake's traces have them.

    load = read_trace(Path("conversations.csv"))

Called by `halftone replay` and by benchmarks. A file is someone else's: whatever it holds, it is
read whole or refused with the line and the field that are wrong, and nothing of it is run.

A prompt or an answer of 0 tokens counts as 1: the request came, and a server computes at least the
one token that it answers with.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from halftone.scaling.loads.load import Load
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

AZURE_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
# Prompt tokens that one of `hash_ids` stands for.
HASHED_TOKENS: Final = 512
# No model has a context of more; beyond it a field means something else.
_MOST_TOKENS: Final = 100_000_000
# Longer is a mistake in a time; every policy would be asked through all of it.
MOST_DAYS: Final = 31
_DAY_S: Final = 86_400.0
_MOST_MS: Final = 1e18
_SHOWN: Final = 60  # characters of what was found in place of what was expected


class _Row(NamedTuple):
    """A request: seconds since any epoch, tokens, and the hashes of the prompt's blocks."""

    time_s: float
    prompt: int
    output: int
    hashes: tuple[Any, ...] = ()


class _Unreadable(ValueError):
    """What is wrong with a field, without the place."""

    def __init__(self, field: str, told: str) -> None:
        super().__init__(told)
        self.field = field


def read_trace(path: Path) -> Load:
    """The load in the file at `path`, named after it; its first request arrives at 0.

    A first line of JSON makes it JSON Lines, with `timestamp` in milliseconds, `input_length`,
    `output_length` and maybe `hash_ids`; anything else must be the header of Azure's CSV.

    Raises RefusedInput(InvalidTrace) that names line and field.
    """
    try:
        # Not `splitlines`: JSON may hold separators of Unicode as they are.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise _refused(path, str(path), f"cannot be read: {why}; name a trace file") from error
    is_json = next((line for line in lines if line.strip()), "").lstrip().startswith("{")
    rows = list(_rows(path, lines, is_json=is_json))
    if not rows:
        raise _refused(path, str(path), "holds no request; name a trace that has some")
    rows.sort(key=lambda row: row.time_s)
    first = rows[0].time_s
    if (days := (rows[-1].time_s - first) / _DAY_S) > MOST_DAYS:
        told = f"lasts {days:,.0f} days, and {MOST_DAYS} can be replayed; cut it, or mend its times"
        raise _refused(path, str(path), told)
    return Load.of(
        path.stem,
        [row.time_s - first for row in rows],
        [row.prompt for row in rows],
        [row.output for row in rows],
        np.fromiter(_cached(rows), np.int64, len(rows)),
    )


def _rows(path: Path, lines: list[str], *, is_json: bool) -> Iterator[_Row]:
    columns = None if is_json else _columns(path, lines)
    for number, line in enumerate(lines, 1):
        if not line.strip() or (columns and number == 1):
            continue
        try:
            yield _json_row(line) if columns is None else _azure_row(line, columns)
        except _Unreadable as error:
            told = f"`{error.field}` in line {number} {error}"
            raise _refused(path, error.field, told) from error


def _columns(path: Path, lines: list[str]) -> tuple[int, ...]:
    """Where Azure's columns stand; a file may have others between them."""
    header = [name.strip().strip('"') for name in lines[0].split(",")]
    missing = [name for name in AZURE_COLUMNS if name not in header]
    if missing:
        told = (
            f"line 1 has no column `{missing[0]}`; it must be JSON Lines with `timestamp`, "
            f"`input_length` and `output_length`, or CSV with {','.join(AZURE_COLUMNS)}"
        )
        raise _refused(path, missing[0], told)
    return tuple(header.index(name) for name in AZURE_COLUMNS)


def _azure_row(line: str, columns: tuple[int, ...]) -> _Row:
    cells = line.split(",")
    try:
        time, prompt, output = (cells[column] for column in columns)
    except IndexError:
        raise _Unreadable(AZURE_COLUMNS[-1], "is missing; every line has all columns") from None
    time_s = _moment(time.strip())
    return _Row(time_s, _tokens(AZURE_COLUMNS[1], prompt), _tokens(AZURE_COLUMNS[2], output))


def _moment(text: str) -> float:
    """Seconds since 1970; a time without a zone is taken as UTC. Digits beyond 1 µs are cut."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        told = f"is no time as 2023-11-16 18:17:03.9799600: '{text[:_SHOWN]}'"
        raise _Unreadable(AZURE_COLUMNS[0], told) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _json_row(line: str) -> _Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _Unreadable("timestamp", "is missing, for the line is no JSON object")
    time = found.get("timestamp")
    if isinstance(time, bool) or not isinstance(time, int | float) or not abs(time) < _MOST_MS:
        told = f"must be a number of milliseconds, and is {_shown(found, 'timestamp')}"
        raise _Unreadable("timestamp", told)
    hashes = found.get("hash_ids")
    hashes = () if hashes is None else hashes
    if not isinstance(hashes, list | tuple) or any(not isinstance(x, int | str) for x in hashes):
        told = f"must be a list of block hashes, and is {_shown(found, 'hash_ids')}"
        raise _Unreadable("hash_ids", told)
    prompt, output = (_length(found, name) for name in ("input_length", "output_length"))
    return _Row(time / 1000, prompt, output, tuple(hashes))


def _length(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Unreadable(name, f"must be a whole number, and is {_shown(found, name)}")
    return _tokens(name, str(value))


def _tokens(field: str, text: str) -> int:
    try:
        tokens = int(text)
    except ValueError:
        raise _Unreadable(field, f"is no whole number: '{text.strip()[:_SHOWN]}'") from None
    if not 0 <= tokens <= _MOST_TOKENS:
        raise _Unreadable(field, f"must be from 0 to {_MOST_TOKENS:,} tokens, and is {tokens}")
    return max(1, tokens)


def _shown(found: Mapping[str, Any], name: str) -> str:
    return json.dumps(found[name])[:_SHOWN] if name in found else "missing"


def _cached(rows: Iterable[_Row]) -> Iterator[int]:
    """Prompt tokens whose leading blocks were in a prompt that came before.

    A server computes at least the prompt's last token, whatever it has in its cache.
    """
    seen: set[Any] = set()
    for row in rows:
        known = 0
        for block in row.hashes:
            if block not in seen:
                break
            known += 1
        seen.update(row.hashes)
        yield min(known * HASHED_TOKENS, row.prompt - 1)


def _refused(path: Path, field: str, told: str) -> RefusedInput:
    return RefusedInput(Reason.InvalidTrace, field, f"The trace '{path}': {told}.")

"""Parquet files that are odd or damaged, read by the real pyarrow.

We test these aspects:
- columns and fields of one name, times that Python does not know, bytes for text, endless lists
- what is refused is named with its row or column, and with a way out
- files that were cut or have wrong bits give rows or a refusal; none ends the process
"""

from typing import Any

import pytest

from tests.environments import ask

pytestmark = pytest.mark.quantize_env

ODD: dict[str, int | str] = {
    "two columns": "`odd.parquet` has more than one column `text`; keep one of them.",
    "two columns that nobody reads": 2,
    "two fields": "Column `messages` of `odd.parquet` holds structs with more than one field "
    "`role`; keep one of them.",
    "late message": "`odd.parquet` cannot be read from row 2 on (OverflowError",
    "late text": "`odd.parquet` cannot be read from row 1 on (OverflowError",
    "text of bytes": "`text` of row 1 of `odd.parquet` is b'fine'; make it a string.",
    "text in a dictionary": 2,
    "no rows": 0,
    "two million parts": "row 1 of `odd.parquet` has more than 256 MiB, or lists of more than "
    "1,048,576 values; remove it.",
    "plain": 100,
    "pictures": 60,
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All files, read in one process."""
    work = tmp_path_factory.mktemp("parquet")
    (work / "files").mkdir()
    request = {"folder": str(work / "files"), "cuts": 40, "flips": 400, "seed": 1}
    return ask("quantize", "parquet_rows.py", request, work=work, timeout_s=60)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_gives_its_rows_or_a_sentence(answers: Any, name: str) -> None:
    found, expected = answers["odd"][name], ODD[name]

    if isinstance(expected, int):
        assert found == expected
    else:
        reason, subject, message = found
        assert reason == "DatasetUnusable"
        assert "odd.parquet" in subject
        assert message.startswith(expected)


def test_a_damaged_file_gives_rows_or_a_sentence(answers: Any) -> None:
    refused = [found for found in answers["damaged"] if not isinstance(found, int)]

    assert len(answers["damaged"]) == 2 * 440
    assert all(found[0] == "DatasetUnusable" for found in refused)
    assert all("odd.parquet" in found[2] and found[2].endswith(".") for found in refused)
    assert len(refused) > 440  # damage that nobody could see would prove nothing

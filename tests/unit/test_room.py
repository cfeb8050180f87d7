"""How much a pod has written already, before it asks whether the rest fits.

We test these aspects:
- all files below a folder count, and a folder that is not there has none
- other workers put shards into their places meanwhile, which fails nobody
"""

import threading
from pathlib import Path

from halftone.cli.room import used


def test_all_files_below_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"a" * 10)
    (tmp_path / "below" / "two").write_bytes(b"b" * 5)
    assert used(tmp_path) == 15
    assert used(tmp_path / "none") == 0


def test_files_that_are_renamed_meanwhile_fail_nobody(tmp_path: Path) -> None:
    stop = threading.Event()
    kept = tmp_path / "kept"
    kept.write_bytes(b"a" * 10)
    partial, whole = tmp_path / "shard.partial", tmp_path / "shard"
    partial.touch()

    def rename() -> None:
        while not stop.is_set():
            partial.replace(whole)
            whole.replace(partial)

    worker = threading.Thread(target=rename)
    worker.start()
    try:
        found = {used(tmp_path) for _ in range(300)}
    finally:
        stop.set()
        worker.join()
    assert found == {10}

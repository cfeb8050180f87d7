"""Writers to one prefix of a store that keeps objects in folders, and removes empty ones.

We test these aspects:
- a write is not refused because another's deletion took the folder above it away meanwhile
- an object that truly lies in the way is still said to
"""

import threading
from contextlib import closing
from hashlib import sha256

import pytest

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.stores.s3_checksums import of_object
from halftone.stores.s3_client import make_client
from halftone.stores.s3_folder import Folder

DATA = b"{}"
CHECKSUM = of_object(sha256(DATA).hexdigest())
ROUNDS = 300


def test_a_write_outlasts_the_deletions_of_another(bucket: str) -> None:
    ended = threading.Event()
    with closing(make_client(None, "publish.s3.uri")) as client:
        probing = Folder(client, bucket, "out/model/")
        working = Folder(client, bucket, "out/model.work/")

        def probe() -> None:
            while not ended.is_set():
                probing.put("probe", DATA, CHECKSUM)
                probing.delete(["probe"])

        other = threading.Thread(target=probe)
        other.start()
        try:
            for _ in range(ROUNDS):
                working.put("plan.json", DATA, CHECKSUM)
                assert working.read("plan.json") is not None
                working.delete(["plan.json"])
        finally:
            ended.set()
            other.join()


def test_an_object_in_the_way_is_said_to_be_there(bucket: str) -> None:
    with closing(make_client(None, "publish.s3.uri")) as client:
        Folder(client, bucket, "").put("out", DATA, CHECKSUM)
        with pytest.raises(RefusedInput, match="lies where a folder is needed") as refused:
            Folder(client, bucket, "out/").put("plan.json", DATA, CHECKSUM)
    assert refused.value.reason is Reason.TargetOccupied

"""Twenty jobs at once on one real node.

We test these aspects:
- each is accepted and ends well, though the node has no room for all of their pods at a time.
"""

import time

import pytest

from tests.cluster.client import condition_of, jobs_path
from tests.node.conftest import Up
from tests.node.jobs import job

pytestmark = pytest.mark.soak
JOBS = 20


def test_twenty_jobs_at_once_all_succeed(up: Up) -> None:
    names = [f"many-{number}" for number in range(JOBS)]
    begun = time.monotonic()
    for name in names:
        up.client.create(jobs_path(up.namespace), job(up.s3, name))
    for kind in ("Accepted", "Succeeded"):
        _wait_for_all(up, names, kind)
        print(f"node tier: {JOBS} jobs {kind} after {time.monotonic() - begun:.0f} s")
    artifacts = {up.client.job(up.namespace, name)["status"]["artifact"]["uri"] for name in names}
    assert len(artifacts) == JOBS


def _wait_for_all(up: Up, names: list[str], kind: str) -> None:
    def hold() -> bool:
        jobs = {one["metadata"]["name"]: one for one in up.client.items(jobs_path(up.namespace))}
        rows = [condition_of(jobs[name], kind) for name in names]
        assert not [row for row in rows if row.get("status") == "False"]
        return all(row.get("status") == "True" for row in rows)

    up.client.wait(f"{kind} of all", hold, 3600)

"""The pocket model in a bucket, a way to it on which things can go wrong, and pipelines there.

Called by pytest for tests of the pipeline. `life` is a run in which every task that asks a store
failed once; it is made once, and other runs go on from it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.doubles.faulty_proxy import Fault, FaultyProxy
from tests.pipelines import Ended, Runner
from tests.servers.versitygw import VersityGateway
from tests.storehouse import Storehouse

MODEL = ROOT / "examples" / "pocket-model" / "checkpoint"
SHARD_BYTES = 1_500_000
GATES = {"gates": [{"name": "weights", "metric": "WeightError", "maximum": "0.2"}]}
# What each task asks of a store, and no other before it.
ASKED = {
    "resolve": "PUT .*/mark",
    "plan": "PUT .*/plan.json",
    "target": "GET .*/small/artifact.json",
    "quantize": "PUT .*/journal/",
    "assemble": "PUT .*/checkpoint.json",
    "validate": "PUT .*/report.json",
    "publish": "PUT .*/small/artifact.json",
}


@dataclass(frozen=True)
class Place:
    """Where a job's source, work area and target are, and how its tasks reach them."""

    store: Storehouse
    proxy: FaultyProxy
    folder: Path
    environment: dict[str, str]

    def job(self, **spec: Any) -> str:
        """The job as the pipeline gets it, by way of the proxy."""
        own = {
            "quantization": {"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES},
            "validation": GATES,
        }
        job = self.store.job(**(own | spec))
        del job["spec"]["parallelism"]
        return json.dumps(job).replace(self.store.server.endpoint, self.proxy.endpoint)

    @property
    def area(self) -> str:
        """The parameter `work_area`."""
        return f"s3://{self.store.out}/{self.store.name}.work/models.small"

    def run(self, runner: Runner | None = None, **parameters: Any) -> Ended:
        """A run, by default with the cache that all runs of this place share."""
        told = {"job": self.job(), "work_area": self.area, "parallelism": 2}
        return (runner or self.runner()).run(**(told | parameters))

    def runner(self, **rendered: Any) -> Runner:
        """The runner of this place."""
        return Runner(self.folder / "runs", self.environment, **rendered)

    @property
    def alone(self) -> Path:
        """The work directory of `halftone run` of the same job, to a target of its own."""
        return self.folder / "alone"

    def run_alone(self, job_text: str | None = None) -> None:
        """Fill it. It is done first, for it compiles the kernels that all tasks share."""
        job = json.loads(job_text or self.job())
        job["spec"]["publish"]["s3"]["uri"] += "-alone"
        path = self.folder / "alone.json"
        path.write_text(json.dumps(job))
        command = [sys.executable, "-m", "halftone", "run", str(path)]
        command += ["--workdir", str(self.alone)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def place(s3_server: VersityGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("pipelines")
    store = Storehouse.made(s3_server, MODEL)
    owners = {"SOURCE": "reader", "WORK": "worker", "PUBLISH": "publisher"}
    given = {
        f"HALFTONE_CREDENTIALS_{use}": store.secrets[owner]["aws"] for use, owner in owners.items()
    }
    environment = given | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "HALFTONE_CACHE_DIR": str(folder / "cache"),
        "HOME": str(folder / "home"),
        "NUMBA_CACHE_DIR": str(folder / "cache" / "numba"),
        "OMP_NUM_THREADS": "2",
    }
    with FaultyProxy(s3_server) as proxy:
        yield Place(store, proxy, folder, environment)


@pytest.fixture(scope="module")
def life(place: Place) -> Ended:
    """The first run, on which every task that asks a store failed once."""
    place.run_alone()
    for match in ASKED.values():
        place.proxy.fail(Fault.Denied, match=match)
    ended = place.run()
    assert (ended.code, place.proxy.pending) == (0, 0), ended.log
    return ended

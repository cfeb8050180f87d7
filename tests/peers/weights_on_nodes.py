"""Weights of a replica on two nodes of Ray, both of this machine: what `serve.nodes` makes of them.

    python weights_on_nodes.py request.json answer.json

The request is `endpoints` (JSON of `Endpoint` by name), a file `touched`, and the folders `here`
and `there`: Ray's processes begin in `there`, and this one goes on in `here`, so that of an
artifact with a relative path each node has one of its own. The answer says of each endpoint which
digest was obtained and what `require_unchanged` says before and after `touched` was written to, up
to the first error: its reason and its sentence, or the name of one that is none of ours.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from halftone.spec.errors import HalftoneError
from halftone.spec.serving import Endpoint

_MB = 1 << 20
# Ray reads them when it is imported. A machine may be busy with other tests.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "150"}


async def answered(endpoint: Endpoint, group: Any, touched: Path) -> Any:
    """What came of one endpoint, in the order of what happened."""
    from halftone.serve import nodes

    context = SimpleNamespace(placement_group=group, runtime_env=None)
    config = SimpleNamespace(get_or_create_callback=lambda: SimpleNamespace(ctx=context))
    told: list[Any] = []
    try:
        weights = await nodes.obtain(endpoint, config)
        told.append(weights.model.digest)
        await weights.require_unchanged()
        told.append("unchanged")
        touched.write_bytes(touched.read_bytes())
        await weights.require_unchanged()
    except HalftoneError as error:
        told.append([str(error.reason), error.message])
    except Exception as error:  # one that nobody counts
        told.append(type(error).__name__)
    return told


def main(request: Path, answer: Path) -> None:
    """Both nodes, then one endpoint after the other."""
    os.environ.update(_SETTINGS)
    import ray
    from ray.cluster_utils import Cluster
    from ray.util import placement_group

    asked = json.loads(request.read_text())
    endpoints = {name: Endpoint.model_validate(each) for name, each in asked["endpoints"].items()}
    os.chdir(asked["there"])
    cluster = Cluster()
    # Not below `answer`: names of sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ht-", ignore_cleanup_errors=True) as folder:
        try:
            for _ in range(2):
                cluster.add_node(
                    num_cpus=1,
                    object_store_memory=100 * _MB,
                    include_dashboard=False,
                    temp_dir=folder,
                )
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
            group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
            ray.get(group.ready(), timeout=150)
            os.chdir(asked["here"])
            touched = Path(asked["touched"])
            found = {
                name: asyncio.run(answered(endpoint, group, touched))
                for name, endpoint in endpoints.items()
            }
            answer.write_text(json.dumps(found))
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

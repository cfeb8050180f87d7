"""What a run costs on Kubeflow's real back end: to make one, and the pocket model from end to end.

Everything runs on one machine: servers, node and pods. Most of a run's time is Kubeflow's own,
which starts two pods a task, one after the other. Details: `pods`, and `in_stages_seconds`.
"""

import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.measuring import Result, median_of
from tests.cluster.client import pods_path
from tests.commands import halftone
from tests.kubeflow.back_end import BackEnd, back_end
from tests.kubeflow.looking import pods
from tests.kubeflow.shape import compiled
from tests.node.jobs import SHARD_BYTES, job

_ENDS = ("finished", "started")
_RUNS = 9
_CREATE_SECONDS = 1.0
_WHOLE_SECONDS = 600


def main(scratch: Path) -> list[Result]:
    """Both figures, on one back end."""
    folder = scratch / "kubeflow"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with back_end(folder) as up:
        results = [_whole(up, folder), _create(up, folder)]
    shutil.rmtree(folder)
    return results


def _whole(up: BackEnd, folder: Path) -> Result:
    """A data-free job with two workers and a signature, submitted and waited for."""
    quantization = {"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES}
    document = job(up.s3, "measured", quantization=quantization)
    document["metadata"]["namespace"] = up.namespace
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    server = ("--endpoint", up.kubeflow.endpoint, "--image", up.task)
    began = time.monotonic()
    done = halftone("pipeline", "submit", folder / "job.yaml", "--wait", "--every", "1", *server)
    seconds = time.monotonic() - began
    if done.code != 0:
        raise RuntimeError(done.out + done.err)
    return Result(
        "Kubeflow: the pocket model from S3 to a signed artifact, every task in pods",
        f"≤ {_WHOLE_SECONDS} s",
        f"{seconds:.0f} s",
        seconds <= _WHOLE_SECONDS,
        {
            "pods": len(up.client.items(pods_path(up.namespace))),
            "in_stages_seconds": round(sum(map(_main_seconds, pods(up, "measured"))), 1),
        },
    )


def _main_seconds(pod: dict[str, Any]) -> float:
    """How long a task's own container ran, launcher and imports included."""
    statuses = pod["status"]["containerStatuses"]
    ended = next(one for one in statuses if one["name"] == "main")["state"]["terminated"]
    finished, started = (datetime.fromisoformat(ended[f"{word}At"]) for word in _ENDS)
    return (finished - started).total_seconds()


def _create(up: BackEnd, folder: Path) -> Result:
    """POST /runs, of a pipeline of our shape and size; each is terminated at once."""
    specification = {"pipeline_spec": compiled(up.task, folder)}
    seconds: list[float] = []
    with httpx.Client(base_url=f"{up.kubeflow.endpoint}/apis/v2beta1", timeout=60) as client:
        for number in range(_RUNS):
            body = {
                "display_name": f"measured-{number}",
                "pipeline_spec": specification,
                "runtime_config": {"parameters": {"job": "DataFree"}},
            }
            began = time.monotonic()
            made = client.post("/runs", json=body).raise_for_status().json()
            seconds.append(time.monotonic() - began)
            client.post(f"/runs/{made['run_id']}:terminate").raise_for_status()
    middle = median_of(seconds)
    return Result(
        f"Kubeflow: a run is made (median of {_RUNS})",
        f"≤ {_CREATE_SECONDS:.0f} s",
        f"{middle:.2f} s",
        middle <= _CREATE_SECONDS,
        {"seconds": [round(one, 3) for one in seconds]},
    )

"""Runs the tasks of the packaged pipeline one after the other, each as KFP's launcher runs it.

Called by check.sh inside of the image. The launcher gives a task's command what it reads and where
to write; here it is this program, and there is no server. It must run with the image alone.
"""

import json
import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

IR = yaml.safe_load(files("halftone.recipes").joinpath("quantization.yaml").read_text())
JOB = json.dumps(yaml.safe_load(Path("/check/job.yaml").read_text()))


def run(task: str, **inputs: Any) -> dict[str, Any]:
    """The outputs of a task that is given what it asks for out of `inputs`."""
    component = IR["components"][f"comp-{task}"]
    container = IR["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    asked = component["inputDefinitions"]["parameters"]
    told, folder = component.get("outputDefinitions", {}), Path("outputs", task)
    outputs = {
        "outputFile": str(folder / "all.json"),
        "parameters": {n: {"outputFile": str(folder / n)} for n in told.get("parameters", {})},
        "artifacts": {
            name: {
                "artifacts": [
                    {"name": name, "type": kind["artifactType"], "uri": f"{folder}/{name}"}
                ]
            }
            for name, kind in told.get("artifacts", {}).items()
        },
    }
    given = {"parameterValues": {name: inputs[name] for name in asked}}
    words = json.dumps({"inputs": given, "outputs": outputs})
    command = [*container["command"], *(words if a == "{{$}}" else a for a in container["args"])]
    subprocess.run(command, check=True)  # noqa: S603 - of our own pipeline
    for name in outputs["artifacts"]:
        assert (folder / name).stat().st_size > 0, f"{task} wrote no {name}"
    found = json.loads((folder / "all.json").read_text()) if told else {}
    return dict(found.get("parameterValues", {}))


os.environ["HALFTONE_TASK_WORKDIR"] = str(Path("shared/job").resolve())
known: dict[str, Any] = {"work_area": "", "parallelism": 2, "device": "", "engine": ""}
known |= run("resolve", job=JOB, **known)
planned = run("plan", **known)
known |= {"plan_digest": planned["digest"]}
run("target", **known)
for part in run("split", workers=planned["workers"], **known)["Output"]:
    run("quantize", **part)
known["checkpoint_digest"] = run("assemble", **known)["Output"]
known["report_digest"] = run("validate", **known)["Output"]
run("publish", **known)

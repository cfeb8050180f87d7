"""Runs of the compiled pipeline by kfp's local runner, and what they said.

    runner = Runner(folder, environment)
    ended = runner.run(job=…, work_area=…, parallelism=2)
    ended.tries("publish")

Called by tests of the pipeline. The compiled form is the package's; what an installation decides is
put in as its rendering would: retries without a pause, and caching of `quantize`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

COMPILED = ROOT / "src" / "halftone" / "recipes" / "quantization.yaml"
_SCRIPT = ROOT / "tests" / "peers" / "kfp_local.py"
# kfp paints names of tasks and states.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Ended:
    """How a run ended, and all that was printed."""

    code: int
    log: str

    def tries(self, task: str) -> int:
        """How often a task was begun."""
        return len(re.findall(rf"Executing task '{task}'", self.log))

    def cached(self) -> set[str]:
        """The tasks that were taken from the cache."""
        return set(re.findall(r"Task ([\w-]+) cache hit", self.log))


@dataclass
class Runner:
    """A folder of runs that share a cache, and the environment of their tasks."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    retries: int = 2
    cached: tuple[str, ...] = ("plan", "split", "quantize", "validate")

    def run(self, **parameters: Any) -> Ended:
        """Run the pipeline to its end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rendered = self.folder / "pipeline.yaml"
        rendered.write_text(yaml.safe_dump(self._rendered()))
        arguments = self.folder / "arguments.json"
        arguments.write_text(json.dumps(parameters))
        (self.folder / "tmp").mkdir(exist_ok=True)
        places = [rendered, self.folder / "root", self.folder / "cache", arguments]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(_SCRIPT), *map(str, places)],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(self.folder / "tmp")}
            | dict(self.environment),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Ended(done.returncode, _COLOUR.sub("", done.stdout))

    def _rendered(self) -> dict[str, Any]:
        document: dict[str, Any] = yaml.safe_load(COMPILED.read_text())
        dags = [component.get("dag") for component in document["components"].values()]
        for dag in (document["root"]["dag"], *filter(None, dags)):
            for name, task in dag["tasks"].items():
                if "retryPolicy" in task:
                    task["retryPolicy"] |= {
                        "backoffDuration": "0s",
                        "maxRetryCount": self.retries,
                    }
                task["cachingOptions"] = {"enableCache": True} if name in self.cached else {}
        return document

"""The compiled pipeline, and installations with a Kubeflow server, for whatever renders runs.

Called by the tests of rendering a run, and of what a run cannot do.
"""

from functools import cache
from importlib.resources import files
from typing import Any, Final

import yaml

from halftone.control.settings import Settings
from halftone.spec.pipelines import PIPELINE_FILE
from halftone.spec.running import StageName

NAME: Final = "team.small-uid-of-job-1-1"
KUBEFLOW: Final = {
    "endpoint": "http://ml-pipeline.example:8888",
    "pipelineRoot": "s3://pipelines/root",
    "serviceAccountName": "runner",
}
# A stage's settings in a job that wants any GPU.
GPU: Final = {"name": "Validate", "resources": {"limits": {"nvidia.com/gpu": 1}}}


@cache
def compiled() -> dict[str, Any]:
    """The pipeline as it is packaged; nobody changes it."""
    text = files("halftone.recipes").joinpath(PIPELINE_FILE).read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def pinned(image: str) -> str:
    """An image by its digest."""
    return f"registry.example/{image}@sha256:{'0' * 64}"


def installed(every_stage: dict[str, Any] | None = None, **more: Any) -> Settings:
    """An installation; `more` has its settings, and those of stages by their names."""
    stages = {
        name.value: {
            "image": f"{name.lower()}:1",
            **({"engineImage": "engine:1"} if name is StageName.Validate else {}),
            **(every_stage or {}),
            **more.pop(name.value, {}),
        }
        for name in StageName
    }
    given = {"taskImage": "task:1", "kubeflowPipelines": KUBEFLOW, "stages": stages, **more}
    return Settings.model_validate(given)

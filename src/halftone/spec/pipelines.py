"""Vocabulary of the Kubeflow pipeline, and what a Kubeflow server says of a run of it.

Names of tasks and parameters are those of the compiled pipeline. States are those of the REST
interface v2beta1: https://www.kubeflow.org/docs/components/pipelines/reference/api/kubeflow-pipeline-api-spec/
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from halftone.spec.cluster import Condition

PIPELINE_NAME: Final = "quantization"
# Package data: the compiled pipeline, which the operator and `halftone pipeline submit` render.
PIPELINE_FILE: Final = "quantization.yaml"

# On every pod of a run beside the labels of a child: the QuantizationJob's uid.
JOB_UID_LABEL: Final = "halftone.dev/job-uid"
# Beside it, as an annotation, for it may be longer than a label: the name of the run.
RUN_ANNOTATION: Final = "halftone.dev/run"
# In such a pod, Argo's name of the container that does the work; others are beside it.
RUN_CONTAINER: Final = "main"
# Where a task keeps its files when it runs in no pod.
TASK_WORKDIR: Final = "HALFTONE_TASK_WORKDIR"


class Task(StrEnum):
    """The tasks of the pipeline, by the names that they have in it, in their order."""

    # Pins the source: a commit, or the versions of a bucket's objects. Never cached.
    Resolve = "resolve"
    # Asks with the publisher's credentials whether the target can be published to. Never cached.
    Target = "target"
    # Reads headers; gives a plan or a refusal.
    Plan = "plan"
    # Measures activations, of plans that ask for it.
    Calibrate = "calibrate"
    # Says which worker writes what: a list for the loop over `quantize`.
    Split = "split"
    # Writes the shards of one worker.
    Quantize = "quantize"
    # Checks that every shard lies where it should, writes what does not, makes a checkpoint of
    # them. Never cached: it is what makes a cached `quantize` safe.
    Assemble = "assemble"
    # Runs the gates.
    Validate = "validate"
    # Publishes what the report opens, and tells of every document. Never cached.
    Publish = "publish"
    # The exit handler: says how the run ended. Never cached.
    Conclude = "conclude"


CONDITION_OF: Final[Mapping[Task, Condition]] = {
    Task.Resolve: Condition.Accepted,
    Task.Target: Condition.Accepted,
    Task.Plan: Condition.Accepted,
    Task.Calibrate: Condition.Calibrated,
    Task.Split: Condition.Quantized,
    Task.Quantize: Condition.Quantized,
    Task.Assemble: Condition.Quantized,
    Task.Validate: Condition.Validated,
    Task.Publish: Condition.Published,
}


class Parameter(StrEnum):
    """Inputs of the pipeline, and so parts of what its tasks are cached by."""

    # The QuantizationJob as canonical JSON, with paths as they are in the pods.
    Job = "job"
    # `s3://…` where documents and shards are handed on; "" where a volume carries them.
    WorkArea = "work_area"
    # How many tasks write shards; never more than there are shards.
    Parallelism = "parallelism"
    # What the gates run on: a digest of accelerator, node selection and runtime, "" if unknown.
    Device = "device"
    # What the gates run with: a digest of the images, "" if unknown.
    Engine = "engine"


class RunState(StrEnum):
    """States of runs and tasks.

    `CANCELED` is documented; a run that was terminated ends as `FAILED` in 2.14.
    """

    Unspecified = "RUNTIME_STATE_UNSPECIFIED"
    Pending = "PENDING"
    Running = "RUNNING"
    Succeeded = "SUCCEEDED"
    Skipped = "SKIPPED"
    Failed = "FAILED"
    Canceling = "CANCELING"
    Canceled = "CANCELED"
    Paused = "PAUSED"
    # A task that was taken from the cache.
    Cached = "CACHED"

    @classmethod
    def _missing_(cls, _value: object) -> "RunState":
        """A state of a later server."""
        return cls.Unspecified

    @property
    def is_final(self) -> bool:
        """Whether nothing follows by itself."""
        return self in _FINAL


_FINAL: Final = frozenset(
    {RunState.Succeeded, RunState.Skipped, RunState.Failed, RunState.Canceled, RunState.Cached}
)


class Wire(BaseModel):
    """Frozen; fields that we do not read are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RunError(Wire):
    """google.rpc.Status; 2.14 leaves it out where a component failed."""

    code: int = 0
    message: str = ""


class StateChange(Wire):
    """An entry of a history."""

    state: RunState = RunState.Unspecified


class TaskDetail(Wire):
    """One task of a run, drivers and loops among them, under the name that the server gives it."""

    display_name: str = ""
    state: RunState = RunState.Unspecified
    start_time: str | None = None
    end_time: str | None = None
    error: RunError | None = None


class RunDetails(Wire):
    """What a list leaves out."""

    task_details: tuple[TaskDetail, ...] = ()


class Run(Wire):
    """A run, archived or not; times in RFC 3339."""

    run_id: str
    display_name: str = ""
    state: RunState = RunState.Unspecified
    created_at: str | None = None
    finished_at: str | None = None
    error: RunError | None = None
    state_history: tuple[StateChange, ...] = ()
    run_details: RunDetails = RunDetails()


class RunRequest(BaseModel):
    """All that a run is made of; `display_name` is what it is looked up by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    display_name: Annotated[str, Field(max_length=128)]
    description: str = ""
    pipeline_spec: Mapping[str, Any]
    platform_spec: Mapping[str, Any]
    parameters: Mapping[str, Any]
    pipeline_root: str | None = None
    service_account: str | None = None

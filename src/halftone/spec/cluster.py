"""Vocabulary of the cluster: labels, annotations, finalizer, conditions, events, child stages.

Like `halftone.spec.names`, for what only exists where there is an API server: whatever a user, a
policy or another controller can see there is defined here and nowhere else.
"""

from enum import StrEnum
from typing import Final

GROUP: Final = "halftone.dev"
VERSION: Final = "v1alpha1"
PLURAL: Final = "quantizationjobs"
# Whose fields ours are, in server-side apply; and who is said to have reported an event.
FIELD_MANAGER: Final = "halftone-operator"

# On every child: whose it is, which stage, and its number, which grows with each retry.
JOB_LABEL: Final = "halftone.dev/job"
STAGE_LABEL: Final = "halftone.dev/stage"
ATTEMPT_LABEL: Final = "halftone.dev/attempt"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
# Kueue's own: a Job that carries it is started when its queue has room.
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"

# On a QuantizationJob: a new value continues a failed job from its last good document. Copied to
# the child that was made because of it, which is how a handled value is told from a new one.
RETRY_ANNOTATION: Final = "halftone.dev/retry"
# On a child: the plan that it carries out.
PLAN_DIGEST_ANNOTATION: Final = "halftone.dev/plan-digest"

# Kept while something may lie in the target that garbage collection cannot reach: parts of an
# upload, and the documents and shards of a work area in S3.
FINALIZER: Final = "halftone.dev/uploads"


class Condition(StrEnum):
    """Past-tense facts in the order in which they come true, and the summary."""

    # The job is well formed, its source can be quantized as asked, its target can be published to.
    Accepted = "Accepted"
    # Activations were measured. Absent in jobs that need no data.
    Calibrated = "Calibrated"
    # Every planned byte is written and has its digest.
    Quantized = "Quantized"
    # Every gate passed.
    Validated = "Validated"
    # A reader of the target finds the artifact. Absent in jobs without a target.
    Published = "Published"
    # Unknown while there is something left to do; then True or False, until it is retried.
    Succeeded = "Succeeded"


class ChildStage(StrEnum):
    """What a child Job does; its value is part of the child's name."""

    # Reads headers; gives a plan or a refusal.
    Plan = "plan"
    # Finds out with the publisher's own rights whether the target can be published to.
    Target = "target"
    # Measures activations.
    Calibrate = "calibrate"
    # Writes shards; one index a worker.
    Quantize = "quantize"
    # Makes one checkpoint of the shards of several workers.
    Assemble = "assemble"
    # Runs the gates.
    Validate = "validate"
    # Uploads, signs and makes visible.
    Publish = "publish"
    # After a deletion: aborts uploads and empties the work area.
    CleanUp = "clean-up"


class Doing(StrEnum):
    """Reasons of a condition that is Unknown while nothing is wrong."""

    # The stages before this one are not done.
    Pending = "Pending"
    Planning = "Planning"
    Calibrating = "Calibrating"
    Quantizing = "Quantizing"
    Validating = "Validating"
    Publishing = "Publishing"
    # `spec.suspend` is set; pods are gone, finished work is kept.
    Suspended = "Suspended"


class Waiting(StrEnum):
    """Reasons of a condition that is Unknown because something outside has to change first."""

    # No node has what the pod asks for; the message is the scheduler's.
    Unschedulable = "Unschedulable"
    # The image cannot be pulled; the message is the kubelet's.
    ImageNotPulled = "ImageNotPulled"
    # A Secret, key or claim that the pod names is not there.
    ReferenceMissing = "ReferenceMissing"
    # A ResourceQuota or an admission policy does not let the Job or its pod in.
    PodsRefused = "PodsRefused"
    # Kueue holds the Job back until its queue has room.
    Queued = "Queued"
    # A pod was preempted or evicted and is being replaced; this is not counted as a failure.
    Disrupted = "Disrupted"
    # A pod failed and is being tried again.
    Retrying = "Retrying"
    # The runtime cannot start the container; the message is the kubelet's.
    ContainerNotStarted = "ContainerNotStarted"
    # The work volume can be mounted by one node only, and `parallelism` was raised since.
    VolumeNotShared = "VolumeNotShared"
    # An object of the same name, that is not ours, is in the way.
    NameTaken = "NameTaken"
    # Kubeflow Pipelines does not answer, or does not let the operator in.
    PipelinesUnreachable = "PipelinesUnreachable"


class Ended(StrEnum):
    """Reasons of conditions that only a cluster gives; others are `halftone.spec.names.Reason`."""

    # The condition is true.
    Accepted = "Accepted"
    Calibrated = "Calibrated"
    Quantized = "Quantized"
    Validated = "Validated"
    Published = "Published"
    # The object passes the schema, and cannot be run in a cluster as it is.
    NotRunnableHere = "NotRunnableHere"
    # A container was killed for its memory.
    OutOfMemory = "OutOfMemory"
    # Pods failed more often than the backoff limit allows.
    BackoffLimitExceeded = "BackoffLimitExceeded"
    # A pod ended in a way that nobody foresaw, and said nothing that can be read.
    StageFailed = "StageFailed"
    # `spec.activeDeadlineSeconds` is over.
    DeadlineExceeded = "DeadlineExceeded"
    # The stage before it failed, so this one never began.
    NotReached = "NotReached"
    # Kubeflow Pipelines does not take the run; the message has its own words.
    PipelineRunRefused = "PipelineRunRefused"
    # Somebody else terminated the run.
    PipelineRunTerminated = "PipelineRunTerminated"
    # The run failed, and no pod of it says why.
    PipelineRunFailed = "PipelineRunFailed"


class EventReason(StrEnum):
    """Events on a QuantizationJob, each once a transition."""

    JobAccepted = "JobAccepted"
    JobRefused = "JobRefused"
    ActivationsMeasured = "ActivationsMeasured"
    CheckpointWritten = "CheckpointWritten"
    GatesPassed = "GatesPassed"
    GateFailed = "GateFailed"
    ArtifactPublished = "ArtifactPublished"
    StageFailed = "StageFailed"
    StageWaiting = "StageWaiting"
    JobSuspended = "JobSuspended"
    JobResumed = "JobResumed"
    JobRetried = "JobRetried"
    DeadlineExceeded = "DeadlineExceeded"
    UploadsRemoved = "UploadsRemoved"
    UploadsLeft = "UploadsLeft"

"""What the operator's installation decides, the same for every job: images, placement, limits.

Read from one YAML file that the chart writes; a mistake in it ends the operator with a sentence.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from halftone.spec.api_model import ApiModel, ObjectName, ShortText
from halftone.spec.running import Resources, StageName


class Placement(ApiModel):
    """Where a stage's pods go, and who waits for whom; as in a pod."""

    nodeSelector: Mapping[str, str] = {}
    tolerations: tuple[Mapping[str, Any], ...] = ()
    priorityClassName: ObjectName | None = None
    queueName: ObjectName | None = None
    runtimeClassName: ObjectName | None = None


class StageDefaults(ApiModel):
    """One stage: its image, its service account, and what a job may override.

    `engineImage` is for validation with gates that need a server.
    """

    image: ShortText
    engineImage: ShortText | None = None
    imagePullPolicy: str = "IfNotPresent"
    serviceAccountName: ObjectName = "default"
    resources: Resources = Resources()
    placement: Placement = Placement()


# As the chart takes them. A page's address is shown to everybody who may read jobs, so none has a
# password.
Url = Annotated[str, Field(pattern=r"^https?://[^?#\s@]{1,2000}$", max_length=2048)]


class KubeflowSettings(ApiModel):
    """The Kubeflow server that runs pipelines for us.

    `endpoint` is its REST interface, `uiUrl` where people see it (the endpoint if left out).
    `podNamespace` is where its pods run; left out, the job's own (one profile a team).
    `serviceAccountName` is that of all tasks of a run, for Kubeflow knows no more than one.
    `tokenFile` has a bearer token, read anew for each request; `caFile` certificates to trust.
    After `claimSeconds` a run that another replica meant to make, and did not, is made by this one.
    """

    endpoint: Url
    uiUrl: Url | None = None
    experiment: Annotated[str, Field(min_length=1, max_length=128)] = "halftone"
    pipelineRoot: ShortText | None = None
    serviceAccountName: ObjectName | None = None
    podNamespace: ObjectName | None = None
    tokenFile: ShortText | None = None
    caFile: ShortText | None = None
    claimSeconds: Annotated[int, Field(ge=3, le=3600)] = 90

    @property
    def page(self) -> str:
        """Where people see the server."""
        return (self.uiUrl or self.endpoint).rstrip("/")


class Settings(ApiModel):
    """`watchNamespaces` empty: all of them. `cacheSizeLimit` bounds the cache alone.

    `taskImage` runs the tasks of pipelines that need no other image; it has kfp beside Halftone.
    Without `kubeflowPipelines` a job that asks for that runner is refused.
    """

    watchNamespaces: tuple[ObjectName, ...] = ()
    stages: Mapping[StageName, StageDefaults]
    imagePullSecrets: tuple[ObjectName, ...] = ()
    backoffLimit: Annotated[int, Field(ge=0, le=20)] = 3
    cacheSizeLimit: ShortText | None = None
    progressSeconds: Annotated[int, Field(ge=1, le=3600)] = 10
    kubeflowPipelines: KubeflowSettings | None = None
    taskImage: ShortText | None = None

    @model_validator(mode="after")
    def _every_stage(self) -> Self:
        absent = ", ".join(stage for stage in StageName if stage not in self.stages)
        if absent:
            raise ValueError(f"`stages` must name an image for each stage; {absent} is not there")
        return self

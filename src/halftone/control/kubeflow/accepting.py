"""What a run of the pipeline cannot do, said before one is made.

    refusal = run_refusal(spec, observed, settings)

Called by `control.reconciling` and by `halftone pipeline submit`, after `acceptance.first_refusal`.
"""

from halftone.control.acceptance import Refusal
from halftone.control.kubeflow.unsupported import unsupported
from halftone.control.observed import Observed
from halftone.control.settings import Settings
from halftone.spec.cluster import Ended
from halftone.spec.job import JobSpec
from halftone.spec.running import Runner


def run_refusal(spec: JobSpec, observed: Observed, settings: Settings) -> Refusal | None:
    """The first reason why `spec` cannot be a run of the pipeline; None if it can, or is none."""
    if spec.runner is not Runner.KubeflowPipelines:
        return None
    kubeflow = settings.kubeflowPipelines
    if kubeflow is None:
        return _not_here(
            "`spec.runner` asks for 'KubeflowPipelines', which this operator was not installed "
            "with; leave it out to run as Jobs, or have `kubeflowPipelines.endpoint` of the chart "
            "set to the server's address."
        )
    volume, namespace = spec.workVolume, str(observed.metadata["namespace"])
    elsewhere = kubeflow.podNamespace not in (None, namespace)
    if elsewhere and volume is not None and volume.storageClassName is not None:
        return _not_here(
            "`spec.workVolume.storageClassName` asks for a claim, which would be made in "
            f"'{namespace}', and pods of runs are in '{kubeflow.podNamespace}'; name a claim that "
            "is there with `claimName`."
        )
    return unsupported(spec, settings)


def _not_here(message: str) -> Refusal:
    return Refusal(Ended.NotRunnableHere, message)

"""Values that the endpoint's chart refuses, so that no cluster finds out what is wrong with them.

We test these aspects:
- what is missing, what excludes each other, and what KubeRay would accept although it is wrong is
  refused with a sentence that names the value and the way out;
- a mistake in a name or a type is refused at its place by the schema;
- what looks unusual and is right is taken.
"""

import pytest

from tests.cluster.endpoint_chart import endpoint_of, render

FROM_JOB = "artifact.uri=,artifact.digest=,artifact.fromJob=small"


def refusal(*options: str, release: str = "small") -> str:
    """What Helm says when the chart refuses values."""
    with pytest.raises(RuntimeError) as error:
        render("team", *options, release=release)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("image.registry=", "`image.registry` must be set to the registry"),
        ("image.registry=https://x.test", "without `https://` and without a '/' at its end"),
        ("artifact.uri=", "`artifact.uri` must say what is served"),
        ("artifact.fromJob=small", "`artifact.uri` and `artifact.fromJob` are both set"),
        (f"{FROM_JOB},artifact.revision=x", "`artifact.revision` is set beside `artifact.fromJob`"),
        ("artifact.fromJobNamespace=x", "`artifact.fromJobNamespace` is set without"),
        ("artifact.uri=models/out", "`artifact.uri` must be `s3://bucket/prefix`"),
        ("artifact.uri=/out", "set `artifact.claimName` to the claim that holds it"),
        ("artifact.claimName=out", "which is no path in a claim"),
        (
            "artifact.uri=/out,artifact.claimName=out,artifact.revision=main",
            "a path in a claim has no revisions; leave it out, and pin `artifact.digest`",
        ),
        ("artifact.uri=hf://a/b,artifact.endpointUrl=http://x", "`artifact.endpointUrl` is of `s3"),
        ("trust.publicKeyRef.name=", "`trust.publicKeyRef.name` must name a ConfigMap or Secret"),
        ("trust.verdicts=null", "missing property 'verdicts'"),
        ("modes={text,multimodal}", "`modes` has both 'text' and 'multimodal'"),
        ("draft.tokens=3", "`draft` is set, and `modes` has no 'speculative'"),
        ("modes={speculative},draft.uri=/x", "`draft.uri` must be `s3://bucket/prefix` or"),
        (
            "modes={speculative},draft.uri=s3://a/b,draft.trust.signature=Required",
            "`draft.trust.publicKeyRef.name` must name a ConfigMap or Secret",
        ),
        ("apiKey.secretName=", "`apiKey.secretName` must name a Secret"),
        (
            "environment.RAY_SERVE_ENABLE_HA_PROXY=off",
            "sets RAY_SERVE_ENABLE_HA_PROXY, which other",
        ),
        ("environment.VLLM_API_KEY=x", "`environment` sets VLLM_API_KEY"),
        ("extraVolumes[0].name=cache", "`extraVolumes` has a volume 'cache', which is a name of"),
        ("worker.gpus=3,tensorParallel=2", "`worker.gpus` is 3, which is no multiple of"),
        ("worker.gpus=2,accelerator=CPU", "`worker.gpus` is set, and `accelerator` is CPU"),
        (
            "engine.mode=Standalone,tensorParallel=2,pipelineParallel=2,worker.gpus=2",
            "holds a whole replica in each pod, which needs `tensorParallel` times",
        ),
        ("worker.maxPods=4,replicas=4", "`worker.maxPods` is 4; 4 replicas need 4 pods, and"),
        ("worker.maxPods=3,replicas=4,strategy=Recreate", "4 replicas need 4 pods. Set it to 4"),
        (
            "worker.maxPods=5,replicas=2,tensorParallel=8,pipelineParallel=2",
            "2 replicas need 4 pods, and `strategy: Surge` needs 2 more for the next artifact. Set "
            "it to 6 or more",
        ),
        ("cache.claimName=x", "`cache.claimName` is of the type PersistentVolumeClaim"),
        ("cache.type=PersistentVolumeClaim", "`cache.claimName` must name the claim"),
        ("cache.type=HostPath", "`cache.hostPath` must name the folder"),
        ("ray.gcsFaultTolerance.passwordSecretName=x", "is set without `redisAddress`"),
        (
            "engine.mode=Standalone,ray.gcsFaultTolerance.redisAddress=x:1",
            "`ray.gcsFaultTolerance` is of `engine.mode: RayService`",
        ),
        ("podDisruptionBudget.enabled=true", "with fewer than two `replicas`"),
        (
            "podDisruptionBudget.enabled=true,replicas=2,worker.gpus=8",
            "with all 2 replicas in one pod would keep its node from being drained",
        ),
        ("gateway.enabled=true", "`gateway.enabled` needs the Gateway API's HTTPRoute"),
        ("podMonitor.enabled=true", "`podMonitor.enabled` needs the Prometheus operator's"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(values: str, sentence: str) -> None:
    assert sentence in refusal("--set", values)


def test_what_a_cluster_has_does_not_make_up_for_what_values_lack() -> None:
    gateway = ("--set", "gateway.enabled=true", "--api-versions", "gateway.networking.k8s.io/v1")
    assert "`gateway.parentRefs` names no gateway" in refusal(*gateway)
    for empty, told in (
        ("trust.verdicts=[]", "`trust.verdicts` is empty; name at least one, such as Passed"),
        ("modes=[]", "`modes` is empty; name at least one"),
    ):
        assert told in refusal("--set-json", empty)


@pytest.mark.parametrize(
    ("release", "sentence"),
    [
        ("a" * 48, "takes no RayService whose name has more than 47. Choose a shorter one"),
        ("1st", "must begin with a letter; call it 'endpoint-1st', for instance"),
    ],
)
def test_a_name_that_kuberay_would_stumble_over_is_refused(release: str, sentence: str) -> None:
    assert sentence in refusal(release=release)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--set=artifact.url=x", "at '/artifact': additional properties 'url' not allowed"),
        ("--set=artifact.digest=abc", "at '/artifact/digest': 'abc' does not match pattern"),
        ("--set=artifact.endpointUrl=x", "at '/artifact/endpointUrl': 'x' does not match"),
        ("--set=artifact.fromJob=A_b", "at '/artifact/fromJob': 'A_b' does not match"),
        ("--set=modes={Text}", "at '/modes/0': value must be one of 'text', 'multimodal'"),
        ("--set=modes={tools,tools}", "at '/modes': items at 0 and 1 are equal"),
        ("--set=trust.verdicts={Failed}", "at '/trust/verdicts/0': value must be one of"),
        ("--set=trust.signature=Maybe", "at '/trust/signature': value must be one of"),
        ("--set=draft.trust.key=x", "additional properties 'key' not allowed"),
        ("--set=servedModelName=a b", "at '/servedModelName': 'a b' does not match pattern"),
        ("--set=engine.mode=standalone", "at '/engine/mode': value must be one of 'RayService'"),
        ("--set=accelerator=TPU", "at '/accelerator': value must be one of 'GPU', 'CPU'"),
        ("--set=replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("--set=tensorParallel=65", "at '/tensorParallel': maximum: got 65, want 64"),
        ("--set=maxRequestSeconds=0", "at '/maxRequestSeconds': minimum: got 0, want 1"),
        ("--set=maxModelLen=0", "at '/maxModelLen': minimum: got 0, want 1"),
        ("--set=gpuMemoryPercent=101", "at '/gpuMemoryPercent': maximum: got 101, want 100"),
        ("--set=cache.type=emptyDir", "at '/cache/type': value must be one of 'EmptyDir'"),
        ("--set=worker.shmSize=16GB", "at '/worker/shmSize': '16GB' does not match pattern"),
        ("--set=worker.resources.limit.cpu=1", "at '/worker/resources': additional properties"),
        ("--set=apiKey.authentication=None", "at '/apiKey/authentication': value must be one of"),
        ("--set=draft.tokens=17", "at '/draft/tokens': maximum: got 17, want 16"),
        ("--set=apiKey.key=", "at '/apiKey/key': '' does not match pattern"),
        ("--set=trust.publicKeyRef.key=../x", "at '/trust/publicKeyRef/key': '../x' does not"),
        ("--set=worker.gpuResource=gpu", "at '/worker/gpuResource': 'gpu' does not match"),
        ("--set=engineArguments=x", "at '/engineArguments': got string, want object"),
    ],
)
def test_a_mistake_is_refused_at_its_place(option: str, told: str) -> None:
    assert told in refusal(option)


@pytest.mark.parametrize(
    "option",
    [
        "--set=worker.maxPods=4,replicas=4,strategy=Recreate",
        "--set=worker.maxPods=4,replicas=4,strategy=Recreate,engine.mode=Standalone",
        "--set=servedModelName=org/Model-1.2_x",
        "--set=modes={tools,speculative},draft.tokens=3",
        "--set=artifact.uri=hf://org/name,artifact.revision=main",
        "--set=artifact.uri=/out,artifact.claimName=out",
        "--set=worker.resources.limits.memory=64Gi",
    ],
)
def test_what_is_right_is_taken(option: str) -> None:
    assert endpoint_of(render("team", option))


def test_the_longest_release_of_helm_is_taken_where_there_is_no_kuberay() -> None:
    assert render("team", "--set", "engine.mode=Standalone", release="a" * 53)


def test_a_path_in_a_claim_is_one_in_the_pod() -> None:
    served = endpoint_of(render("team", "--set=artifact.uri=/out,artifact.claimName=out"))
    assert served.artifact is not None
    assert served.artifact.uri == "/var/run/halftone/claim/out"

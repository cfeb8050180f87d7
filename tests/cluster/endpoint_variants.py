"""Values of the chart `halftone-endpoint` that between them use all that it has.

Called by contract tests, which hold each against its snapshot, and by the API tier.
"""

STANDALONE = ("--set", "engine.mode=Standalone")
FROM_JOB = ("--set", "artifact.uri=,artifact.digest=,artifact.fromJob=small")
GATEWAY = (
    *("--set", "gateway.enabled=true,gateway.parentRefs[0].name=public"),
    *("--api-versions", "gateway.networking.k8s.io/v1"),
)
MONITORED = (
    *("--set", "podMonitor.enabled=true,podMonitor.labels.release=prometheus"),
    *("--set-json", 'networkPolicy.monitoring=[{"namespaceSelector":{"matchLabels":{"a":"b"}}}]'),
    *("--set-json", 'networkPolicy.clients=[{"podSelector":{"matchLabels":{"asks":"yes"}}}]'),
    *("--api-versions", "monitoring.coreos.com/v1"),
)
DRAFTED = (
    *("--set", "modes={text,speculative,longContext},draft.uri=hf://org/draft,draft.tokens=3"),
    *("--set", "maxModelLen=262144,maxNumSeqs=16777216,gpuMemoryPercent=90,routing=Prefix"),
    *("--set", "draft.trust.signature=NotRequired,draft.trust.verdicts={Unmeasured}"),
    *("--set-json", 'engineArguments={"num_gpu_blocks_override":16777216,"x":{"y":1.5}}'),
)
AUTOSCALED = (
    *("--set", "autoscaling.prometheusUrl=http://prometheus.monitoring:9090"),
    *("--set", "autoscaling.capacity.configMapName=card"),
)
VARIANTS = {
    "default": (),
    "standalone": (*STANDALONE, "--set", "replicas=2,strategy=Recreate,tensorParallel=2"),
    "from-job": (*FROM_JOB, "--set", "artifact.fromJobNamespace=jobs,artifact.claimName=out"),
    "fault-tolerant": (
        *("--set", "ray.gcsFaultTolerance.redisAddress=redis:6379,replicas=2"),
        *("--set", "ray.gcsFaultTolerance.passwordSecretName=redis"),
        *("--set", "podDisruptionBudget.enabled=true,head.nodeSelector.pool=system"),
    ),
    "gateway": (*GATEWAY, *MONITORED, "--set", "gateway.hostnames={models.test}"),
    "multimodal-tools": (
        *("--set", "modes={multimodal,tools},tensorParallel=8,pipelineParallel=2"),
        *("--set", "cache.type=PersistentVolumeClaim,cache.claimName=weights"),
        *("--set", "cache.maxGigabytes=500,credentials.s3.secretName=s3"),
        *("--set", "credentials.huggingFace.secretName=hub,environment.AWS_REGION=eu-1"),
        *("--set", "trust.publicKeyRef.kind=Secret,trust.platforms={B200}"),
    ),
    "autoscaled": (
        *AUTOSCALED,
        *("--set", "autoscaling.minReplicas=2,autoscaling.maxReplicas=12"),
        *("--set", "autoscaling.thetaPercent=72,autoscaling.leadSeconds=277"),
        *("--set-string", "autoscaling.selector.namespace=team"),
        *("--set", "podDisruptionBudget.enabled=true,warmNodes=2"),
        *("--set", "autoscaling.prometheusToken.secretName=scraper"),
    ),
    "standalone-autoscaled": (
        *(*STANDALONE, *MONITORED),
        *("--set", "autoscaling.prometheusUrl=https://prometheus.test/a,replicas=3"),
        *("--set-json", 'autoscaling.capacity.card={"kvBlocks":1000}'),
        *("--set-string", "autoscaling.selector.namespace=team"),
        *("--set", "autoscaling.observeOnly=true,servedModelName=org/small"),
        *("--set", "autoscaling.prometheusToken.secretName=scraper"),
    ),
    "speculative": DRAFTED,
    "cpu-open": (
        *("--set", "accelerator=CPU,apiKey.authentication=NotRequired"),
        *("--set", "trust.signature=NotRequired,trust.verdicts={Passed,Emulated,Unmeasured}"),
        *("--set", "trust.publicKeyRef.name=,artifact.digest="),
        *("--set", "images.endpoint=halftone-endpoint-cpu"),
        *("--set", "networkPolicy.enabled=false"),
        *("--set-json", "worker.tolerations=[],worker.computeMajor=[]"),
    ),
}  # fmt: skip

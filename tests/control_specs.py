"""Specs of jobs with every Secret and claim that a job can name, for whatever makes pods of them.

Called by the tests of the Jobs runner's manifests and of the pipeline's rendering.
"""

from typing import Any

from hypothesis import strategies as st

JOB_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)


def ref(name: str) -> dict[str, str]:
    return {"name": name, "key": "key"}


SOURCES: tuple[dict[str, Any], ...] = (
    {"s3": {"uri": "s3://models/in", "credentialsSecretRef": ref("source")}},
    {"huggingFace": {"repository": "org/in", "tokenSecretRef": ref("source")}},
    {"directory": {"path": "in", "claimName": "source"}},
)
DATA: tuple[dict[str, Any], ...] = (
    {"s3": {"uri": "s3://data/a.jsonl", "credentialsSecretRef": ref("data")}},
    {"huggingFace": {"repository": "org/data", "tokenSecretRef": ref("data")}},
    {"path": "a.jsonl", "claimName": "data"},
)
TARGETS: tuple[dict[str, Any], ...] = (
    {"s3": {"uri": "s3://models/out", "credentialsSecretRef": ref("target")}},
    {"huggingFace": {"repository": "org/out", "tokenSecretRef": ref("target")}},
    {"directory": {"path": "out", "claimName": "target"}},
)
AREAS: tuple[dict[str, Any], ...] = (
    {"s3": {"credentialsSecretRef": ref("work")}},
    {"claimName": "work"},
    {"storageClassName": "fast", "size": "1Gi"},
)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Any job with every Secret and claim that it can name."""
    target = draw(st.sampled_from(TARGETS))
    data = draw(st.sampled_from(DATA))
    return {
        "source": draw(st.sampled_from(SOURCES)),
        "quantization": {"preset": "nvfp4", "calibration": {"dataset": data}},
        "validation": {"promptFile": "p.jsonl", "claimName": "prompts"},
        "publish": {**target, "signingKeyRef": {"secret": ref("key")}},
        "workVolume": draw(st.sampled_from(AREAS if "s3" in target else AREAS[1:])),
        "parallelism": draw(st.integers(1, 256)),
    }

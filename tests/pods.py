"""A cluster's half of a job's life without a cluster: what the operator orders is run, as it is.

    pods = Pods(tmp_path, secrets={"reader": {"aws": "[default]..."}})
    status = pods.carry_out(job)

Called by tests of the stages. Manifests come from `halftone.control.reconcile` and nothing is added
to them: a container's command line, its environment (a Secret's key is looked up as the kubelet
does it) and a directory for each volume, at a path that stands for its mount path. What a container
leaves in its termination message is read back by the operator's own `reading`.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import patch

from halftone.control.decision import Decision
from halftone.control.inside import CACHE_PLACE, CLAIMS_PLACE, TEMPORARY_PLACE, WORK_PLACE
from halftone.control.observed import Observed, ObservedChild, ObservedClaim
from halftone.control.pods import CONTAINER, TERMINATION_LOG
from halftone.control.reconciling import reconcile
from halftone.control.settings import Settings, StageDefaults
from halftone.spec.cluster import STAGE_LABEL
from halftone.spec.running import StageName
from halftone.spec.stage_results import MAX_RESULT_BYTES, StageResult
from halftone.spec.status import ConditionStatus, JobStatus
from operators.quantizationjob.reading import progress_of, read_child, read_pod
from tests.commands import halftone

SETTINGS = Settings(
    stages={name: StageDefaults(image="registry.test/worker:1") for name in StageName}
)
# What an image brings beside its interpreter; nothing of this machine's user.
IMAGE = {"PATH": os.environ.get("PATH", ""), "AWS_EC2_METADATA_DISABLED": "true"}
_COMMAND = (sys.executable, "-m", "halftone")


# Counts what is asked of a store or written to the work directory, as far as it fits a pattern, and
# kills itself right before the given number of that, or says at the end how often it was.
_COUNTING = """
import os, re, signal, sys
kill_at, fits, workdir, log = int(sys.argv[1]), re.compile(sys.argv[2]), *sys.argv[3:5]
count = 0
def tell(event, arguments):
    global count
    if event == "open":
        path, _, flags = arguments
        if not (str(path).startswith(workdir) and flags & (os.O_WRONLY | os.O_RDWR)):
            return
    elif event == "http.client.send":
        data = arguments[1]
        arguments = data[:200].decode("latin-1") if isinstance(data, bytes) else ""
    elif event not in ("os.rename", "os.remove"):
        return
    if fits.match(f"{event} {arguments}"):
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(tell)
from halftone.cli.main import main
try:
    main(sys.argv[5:])
finally:
    if not kill_at:
        with open(log, "w") as file:
            file.write(str(count))
"""
_ALL = "(?s)"


@dataclass
class Ended:
    """How one pod ended."""

    stage: str
    index: int
    code: int
    out: str
    err: str
    message: bytes

    @property
    def result(self) -> StageResult:
        """Its termination message, which is never too long."""
        assert len(self.message) <= MAX_RESULT_BYTES
        return StageResult.model_validate_json(self.message)

    @property
    def progress(self) -> tuple[int, int] | None:
        """What the operator reads from its log."""
        return progress_of(self.err)


# Called with a pod before it is run; runs it in another way, or returns None.
Interfere = Callable[["Pod"], "Ended | None"]


@dataclass
class Pod:
    """One pod of a child: a command, its environment and its places, ready to be run."""

    stage: str
    index: int
    arguments: list[str]
    environment: dict[str, str]
    workdir: Path
    log: Path
    # Another pod in its place, on a disk of its own.
    anew: Callable[[], "Pod"]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Its process; `command` stands in for `halftone`."""
        self.log.unlink(missing_ok=True)
        return subprocess.Popen(
            [*(command or _COMMAND), *self.arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        """What there is to know of it once it is gone; waits for that."""
        out, err = process.communicate()
        message = self.log.read_bytes() if self.log.exists() else b""
        return Ended(self.stage, self.index, process.returncode, out, err, message)

    def run(self) -> Ended:
        """Run it to its end in this process, which saves starting another."""
        self.log.unlink(missing_ok=True)
        with patch.dict(os.environ, self.environment, clear=True):
            done = halftone(*self.arguments)
        message = self.log.read_bytes() if self.log.exists() else b""
        return Ended(self.stage, self.index, done.code, done.out, done.err, message)

    def killed(self) -> Ended:
        """What the kubelet sees of a pod that left no message."""
        return Ended(self.stage, self.index, -signal.SIGKILL, "", "", b"")

    def counted(self) -> tuple[Ended, int]:
        """Run it in a process of its own; how often it wrote something here or asked a store."""
        count = self.log.with_name("count")
        ended = self.ended(self.start(*self._counting(0, _ALL, count)))
        return ended, int(count.read_text())

    def kill_at(self, times: int, event: str = _ALL) -> None:
        """Run it until right before the `times`th of what `counted` counts and `event` fits."""
        ended = self.ended(self.start(*self._counting(times, event, Path(os.devnull))))
        assert (ended.code, ended.message) == (-signal.SIGKILL, b""), ended.err

    def _counting(self, times: int, event: str, count: Path) -> tuple[str, ...]:
        told = (str(times), event, str(self.workdir), str(count))
        return (sys.executable, "-c", _COUNTING, *told)


@dataclass
class Pods:
    """Everything that outlives a pod: Secrets, claims, and what was seen of children."""

    folder: Path
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    claims: Mapping[str, Path] = field(default_factory=dict)
    # Kernels are compiled once for all pods of a test, although each has a cache of its own.
    cache: Path | None = None
    # What an installation's images say beside.
    image: Mapping[str, str] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    status: JobStatus = field(default_factory=JobStatus)
    _children: list[ObservedChild] = field(default_factory=list)
    _metadata: dict[str, Any] = field(default_factory=dict)
    _count: int = 0

    def carry_out(self, job: Mapping[str, Any], interfere: Interfere | None = None) -> JobStatus:
        """Do what the operator orders until it orders nothing; return the last status."""
        while made := self.visit(job).creations:
            for manifest in made:
                pods = self.pods_of(manifest)
                ends = [(interfere and interfere(pod)) or pod.anew().run() for pod in pods]
                self.note(manifest, ends)
        return self.status

    def up_to(self, job: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """Carry a job out until `stage` is ordered; the Job's manifest."""
        while made := self.visit(job).creations:
            for manifest in made:
                if manifest["metadata"]["labels"][STAGE_LABEL] == stage:
                    return dict(manifest)
                self.note(manifest, [pod.run() for pod in self.pods_of(manifest)])
        raise AssertionError(f"`{stage}` was never ordered: {self.status.conditions}")

    def copy(self, folder: Path) -> "Pods":
        """Another node that has seen the same."""
        return Pods(
            folder,
            self.secrets,
            self.claims,
            self.cache,
            self.image,
            status=self.status,
            _children=list(self._children),
            _metadata=dict(self._metadata),
        )

    def visit(self, job: Mapping[str, Any]) -> Decision:
        """One visit of the operator; its status is kept."""
        if not self._metadata:
            self._metadata |= {
                "name": job["metadata"]["name"],
                "namespace": "models",
                "uid": "0c4b0f5e-1111-4222-8333-444455556666",
                "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "finalizers": [],
            }
        decision = reconcile(self._observed(job), SETTINGS)
        assert not decision.deletions
        if decision.finalizer is True:
            self._metadata["finalizers"] = ["halftone.dev/uploads"]
        if decision.status is not None:
            self.status = decision.status
        return decision

    def delete(self, job: Mapping[str, Any]) -> Ended:
        """Delete the object: the pod that cleans up, after which the finalizer goes."""
        self._metadata["deletionTimestamp"] = _now()
        (made,) = reconcile(self._observed(job), SETTINGS).creations
        self.note(made, [pod.run() for pod in self.pods_of(made)])
        assert reconcile(self._observed(job), SETTINGS).finalizer is False
        return self.ended[-1]

    def pods_of(self, manifest: Mapping[str, Any]) -> list[Pod]:
        """The pods of a Job's manifest."""
        return [self._pod(manifest, index) for index in range(manifest["spec"]["completions"])]

    def last(self, stage: str) -> Ended:
        """The last pod of `stage`."""
        return [pod for pod in self.ended if pod.stage == stage][-1]

    def reason(self, condition: str) -> tuple[ConditionStatus, str, str]:
        """Status, reason and message of a condition."""
        row = next(row for row in self.status.conditions if row.type == condition)
        return row.status, row.reason, row.message

    def _observed(self, job: Mapping[str, Any]) -> Observed:
        many = frozenset({"ReadWriteMany"})
        return Observed(
            metadata=self._metadata,
            spec=job["spec"],
            status=self.status.model_dump(mode="json", exclude_none=True),
            now=datetime.now(UTC),
            children=tuple(self._children),
            claims={name: ObservedClaim(name, many) for name in self.claims},
        )

    def note(self, manifest: Mapping[str, Any], ends: Sequence[Ended]) -> None:
        """See how the pods of a Job ended, and what its controller would make of it."""
        self.ended += ends
        bodies = [_pod_body(manifest, ended) for ended in ends]
        failed = any(ended.code for ended in ends)
        uid = f"uid-{len(self._children)}"
        owned = read_child(_job_body(manifest, uid, failed))
        assert owned is not None
        pods = tuple(read_pod(body).pod for body in bodies)
        self._children.append(replace(owned.child, pods=pods))

    def _pod(self, manifest: Mapping[str, Any], index: int) -> Pod:
        spec = manifest["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        self._count += 1
        own = self.folder / f"pod-{self._count}"
        places = self._places(spec, container, own)
        log = own / "termination-log"
        own.mkdir(parents=True, exist_ok=True)
        names = sorted((*places, TERMINATION_LOG), key=len, reverse=True)
        pattern = re.compile(rf"(?:{'|'.join(map(re.escape, names))})(?=[/\"]|$)")
        inside = {name: str(path) for name, path in places.items()} | {TERMINATION_LOG: str(log)}

        def moved(text: str) -> str:
            return pattern.sub(lambda match: inside[match[0]], text)

        environment = IMAGE | dict(self.image) | {"TMPDIR": str(own / "tmp")}
        for variable in container["env"]:
            if variable["name"] != "TMPDIR":
                environment[variable["name"]] = moved(self._value(variable))
        arguments = [
            moved(text).replace("$(JOB_COMPLETION_INDEX)", str(index)) for text in container["args"]
        ]
        stage = manifest["metadata"]["labels"][STAGE_LABEL]
        return Pod(
            stage,
            index,
            arguments,
            environment,
            places[WORK_PLACE],
            log,
            lambda: self._pod(manifest, index),
        )

    def _places(
        self, spec: Mapping[str, Any], container: Mapping[str, Any], own: Path
    ) -> dict[str, Path]:
        """A directory for each mount path; claims have the same one in all pods."""
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        found: dict[str, Path] = {CLAIMS_PLACE: self.folder / "mnt"}
        found[CLAIMS_PLACE].mkdir(parents=True, exist_ok=True)
        for mount in container["volumeMounts"]:
            claim = volumes[mount["name"]].get("persistentVolumeClaim")
            if claim is not None:
                path = self.claims[claim["claimName"]] / mount.get("subPath", "")
            elif mount["mountPath"] == CACHE_PLACE and self.cache is not None:
                path = self.cache
            else:
                path = own / mount["name"]
            path.mkdir(parents=True, exist_ok=True)
            place = PurePosixPath(mount["mountPath"])
            if place.is_relative_to(CLAIMS_PLACE):
                link = self.folder / "mnt" / place.relative_to(CLAIMS_PLACE)
                if not link.is_symlink():
                    link.symlink_to(path)
            else:
                found[mount["mountPath"]] = path
        (own / "tmp").mkdir(parents=True, exist_ok=True)
        del found[TEMPORARY_PLACE]  # too short a name to be looked for in texts
        return found

    def _value(self, variable: Mapping[str, Any]) -> str:
        if "value" in variable:
            return str(variable["value"])
        ref = variable["valueFrom"]["secretKeyRef"]
        return self.secrets[ref["name"]][ref["key"]]


def _pod_body(manifest: Mapping[str, Any], ended: Ended) -> dict[str, Any]:
    """The pod as the API server has it once the kubelet has told it the end."""
    name = f"{manifest['metadata']['name']}-{ended.index}"
    code = 128 - ended.code if ended.code < 0 else ended.code
    terminated = {"exitCode": code, "message": ended.message.decode()}
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": _now(),
            "annotations": {"batch.kubernetes.io/job-completion-index": str(ended.index)},
            "ownerReferences": [{"uid": "", "controller": True}],
        },
        "spec": manifest["spec"]["template"]["spec"],
        "status": {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": CONTAINER, "state": {"terminated": terminated}}],
        },
    }


def _job_body(manifest: Mapping[str, Any], uid: str, failed: bool) -> dict[str, Any]:
    metadata = {**manifest["metadata"], "uid": uid, "creationTimestamp": _now()}
    condition = {
        "type": "Failed" if failed else "Complete",
        "status": "True",
        "reason": "PodFailurePolicy" if failed else "CompletionsReached",
        "message": "",
        "lastTransitionTime": _now(),
    }
    return {**manifest, "metadata": metadata, "status": {"conditions": [condition]}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(
    source: Mapping[str, Any], publish: Mapping[str, Any] | None, **spec: Any
) -> dict[str, Any]:
    """A QuantizationJob, data-free unless `spec` says otherwise, as JSON has it."""
    given: dict[str, Any] = {"source": source, "quantization": {"preset": "nvfp4a16"}, **spec}
    if publish is not None:
        given["publish"] = publish
    made = {
        "apiVersion": "halftone.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "small"},
        "spec": given,
    }
    return dict(json.loads(json.dumps(made)))

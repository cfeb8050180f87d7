"""The chart's release on the node: installed and changed with Helm, asked with OpenAI's client.

Called by the tests of this tier. `NAMESPACE` enforces Pod Security "restricted"; its Secrets,
ConfigMap and claims are the conftest's.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import yaml

from tests.cluster import endpoint_environment
from tests.cluster.client import Client, Object, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.endpoint_chart import CHART
from tests.cluster.helm import Helm
from tests.cluster.kuberay import RAY_API

NAMESPACE: Final = "models"
NAME: Final = "small"
MODEL: Final = "pocket"
BUCKET: Final = "artifacts"
API_KEY: Final = "a-key-of-clients"
LENGTH: Final = 1024  # tokens
# A machine of two cores may be busy with other things.
PATIENCE_S: Final = 900.0
VALUES: Final[dict[str, Any]] = {
    "accelerator": "CPU",
    "servedModelName": MODEL,
    "maxModelLen": LENGTH,
    "maxNumSeqs": 8,
    "maxRequestSeconds": 600,
    "trust": {"verdicts": ["Passed", "Emulated"], "publicKeyRef": {"name": "signer"}},
    "apiKey": {"secretName": "clients"},
    "credentials": {"s3": {"secretName": "s3"}},
    # Two cores are shared by several replicas.
    "environment": {**endpoint_environment.VALUES["environment"], "OMP_NUM_THREADS": "1"},
    # Requests that two cores have room for: a head, and three pods while an artifact is replaced.
    "head": {"resources": {"requests": {"cpu": "200m", "memory": "1Gi"}}},
    "worker": {
        "computeMajor": [],
        "tolerations": [],
        "shmSize": "1Gi",
        "maxPods": 4,
        "resources": {"requests": {"cpu": "250m", "memory": "2Gi"}},
    },
}


@dataclass
class Stream:
    """A completion of `tokens` tokens as its client sees it."""

    tokens: int
    events: int = 0
    finish: str | None = None
    usage: int = 0
    error: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it came to its end with every token."""
        return (self.finish, self.usage, self.error) == ("length", self.tokens, None)


@dataclass
class Release:
    """`digests` are of the artifacts by name; `tell` prints a sentence with the time."""

    cluster: ControlPlane
    client: Client
    s3: str
    digests: Mapping[str, str]
    tell: Callable[[str], None]
    _seen: dict[str, str] = field(default_factory=dict)

    def install(self, artifact: str, replicas: int) -> None:
        """Install or upgrade, and wait until this artifact alone is served by so many pods."""
        place = {
            "uri": f"s3://{BUCKET}/{artifact}",
            "digest": self.digests[artifact],
            "endpointUrl": self.s3,
        }
        self.put({"artifact": place}, artifact, replicas)

    def put(self, values: Mapping[str, Any], artifact: str, replicas: int) -> None:
        """The same with `values` beside those of every release here; they say which artifact."""
        whole = {**endpoint_environment.VALUES, **VALUES, "replicas": replicas, **values}
        path = Path(self.cluster.folder, "values.yaml")
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        self.tell(f"helm upgrade --install: {artifact}, replicas {replicas}")
        self.helm("upgrade", NAME, str(CHART), "--install", "--values", str(path))
        self.wait("as many ready pods", lambda: len(self.ready("replica")) >= replicas)
        self.wait("the application", lambda: self.application() == "RUNNING")
        self.wait("its digest", lambda: self.serves(artifact))
        self.tell(f"{artifact} is served")

    def helm(self, verb: str, *words: str) -> str:
        """Run Helm; returns what it prints."""
        return Helm(self.cluster, NAMESPACE)(verb, *words)

    def uninstall(self) -> None:
        """Take the release away, and wait until no pod of it is left."""
        self.tell("helm uninstall")
        self.helm("uninstall", NAME, "--wait")
        self.wait("the end of all pods", lambda: not self.pods(), 300)
        self.tell("no pod is left")

    def pods(self) -> list[Object]:
        """All pods of the namespace; what changed of them is told."""
        found = self.client.items(pods_path(NAMESPACE))
        now = {pod["metadata"]["name"]: _said(pod) for pod in found}
        for name in self._seen.keys() | now.keys():
            if self._seen.get(name) != now.get(name):
                self.tell(f"pod {name}: {now.get(name, 'gone')}")
        self._seen = now
        return found

    def ready(self, component: str) -> list[Object]:
        """Pods of a component of which every container is ready, and which are not going."""
        return [
            pod
            for pod in self.pods()
            if pod["metadata"]["labels"].get("app.kubernetes.io/component") == component
            and _said(pod) == "ready"
        ]

    def application(self) -> str | None:
        """What Serve says of it, by way of KubeRay; None where it says nothing yet."""
        service = self.client.get(f"{RAY_API}/namespaces/{NAMESPACE}/rayservices/{NAME}")
        active = service.get("status", {}).get("activeServiceStatus", {})
        told = active.get("applicationStatuses", {}).get("halftone", {})
        status: str | None = told.get("status")
        return status

    def serves(self, artifact: str) -> bool:
        """Whether every one of some questions is answered by a replica of this artifact."""
        with self.asking() as client:
            roots = {client.models.list().data[0].model_dump()["root"] for _ in range(8)}
        return roots == {f"sha256:{self.digests[artifact]}"}

    @contextmanager
    def asking(self) -> Iterator[openai.OpenAI]:
        """The official client of the Service, which tries nothing twice."""
        service = self.client.get(f"/api/v1/namespaces/{NAMESPACE}/services/{NAME}")
        url = f"http://{service['spec']['clusterIP']}:8000/v1"
        with openai.OpenAI(
            base_url=url, api_key=API_KEY, max_retries=0, timeout=PATIENCE_S
        ) as client:
            yield client

    @contextmanager
    def asked_all_the_while(self) -> Iterator[list[str]]:
        """Short chats one after the other; what the errors say, and '' for every answer."""
        ended = threading.Event()
        answers: list[str] = []
        with self.asking() as client:
            thread = threading.Thread(target=_chats, args=(client, answers, ended), daemon=True)
            thread.start()
            try:
                yield answers
            finally:
                ended.set()
                thread.join(PATIENCE_S)

    @contextmanager
    def streams(self, count: int, tokens: int) -> Iterator[list[Stream]]:
        """So many completions at once; leaving waits for the end of all."""
        found = [Stream(tokens) for _ in range(count)]
        with self.asking() as client:
            threads = [
                threading.Thread(target=_read, args=(client, one), daemon=True) for one in found
            ]
            for thread in threads:
                thread.start()
            yield found
            for thread in threads:
                thread.join(PATIENCE_S)

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Return once it holds; an API server or endpoint that does not answer is asked again."""
        deadline = time.monotonic() + seconds
        while not _held(holds):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come in {seconds:.0f} s: {self._seen}")
            time.sleep(1)


def _held(holds: Callable[[], bool]) -> bool:
    try:
        return holds()
    except (httpx.HTTPError, openai.APIError):
        return False


def _said(pod: Object) -> str:
    """How a pod is, in few words."""
    if "deletionTimestamp" in pod["metadata"]:
        return "going"
    rows = pod["status"].get("containerStatuses", [])
    if rows and all(row["ready"] for row in rows):
        return "ready"
    phase: str = pod["status"]["phase"]
    return phase.lower()


def chat(client: openai.OpenAI) -> str:
    """A short answer; what the pocket model learnt is that 12+345=357."""
    messages: list[Any] = [{"role": "user", "content": "12+345="}]
    found = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=8, temperature=0
    )
    return found.choices[0].message.content or ""


def _chats(client: openai.OpenAI, answers: list[str], ended: threading.Event) -> None:
    while not ended.wait(0.5):
        try:
            answers.append("" if chat(client) else "an empty answer")
        except Exception as error:  # whatever a client sees
            answers.append(f"{type(error).__name__}: {error}")


def _read(client: openai.OpenAI, stream: Stream) -> None:
    """Ask, and note whatever comes."""
    extra = {"ignore_eos": True, "min_tokens": stream.tokens}
    try:
        for event in client.completions.create(
            model=MODEL,
            prompt="Once",
            max_tokens=stream.tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra,
        ):
            stream.events += 1
            if event.usage:
                stream.usage = event.usage.completion_tokens
            for choice in event.choices:
                stream.finish = choice.finish_reason
    except Exception as error:  # whatever a client sees
        stream.error = f"{type(error).__name__}: {error}"

"""The command line of `halftone autoscale` becomes a target, a law and a reader.

Called by `autoscale`. What is wrong with an option is a sentence that names it; what is wrong with
the world is for the controller to wait out.
"""

import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from halftone.cli.selectors import label
from halftone.cli.urls import require_url
from halftone.scaling.acting.learning import ASSUMED_LEAD_S
from halftone.scaling.capacity import Capacity
from halftone.scaling.policy import Settings
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

if TYPE_CHECKING:
    from halftone.scaling.acting.api_server import ApiServer, Connection
    from halftone.scaling.acting.deciding import Deciding
    from halftone.scaling.acting.leading import Lease
    from halftone.scaling.acting.targets import Target
    from halftone.scaling.inputs.prometheus import PrometheusReader

# Where Ray's own tools find the token.
RAY_TOKEN: Final = "RAY_AUTH_TOKEN"  # noqa: S105  # a name
_OBJECT: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True)
class Wishes:
    """The options as click gives them."""

    prometheus: str
    model: str
    selector: tuple[str, ...]
    prometheus_token_file: Path | None
    prometheus_ca_file: Path | None
    card: Path | None
    profile: str | None
    ray: str | None
    application: str
    ray_deployment: str
    ray_token_file: Path | None
    deployment: str | None
    least: int
    most: int
    theta: float
    lead_seconds: float | None
    slo_ttft: float
    slo_prompt_rate: float
    slo_itl: float
    scale_in_window: float | None
    interval: float
    lease: str | None
    leader_election: bool


def refuse(option: str, sentence: str) -> RefusedInput:
    """For an option that cannot be as it is."""
    return RefusedInput(Reason.InvalidEndpoint, option, sentence)


def check(wishes: Wishes) -> None:
    """Raise RefusedInput for options that do not fit each other."""
    if (wishes.ray is None) == (wishes.deployment is None):
        raise refuse(
            "--ray",
            "Exactly one of `--ray` and `--deployment` must be given: what is to be scaled.",
        )
    if wishes.card is not None and wishes.profile is not None:
        raise refuse(
            "--card",
            "`--card` and `--profile` both say what a replica can do; leave one of them out, or "
            "both, and replicas say it themselves.",
        )
    if wishes.least < 1:
        raise refuse(
            "--min",
            "`--min` must be 1 or more: with no replica there is nobody whose metrics say that "
            "requests wait, so nothing would ever start one.",
        )
    if wishes.most < wishes.least:
        raise refuse("--max", f"`--max`, {wishes.most}, is less than `--min`, {wishes.least}.")
    for option, url in (("--prometheus", wishes.prometheus), ("--ray", wishes.ray)):
        if url is not None:
            require_url(option, url)
    for option, place in (("--deployment", wishes.deployment), ("--lease", wishes.lease)):
        if place is not None and not _OBJECT.fullmatch(place):
            raise refuse(option, f"`{option} {place}` must be NAMESPACE/NAME.")


def law(wishes: Wishes) -> tuple[Capacity | None, Settings]:
    """What a replica can do, if that was given, and what is wanted of all. Raises RefusedInput."""
    capacity, lead_s = _capacity(wishes)
    settings = Settings(
        lead_s=lead_s if wishes.lead_seconds is None else wishes.lead_seconds,
        theta=wishes.theta,
        min_replicas=wishes.least,
        max_replicas=wishes.most,
        ttft_s=wishes.slo_ttft,
        prompt_rate=wishes.slo_prompt_rate,
        itl_s=wishes.slo_itl,
        scale_in_window_s=wishes.scale_in_window,
    )
    return capacity, settings


def _capacity(wishes: Wishes) -> tuple[Capacity | None, float]:
    """With the lead that is assumed until some were measured, in seconds."""
    from halftone.scaling.profiles import load_profile, read_card

    if wishes.profile is not None:
        return load_profile(wishes.profile), ASSUMED_LEAD_S
    if wishes.card is not None:
        return read_card(wishes.card)
    return None, ASSUMED_LEAD_S


def reader(wishes: Wishes) -> "PrometheusReader":
    """What asks Prometheus."""
    from halftone.scaling.inputs.asking import Access
    from halftone.scaling.inputs.prometheus import PrometheusReader

    return PrometheusReader(
        wishes.prometheus,
        wishes.model,
        selector=dict(label(text) for text in wishes.selector),
        access=Access({}, wishes.prometheus_token_file, wishes.prometheus_ca_file),
    )


def decider(wishes: Wishes) -> "Deciding":
    """The law with what it reads. Raises RefusedInput; warns of objectives that no count meets."""
    from halftone.scaling.acting.deciding import Decider
    from halftone.scaling.acting.learning import LearningDecider
    from halftone.scaling.follower import Follower
    from halftone.scaling.policy import itl_refusal

    capacity, settings = law(wishes)
    asked = reader(wishes)
    if capacity is None:
        return LearningDecider(asked, settings, wishes.lead_seconds, wishes.interval)
    if (warning := itl_refusal(capacity, settings)) is not None:
        click.echo(f"halftone: {warning}", err=True)
    return Decider(asked, Follower(capacity, settings, wishes.interval), settings.lead_s)


def target(wishes: Wishes, api: "ApiServer | None", identity: str) -> "Target":
    """What is scaled; a Deployment needs `api`."""
    if wishes.ray is not None:
        from halftone.scaling.acting.ray_application import RayApplication, RayPlace

        place = RayPlace(wishes.ray, wishes.application, wishes.ray_deployment, ray_token(wishes))
        return RayApplication(place)
    from halftone.scaling.acting.deployment_scale import DeploymentScale

    assert api is not None
    assert wishes.deployment is not None
    namespace, _, name = wishes.deployment.partition("/")
    return DeploymentScale(api, namespace, name, identity)


def lease(wishes: Wishes, api: "ApiServer | None", identity: str) -> "Lease | None":
    """The Lease of `--lease`, or one beside the Deployment; None without an election."""
    place = wishes.lease or (wishes.deployment and f"{wishes.deployment}-autoscale")
    if not wishes.leader_election or api is None or not place:
        return None
    from halftone.scaling.acting.leading import Lease

    namespace, _, name = place.partition("/")
    # Some looks may fail before somebody else takes over.
    return Lease(api, namespace, name, identity, max(15.0, 4 * wishes.interval))


def unelected(wishes: Wishes) -> str | None:
    """What to know where an election was wished for and none is held; None elsewhere."""
    if wishes.leader_election and wishes.ray is not None and wishes.lease is None:
        return "Without `--lease` nobody is elected; run one of these alone."
    return None


def needs_cluster(wishes: Wishes) -> bool:
    """Whether an API server is asked for anything."""
    return wishes.deployment is not None or (wishes.leader_election and wishes.lease is not None)


def ray_token(wishes: Wishes) -> str | None:
    """Of the file, else of the variable; None where Ray asks for none. Raises RefusedInput."""
    if wishes.ray_token_file is None:
        return os.environ.get(RAY_TOKEN) or None
    try:
        return wishes.ray_token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(
            "--ray-token-file", f"`--ray-token-file {wishes.ray_token_file}`: {error}."
        ) from error


def connection(kubeconfig: str | None, context: str | None) -> "Callable[[], Connection]":
    """The way to the API server: as the pod that this is, else as a kubeconfig says.

    Raises RefusedInput for a kubeconfig that cannot be used, EnvironmentFault for a silent server.
    """
    from halftone.scaling.acting.api_server import in_cluster, is_in_cluster

    if kubeconfig is None and context is None and is_in_cluster():
        return in_cluster
    first = [_of_kubeconfig(kubeconfig, context)]
    return lambda: first.pop() if first else _of_kubeconfig(kubeconfig, context)


def _of_kubeconfig(kubeconfig: str | None, context: str | None) -> "Connection":
    import asyncio

    from halftone.cli.cluster_access import connection as connected
    from halftone.scaling.acting.api_server import Connection

    async def found() -> Connection:
        # It keeps keys in files that are gone afterwards, so the context is made inside.
        async with connected(None, kubeconfig, context) as (client, _):
            auth = client.auth
            verify = await auth.ssl_context()
            return Connection(str(auth.server), verify, str(auth.token or ""))

    return asyncio.run(found())


def identity() -> str:
    """Of this process, as no other has it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

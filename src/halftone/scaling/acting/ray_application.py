"""A deployment of a Ray Serve application as a target, through the REST interface of Ray.

Called by `halftone autoscale --ray`. The application has to be deployed with
`external_scaler_enabled: true`: Serve's own autoscaler then keeps its hands off, and so no other
scaler is looked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from halftone.scaling.acting.targets import Observed, TargetError
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

_TIMEOUT_S: Final = 10.0
_SHOWN: Final = 200  # characters of an answer that is none
# States of a replica that are asked for and do not answer yet.
_STARTING: Final = frozenset({"STARTING", "RECOVERING", "UPDATING"})
# Those that go; one that migrates answers until its successor does.
_DRAINING: Final = frozenset({"STOPPING"})


@dataclass(frozen=True)
class RayPlace:
    """Where Ray's dashboard is, and what is scaled there. `token` is Ray's, if it wants one."""

    url: str
    application: str
    deployment: str
    token: str | None = None


class RayApplication:
    """One deployment of one application. Raises RefusedInput(AccessDenied) for a token that cannot
    be sent, which the client would repeat in its error.
    """

    def __init__(self, place: RayPlace) -> None:
        if not (place.token or "").isprintable():
            raise RefusedInput(
                Reason.AccessDenied,
                "--ray-token-file",
                "Ray's token is more than one line of text; write it into `--ray-token-file` or "
                "the variable RAY_AUTH_TOKEN alone.",
            )
        self._place = place
        headers = {} if place.token is None else {"Authorization": f"Bearer {place.token}"}
        self._http = httpx.Client(
            base_url=place.url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
        )

    @property
    def name(self) -> str:
        """As a person would look for it."""
        where = self._place
        return f"deployment '{where.deployment}' of application '{where.application}'"

    def observe(self) -> Observed:
        """Replicas by their states. Raises TargetError."""
        details = self._call("GET", "/api/serve/applications/")
        return observed(details, self._place.application, self._place.deployment)

    def scale(self, count: int, seen: Observed) -> None:
        """Set the target. Ray has no version to hold it against. Raises TargetError."""
        where = self._place
        path = f"/api/v1/applications/{where.application}/deployments/{where.deployment}/scale"
        self._call("POST", path, {"target_num_replicas": count})

    def tell(self, reason: str, sentence: str) -> None:
        """Ray has no place for that."""

    def close(self) -> None:
        """Close what is open to Ray."""
        self._http.close()

    def _call(self, method: str, path: str, body: Any = None) -> Mapping[str, Any]:
        try:
            answer = self._http.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise TargetError(f"Ray at {self._place.url} gives no answer ({why}).") from error
        try:
            found = answer.json()
        except ValueError:
            found = answer.text[:_SHOWN]
        if answer.is_success and isinstance(found, dict):
            return found
        raise TargetError(self._refusal(answer.status_code, found))

    def _refusal(self, status: int, found: Any) -> str:
        said = found.get("error", found) if isinstance(found, dict) else found
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return f"Ray at {self._place.url} does not know its token; see `--ray-token-file`."
        if status == httpx.codes.PRECONDITION_FAILED:
            return (
                f"The {self.name} may not be scaled from outside ({said}); deploy it with "
                "`external_scaler_enabled: true` and without an `autoscaling_config`."
            )
        return f"Ray at {self._place.url} answered {status}: {said}."


def observed(details: Mapping[str, Any], application: str, deployment: str) -> Observed:
    """What Ray's details of all applications say of one deployment.

    Raises TargetError with the names that are there when this one is not.
    """
    try:
        applications = details.get("applications") or {}
        if application not in applications:
            there = ", ".join(sorted(applications)) or "none"
            raise TargetError(f"Ray Serve has no application '{application}'; there is {there}.")
        deployments = applications[application].get("deployments") or {}
        if deployment not in deployments:
            there = ", ".join(sorted(deployments)) or "none"
            raise TargetError(
                f"The application '{application}' has no deployment '{deployment}'; there is "
                f"{there}."
            )
        return _counted(deployments[deployment])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise TargetError(
            f"Ray says of the deployment '{deployment}' what is not understood "
            f"({type(error).__name__}: {error})."
        ) from error


def _counted(found: Mapping[str, Any]) -> Observed:
    states = {str(each["replica_id"]): str(each["state"]) for each in found["replicas"]}
    starting = sum(state in _STARTING for state in states.values())
    draining = sum(state in _DRAINING for state in states.values())
    ready = frozenset(
        name for name, state in states.items() if state not in _STARTING | _DRAINING
    )  # fmt: skip
    wanted = int(found["target_num_replicas"])
    # Those that Ray has not begun to start are asked for all the same.
    starting = max(starting, wanted - len(ready))
    return Observed(wanted, ReplicaCounts(len(ready), starting, draining, ready))

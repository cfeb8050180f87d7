"""What the API server and the model say of an object, without storing it.

Called by the tests of the CRD. Everything is a dry run under strict validation of fields.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from halftone.spec.errors import RefusedInput
from halftone.spec.recipes import parse_job
from tests.api.crd_objects import Object
from tests.cluster.client import Client, jobs_path

DRY: Final = {"dryRun": "All", "fieldValidation": "Strict"}


@dataclass(frozen=True)
class Said:
    """`accepted` is the object as it would be stored; else `causes` are (path, message)."""

    accepted: Object | None
    causes: tuple[tuple[str, str], ...] = ()
    message: str = ""

    @property
    def messages(self) -> frozenset[str]:
        """What is wrong, without the places."""
        return frozenset(message for _, message in self.causes)


def said(answer: httpx.Response) -> Said:
    """An answer of the API server; raises for anything but "created" and "invalid"."""
    body = answer.json()
    if answer.is_success:
        return Said(body)
    if answer.status_code not in (400, 422):
        answer.raise_for_status()
    rows = body.get("details", {}).get("causes", [])
    causes = tuple((_place(row.get("field", "")), _words(row["message"])) for row in rows)
    return Said(None, causes, body["message"])


def _place(field: str) -> str:
    """As a path of `tests.crd_schema`: the root is `<nil>` there, and items have numbers."""
    return "" if field == "<nil>" else re.sub(r"\[[^]]*]", "[]", field)


def _words(message: str) -> str:
    """The rule's own words, after `Invalid value: "object": `."""
    return re.sub(r'^Invalid value: "(object|string|array)": ', "", message)


def create(client: Client, namespace: str, job: Mapping[str, Any]) -> Said:
    """What the API server says to a new `job`."""
    return said(client.http.post(jobs_path(namespace), params=DRY, json=job))


def update(client: Client, former: Object, job: Mapping[str, Any], part: str = "") -> Said:
    """What it says to `job` in place of `former`, which is stored; `part` may be `/status`."""
    place = former["metadata"]
    metadata = {"name": place["name"], "resourceVersion": place["resourceVersion"]}
    path = f"{jobs_path(place['namespace'])}/{place['name']}{part}"
    return said(client.http.put(path, params=DRY, json={**job, "metadata": metadata}))


def store(client: Client, namespace: str, name: str, job: Object) -> Object:
    """Create `job` in earnest, without its status, which a new object cannot have."""
    body = {key: value for key, value in job.items() if key != "status"}
    body["metadata"] = {"name": name}
    answer = client.http.post(jobs_path(namespace), params={"fieldValidation": "Strict"}, json=body)
    stored: Object = answer.raise_for_status().json()
    return stored


def model_refusal(job: Mapping[str, Any]) -> str | None:
    """What `halftone run` says to `job`; None if it takes it. It always says it in a sentence."""
    document = {key: value for key, value in job.items() if key != "status"}
    try:
        parse_job(document, "job.yaml")
    except RefusedInput as error:
        message = error.message
    else:
        return None
    assert message.startswith("In 'job.yaml', `")
    assert message.endswith(".")
    return message

"""What is written to the API server is what is read from it, and what the models make of it.

We test these aspects:
- a spec comes back with its defaults and nothing else changed, and the model reads the same from
  both;
- an example with a work volume is stored as it was written; those for a laptop, and the job of the
  tests of commands, are refused for want of one and for nothing else;
- the whole status, and the longest that the model allows, are stored as the operator writes them,
  by server-side apply under strict validation; the model reads back what it wrote;
- whoever writes an object cannot write its status, nor the other way round.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.control.telling import source_text
from halftone.spec.cluster import FIELD_MANAGER, Condition
from halftone.spec.job import JobSpec
from halftone.spec.reports import Outcome
from halftone.spec.status import ConditionRow, ConditionStatus, GateStatus, JobStatus
from tests.api.crd_asking import create, model_refusal, said, store, update
from tests.api.crd_objects import DIGEST, TIME, WHOLE, Object, value_at, with_edits
from tests.cluster.answers import job
from tests.cluster.client import Client, jobs_path
from tests.conftest import ROOT
from tests.crd_schema import crd_schema, nodes
from tests.jobs import write_job

NODES = dict(nodes(crd_schema()))
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.yaml"))
SPECS = {name: whole for name, whole in WHOLE.items() if name != "observed"}
NO_VOLUME = (
    "`workVolume` must be set unless `publish.s3` is; set `workVolume.claimName`, or "
    "`workVolume.storageClassName` and `workVolume.size`"
)


@pytest.fixture(scope="module")
def place(client: Client) -> str:
    """One namespace for all of them."""
    return client.namespace("crd-round-trips")


def defaults(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the CRD for what `spec` leaves out."""
    found = {
        path.removeprefix("spec."): node["default"]
        for path, node in NODES.items()
        if "default" in node
    }
    return {name: value for name, value in found.items() if name not in spec}


def assert_stored_as_written(client: Client, place: str, written: Object) -> None:
    stored = store(client, place, written["metadata"]["name"], written)["spec"]
    assert stored == written["spec"] | defaults(written["spec"])
    assert JobSpec.model_validate(stored) == JobSpec.model_validate(written["spec"])


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_whole_spec_comes_back(client: Client, place: str, name: str) -> None:
    assert_stored_as_written(client, place, with_edits(SPECS[name], {"metadata.name": name}))


@pytest.mark.parametrize("name", sorted(SPECS))
def test_what_the_model_writes_is_what_it_read(client: Client, place: str, name: str) -> None:
    spec = JobSpec.model_validate(SPECS[name]["spec"])
    written = {**SPECS[name], "spec": spec.model_dump(mode="json", exclude_none=True)}
    answer = create(client, place, written)
    assert answer.accepted is not None, answer.message
    assert JobSpec.model_validate(answer.accepted["spec"]) == spec


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_for_a_cluster_or_lacks_a_volume_alone(
    client: Client, place: str, path: Path
) -> None:
    example = with_edits(yaml.safe_load(path.read_text()), {"metadata.name": path.stem})
    assert model_refusal(example) is None
    if "workVolume" in example["spec"]:
        assert_stored_as_written(client, place, example)
        return
    assert create(client, place, example).causes == (("spec", NO_VOLUME),)
    volume = {"spec.workVolume": {"claimName": "work"}}
    assert_stored_as_written(client, place, with_edits(example, volume))


def test_the_job_of_the_commands_needs_a_work_volume_and_nothing_else(
    client: Client, place: str, tmp_path: Path
) -> None:
    written = yaml.safe_load(write_job(tmp_path).read_text())
    assert create(client, place, written).causes == (("spec", NO_VOLUME),)
    volume = {"spec.workVolume": {"claimName": "work"}}
    assert_stored_as_written(client, place, with_edits(written, volume))


def test_a_job_in_a_bucket_is_applied_unchanged(client: Client, place: str) -> None:
    assert_stored_as_written(client, place, job("in-a-bucket", place))


def write_status(client: Client, stored: Object, status: Mapping[str, Any]) -> Object:
    """The status after the operator's own kind of write; raises where anything is refused."""
    names = {key: stored["metadata"][key] for key in ("name", "namespace", "uid")}
    body = {**{key: stored[key] for key in ("apiVersion", "kind")}, "metadata": names}
    answer = client.http.patch(
        f"{jobs_path(names['namespace'])}/{names['name']}/status",
        params={"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"},
        headers={"Content-Type": "application/apply-patch+yaml"},
        json={**body, "status": status},
    )
    found = said(answer).accepted
    assert found is not None, answer.text
    kept: Object = found["status"]
    return kept


def longest() -> JobStatus:
    """A status whose every text and list is as long as may be."""
    row = ConditionRow(
        type=Condition.Accepted,
        status=ConditionStatus.FALSE,
        reason="R" * 64,
        message="é" * 4096,
        lastTransitionTime=TIME,
        observedGeneration=2**53,
    )
    gates = tuple(
        GateStatus(name=f"{number:063}", outcome=Outcome.NotRun, value="9" * 1024)
        for number in range(40)
    )
    whole = JobStatus.model_validate(WHOLE["observed"]["status"])
    assert whole.artifact is not None
    assert whole.plan is not None
    return whole.model_copy(
        update={
            "conditions": tuple(row.model_copy(update={"type": kind}) for kind in Condition),
            "gates": gates,
            "source": "s" * 4400,
            "recipe": "r" * 1024,
            "retry": "x" * 1024,
            "recoveryPercent": 1000,
            "plan": whole.plan.model_copy(update={"sizeBytes": 2**53, "recipe": "r" * 1024}),
            "artifact": whole.artifact.model_copy(update={"uri": "u" * 4400}),
        }
    )


@pytest.mark.parametrize("which", ["whole", "longest", "bare"])
def test_a_status_comes_back(client: Client, place: str, which: str) -> None:
    status = {
        "whole": JobStatus.model_validate(WHOLE["observed"]["status"]),
        "longest": longest(),
        "bare": JobStatus(),
    }[which]
    # What was copied together is what the model allows.
    assert JobStatus.model_validate(status.model_dump()) == status
    stored = store(client, place, f"status-{which}", WHOLE["bucket"])
    written = status.model_dump(mode="json", exclude_none=True)
    assert write_status(client, stored, written) == written
    read = client.job(place, f"status-{which}")
    assert JobStatus.model_validate(read["status"]) == status


def test_the_longest_source_is_shown_whole(client: Client, place: str) -> None:
    longest_path = {"path": "p" * 4096, "claimName": "c" * 253}
    spec = with_edits(WHOLE["made"], {"spec.source.directory": longest_path})
    stored = store(client, place, "longest-source", spec)
    told = source_text(JobSpec.model_validate(stored["spec"]))
    assert JobStatus.model_validate({"source": told}).source == told
    assert write_status(client, stored, {"source": told}) == {"source": told}


def test_spec_and_status_are_written_apart(client: Client, place: str) -> None:
    stored = store(client, place, "apart", WHOLE["bucket"])
    both = with_edits(WHOLE["observed"], {"spec.parallelism": 9})
    of_spec = update(client, stored, both).accepted
    of_status = update(client, stored, both, "/status").accepted
    assert of_spec is not None
    assert of_status is not None
    assert (of_spec["spec"]["parallelism"], "status" in of_spec) == (9, False)
    assert of_status["spec"]["parallelism"] == 1
    assert value_at(of_status, "status.plan.digest") == DIGEST

"""Provenance holds against the schemas of in-toto and SLSA, and says nothing but what is known."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import (  # type: ignore[import-untyped]
    provenance_pb2,
)
from in_toto_attestation.v1 import (  # type: ignore[import-untyped]
    resource_descriptor_pb2,
    statement_pb2,
)
from in_toto_attestation.v1.resource_descriptor import (  # type: ignore[import-untyped]
    ResourceDescriptor,
)
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]

from halftone.publish.provenance import provenance, stated_digests
from tests.artifacts import Work, work_directory, written

CARD = written("README.md", b"card")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return work_directory(tmp_path_factory.mktemp("made"))


def stated(work: Work, **source: Any) -> dict[str, Any]:
    """The statement of `work`, as if its source were another."""
    plan = work.made.planned.plan
    assert plan.source is not None
    plan = plan.model_copy(update={"source": plan.source.model_copy(update=source)})
    report = written("report.json", work.report.to_bytes())
    data = provenance(plan, work.made.document, work.report, [report, CARD])
    statement: dict[str, Any] = json.loads(data)
    return statement


def test_it_is_an_in_toto_statement_with_slsa_provenance(work: Work) -> None:
    statement = stated(work)

    parsed = Statement.copy_from_pb(json_format.ParseDict(statement, statement_pb2.Statement()))
    parsed.validate()
    # Strict: a field that SLSA does not know is an error.
    predicate = json_format.ParseDict(statement["predicate"], provenance_pb2.Provenance())
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert predicate.build_definition.build_type.startswith("https://halftone.dev/")
    assert predicate.run_details.builder.id.startswith("https://halftone.dev/")
    assert predicate.run_details.metadata.finished_on.ToJsonString() == work.report.completionTime


def test_its_subjects_are_the_files_of_the_checkpoint(work: Work) -> None:
    subjects = {row["name"]: row["digest"]["sha256"] for row in stated(work)["subject"]}

    files = {file.path: file.sha256 for file in work.made.document.files}
    assert "README.md" in files
    assert subjects == {name: sha256 for name, sha256 in files.items() if name != "README.md"}


def test_documents_are_byproducts_with_their_digests(work: Work) -> None:
    rows = stated(work)["predicate"]["runDetails"]["byproducts"]

    assert [row["name"] for row in rows] == ["report.json", "README.md"]
    assert rows[0]["digest"]["sha256"] == work.report.digest
    assert rows[0]["annotations"]["verdict"] == "Emulated"


def test_a_commit_of_the_hub_is_a_digest_of_the_source(work: Work) -> None:
    statement = stated(work, uri="hf://org/model@main", revision=COMMIT)

    source = statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    assert source["uri"] == "hf://org/model@main"
    assert source["digest"] == {"gitCommit": COMMIT}


def test_the_revision_of_a_bucket_is_no_commit(work: Work) -> None:
    statement = stated(work, uri="s3://models/base", revision="ab" * 32)

    source = statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    assert "digest" not in source
    assert source["annotations"]["revision"] == "ab" * 32


def test_a_directory_is_named_as_a_uri(work: Work) -> None:
    statement = stated(work, uri="/models/a model")

    source = statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    assert source["uri"] == "file:///models/a%20model"


def test_each_shard_of_the_source_is_a_dependency(work: Work) -> None:
    rows = stated(work)["predicate"]["buildDefinition"]["resolvedDependencies"][1:]

    source = work.made.planned.plan.source
    assert source is not None
    assert [(row["name"], row["annotations"]["headerSha256"]) for row in rows] == [
        (file.path, file.headerSha256) for file in source.files
    ]


def test_each_dependency_has_the_address_or_digest_that_in_toto_asks_for(work: Work) -> None:
    rows = stated(work, uri="hf://org/model@main", revision=COMMIT)
    dependencies = rows["predicate"]["buildDefinition"]["resolvedDependencies"]

    for row in dependencies:
        descriptor = json_format.ParseDict(row, resource_descriptor_pb2.ResourceDescriptor())
        ResourceDescriptor.copy_from_pb(descriptor).validate()
    assert dependencies[1]["uri"] == f"hf://org/model@main/{dependencies[1]['name']}"


def test_statistics_are_a_dependency_where_there_are_any(work: Work) -> None:
    statistics = written("statistics.safetensors", b"amax")

    data = provenance(work.made.planned.plan, work.made.document, work.report, [CARD], [statistics])

    rows = json.loads(data)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert rows[-1] == {"name": statistics.path, "digest": {"sha256": statistics.sha256}}


def test_a_second_run_gives_the_same_bytes(work: Work) -> None:
    arguments = (work.made.planned.plan, work.made.document, work.report, [CARD])

    assert provenance(*arguments) == provenance(*arguments)


def test_it_is_read_as_it_was_written(work: Work) -> None:
    data = provenance(work.made.planned.plan, work.made.document, work.report, [CARD])

    assert stated_digests(data)["byproducts"] == {"README.md": CARD.sha256}
    assert stated_digests(data)["subject"].keys() == {
        row["name"] for row in json.loads(data)["subject"]
    }


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"_type": 1}', b"[" * 100_000])
def test_anything_else_is_no_statement(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        stated_digests(data)


def test_another_predicate_is_no_provenance(work: Work, tmp_path: Path) -> None:
    statement = stated(work) | {"predicateType": "https://example.test/other"}

    with pytest.raises(ValueError, match="another type"):
        stated_digests(json.dumps(statement).encode())

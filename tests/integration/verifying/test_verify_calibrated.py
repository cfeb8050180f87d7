"""What `halftone verify` says of an artifact with measured scales, and what its card promises.

The statistics are made by hand, and a forger writes every document anew, all that takes no key.
We test these aspects, in both layouts where they could differ:
- a rebuild says how many scales rest on statistics that nobody measured again
- statistics that were not measured as the plan asks are found, field by field
- statistics that no checkpoint can have been made from fail the rebuild, with their file's name
- the card's own command makes the checkpoint again from a copy of artifact and source
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from halftone.publish.calibration import published_tensors
from halftone.publish.provenance import provenance
from halftone.spec.calibration import UnroutedExperts
from halftone.spec.documents import CheckpointDocument, Plan, sha256_hex
from halftone.spec.formats import CheckpointFormat
from halftone.spec.reports import Report
from halftone.spec.statistics import StatisticsDocument
from halftone.spec.targets import DirectoryTarget, Publish
from tests.artifacts import (
    Work,
    calibrated_directory,
    found,
    publish,
    reseal,
    verified,
    work_directory,
    written,
)
from tests.builders import write_statistics
from tests.builders.statistics import caches, measured_arrays
from tests.carding import Documents
from tests.carding import written as card_of
from tests.commands import halftone
from tests.quantizing import recipe

STATISTICS = "calibration/statistics.json"
TENSORS = "calibration/statistics.safetensors"
SECRETS = {"tokenSecretRef": {"name": "in-the-cluster", "key": "token"}}


@pytest.fixture(scope="module", params=list(CheckpointFormat))
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Four-bit activations, FP8 with a scale for its input, and a measured cache."""
    fields = {
        "checkpointFormat": request.param,
        "kvCache": {"format": "FP8", "scales": "Calibrated"},
        "calibration": {"dataset": {"path": "/home/somebody/rows.jsonl"}, "samples": 4},
    }
    chosen = recipe(fields, Attention="FP8", Mlp="NVFP4")
    return calibrated_directory(tmp_path_factory.mktemp("made"), "qwen3", chosen)


@pytest.fixture
def artifact(work: Work, tmp_path: Path) -> Path:
    return publish(work, tmp_path / "small")


def test_a_rebuild_says_what_nobody_measured_again(work: Work, artifact: Path) -> None:
    ended = verified(artifact, None, "--rebuild", "1000", "--source", str(work.source))

    assert ended.code == 0, ended.err
    planned = work.made.planned
    modules = [name for name in measured_arrays(planned) if name.endswith(".input_amax")]
    expected = len(modules) + 2 * len(caches(planned))
    assert len(caches(planned)) > 0
    assert ended.out.splitlines()[-1] == (
        "scales in these groups that rest on the artifact's own statistics, which nobody measured "
        f"again: {expected}"
    )
    told = halftone("verify", artifact, "--rebuild", "1000", "--source", work.source, "--json")
    assert json.loads(told.out)["rebuilt"]["measuredScales"] == expected
    alone = verified(artifact, None)
    assert "measured again" not in alone.out
    last = json.loads(alone.err.splitlines()[-1])
    assert last["bytesDone"] == last["bytesTotal"] > 0


def test_a_rebuild_counts_the_scales_of_what_it_made(work: Work, artifact: Path) -> None:
    told = halftone("verify", artifact, "--rebuild", "1", "--source", work.source, "--json")

    shown = json.loads(told.out)["rebuilt"]
    (name,) = shown["groups"]
    (members,) = (
        unit.members
        for shard in work.made.planned.shards
        for unit in shard.units
        if unit.name == name
    )
    quantized = sum(member.format is not None for member in members)
    assert shown["measuredScales"] == (quantized if members else 1)


def test_a_rebuild_without_measured_scales_has_none_to_tell_of(tmp_path: Path) -> None:
    work = work_directory(tmp_path)
    small = publish(work, tmp_path / "small")

    options = ("--rebuild", "1000", "--source", str(work.source))
    assert "rest on the artifact's own statistics" not in verified(small, None, *options).out
    shown = json.loads(verified(small, None, *options, "--json").out)
    assert shown["rebuilt"]["measuredScales"] == 0


def forge(artifact: Path, **changes: Any) -> None:
    """Change fields of the statistics, and make every other document say that they are these."""
    statistics = StatisticsDocument.load(artifact / STATISTICS)
    statistics = statistics.model_copy(update=changes).sealed()
    statistics.save(artifact / STATISTICS)
    checkpoint = CheckpointDocument.load(artifact / "checkpoint.json")
    checkpoint = checkpoint.model_copy(update={"statisticsDigest": statistics.digest})
    checkpoint.save(artifact / "checkpoint.json")
    report = Report.load(artifact / "report.json").model_copy(
        update={
            "checkpointDocumentSha256": sha256_hex(checkpoint.to_bytes()),
            "calibration": statistics.data,
        }
    )
    report.save(artifact / "report.json")
    beside = ("plan.json", "checkpoint.json", "report.json", "report.html", "README.md")
    evidence = tuple(file.path for file in report.evidence)
    statement = provenance(
        Plan.load(artifact / "plan.json"),
        checkpoint,
        report,
        [written(name, (artifact / name).read_bytes()) for name in (*beside, *evidence)],
        [
            written(STATISTICS, (artifact / STATISTICS).read_bytes()),
            published_tensors(statistics),
        ],
    )
    (artifact / "provenance.json").write_bytes(statement)
    reseal(artifact)


def test_a_forger_who_changes_nothing_is_not_found(artifact: Path) -> None:
    """Else the tests below would show nothing."""
    forge(artifact)

    assert verified(artifact, None).code == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 7),
        ("maxSequenceLength", 16),
        ("unroutedExperts", UnroutedExperts.Report),
        ("modalities", {"modality": "Image"}),
        ("samples", {"samples": 3}),
        ("samples", {"samples": 5}),
    ],
)
def test_statistics_are_those_that_the_plan_asks_for(
    field: str, value: Any, work: Work, artifact: Path
) -> None:
    statistics = StatisticsDocument.load(artifact / STATISTICS)
    if isinstance(value, dict):
        (row,) = statistics.data
        changes: dict[str, Any] = {"data": (type(row).model_validate(row.model_dump() | value),)}
    else:
        changes = {field: value}
    forge(artifact, **changes)

    shown = found(artifact, None)

    assert (shown["reason"], shown["subject"]) == ("DigestDiffers", "statistics.json")
    assert f"`{field}` is not what plan.json asks for" in shown["message"]


@pytest.mark.parametrize(
    ("value", "reason", "said"),
    [
        (float("nan"), "NonFiniteActivation", "is NaN, infinite or negative"),
        (None, "ModuleUnmeasured", "was not measured"),
    ],
)
def test_statistics_that_gave_no_checkpoint_fail_the_rebuild(
    value: float | None, reason: str, said: str, work: Work, artifact: Path, tmp_path: Path
) -> None:
    planned = work.made.planned
    (attention, *_) = caches(planned)
    other = write_statistics(planned, tmp_path / "other", changed={f"{attention}.k_amax": value})
    shutil.copyfile(other / "statistics.safetensors", artifact / TENSORS)
    forge(artifact, file=StatisticsDocument.load(other / "statistics.json").file)
    assert verified(artifact, None).code == 0

    shown = found(artifact, None, "--rebuild", "1", "--source", str(work.source))

    assert (shown["reason"], shown["subject"]) == (reason, TENSORS)
    assert f"`{attention}` {said}" in shown["message"]
    assert f"'{TENSORS}'" in shown["message"]
    assert "do not use this artifact" in shown["message"]


def test_the_cards_command_makes_the_checkpoint_again(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, document = work.made.planned, work.made.document
    config = json.loads((work.directory / "checkpoint" / "config.json").read_bytes())
    documents = Documents(planned.full_document(), document, config)
    target = Publish(directory=DirectoryTarget(path=str(tmp_path / "small")))
    card = card_of(documents, target, None, work.report, {})
    work.prepare(card=card.data)
    copy = shutil.copytree(work.directory / "artifact", tmp_path / "copy")
    source = shutil.copytree(work.source, tmp_path / "elsewhere")

    (line,) = (line for line in card.text.splitlines() if line.startswith("halftone quantize"))
    monkeypatch.chdir(copy)
    ended = halftone(*line.replace("SOURCE", str(source)).split()[1:])

    assert ended.code == 0, ended.err
    again = CheckpointDocument.load(copy / "checkpoint" / "checkpoint.json")
    assert again.digest == document.digest
    assert f"`{again.digest}`" in card.text
    assert "somebody" not in card.text
    for name in line.split():
        assert "." not in name or (copy / name).exists(), name


def test_secrets_of_a_cluster_stay_out_of_card_and_provenance(tmp_path: Path) -> None:
    dataset = {"huggingFace": {"repository": "org/rows"} | SECRETS}
    fields = {"calibration": {"dataset": dataset, "samples": 4}}
    made = calibrated_directory(tmp_path, "llama", recipe(fields, Mlp="NVFP4"))
    documents = Documents(made.made.planned.full_document(), made.made.document, {})

    card = card_of(documents, source_card=None, report=made.report, evidence={})
    tree = made.prepare(card=card.data).tree

    assert "repository: org/rows" in card.text
    assert "in-the-cluster" not in card.text + (tree / "provenance.json").read_text()

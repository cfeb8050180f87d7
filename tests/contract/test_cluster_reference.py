"""The reference of the cluster: it names every word that a status, an event or a metric may hold.

We test these aspects: conditions, reasons, events, labels, stages and metrics of the code are in
`docs/cluster-reference.md`, and nothing else is; what `docs/cluster.md` says of Secrets is what the
table of stages says; links of both lead somewhere.
"""

import re
from pathlib import Path

import pytest
from prometheus_client import Counter

from halftone.control.stages import STAGES, Use
from halftone.spec import cluster, pipelines
from halftone.spec.cluster import ChildStage, Condition, Doing, Ended, EventReason, Waiting
from halftone.spec.names import Reason
from halftone.telemetry.operator import OperatorMetrics
from tests.conftest import ROOT

DOCS = ROOT / "docs"
REFERENCE = (DOCS / "cluster-reference.md").read_text()
GUIDE = (DOCS / "cluster.md").read_text()
# What a Secret is for, by the field that names it.
USES = {
    "source.": Use.Source,
    "calibration.": Use.Dataset,
    "workVolume.": Use.Work,
    "publish.huggingFace": Use.Publish,
    "publish.s3": Use.Publish,
    "publish.signingKeyRef": Use.SigningKey,
}


def section(title: str) -> str:
    """The text under a heading of the reference."""
    return REFERENCE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Cells of tables, heads and rules left out."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [row for row in cells if "`" in "".join(row)]


def words(text: str) -> set[str]:
    """Everything in backquotes."""
    return set(re.findall(r"`([^`]+)`", text))


def test_every_condition_and_event_is_explained() -> None:
    assert [row[0].strip("`") for row in rows(section("Conditions"))] == list(Condition)
    assert [row[0].strip("`") for row in rows(section("Events"))] == list(EventReason)


def test_every_reason_is_explained_where_it_belongs() -> None:
    open_, outside, done, failed, staged = (
        part.partition("\n\n")[2] for part in section("Reasons").split("Of conditions ")[1:]
    )
    assert [row[0].strip("`") for row in rows(open_)] == list(Doing)
    assert [row[0].strip("`") for row in rows(outside)] == list(Waiting)
    ended = [row[0].strip("`") for row in (*rows(done), *rows(failed))]
    assert sorted(ended) == sorted(Ended)
    told = [word for row in rows(staged) for word in row[1].replace("`", "").split()]
    assert sorted(told) == sorted(Reason)


def test_every_label_and_stage_is_explained() -> None:
    table = section("Labels and annotations")
    names = {
        value
        for name, value in {**vars(cluster), **vars(pipelines)}.items()
        if name.endswith(("_LABEL", "_ANNOTATION", "FINALIZER")) and value.startswith(cluster.GROUP)
    }
    assert {row[0].strip("`") for row in rows(table)} == names
    assert words(next(row[2] for row in rows(table) if "stage" in row[0])) == set(ChildStage)


def test_every_metric_is_explained() -> None:
    found = {}
    for name, value in vars(OperatorMetrics()).items():
        if name != "registry":
            full = value._name + ("_total" if isinstance(value, Counter) else "")
            found[full] = set(value._labelnames)
    assert {row[0].strip("`"): words(row[1]) for row in rows(section("Metrics"))} == found


def test_the_guide_says_which_stage_reads_which_secret() -> None:
    table = GUIDE.partition("## Secrets")[2].partition("```ini")[0]
    told = rows(table)
    assert len(told) == 8
    for field, _, stages in told:
        use = next(use for start, use in USES.items() if field.strip("`").startswith(start))
        readers = {stage for stage in ChildStage if use in STAGES[stage].secrets}
        named = set(ChildStage) - {"target"} if stages == "all but target" else stages.split(", ")
        assert set(named) == readers, field


@pytest.mark.parametrize("name", ["cluster.md", "cluster-reference.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (DOCS / name).read_text()
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text):
        assert not target or Path(DOCS, target).exists(), target
    anchors = {line.strip("# ").lower().replace(" ", "-") for line in text.splitlines()}
    for anchor in re.findall(r"\]\(#([^)]*)\)", text):
        assert anchor in anchors

"""Puts the page together: sections of text, figures, one template.

Called by `halftone.validate.validating`. Everything that did not come from this package (tensor
names, generated text, messages of a server) is escaped by the template.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halftone.spec.documents import CheckpointDocument, Plan, write_atomically
from halftone.spec.errors import EnvironmentFault
from halftone.spec.extras import extra
from halftone.spec.names import Reason
from halftone.spec.presentation import DIVERGENCE_CAVEAT, VERDICT_MEANINGS
from halftone.spec.reports import Report
from halftone.validate.page import sections, tables
from halftone.validate.page.evidence import gather
from halftone.validate.page.figures import figures


def write_page(
    report: Report,
    plan: Plan,
    checkpoint: CheckpointDocument,
    evidence: Mapping[str, dict[str, Any]],
    path: Path,
) -> None:
    """Write the report as one self-contained HTML page to `path`, whole or not at all.

    `evidence` is each gate's JSON by the gate's name; what is absent is not drawn. Equal documents
    give equal bytes. Raises EnvironmentFault(MissingDependency) without the extra `report`, and
    EnvironmentFault(StorageFailed) when `path` cannot be written.
    """
    text = render_page(report, plan, checkpoint, evidence)
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise EnvironmentFault(
            Reason.StorageFailed,
            str(path),
            f"'{path}' could not be written ({error.strerror}); mend this and run the same "
            "command again.",
        ) from error


def render_page(
    report: Report,
    plan: Plan,
    checkpoint: CheckpointDocument,
    evidence: Mapping[str, Mapping[str, Any]],
) -> str:
    """The page's HTML; raises EnvironmentFault(MissingDependency) without the extra `report`."""
    with extra("report", "The report page"):
        import jinja2
        import matplotlib as mpl  # noqa: F401
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("halftone.validate.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = gather(report, evidence)
    return environment.get_template("report.html.j2").render(
        report=report,
        plan=plan,
        verdict=report.verdict.value,
        meaning=VERDICT_MEANINGS[report.verdict],
        gates=sections.gate_rows(report),
        passed=sections.passed_count(report),
        caveat=DIVERGENCE_CAVEAT,
        ratio_text=sections.ratio_text,
        figures=list(figures(report, plan, found)),
        unreadable=found.unreadable,
        engine=found.engine,
        engine_facts=sections.engine_facts(found.engine) if found.engine else [],
        generated=sections.generated_texts(found.engine) if found.engine else [],
        facts=sections.measured_by(report, plan, checkpoint),
        evidence_files=tables.evidence_table(report),
    )

"""Fills the card's template: what is quantized and kept, sizes, gates, reproduction, serving.

Text from outside (names of tensors, fields of the source's card, messages) is set as code or
escaped, so that it cannot become markup. Called by `halftone.cli.publishing`.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from halftone.publish.calibration import public_recipe
from halftone.publish.card.explanations import LAYOUTS_IN_WORDS
from halftone.publish.card.metadata import (
    base_models,
    front_matter,
    hub_repository,
    licence_of,
)
from halftone.publish.card.rows import (
    cache_in_words,
    data_rows,
    formats_in_words,
    gate_row,
    kept_rows,
    measured_scales,
    measures_experts,
    quantized_row,
    slower_loads,
)
from halftone.publish.card.serving import serving_modes
from halftone.publish.card.source_card import read_source_card
from halftone.publish.licences import asks
from halftone.spec.documents import CheckpointDocument, Plan, Ratio
from halftone.spec.extras import extra
from halftone.spec.gates import Metric
from halftone.spec.presentation import (
    DIVERGENCE_CAVEAT,
    VERDICT_MEANINGS,
    size_text,
)
from halftone.spec.reports import Report
from halftone.spec.targets import Publish

if TYPE_CHECKING:
    from jinja2 import Template

# Where a reader of an artifact in a bucket puts it before serving it.
_LOCAL_COPY: Final = "./model"
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]<>#|~!])")
_DIVERGENCE: Final = (Metric.KlDivergence, Metric.TopOneAgreement, Metric.Perplexity)


def model_card(
    plan: Plan,
    checkpoint: CheckpointDocument,
    report: Report,
    evidence: Mapping[str, Mapping[str, Any]],
    source_card: str | None,
    publish: Publish,
    config: Mapping[str, Any] | None = None,
) -> bytes:
    """The card as UTF-8: front matter that the Hub reads, then the text.

    `evidence` is each gate's JSON by the gate's name, `source_card` the text of the source's
    README.md, `config` the checkpoint's config.json; without it no mode is offered that depends on
    context length or heads. `plan` is an accepted one. Raises EnvironmentFault(MissingDependency)
    without the extra `report`.
    """
    assert plan.source is not None
    assert plan.output is not None
    assert plan.sizes is not None
    assert plan.recipe is not None
    source = read_source_card(source_card)
    licence = licence_of(plan, source)
    name = _name(publish)
    text: str = _template().render(
        name=name,
        front_matter=front_matter(plan, report, evidence, source, licence, name),
        plan=plan,
        checkpoint=checkpoint,
        report=report,
        report_digest=report.digest,
        verdict=report.verdict.value,
        meaning=VERDICT_MEANINGS[report.verdict],
        origin=_origin(plan),
        base=base_models(plan, source),
        is_repository=hub_repository(plan.source.uri) is not None,
        data=data_rows(report),
        calibration=plan.recipe.calibration,
        local_data=plan.recipe.calibration is not None
        and plan.recipe.calibration.dataset.path is not None,
        measured_scales=measured_scales(plan),
        measured_experts=measures_experts(plan),
        layout=LAYOUTS_IN_WORDS[plan.recipe.checkpointFormat],
        cache=cache_in_words(plan),
        quantized=[quantized_row(line, checkpoint) for line in plan.roles if line.format],
        formats=formats_in_words(plan),
        kept=kept_rows(plan),
        whole=_ratio(plan.sizes.whole),
        part=_ratio(plan.sizes.quantized),
        on_disk=size_text(sum(file.sizeBytes for file in checkpoint.files)),
        gates=[gate_row(gate) for gate in report.gates],
        diverges=any(gate.metric in _DIVERGENCE for gate in report.gates),
        caveat=DIVERGENCE_CAVEAT,
        slower=slower_loads(evidence, report),
        recipe=_recipe(plan),
        source_argument=_source_argument(plan),
        modes=serving_modes(plan, config or {}, _served_from(publish)),
        copy_first=publish.s3 is not None,
        local_copy=_LOCAL_COPY,
        uri=shlex.quote(publish.uri),
        licence=licence,
        licence_asks=asks(licence.told) if licence.told else None,
    )
    return text.encode()


def _template() -> "Template":
    """The template, with filters for text that comes from outside."""
    with extra("report", "The model card"):
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("halftone.publish.card", ""),
        autoescape=False,  # noqa: S701 (it is Markdown: the filters below escape that)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"prose": prose, "code": code, "place": _place, "line": _on_one_line}
    return environment.get_template("README.md.j2")


def prose(text: str) -> str:
    """Text from outside as plain words on one line: nothing in it is markup."""
    return _MARKUP.sub(r"\\\1", _on_one_line(text))


def code(text: str) -> str:
    """Text from outside as a code span on one line, in a table too."""
    line = _on_one_line(text).replace("|", "¦")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _place(link: str) -> str:
    """An address as a link that shows itself, a file's name as code."""
    return f"<{link}>" if re.fullmatch(r"https?://[^\s<>]+", link) else code(link)


def _on_one_line(text: str) -> str:
    """A line that nothing can end, so that it stays in its table, list or block of code."""
    return " ".join(text.split())


def _name(publish: Publish) -> str:
    """What the artifact is called: the last part of where it goes."""
    last = publish.uri.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", last).strip("-") or "model"


def _origin(plan: Plan) -> str:
    """The source as a reader may know it: a directory of one machine says nothing to others."""
    assert plan.source is not None
    uri, revision = plan.source.uri, plan.source.revision
    if "://" not in uri:
        return f"a local directory, {code(Path(uri).name)}"
    return code(uri) + (f" at {code(revision)}" if revision and revision not in uri else "")


def _source_argument(plan: Plan) -> str:
    """The source on a command line, pinned where it can be."""
    assert plan.source is not None
    repository = hub_repository(plan.source.uri)
    if repository is not None:
        return f"hf://{repository}@{plan.source.revision or 'main'}"
    return shlex.quote(plan.source.uri) if "://" in plan.source.uri else "SOURCE"


def _served_from(publish: Publish) -> str:
    """What `vllm serve` is given: it reads repositories and directories."""
    if publish.huggingFace is not None:
        return publish.huggingFace.repository
    return publish.directory.path if publish.directory is not None else _LOCAL_COPY


def _ratio(ratio: Ratio) -> tuple[str, str, str]:
    return size_text(ratio.bytesBefore), size_text(ratio.bytesAfter), ratio.ratio


def _recipe(plan: Plan) -> str:
    """The recipe as a file that `--recipe` takes."""
    assert plan.recipe is not None
    fields = public_recipe(plan.recipe, exclude={"name"}, exclude_none=True)
    return yaml.safe_dump(fields, sort_keys=False, default_flow_style=False).rstrip()

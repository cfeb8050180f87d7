"""The front matter of the card: what the Hub's search, licence filter and model tree read.

Called by `halftone.publish.card.card`. A test holds it against `huggingface_hub`'s own parser.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from halftone.publish.card.source_card import SourceCard
from halftone.publish.licences import HUB_IDENTIFIERS
from halftone.spec.documents import Plan
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.gates import TASK_FILES, Metric
from halftone.spec.reports import Outcome, Report
from halftone.spec.roles import Role

_HUB_URI: Final = re.compile(r"^hf://([\w.-]+/[\w.-]+)(?:@.*)?$", re.ASCII)
_TAGS: Final[dict[Format, tuple[str, ...]]] = {
    Format.NVFP4A16: ("nvfp4", "w4a16"),
    Format.NVFP4: ("nvfp4", "w4a4"),
    Format.FP8: ("fp8", "w8a8"),
    Format.FP8_DYNAMIC: ("fp8", "w8a8"),
    Format.FP8_BLOCK: ("fp8", "w8a8"),
    Format.FP8_BLOCK_A16: ("fp8", "w8a16"),
}
_LIBRARY_TAGS: Final = {
    CheckpointFormat.CompressedTensors: "compressed-tensors",
    CheckpointFormat.ModelOpt: "modelopt",
}


@dataclass(frozen=True)
class Licence:
    """How the card states the licence; `identifiers` is empty where the source has none.

    `file` is the licence file that the artifact holds.
    """

    identifiers: tuple[str, ...]
    name: str | None
    link: str | None
    file: str | None

    @property
    def told(self) -> str | None:
        """As a reader would call it: the name of an unlisted licence, else the identifiers."""
        return self.name or ", ".join(self.identifiers) or None


def hub_repository(uri: str) -> str | None:
    """`org/name` of a source or target on the Hub, else None."""
    found = _HUB_URI.match(uri)
    return found[1] if found else None


def licence_of(plan: Plan, source: SourceCard) -> Licence:
    """The source's licence: its card's, else what the plan found, else none."""
    assert plan.source is not None
    carried = plan.output.carried if plan.output is not None else ()
    stated = source.licences or ((plan.source.licence,) if plan.source.licence else ())
    file = plan.source.licence if plan.source.licence in carried else None
    file = file or next((name for name in carried if _is_licence_file(name)), None)
    link = _link(source.licence_link, carried, plan) or file
    unlisted = [name for name in stated if name.lower() not in HUB_IDENTIFIERS]
    if not stated:
        return Licence((), None, None, file)
    if unlisted:
        # A file's name says nothing of what is in it.
        name = source.licence_name or ("see-licence-file" if unlisted[0] == file else unlisted[0])
        return Licence(("other",), name, link, file)
    named = stated == ("other",)
    return Licence(
        tuple(name.lower() for name in stated),
        source.licence_name if named else None,
        link if named else None,
        file,
    )


def front_matter(
    plan: Plan,
    report: Report,
    evidence: Mapping[str, Mapping[str, Any]],
    source: SourceCard,
    licence: Licence,
    name: str,
) -> str:
    """The YAML between the two lines of dashes, in a fixed order, without them."""
    fields: dict[str, Any] = {}
    base = base_models(plan, source)
    if base:
        fields["base_model"] = base[0] if len(base) == 1 else list(base)
        fields["base_model_relation"] = "quantized"
    if licence.identifiers:
        several = len(licence.identifiers) > 1
        fields["license"] = list(licence.identifiers) if several else licence.identifiers[0]
    if licence.name is not None:
        fields["license_name"] = licence.name
    if licence.link is not None:
        fields["license_link"] = licence.link
    if source.languages:
        fields["language"] = list(source.languages)
    fields["library_name"] = "vllm"
    fields["pipeline_tag"] = source.pipeline_tag or _pipeline_tag(plan)
    fields["tags"] = tags(plan)
    results = _results(report, evidence)
    if results:
        fields["model-index"] = [{"name": name, "results": results}]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)


def base_models(plan: Plan, source: SourceCard) -> tuple[str, ...]:
    """The repository that was quantized; where it was no repository, what its card names."""
    assert plan.source is not None
    repository = hub_repository(plan.source.uri)
    return (repository,) if repository else source.base_models


def tags(plan: Plan) -> list[str]:
    """Library, formats, and who made it."""
    formats = [line.format for line in plan.roles if line.format is not None]
    found = [tag for fmt in formats for tag in _TAGS[fmt]]
    library = plan.recipe and _LIBRARY_TAGS[plan.recipe.checkpointFormat]
    return list(dict.fromkeys([*([library] if library else []), *found, "halftone"]))


def task_name(task: str) -> str:
    """A task as the card names it: a local file by its name without folder and suffix."""
    return PurePosixPath(task).stem if "/" in task or task.endswith(TASK_FILES) else task


def _results(report: Report, evidence: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The quantized model's raw score on every task, as the Hub's `model-index` has it."""
    results = []
    for gate in report.gates:
        if gate.metric is not Metric.Task or gate.quantizedScore is None:
            continue
        if gate.outcome is Outcome.NotRun:
            continue
        found = evidence.get(gate.name, {})
        task = task_name(str(found.get("task", gate.name)))
        metric = str(found.get("metric", "score"))
        results.append(
            {
                "task": {"type": "text-generation"},
                "dataset": {"type": task, "name": task},
                "metrics": [{"type": metric, "name": metric, "value": float(gate.quantizedScore)}],
            }
        )
    return results


def _pipeline_tag(plan: Plan) -> str:
    sees = any(line.role is Role.Vision for line in plan.roles)
    return "image-text-to-text" if sees else "text-generation"


def _link(link: str | None, carried: tuple[str, ...], plan: Plan) -> str | None:
    """An address, or a file that the artifact holds; a file of a Hub source by its address."""
    if link is None or link.startswith(("http://", "https://")) or link in carried:
        return link
    assert plan.source is not None
    repository = hub_repository(plan.source.uri)
    if repository is None or ".." in link:
        return None
    revision = plan.source.revision or "main"
    return f"https://huggingface.co/{repository}/blob/{revision}/{link.lstrip('./')}"


def _is_licence_file(name: str) -> bool:
    return name.lower().startswith(("license", "licence", "copying"))

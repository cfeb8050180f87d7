"""Model cards of reports that were made up, for tests of the card.

card = written(documents, publish=TO_THE_HUB, source_card=QWEN)
card.fields["base_model"]     # the front matter
card.text                     # what stands below it
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from halftone.publish.card import model_card
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.reports import Report
from halftone.spec.targets import DirectoryTarget, HuggingFaceTarget, Publish, S3Target
from tests.builders import write_checkpoint
from tests.commands import quantize_directory
from tests.reporting import evidence_of, measured

TO_THE_HUB = Publish(huggingFace=HuggingFaceTarget(repository="org/small-nvfp4"))
TO_A_BUCKET = Publish(s3=S3Target(uri="s3://models/small-nvfp4"))
TO_A_DIRECTORY = Publish(directory=DirectoryTarget(path="/models/small nvfp4"))

QWEN = """---
license: apache-2.0
license_link: https://example.com/LICENSE
language: [en, de]
pipeline_tag: image-text-to-text
library_name: transformers
---
# A model
"""


class Documents(NamedTuple):
    """What a card is made of, of one tiny model that was really quantized."""

    plan: Plan
    checkpoint: CheckpointDocument
    config: dict[str, Any]

    def from_the_hub(self, repository: str = "Qwen/Qwen3.6-27B") -> "Documents":
        """As if the source had been a repository of the Hub."""
        assert self.plan.source is not None
        named = {"uri": f"hf://{repository}@main", "revision": "0" * 40}
        source = self.plan.source.model_copy(update=named)
        return self._replace(plan=self.plan.model_copy(update={"source": source}).sealed())

    def licensed(self, licence: str | None, *, carried: bool = True) -> "Documents":
        """As if the plan had found `licence`; `carried`: a LICENSE file goes along."""
        assert self.plan.source is not None
        assert self.plan.output is not None
        files = [name for name in self.plan.output.carried if name != "LICENSE"]
        output = self.plan.output.model_copy(
            update={"carried": tuple(["LICENSE", *files] if carried else files)}
        )
        source = self.plan.source.model_copy(update={"licence": licence})
        return self._replace(plan=self.plan.model_copy(update={"source": source, "output": output}))


@dataclass(frozen=True)
class Card:
    """A card taken apart at its front matter."""

    data: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The front matter."""
        found: dict[str, Any] = yaml.safe_load(self.data.decode().split("---\n")[1])
        return found

    @property
    def text(self) -> str:
        """What stands below."""
        return self.data.decode().split("---\n", 2)[2]

    @property
    def commands(self) -> list[str]:
        """Every `vllm serve` line."""
        return [line for line in self.text.splitlines() if line.startswith("vllm serve")]


def documents_of(folder: Path, model: str = "qwen3_5", recipe: Any = "nvfp4a16") -> Documents:
    """Quantize a tiny model and keep its documents."""
    made = quantize_directory(write_checkpoint(folder / "source", model), folder / "out", recipe)
    config = json.loads((folder / "out" / "config.json").read_text())
    return Documents(made.planned.full_document(), made.document, config)


def written(
    documents: Documents,
    publish: Publish = TO_THE_HUB,
    source_card: str | None = QWEN,
    report: Report | None = None,
    evidence: dict[str, Any] | None = None,
) -> Card:
    """The card; without a report, that of one whose gates all passed on a CPU."""
    plan, checkpoint, config = documents
    given = evidence_of(plan, checkpoint) if evidence is None else evidence
    shown = report or measured(plan, checkpoint, given)
    return Card(model_card(plan, checkpoint, shown, given, source_card, publish, config))

"""The card's front matter as the Hub's own library reads it, and a card like those of the five.

We test these aspects: `huggingface_hub` parses every card, keeps each field and finds the results;
the licence identifiers are ones that the Hub knows; a card survives being written again.
"""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load

from halftone.publish.licences import HUB_IDENTIFIERS
from halftone.spec.targets import Publish
from tests.carding import (
    QWEN,
    TO_A_BUCKET,
    TO_A_DIRECTORY,
    TO_THE_HUB,
    Documents,
    documents_of,
    written,
)
from tests.reporting import unmeasured


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return documents_of(tmp_path_factory.mktemp("card")).from_the_hub("Qwen/Qwen3.6-27B")


def read(data: bytes) -> ModelCardData:
    """The metadata, which the library refuses when a result is incomplete."""
    parsed = ModelCard(data.decode()).data
    assert isinstance(parsed, ModelCardData)
    return parsed


@pytest.mark.parametrize("publish", [TO_THE_HUB, TO_A_BUCKET, TO_A_DIRECTORY])
@pytest.mark.parametrize(
    "source_card", [None, QWEN, "---\nlicense: other\nlicense_name: own\n---\n"]
)
def test_the_hubs_library_reads_every_card(
    documents: Documents, publish: Publish, source_card: str | None
) -> None:
    data = read(written(documents, publish, source_card).data)
    assert data.base_model == "Qwen/Qwen3.6-27B"
    assert vars(data)["base_model_relation"] == "quantized"
    assert data.license in HUB_IDENTIFIERS
    assert data.library_name == "vllm"


def test_the_hubs_library_finds_the_results(documents: Documents) -> None:
    data = read(written(documents).data)
    assert data.model_name == "small-nvfp4"
    assert data.eval_results is not None
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type) == ("arithmetic", "exact_match")
    assert result.metric_value == 0.887
    assert result.task_type == "text-generation"


def test_an_unmeasured_card_has_no_results(documents: Documents) -> None:
    report = unmeasured(documents.plan, documents.checkpoint)
    assert read(written(documents, report=report, evidence={}).data).eval_results is None


def test_the_library_writes_the_same_metadata_again(documents: Documents, tmp_path: Path) -> None:
    card = written(documents)
    path = tmp_path / "README.md"
    ModelCard(card.data.decode()).save(path)
    assert metadata_load(path) == card.fields


@pytest.mark.parametrize(
    ("model", "recipe", "tags"),
    [
        ("qwen3_5_moe", "nvfp4a16", ["compressed-tensors", "nvfp4", "w4a16", "halftone"]),
        ("qwen3_5_moe", "fp8-dynamic", ["compressed-tensors", "fp8", "w8a8", "halftone"]),
        ("gemma4_unified", "fp8-block-a16", ["compressed-tensors", "fp8", "w8a16", "halftone"]),
        (
            "qwen3_5",
            "nvfp4a16-fp8-linear-attention",
            ["compressed-tensors", "nvfp4", "w4a16", "fp8", "w8a8", "halftone"],
        ),
    ],
)
def test_families_and_formats_have_their_tags(
    model: str, recipe: str, tags: list[str], tmp_path: Path
) -> None:
    data = read(written(documents_of(tmp_path, model, recipe)).data)
    assert data.tags == tags
    assert data.pipeline_tag == "image-text-to-text"

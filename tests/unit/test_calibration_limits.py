"""What data a model can take at all, from its configuration and the names of its files.

We test these aspects:
- rows longer than the context, wherever the configuration states it
- images for a model that sees none, or without the files that describe them
- a configuration that holds something else where we look says nothing
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.quantize.calibration.dataset.limits import refuse_impossible
from halftone.spec.calibration import Calibration, Dataset, Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.stores import open_source
from tests.builders import write_checkpoint


@pytest.fixture(scope="module")
def sees(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model with a processor for images."""
    folder = write_checkpoint(tmp_path_factory.mktemp("limits"), "qwen3_5")
    return read_checkpoint(open_source(Path(folder)))


def refused(checkpoint: Checkpoint, *modalities: Modality, **config: Any) -> str | None:
    """Why 4096 tokens, and images, are too much for `checkpoint` with another configuration."""
    asked = Calibration(
        dataset=Dataset(path="rows.jsonl"), maxSequenceLength=4096, modalities=modalities
    )
    try:
        refuse_impossible(asked, replace(checkpoint, config=config))
    except RefusedInput as error:
        return f"{error.reason}: {error.message}"
    return None


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 2048},
        {"text_config": {"max_position_embeddings": 2048}},
        {"text_config": [1], "max_position_embeddings": 2048},
    ],
)
def test_rows_longer_than_the_context_are_refused(sees: Checkpoint, config: dict[str, Any]) -> None:
    said = refused(sees, Modality.Text, **config)
    assert said is not None
    assert said.startswith(Reason.SequenceTooLong)
    assert "`max_position_embeddings` of `config.json` is 2048" in said


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"text_config": [1]},
        {"text_config": "large"},
        {"text_config": {"max_position_embeddings": "2048"}},
        {"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": 2048},
    ],
)
def test_a_configuration_that_states_no_context_says_nothing(
    sees: Checkpoint, config: dict[str, Any]
) -> None:
    assert refused(sees, Modality.Text, **config) is None


def test_images_need_a_model_and_files_that_know_them(sees: Checkpoint) -> None:
    for config in ({}, {"vision_config": [1]}, {"vision_config": None}):
        assert "has no `vision_config`" in (refused(sees, Modality.Image, **config) or "")
    blind = replace(sees, other_files=())
    said = refused(blind, Modality.Image, vision_config={})
    assert "neither `preprocessor_config.json` nor `processor_config.json`" in (said or "")
    assert refused(sees, Modality.Image, vision_config={}) is None

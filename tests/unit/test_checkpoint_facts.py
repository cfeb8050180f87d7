"""What decides how a checkpoint can be served, from its small files.

We test these aspects: a tokenizer is its map from tokens to ids, however it is written; a file that
is none of its kind is refused by its name; a context is known only where nothing stretches it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halftone.serve.arguments.checkpoint_facts import read_facts
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from tests.builders import write_checkpoint
from tests.served_models import opened


def test_a_tokenizer_is_its_map_from_tokens_to_ids(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "same", "qwen3_5")
    before = read_facts(opened(directory), vocabulary=True)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, indent=4))
    assert read_facts(opened(directory), vocabulary=True).vocabulary == before.vocabulary
    first, second = list(tokenizer["model"]["vocab"])[:2]
    ids = tokenizer["model"]["vocab"]
    ids[first], ids[second] = ids[second], ids[first]
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert read_facts(opened(directory), vocabulary=True).vocabulary != before.vocabulary


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "[1]"),
        ("tokenizer.json", '{"added_tokens": [{"id": 1}]}'),
        ("tokenizer.json", '{"model": "BPE"}'),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", '"a text"'),
        ("hf_quant_config.json", "no json"),
    ],
)
def test_a_file_that_is_none_of_its_kind_is_named(tmp_path: Path, name: str, text: str) -> None:
    directory = write_checkpoint(tmp_path / "odd", "qwen3_5")
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    (directory / name).write_text(text)
    with pytest.raises(RefusedInput) as refused:
        read_facts(opened(directory), vocabulary=True)
    assert (refused.value.reason, refused.value.subject) == (Reason.MalformedCheckpoint, name)
    assert f"`{name}`" in refused.value.message


@pytest.mark.parametrize("kind", ["yarn", ["default"], None])
def test_a_context_that_something_else_stretches_is_not_known(tmp_path: Path, kind: Any) -> None:
    model = opened(write_checkpoint(tmp_path / "plain", "llama"))
    assert read_facts(model).context == model.config["max_position_embeddings"]
    stretched = replace(model, config={**model.config, "rope_scaling": {"rope_type": kind}})
    assert read_facts(stretched).context is None

"""What the checkpoint digest covers: equal work has an equal digest, and other work another."""

import pytest

from halftone.checkpoint.digests import checkpoint_digest
from halftone.spec.documents import WrittenFile, sha256_hex

FILES = (WrittenFile(path="model.safetensors", sizeBytes=1, sha256=sha256_hex(b"w")),)


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("config.json", True),
        ("generation_config.json", True),
        ("model.safetensors.index.json", True),
        ("LICENSE.md", True),
        ("tokenizer.json", True),
        ("tokenizer.model", True),
        ("spiece.model", True),
        ("sentencepiece.bpe.model", True),
        ("tekken.json", True),
        ("qwen.tiktoken", True),
        ("chat_template.jinja", True),
        ("chat_template.json", True),
        ("README.md", False),
    ],
)
def test_weights_configuration_tokenizer_and_licence_are_covered(name: str, covered: bool) -> None:
    one, other = (WrittenFile(path=name, sizeBytes=1, sha256=sha256_hex(d)) for d in (b"1", b"2"))

    assert (checkpoint_digest((*FILES, one)) != checkpoint_digest((*FILES, other))) is covered

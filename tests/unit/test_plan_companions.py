"""The files beside the weights: which are carried over, and what the licence is."""

from collections.abc import Sequence

import pytest

from halftone.plan.companions import carried_files, left_behind, licence
from halftone.spec.files import FileEntry
from halftone.stores.pinned import PinnedSource

NAMES = (
    ".gitattributes",
    "LICENSE",
    "README.md",
    "capacity",
    "chat_template.jinja",
    "checkpoint.json",
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "evidence",
    "images/logo.png",
    "model-00001-of-00002.safetensors",
    "model.gguf",
    "model.safetensors.index.json",
    "original/consolidated.00.pth",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "scaler.pkl",
    "tokenizer.json",
    "tokenizer.model",
)


class InMemory(PinnedSource):
    """Files from a dictionary."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._data = files
        super().__init__("memory", None, entries(files, files))

    def close(self) -> None:
        """Nothing is open."""

    def _fill(self, entry: FileEntry, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._data[entry.path][offset : offset + len(buffer)]


def entries(names: Sequence[str] | dict[str, bytes], data: dict[str, bytes]) -> list[FileEntry]:
    return [FileEntry(name, len(data.get(name, b""))) for name in names]


def licence_of(**files: str) -> str | None:
    data = {name.replace("_md", ".md"): text.encode() for name, text in files.items()}
    source = InMemory(data)
    return licence(source, source.files())


def test_everything_at_the_top_is_carried_but_weights_pickles_and_what_is_written_anew() -> None:
    assert [entry.path for entry in carried_files(entries(NAMES, {}))] == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer.model",
    ]


def test_files_in_folders_are_left_behind_and_told_unless_they_are_weights() -> None:
    assert left_behind(entries(NAMES, {})) == ("images/logo.png",)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# Model", "apache-2.0"),
        ("---\ntags: [a]\nlicense: 'gemma'\n---\n", "gemma"),
        ('---\nlicense: "other"\nlicense_name: mine\n---\n', "other"),
        ("---\nlicense:\n- mit\n---\n", "mit"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: [mit, agpl-3.0]\n---\n", "mit, agpl-3.0"),
        ("---\nlicense: openrail++\n---\n", "openrail++"),
        ("---\nlicense: {a: b}\n---\n", None),
        ('---\nlicense: "mit\\n"\n---\n', None),
        ("---\nlicense: [mit, our own terms]\n---\n", "mit, other"),
        ("---\nlicense: [mit, {a: b}]\n---\n", "mit, other"),
        ("---\r\nlicense: mit\r\n---\r\n# Model", "mit"),
        ("\ufeff---\nlicense: mit\n--- \n", "mit"),
        ("---\ndate: 2020-99-99\nlicense: mit\n---\n", None),
        ("---\ngated: !!bool perhaps\nlicense: mit\n---\n", None),
        ("---\nsize: !!int ''\nlicense: mit\n---\n", None),
        ("---\ndate: !!timestamp soon\nlicense: mit\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense:\ntags:\n- a\n---\n", None),
        ("# Model\nlicense: apache-2.0\n", None),
        ("---\ntags: [a]\n---\nlicense: apache-2.0\n", None),
        ("", None),
    ],
)
def test_the_licence_is_read_from_the_head_of_the_card(card: str, expected: str | None) -> None:
    assert licence_of(README_md=card) == expected


@pytest.mark.parametrize("name", ["LICENSE", "LICENCE", "license", "COPYING", "NOTICE"])
def test_a_licence_file_counts_where_the_card_names_none(name: str) -> None:
    assert licence_of(**{name: "All rights", "README_md": "# Model"}) == name


def test_a_card_that_is_no_text_names_no_licence() -> None:
    source = InMemory({"README.md": b"---\nlicense: \xff\xfe\n---\n"})

    assert licence(source, source.files()) is None

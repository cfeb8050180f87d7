"""The pinned prompt set and the user's file: what is asked, what is refused, and the digest."""

import json
from pathlib import Path
from typing import Any

import pytest

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.validate.serving.prompts import can_see, prompt_set, read_prompts
from tests.conftest import ROOT

SHIPPED = ROOT / "src" / "halftone" / "validate" / "prompts"
PNG = (SHIPPED / "shapes.png").read_bytes()


def write(directory: Path, *lines: Any) -> Path:
    path = directory / "mine.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def test_the_shipped_prompts_are_many_small_and_of_all_kinds() -> None:
    prompts = prompt_set(None, sees=True).prompts
    kinds = {"prose", "code", "arithmetic", "dialogue", "table", "language", "json", "image"}
    assert {prompt.kind for prompt in prompts} == kinds
    assert len(prompts) >= 32
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert (SHIPPED / "prompts.jsonl").stat().st_size <= 20_000
    assert all(path.stat().st_size < 5_000 for path in SHIPPED.glob("*.png"))


def test_a_blind_model_is_asked_the_texts_alone() -> None:
    seeing, blind = prompt_set(None, sees=True), prompt_set(None, sees=False)
    assert blind.leftOut == 2
    assert seeing.leftOut == 0
    assert [p for p in seeing.prompts if p.image is None] == list(blind.prompts)
    assert seeing.sha256 != blind.sha256


def test_the_users_prompts_come_after_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(PNG)
    file = write(tmp_path, {"text": "Ünïcode."}, "", {"text": "See?", "image": "pictures/one.png"})
    own = prompt_set(file, sees=True).prompts[-2:]
    assert [(p.id, p.kind, p.text) for p in own] == [
        ("line-1", "user", "Ünïcode."),
        ("line-3", "user", "See?"),
    ]
    assert own[1].row["image"] == str((tmp_path / "pictures" / "one.png").resolve())
    assert "image" not in own[0].row


def test_the_digest_covers_texts_and_pictures_and_not_where_they_lie(tmp_path: Path) -> None:
    digests = set()
    for folder, text, picture in (
        ("a", "one", PNG),
        ("b", "one", PNG),
        ("c", "two", PNG),
        ("d", "one", PNG + b"\0"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.png").write_bytes(picture)
        file = write(tmp_path / folder, {"text": text, "image": "p.png"})
        digests.add(prompt_set(file, sees=True).sha256)
    assert len(digests) == 3


BAD_LINES = {
    "no JSON": ("{'text': 1}", "is no JSON object"),
    "a list": ('["text"]', "must hold a JSON object"),
    "twice": ('{"text": "a", "text": "b"}', "is no JSON object"),
    "no text": ({"image": "one.png"}, "has no `text`"),
    "empty": ({"text": "  "}, "has no `text`"),
    "number": ({"text": 3}, "has no `text`"),
    "unknown": ({"text": "a", "label": "b"}, "has a field `label`"),
    "id": ({"text": "a", "id": "b"}, "has a field `id`"),
    "missing": ({"text": "a", "image": "none.png"}, "cannot be read"),
    "folder": ({"text": "a", "image": "."}, "cannot be read"),
    "outside": ({"text": "a", "image": "../one.png"}, "put it beside the file"),
    "absolute": ({"text": "a", "image": "/one.png"}, "put it beside the file"),
    "not a path": ({"text": "a", "image": 7}, "is no path"),
    "no picture": ({"text": "a", "image": "mine.jsonl"}, "no PNG, JPEG or WebP"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, name: str) -> None:
    line, said = BAD_LINES[name]
    file = write(tmp_path, {"text": "good"}, line)
    with pytest.raises(RefusedInput) as refused:
        prompt_set(file, sees=True)
    assert refused.value.reason is Reason.InvalidJob
    assert refused.value.subject == "promptFile"
    assert "Line 2 of `mine.jsonl`" in refused.value.message
    assert said in refused.value.message


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="holds no prompt"):
        read_prompts(write(tmp_path, ""), own=True)
    with pytest.raises(RefusedInput, match="cannot be read") as refused:
        read_prompts(tmp_path / "none.jsonl", own=True)
    assert refused.value.reason is Reason.SourceNotFound
    with pytest.raises(RefusedInput, match="longer than"):
        read_prompts(write(tmp_path, *["{}"] * 3000), own=True)


@pytest.mark.parametrize(
    ("config", "processor", "sees"),
    [
        ({"vision_config": {}}, "processor_config.json", True),
        ({"vision_config": {}}, "preprocessor_config.json", True),
        ({"vision_config": {}}, None, False),
        ({"vision_config": None}, "processor_config.json", False),
        ({}, "processor_config.json", False),
    ],
)
def test_a_model_sees_with_a_vision_part_and_a_processor(
    tmp_path: Path, config: dict[str, Any], processor: str | None, sees: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if processor:
        (tmp_path / processor).write_text("{}")
    assert can_see(tmp_path) is sees

"""The pinned prompts that both models are asked, and the user's beside them.

    prompts = prompt_set(planned_file, sees=can_see(source))
    session.ask("score", prompts=prompts.rows, topK=64)

Shipped are `prompts/prompts.jsonl` and its pictures: texts of 40 to 200 tokens in many kinds,
written for this purpose. A user's file has `{"text": …}` or `{"text": …, "image": "path beside the
file"}` a line. Called by `halftone.validate.engine_gates`; needs no vLLM. The digest covers all
that is asked, so that numbers measured on other prompts are not compared.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NoReturn

from halftone.checkpoint.json_objects import parse_object
from halftone.spec.documents import canonical_json, sha256_hex
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CONFIG_FILE, Reason

_SHIPPED: Final = Path(__file__).resolve().parent.parent / "prompts" / "prompts.jsonl"
_MOST_LINES: Final = 2000
_MOST_BYTES: Final = 8_000_000
_MOST_IMAGE_BYTES: Final = 16_000_000
# The first bytes of what every processor of pictures can read.
_PICTURES: Final = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP"}
_PROCESSORS: Final = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Prompt:
    """One prompt; `kind` is what it is like (`user` for the user's own)."""

    id: str
    kind: str
    text: str
    image: Path | None = None

    @property
    def row(self) -> dict[str, str]:
        """What the worker is asked with."""
        row = {"id": self.id, "text": self.text}
        return row | ({"image": str(self.image)} if self.image else {})


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one validation and the digest of all they say.

    `leftOut` counts prompts with an image that this model cannot see.
    """

    prompts: tuple[Prompt, ...]
    sha256: str
    leftOut: int

    @property
    def rows(self) -> list[dict[str, str]]:
        """What the worker is asked with."""
        return [prompt.row for prompt in self.prompts]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each prompt by its id."""
        return {prompt.id: prompt.kind for prompt in self.prompts}


def prompt_set(file: Path | None, *, sees: bool) -> PromptSet:
    """The shipped prompts and those of `file`; `sees`: whether prompts with an image are asked.

    Raises RefusedInput as `read_prompts` does.
    """
    prompts = [*read_prompts(_SHIPPED), *(read_prompts(file, own=True) if file else ())]
    asked = tuple(p for p in prompts if sees or p.image is None)
    said = [[p.id, p.text, _digest(p.image) if p.image else None] for p in asked]
    return PromptSet(asked, sha256_hex(canonical_json(said)), len(prompts) - len(asked))


def can_see(model: Path) -> bool:
    """Whether the checkpoint in `model` has a vision part and what prepares pictures for it."""
    config = parse_object((model / CONFIG_FILE).read_bytes(), CONFIG_FILE)
    processor = any((model / name).exists() for name in _PROCESSORS)
    return processor and isinstance(config.get("vision_config"), dict)


def read_prompts(file: Path, *, own: bool = False) -> list[Prompt]:
    """The prompts of a JSON-lines file; `own`: the user's, named by their line.

    Raises RefusedInput(InvalidJob) with the line's number for what is no prompt, SourceNotFound
    where there is no such file.
    """
    prompts = []
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            prompts.append(_prompt(file, number, line, own))
    if not prompts:
        _refuse(file, 0, 'holds no prompt; write one `{"text": …}` a line')
    return prompts


def _lines(file: Path) -> list[bytes]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RefusedInput(
            Reason.SourceNotFound,
            "promptFile",
            f"`promptFile` names `{file.name}`, which cannot be read ({error.strerror}); "
            "a relative path starts at the folder of the job's file.",
        ) from error
    lines = data.split(b"\n")
    if len(data) > _MOST_BYTES or len(lines) > _MOST_LINES:
        _refuse(file, 0, f"is longer than {_MOST_LINES} lines or {_MOST_BYTES:,} bytes; shorten it")
    return lines


def _prompt(file: Path, number: int, line: bytes, own: bool) -> Prompt:
    try:
        row = parse_object(line, file.name)
    except RefusedInput as error:
        _refuse(file, number, f"is no JSON object ({error.message.rstrip('.')})")
    known = {"text", "image"} | (set() if own else {"id", "kind"})
    unknown = sorted(row.keys() - known)
    if unknown:
        _refuse(file, number, f"has a field `{unknown[0]}`; a prompt has `text` and `image`")
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        _refuse(file, number, "has no `text`; write what the model is to be asked")
    image = None if row.get("image") is None else _image(file, number, row["image"])
    return Prompt(row.get("id", f"line-{number}"), row.get("kind", "user"), text, image)


def _image(file: Path, number: int, name: Any) -> Path:
    """The picture's path; it lies in the prompt file's folder or below."""
    if not isinstance(name, str) or not name or "\x00" in name:
        _refuse(file, number, "has an `image` that is no path")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        _refuse(file, number, f"names the image `{name}`; put it beside the file and name it so")
    path = (file.parent / name).resolve()
    try:
        with path.open("rb") as opened:
            head = opened.read(12)
        size = path.stat().st_size
    except OSError as error:
        _refuse(file, number, f"names the image `{name}`, which cannot be read ({error.strerror})")
    if not head.startswith(tuple(_PICTURES)) or size > _MOST_IMAGE_BYTES:
        _refuse(
            file, number, f"names the image `{name}`, which is no PNG, JPEG or WebP under 16 MB"
        )
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse(file: Path, line: int, what: str) -> NoReturn:
    place = f"Line {line} of `{file.name}`" if line else f"`{file.name}`"
    raise RefusedInput(Reason.InvalidJob, "promptFile", f"{place} {what}.")

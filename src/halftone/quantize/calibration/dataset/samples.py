"""From a row to what the model takes: token ids, and what the processor makes of images.

Called by `preparing`, in the environment that has torch and transformers. It says of a row that it
does not fit, and decides nothing else about which rows are used.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final, NoReturn

import torch

from halftone.quantize.calibration.dataset.chat import Message, PartsUnreadError, written
from halftone.quantize.calibration.dataset.coders import Coders
from halftone.quantize.calibration.dataset.images import all_opened, image_bytes
from halftone.quantize.calibration.dataset.rows import Row, image_places, refuse
from halftone.quantize.calibration.dataset.scratch import storing
from halftone.spec.calibration import Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.stores.datasets import DatasetFiles

# Some templates print today's date, and the same rows must give the same ids tomorrow.
_TODAY: Final = date(2025, 1, 1)


@dataclass(frozen=True)
class Sample:
    """Inputs of one forward pass: a batch of one, without padding."""

    modality: Modality
    inputs: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Picture:
    """An image that was used: a copy of its file, and the file's digest."""

    file: Path
    sha256: bytes


@dataclass(frozen=True)
class Encoded:
    """A row as token ids. Inputs with pictures are made anew from `text` each time they are used.

    `row` is the row without what it held, for messages.
    """

    row: Row
    ids: "array[int]"
    is_cut: bool = False
    text: str = ""
    adds_special: bool = False
    pictures: tuple[Picture, ...] = ()


class Encoder:
    """Encodes rows for one model; copies of images go to `folder`, which the caller removes."""

    def __init__(self, coders: Coders, dataset: DatasetFiles, folder: Path, longest: int) -> None:
        self._coders = coders
        self._dataset = dataset
        self._folder = folder
        self._longest = longest
        self._pictures = 0

    def encode(self, row: Row) -> Encoded | None:
        """`row` in at most as many tokens as are allowed; None when it has none, or has images and
        does not fit: cutting it could cut an image.

        Raises RefusedInput(DatasetUnusable) naming the row.
        """
        if not row.images and image_places(row.messages or ()):
            self._refuse_place(row)
        text = self._text(row)
        return self._with_images(row, text) if row.images else self._alone(row, text)

    def inputs(self, encoded: Encoded) -> dict[str, torch.Tensor]:
        """What the model's forward takes; the same each time."""
        if encoded.pictures:
            return self._processed(encoded)
        ids = torch.tensor([encoded.ids.tolist()], dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _alone(self, row: Row, text: str) -> Encoded | None:
        ids = self._coders.tokenizer(
            text, add_special_tokens=row.text is not None, verbose=False
        )["input_ids"]  # fmt: skip
        if self._coders.image_id in ids:
            self._refuse_place(row)
        kept = self._known(row, ids[: self._longest])
        return Encoded(_bare(row), kept, len(ids) > self._longest) if kept else None

    def _with_images(self, row: Row, text: str) -> Encoded | None:
        self._refuse_other_count(row, text)
        pictures = tuple(self._picture(row, index) for index in range(len(row.images)))
        adds_special = row.text is not None
        found = Encoded(_bare(row), array("i"), False, text, adds_special, pictures)
        ids = self._processed(found)["input_ids"][0].tolist()
        if len(ids) > self._longest:
            for picture in pictures:
                picture.file.unlink()
            return None
        return replace(found, ids=self._known(row, ids))

    def _text(self, row: Row) -> str:
        """What is tokenized: `text` as it is, or `messages` as the chat template writes them."""
        if row.text is not None:
            return row.text
        template = self._coders.template
        if template is None:
            refuse(
                row.place,
                f"{row.place} has `messages`, and the source has no chat template; put its "
                "`chat_template.jinja` beside it, or write rows with `text`.",
            )
        try:
            return written(row.messages or (), lambda messages: self._rendered(messages, template))
        except PartsUnreadError as error:
            refuse(
                row.place,
                f"The source's chat template takes text alone, so it leaves no place for `images` "
                f"of {row.place}; write the row with `text` that holds `{self._image_token}` once "
                "for each, or put in the template that the model was published with.",
                error,
            )
        except Exception as error:  # templates are programs of their own
            said = f"{type(error).__name__}: {str(error)[:200]}"
            refuse(
                row.place,
                f"The source's chat template does not take `messages` of {row.place} ({said}); "
                "mend or remove the row.",
                error,
            )

    def _rendered(self, messages: list[Message], template: str | dict[str, str]) -> str:
        text: str = self._coders.tokenizer.apply_chat_template(
            messages,
            # Of several the tokenizer takes its default.
            chat_template=template if isinstance(template, str) else None,
            tokenize=False,
            strftime_now=_TODAY.strftime,
        )
        return text

    @property
    def _image_token(self) -> str:
        """What a text has where an image belongs, as the processor knows it."""
        return getattr(self._coders.processor, "image_token", None) or "the image token"

    def _refuse_place(self, row: Row) -> NoReturn:
        refuse(
            row.place,
            f"{row.place} has a place for an image and no `images`; add them, or remove it.",
        )

    def _refuse_other_count(self, row: Row, text: str) -> None:
        """Refuse a row that does not have as many places for images as it has images."""
        token = self._image_token
        places, asked = text.count(token), image_places(row.messages or ())
        if asked and (asked != len(row.images) or not places):
            places = asked  # not every template writes the token that the processor names
        if places != len(row.images):
            refuse(
                row.place,
                f"{row.place} has {len(row.images)} `images` and {places} places for them; the "
                f"text must hold `{token}`, or `messages` a part of `type: image`, once for each.",
            )

    def _picture(self, row: Row, index: int) -> Picture:
        data = image_bytes(row, index, self._dataset)
        self._pictures += 1
        file = self._folder / str(self._pictures)
        with storing(self._folder):
            file.write_bytes(data)
        return Picture(file, hashlib.sha256(data).digest())

    def _processed(self, encoded: Encoded) -> dict[str, torch.Tensor]:
        row = encoded.row
        files = (picture.file.read_bytes() for picture in encoded.pictures)
        images = all_opened(files, row)
        try:
            found: Any = self._coders.processor(
                text=[encoded.text],
                images=images,
                add_special_tokens=encoded.adds_special,
                return_tensors="pt",
            )
        except MemoryError:
            raise
        except Exception as error:  # each processor has errors of its own
            said = f"{type(error).__name__}: {str(error)[:200]}"
            refuse(
                row.place,
                f"The source's processor does not take {row.place} ({said}); mend or remove it.",
                error,
            )
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    def _known(self, row: Row, ids: Sequence[int]) -> "array[int]":
        """`ids`, unless the model has no embedding for one of them."""
        vocabulary = self._coders.vocabulary
        if ids and isinstance(vocabulary, int) and max(ids) >= vocabulary:
            raise RefusedInput(
                Reason.ModelNotRunnable,
                "tokenizer",
                f"The source's tokenizer gives {row.place} the token {max(ids)}, and the model has "
                f"{vocabulary}; put in the tokenizer that the model was published with.",
            )
        return array("i", ids)


def _bare(row: Row) -> Row:
    """`row` without what it held."""
    return Row(row.place, row.file, None, None, ())

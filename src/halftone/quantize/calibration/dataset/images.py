"""Images of a row: from what the row says to bytes, and from bytes to pixels.

Called by `samples`, in an environment that has Pillow. Rows come from strangers: nothing is fetched
from a network, no path leaves the folder of the data, and an image that would unpack to gigabytes
is refused before it does.
"""

import base64
import binascii
import io
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from halftone.checkpoint.json_objects import quoted
from halftone.quantize.calibration.dataset.rows import Row, refuse
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.stores.datasets import DatasetFiles

if TYPE_CHECKING:
    from PIL import Image

# Others that Pillow knows start programs, or are no photographs.
_FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_IMAGE_BYTES: Final = 256 << 20
# Unpacked, three bytes each: 805 MB. Twenty photographs of a camera have fewer.
MAX_ROW_PIXELS: Final = 1 << 28
_KINDS: Final = "a path below the folder of its file, bytes, `{bytes, path}` or a `data:` address"


def image_bytes(row: Row, index: int, dataset: DatasetFiles) -> bytes:
    """The file of the row's image number `index`, unopened.

    Raises RefusedInput(DatasetUnusable) for an address that would have to be fetched, a path that
    leaves the data, a file that is not there, and what is no image at all.
    """
    name = f"`images[{index}]` of {row.place}"
    reference: Any = row.images[index]
    if isinstance(reference, dict):
        # As Parquet files of the Hub have it: the path beside bytes is only what it once was.
        held = reference.get("bytes")
        reference = held if held is not None else reference.get("path")
    if isinstance(reference, str) and reference.startswith("data:"):
        reference = _decoded(reference, name, row)
    if isinstance(reference, bytes):
        return reference
    if not isinstance(reference, str):
        refuse(row.place, f"{name} is {quoted(row.images[index])}; make it {_KINDS}.")
    if "://" in reference:
        refuse(
            row.place,
            f"{name} is {quoted(reference)}, and nothing is fetched from there; make it {_KINDS}.",
        )
    return _file(reference, name, row, dataset)


def opened(data: bytes, row: Row, index: int) -> "Image.Image":
    """The picture in `data`: RGB, upright, all of it decoded.

    Raises RefusedInput(DatasetUnusable) for what Pillow does not open, and for a picture of more
    pixels than Pillow thinks safe to unpack.
    """
    from PIL import Image, ImageOps

    cause: Exception
    try:
        with warnings.catch_warnings():
            # Pillow's warning is our refusal; what else it wonders at is not the user's concern.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        said, cause = f"has more than {Image.MAX_IMAGE_PIXELS} pixels", error
    except Exception as error:  # decoders of many authors, on bytes of strangers
        kinds = ", ".join(_FORMATS)
        said = f"does not open ({type(error).__name__}); it must be a whole picture of {kinds}"
        cause = error
    name = f"`images[{index}]` of {row.place}"
    return refuse(row.place, f"{name} {said}; mend or remove the row.", cause)


def all_opened(
    files: Iterable[bytes], row: Row, *, most_pixels: int = MAX_ROW_PIXELS
) -> "list[Image.Image]":
    """The pictures of a row, in order, as `opened` gives them.

    Raises RefusedInput(DatasetUnusable) as `opened` does, and for more than `most_pixels` in all.
    """
    found: list[Image.Image] = []
    for index, data in enumerate(files):
        found.append(opened(data, row, index))
        if sum(image.width * image.height for image in found) > most_pixels:
            refuse(
                row.place,
                f"The `images` of {row.place} have more than {most_pixels:,} pixels in all; "
                "give smaller ones, or fewer.",
            )
    return found


def _decoded(address: str, name: str, row: Row) -> bytes:
    """The bytes of a `data:` address."""
    head, comma, body = address.partition(",")
    try:
        if comma and head.endswith(";base64"):
            return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        pass  # said below
    example = "data:image/png;base64,..."
    return refuse(row.place, f"{name} is no `data:` address in base64; write `{example}`.")


def _file(path: str, name: str, row: Row, dataset: DatasetFiles) -> bytes:
    try:
        entry = dataset.beside(row.file, path)
        if entry.size_bytes <= MAX_IMAGE_BYTES:
            return dataset.source.read_range(entry.path, 0, entry.size_bytes)
        said = (
            f"`{entry.path}` has {entry.size_bytes:,} bytes, and {MAX_IMAGE_BYTES:,} are allowed; "
            "make it smaller."
        )
    except RefusedInput as error:
        if error.reason is Reason.AccessDenied:
            raise
        said = error.message
    return refuse(row.place, f"{name} cannot be used: {said}")

"""Calibration data: rows of the user's data set become the model's inputs.

Called by `calibrating` and a sweep, which run them through the model, in the environment that has
torch.

    data = prepare_data(calibration, checkpoint, scratch)
    data.measured       # what goes into statistics.json
    for sample in data.samples(): model(**sample.inputs)

Data sets are read in pieces. Token ids of the rows that were drawn stay in memory, and copies of
their images in the caller's `scratch`, so nothing is asked of a store once this has returned.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from halftone.checkpoint.index import Checkpoint
from halftone.quantize.calibration.dataset.coders import Coders, load_coders
from halftone.quantize.calibration.dataset.limits import refuse_impossible
from halftone.quantize.calibration.dataset.row_drawing import drawn
from halftone.quantize.calibration.dataset.row_index import RowIndex
from halftone.quantize.calibration.dataset.samples import Encoded, Encoder, Sample
from halftone.quantize.calibration.dataset.scratch import emptied
from halftone.spec.calibration import Calibration, FewerSamples, Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.statistics import MeasuredData
from halftone.stores.datasets import DatasetFiles, open_dataset

_FIELD: Final = "quantization.calibration"


@dataclass(frozen=True)
class Drawn:
    """The rows of one modality that were drawn, in the order of the data.

    `usable` counts the rows that could have been, without those that were found not to fit.
    """

    modality: Modality
    usable: int
    rows: tuple[Encoded, ...]
    unfit: int


class CalibrationData:
    """What is measured on, and what is said of it in `statistics.json` and to the user."""

    def __init__(
        self,
        measured: tuple[MeasuredData, ...],
        notices: tuple[str, ...],
        drawn: Sequence[Drawn],
        encoder: Encoder,
    ) -> None:
        self.measured = measured
        self.notices = notices
        self._drawn = drawn
        self._encoder = encoder

    def samples(self) -> Iterator[Sample]:
        """Every sample, text first; the same ones in the same order each time."""
        for part in self._drawn:
            for row in part.rows:
                yield Sample(part.modality, self._encoder.inputs(row))


def prepare_data(
    calibration: Calibration, checkpoint: Checkpoint, scratch: Path
) -> CalibrationData:
    """Draw the rows that `calibration` asks for and encode them for the model of `checkpoint`.

    `scratch` is emptied, and holds copies of images for as long as samples are wanted; the caller
    removes it, also when this raises. Raises RefusedInput: DatasetUnusable with the row,
    TooFewSamples, SequenceTooLong, ModalityNotSupported, ModelNotRunnable, and whatever the stores
    raise; EnvironmentFault when `scratch` cannot be written.
    """
    refuse_impossible(calibration, checkpoint)
    # Whatever order the job has them in, so that equal work gives equal statistics.
    modalities = [modality for modality in Modality if modality in calibration.modalities]
    emptied(scratch)
    coders = load_coders(checkpoint, scratch, images=Modality.Image in modalities)
    with closing(open_dataset(calibration.dataset)) as dataset:
        encoder = Encoder(coders, dataset, scratch, calibration.maxSequenceLength)
        with closing(RowIndex(dataset, modalities, scratch)) as index:
            for modality in modalities:
                _refuse_too_few(calibration, dataset, modality, index.usable(modality), 0)
            parts = [_draw(calibration, index, encoder, modality) for modality in modalities]
        for part in parts:
            _refuse_too_few(calibration, dataset, part.modality, part.usable, part.unfit)
        measured = tuple(_measured(part, dataset, coders) for part in parts)
    notices = tuple(said for part in parts for said in _notices(part, calibration))
    return CalibrationData(measured, notices, parts, encoder)


def _draw(calibration: Calibration, index: RowIndex, encoder: Encoder, modality: Modality) -> Drawn:
    """As many rows as are asked for, or all that fit; those that do not are drawn over."""
    total = index.usable(modality)
    order = drawn(total, calibration.seed, modality)
    kept: dict[int, Encoded] = {}
    unfit = 0
    while numbers := sorted(islice(order, calibration.samples - len(kept))):
        for number, row in zip(numbers, index.rows(modality, numbers), strict=True):
            encoded = encoder.encode(row)
            if encoded is None:
                unfit += 1
            else:
                kept[number] = encoded
    rows = tuple(kept[number] for number in sorted(kept))
    return Drawn(modality, total - unfit, rows, unfit)


def _refuse_too_few(
    calibration: Calibration, dataset: DatasetFiles, modality: Modality, usable: int, unfit: int
) -> None:
    """Refuse data without a usable row and, unless they are allowed, fewer rows than asked for."""
    what = "with `images`" if modality is Modality.Image else "without `images`"
    longer = (
        f" ({unfit} are longer than `maxSequenceLength` {calibration.maxSequenceLength})"
        if unfit and modality is Modality.Image
        else ""
    )
    if not usable:
        raise RefusedInput(
            Reason.SequenceTooLong if longer else Reason.DatasetUnusable,
            dataset.field,
            f"`{dataset.field}`, '{dataset.uri}', holds no usable row {what}{longer}; a row has "
            "`text` or `messages`, and with images `images`. Give one, or leave "
            f"`{modality}` out of `{_FIELD}.modalities`.",
        )
    if usable < calibration.samples and calibration.fewerSamples is FewerSamples.Refuse:
        raise RefusedInput(
            Reason.TooFewSamples,
            f"{_FIELD}.samples",
            f"`{_FIELD}.samples` asks for {calibration.samples} rows {what}, and '{dataset.uri}' "
            f"holds {usable} usable ones{longer}; ask for fewer, or set `fewerSamples: Allow`.",
        )


def _measured(part: Drawn, dataset: DatasetFiles, coders: Coders) -> MeasuredData:
    return MeasuredData(
        modality=part.modality,
        uri=dataset.uri,
        revision=dataset.revision,
        usable=part.usable,
        samples=len(part.rows),
        truncated=sum(row.is_cut for row in part.rows),
        tokens=sum(len(row.ids) for row in part.rows),
        images=sum(len(row.pictures) for row in part.rows),
        sha256=digest(part.rows),
        coders=coders.sha256,
    )


def digest(rows: Sequence[Encoded]) -> str:
    """SHA-256 over what the model is given: of each row the number of ids, the ids, the number of
    images, all as int64 with the least byte first, and the SHA-256 of each image's file.
    """
    found = hashlib.sha256()
    for row in rows:
        found.update(struct.pack(f"<q{len(row.ids)}qq", len(row.ids), *row.ids, len(row.pictures)))
        for picture in row.pictures:
            found.update(picture.sha256)
    return found.hexdigest()


def _notices(part: Drawn, calibration: Calibration) -> Iterator[str]:
    """What a user should know although it goes on."""
    if len(part.rows) < calibration.samples:
        yield (
            f"{part.modality}: {len(part.rows)} samples instead of {calibration.samples}; the data "
            "hold no more usable rows."
        )
    if part.unfit and part.modality is Modality.Image:
        yield (
            f"{part.modality}: {part.unfit} rows were passed over, because they are longer than "
            f"`maxSequenceLength` {calibration.maxSequenceLength}."
        )

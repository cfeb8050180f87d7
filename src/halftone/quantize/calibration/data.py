"""Calibration data: rows of the user's data set become the model's inputs.

Called by `calibrating`, which runs them through the model, in the environment that has torch.

    data = prepare_data(calibration, checkpoint)
    data.measured       # what goes into statistics.json
    for sample in data.samples(): model(**sample.inputs)
"""

import hashlib
import struct
from array import array
from collections.abc import Iterator

from halftone.checkpoint.index import Checkpoint
from halftone.quantize.calibration.rows_drawing import drawn
from halftone.quantize.calibration.rows_index import RowIndex
from halftone.quantize.calibration.samples import Sample, TextEncoder, text_inputs
from halftone.quantize.calibration.samples_processors import load_tokenizer
from halftone.spec.calibration import Calibration, FewerSamples, Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.statistics import MeasuredData
from halftone.stores.datasets import open_dataset


class CalibrationData:
    """What is measured on, and what is said of it."""

    def __init__(self, measured: tuple[MeasuredData, ...], ids: list["array[int]"]) -> None:
        self.measured = measured
        self._ids = ids

    def samples(self) -> Iterator[Sample]:
        """Every sample; the same ones in the same order each time."""
        for ids in self._ids:
            yield Sample(Modality.Text, text_inputs(ids))


def prepare_data(calibration: Calibration, checkpoint: Checkpoint) -> CalibrationData:
    """Draw the rows that `calibration` asks for and encode them for the model of `checkpoint`."""
    dataset = open_dataset(calibration.dataset)
    tokenizer = load_tokenizer(checkpoint)
    encoder = TextEncoder(tokenizer)
    index = RowIndex(dataset, calibration.modalities)
    usable = index.usable(Modality.Text)
    if usable < calibration.samples and calibration.fewerSamples is FewerSamples.Refuse:
        raise RefusedInput(
            Reason.TooFewSamples, "calibration.samples",
            f"`calibration.samples` asks for {calibration.samples} rows, and there are {usable}.",
        )  # fmt: skip
    order = drawn(usable, calibration.seed, Modality.Text)
    numbers = sorted(number for number, _ in zip(order, range(calibration.samples), strict=False))
    kept: list["array[int]"] = []
    digest = hashlib.sha256()
    truncated = 0
    for row in index.rows(Modality.Text, numbers):
        ids = encoder.ids(row)
        truncated += len(ids) > calibration.maxSequenceLength
        ids = ids[: calibration.maxSequenceLength]
        digest.update(struct.pack(f"<q{len(ids)}qq", len(ids), *ids, 0))
        kept.append(array("i", ids))
    measured = MeasuredData(
        modality=Modality.Text,
        uri=dataset.uri,
        revision=dataset.revision,
        usable=usable,
        samples=len(kept),
        truncated=truncated,
        tokens=sum(map(len, kept)),
        images=0,
        sha256=digest.hexdigest(),
    )
    return CalibrationData((measured,), kept)

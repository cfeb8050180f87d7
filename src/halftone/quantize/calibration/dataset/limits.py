"""What a model can be given at all: no row longer than its context, images only where it sees.

Called by `preparing` before anything is read; needs no torch, so a command may ask first, too. It
looks at the configuration and at names of files, never at data.
"""

from typing import Final

from halftone.checkpoint.architectures import text_config
from halftone.checkpoint.index import Checkpoint
from halftone.spec.calibration import Calibration, Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CONFIG_FILE, Reason

_FIELD: Final = "quantization.calibration"
# Where a repository describes how images become inputs; either will do.
_PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json")


def refuse_impossible(calibration: Calibration, checkpoint: Checkpoint) -> None:
    """Refuse what `calibration` asks of a model that cannot take it.

    Raises RefusedInput(SequenceTooLong) when rows may be longer than the context,
    RefusedInput(ModalityNotSupported) for images where the model or its files know none.
    """
    _refuse_beyond_context(calibration, checkpoint)
    if Modality.Image in calibration.modalities:
        _refuse_without_images(checkpoint)


def _refuse_beyond_context(calibration: Calibration, checkpoint: Checkpoint) -> None:
    context = text_config(checkpoint.config).get("max_position_embeddings")
    if isinstance(context, int) and calibration.maxSequenceLength > context:
        raise RefusedInput(
            Reason.SequenceTooLong,
            f"{_FIELD}.maxSequenceLength",
            f"`{_FIELD}.maxSequenceLength` is {calibration.maxSequenceLength}, and "
            f"`max_position_embeddings` of `{CONFIG_FILE}` is {context}; ask for no more.",
        )


def _refuse_without_images(checkpoint: Checkpoint) -> None:
    if not isinstance(checkpoint.config.get("vision_config"), dict):
        said = f"`{CONFIG_FILE}` has no `vision_config`, so the model takes text alone"
        way_out = "leave out `Image`"
    elif not {entry.path for entry in checkpoint.other_files} & set(_PROCESSORS):
        said = f"the source has neither `{_PROCESSORS[0]}` nor `{_PROCESSORS[1]}`"
        way_out = "put in the file that the model was published with, or leave out `Image`"
    else:
        return
    raise RefusedInput(
        Reason.ModalityNotSupported,
        f"{_FIELD}.modalities",
        f"`{_FIELD}.modalities` asks for `Image`, and {said}; {way_out}.",
    )

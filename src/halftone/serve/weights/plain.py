"""A checkpoint that Halftone did not publish: which of its files count, and their digest.

Called by `obtaining` and by `python -m halftone.serve.weights`. The checkpoint digest covers
weights, configuration, tokenizer and licence. Settings of processors (`*.json` beside them) are
taken along unproven: they shape the inputs of a model and hold no code. Nothing else is taken, so
no pickle and no Python file reaches the engine from a store.
"""

from collections.abc import Iterable

from halftone.checkpoint.digests import checkpoint_digest, is_digested
from halftone.serve.weights.transferring import Wanted
from halftone.spec.documents import WrittenFile
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import CONFIG_FILE, Reason


def plain_files(source: FileSource) -> list[Wanted]:
    """The files to fetch or prove. Raises RefusedInput(NoSafetensors, SourceNotFound)."""
    found = [
        Wanted(entry.path, entry.size_bytes, None)
        for entry in source.files()
        if is_digested(entry.path) or (entry.path.endswith(".json") and "/" not in entry.path)
    ]
    paths = {file.path for file in found}
    # Servers look at the top alone, and would take a pickle that lies there instead.
    if not any(path.endswith(".safetensors") and "/" not in path for path in paths):
        raise RefusedInput(
            Reason.NoSafetensors,
            source.uri,
            f"`{source.uri}` holds no safetensors files beside its {CONFIG_FILE}, and no other "
            "weights are ever loaded; name a checkpoint that has them.",
        )
    if CONFIG_FILE not in paths:
        raise RefusedInput(
            Reason.SourceNotFound,
            CONFIG_FILE,
            f"`{source.uri}` holds no {CONFIG_FILE}; name the directory that has it beside the "
            "weights.",
        )
    return found


def plain_digest(files: Iterable[WrittenFile]) -> str:
    """The checkpoint digest over `files`."""
    return checkpoint_digest(files)

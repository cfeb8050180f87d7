"""Capacity cards of an artifact, each as trusted as the artifact: by its key, or without one.

Called by `obtaining` once the artifact itself is known to be trusted. Cards lie beside what
`artifact.json` lists, so each is judged by itself. A card that is wrong keeps no replica from
serving: it is left out, and the log says why.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from halftone.publish.capacity_cards import MAX_CARD_BYTES, require_cards, signature_path
from halftone.publish.keys import read_public_key
from halftone.publish.reading import ArtifactReader
from halftone.spec.capacity import CapacityCard
from halftone.spec.errors import CheckFailed
from halftone.spec.serving import Trust

# A replica's log, where Ray Serve keeps it.
_LOG: Final = logging.getLogger("ray.serve")
# Devices and settings of one model. Whoever may write there is not let to keep a replica reading.
_MOST: Final = 100


class TrustedCard(NamedTuple):
    """A card, and the files that it was made of (itself and its signature) by their paths."""

    card: CapacityCard
    files: Mapping[str, bytes]


def trusted_cards(
    reader: ArtifactReader, checkpoint_digest: str, trust: Trust
) -> tuple[TrustedCard, ...]:
    """Those of this checkpoint that `trust` accepts, in the order of their paths.

    Raises RefusedInput(KeyUnusable), and what the store raises.
    """
    public_pem = None
    if trust.publicKeyFile is not None and reader.artifact.signature is not None:
        public_pem = read_public_key(Path(trust.publicKeyFile))
    paths = [path for path in sorted(reader.card_sizes()) if path.endswith(".json")]
    found = []
    for path in paths[:_MOST]:
        try:
            found.append(_trusted(reader, path, checkpoint_digest, public_pem))
        except CheckFailed as error:
            _LOG.warning("halftone: a capacity card is left out: %s", error.message)
    return tuple(found)


def _trusted(
    reader: ArtifactReader, path: str, checkpoint_digest: str, public_pem: bytes | None
) -> TrustedCard:
    """The card at `path`. Raises CheckFailed."""
    sizes = reader.card_sizes()
    names = [name for name in (path, signature_path(path)) if name in sizes]
    # Read once: what was judged is what is kept.
    files = {name: reader.unproven(name, MAX_CARD_BYTES) for name in names}
    require_cards(
        {name: len(data) for name, data in files.items()},
        files.__getitem__,
        checkpoint_digest,
        public_pem,
        signed=reader.artifact.signature is not None,
    )
    return TrustedCard(CapacityCard.model_validate_json(files[path]), files)

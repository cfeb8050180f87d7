"""Capacity cards beside an artifact: signed one by one, because they are added as devices are met.

`prepare` signs those of a work directory, `verify` looks at those of an artifact. A card lies at
`capacity/<device>-<engine>-tp<N>-<digest12>.json`, its signature beside it with `.sig` behind.
"""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Final, NoReturn

from pydantic import ValidationError

from halftone.publish.signing import WHOLE_FILE, require_covered, require_signature
from halftone.spec.capacity import CapacityCard
from halftone.spec.documents import sha256_hex
from halftone.spec.errors import CheckFailed
from halftone.spec.names import CAPACITY_DIRECTORY, Reason

# Cards have some kilobytes; more is something else.
MAX_CARD_BYTES: Final = 1_000_000
_SIGNATURE_SUFFIX: Final = ".sig"


def signature_path(card: str) -> str:
    """Where the signature of the card at `card` lies."""
    return card + _SIGNATURE_SUFFIX


def is_capacity(path: str) -> bool:
    """Whether `path` of an artifact lies where cards do."""
    return path.startswith(f"{CAPACITY_DIRECTORY}/")


def require_cards(
    paths: Mapping[str, int],
    read: Callable[[str], bytes],
    checkpoint_digest: str,
    public_pem: bytes | None,
    signed: bool,
) -> tuple[str, ...]:
    """The paths of the cards among `paths` (sizes in bytes), after each has been checked.

    Every card is one of this checkpoint. With `signed` (the artifact is) each needs a signature;
    with `public_pem` signatures must be the key's own, without it only cover the card. Raises
    CheckFailed for the first that is wrong, and for a file that is neither card nor signature.
    """
    cards = tuple(sorted(path for path in paths if _is_card(path)))
    for path in sorted(paths):
        if path not in cards and path.removesuffix(_SIGNATURE_SUFFIX) not in cards:
            _refuse(path, "is neither a capacity card nor the signature of one")
        if paths[path] > MAX_CARD_BYTES:
            _refuse(path, f"has {paths[path]} bytes, which no capacity card has")
    for path in cards:
        data = read(path)
        require_card(path, data, checkpoint_digest)
        signature = signature_path(path)
        if signature in paths:
            _require_signed(data, read(signature), public_pem, signature)
        elif signed:
            raise CheckFailed(
                Reason.SignatureInvalid,
                path,
                f"'{path}' has no signature, although the artifact is signed; remove it, or fetch "
                f"'{signature}' too.",
            )
    return cards


def require_card(path: str, data: bytes, checkpoint_digest: str) -> None:
    """Raise CheckFailed(DigestDiffers) unless `data` is the card of this checkpoint for `path`."""
    try:
        card = CapacityCard.model_validate_json(data)
    except ValidationError as error:
        raise CheckFailed(
            Reason.DigestDiffers,
            path,
            f"'{path}' is not a capacity card of this version; remove it, or fetch it again.",
        ) from error
    if card.to_bytes() != data:
        _refuse(path, "was edited after it was written (it is not canonical JSON)")
    if card.checkpointDigest != checkpoint_digest:
        _refuse(path, "is the capacity card of another checkpoint")
    if card.compute_digest() != card.digest:
        _refuse(path, "does not have the digest that it states")
    if path != card.path:
        _refuse(path, f"holds the card that belongs under '{card.path}'")


def _is_card(path: str) -> bool:
    place = PurePosixPath(path)
    return str(place.parent) == CAPACITY_DIRECTORY and place.suffix == ".json"


def _require_signed(data: bytes, signature: bytes, public_pem: bytes | None, subject: str) -> None:
    digests = {WHOLE_FILE: sha256_hex(data)}
    if public_pem is None:
        require_covered(digests, signature, subject)
    else:
        require_signature(digests, signature, public_pem, subject)


def _refuse(path: str, how: str) -> NoReturn:
    raise CheckFailed(
        Reason.DigestDiffers, path, f"'{path}' {how}; remove it, or fetch the artifact again."
    )

"""What an operator knows of a cluster, filled by a test in the place of watches.

    indexes = unwatched()
    indexes.objects.put(body)

Called by unit tests of the operator, and by the API tier where a test is in the operator's place.
"""

from operators.quantizationjob.indexes import Indexes


def unwatched() -> Indexes:
    """What watches know before they have shown anything; nobody is told of what is put there."""

    def changed(*_: object) -> None:
        """Nobody is told."""

    return Indexes.telling(changed, changed, changed)

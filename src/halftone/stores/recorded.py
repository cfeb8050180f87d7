"""What is raised for a file of the tree that is not the one that was recorded, whatever the target.

Called by the modules that bring files to a directory, to a bucket and to the Hub.
"""

from halftone.spec.documents import WrittenFile
from halftone.spec.errors import CheckFailed
from halftone.spec.names import Reason

# How a file differs, as the rest of a sentence.
MISSING = "is not there"
OTHER_DIGEST = "is not the file that was recorded (its SHA-256 differs)"


def differs(file: WrittenFile, how: str) -> CheckFailed:
    """The error for `file`; `how` follows its name."""
    return CheckFailed(
        Reason.DigestDiffers,
        file.path,
        f"'{file.path}' {how}, so nothing is published; quantize again in a new work directory.",
    )

"""Whether what lies here is what a tag of this commit would hold.

Called by `python -m tools.release check`. Distributions and charts are built from files, and a tag
names a commit: a file that was changed or never added would go out, and nobody could build it
again. It changes nothing.
"""

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_SHOWN: Final = 10  # of a checkout in which somebody is at work


def problems(root: Path = ROOT) -> list[str]:
    """Files that are not as they were committed. Raises CalledProcessError without git's own."""
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    names = [line[3:] for line in listed.stdout.splitlines()]
    sentences = [
        f"{name} is not as it was committed; commit it, or take it away." for name in names[:_SHOWN]
    ]
    left = len(names) - len(sentences)
    return [*sentences, f"{left} more files are not as they were committed."] if left else sentences

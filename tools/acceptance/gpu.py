"""Whether there is a GPU at all, and the sentence where there is none.

Called by `make accept-hardware` before environments of gigabytes are made, on a bare Python, and by
the program: `python -m tools.acceptance.gpu` exits 3 where an acceptance would. It must not take
another kind of device for a GPU, nor go on without one.
"""

import subprocess
import sys

NONE = (
    "accept-hardware: NOT RUN, for this machine has no NVIDIA GPU that `nvidia-smi -L` lists; "
    "nothing was tested and nothing was accepted. `--dry-run` prints the steps."
)


def is_there() -> bool:
    """Whether the driver lists at least one."""
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return found.returncode == 0 and "GPU 0" in found.stdout


def main(arguments: list[str]) -> int:
    """0 where there is one, or where nothing is to be done but printing."""
    if is_there() or {"--dry-run", "-h", "--help"} & set(arguments):
        return 0
    print(NONE, file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Lets `python -m halftone` stand in for the `halftone` command where no script is installed.

Called by people and by stages that are started in another environment's Python. No logic here.
"""

from halftone.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m halftone.serve.weights URI`: the checkpoint digest of what lies there now.

For people who want to serve a checkpoint that Halftone did not publish, such as a draft model: the
digest is what `artifact.digest` or `draft.digest` must hold. Reads every file and keeps none.
"""

import argparse
import sys
from contextlib import closing
from pathlib import Path

from halftone.serve.weights.plain import plain_digest, plain_files
from halftone.serve.weights.transferring import Transfer
from halftone.spec.errors import HalftoneError
from halftone.stores import open_source


def main() -> int:
    """Print the digest; the exit code is the error's."""
    parser = argparse.ArgumentParser(prog="python -m halftone.serve.weights", description=__doc__)
    parser.add_argument("uri", metavar="URI", help="a directory, s3://bucket/prefix, hf://org/name")
    parser.add_argument("--endpoint-url", help="where another S3 server than the usual answers")
    given = parser.parse_args()
    place = given.uri if "://" in given.uri else Path(given.uri).absolute()
    try:
        with closing(open_source(place, endpoint_url=given.endpoint_url)) as source:
            found = Transfer(source, None, lambda done, total: None).run(plain_files(source))
    except HalftoneError as error:
        sys.stderr.write(f"halftone: {error.message}\n")
        return error.exit_code
    sys.stdout.write(f"{plain_digest(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

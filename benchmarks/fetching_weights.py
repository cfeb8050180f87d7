"""One attempt of the benchmark `serve_weights`, in a process of its own.

    python -m benchmarks.fetching_weights proven|unproven URI DIGEST DIRECTORY

`proven` is what a replica does; `unproven` fetches the same files with the same threads into the
same directory, syncs them as well, and hashes nothing. Prints JSON: `seconds`, and `cpu`, those
that all threads were on a core; neither has those of imports.
"""

import json
import sys
import time
from contextlib import closing
from pathlib import Path

from halftone.serve.weights import obtain
from halftone.serve.weights.plain import plain_files
from halftone.serve.weights.transferring import Transfer
from halftone.spec.reports import Verdict
from halftone.spec.serving import ArtifactReference, Signatures, Trust, WeightsCache
from halftone.stores import open_source

_ANYBODY = Trust(signature=Signatures.NotRequired, verdicts=(Verdict.Unmeasured,))


class _NoDigest:
    """Stands where a hash would: takes bytes and does nothing."""

    def update(self, data: object) -> None:
        """Nothing."""

    def hexdigest(self) -> str:
        """The same for all bytes."""
        return ""


def main(how: str, uri: str, digest: str, directory: str) -> None:
    """Fetch once into `directory`, which is empty."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    if how == "proven":
        cache = WeightsCache(directory=directory)
        obtain(ArtifactReference(uri=uri, digest=digest), _ANYBODY, cache).release()
    else:
        with closing(open_source(uri)) as source:
            transfer = Transfer(source, Path(directory), lambda done, total: None, _NoDigest)
            transfer.run(plain_files(source))
    cpu = time.process_time() - begin_cpu
    print(json.dumps({"seconds": time.perf_counter() - begin, "cpu": cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Weights on this machine's disk, proven before one of them is loaded.

    lease = obtain(reference, trust, cache)
    lease.model.path          # what vLLM loads
    lease.require_unchanged() # once it has loaded: nobody wrote there meanwhile
    lease.release()           # from now on the entry may be evicted

Called by replicas of the endpoint, before vLLM starts. A lease is the process's own: with the
process, however it ends, the hold on its entry ends too.
"""

from halftone.serve.weights.lease import Found, Lease, require_alike
from halftone.serve.weights.obtaining import obtain
from halftone.serve.weights.trusting import Place

__all__ = ["Found", "Lease", "Place", "obtain", "require_alike"]

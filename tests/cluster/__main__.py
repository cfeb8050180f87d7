"""A control plane and a real node until Enter is pressed: `python -m tests.cluster [ARCHIVE …]`.

For looking around, and for `make e2e` with KUBECONFIG. The node has the images of the archives.
Needs root. Prints how a shell gets inside; nothing outside of that network reaches the cluster.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from halftone.cli.signals import ended_in_order
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import ADDRESS, Network
from tests.cluster.node import Node


def main() -> None:
    """Bring it up, and take it down."""
    images = [Path(word) for word in sys.argv[1:]]
    with (
        ended_in_order(),  # a signal would end us alone, and leave the node behind
        tempfile.TemporaryDirectory(prefix="halftone-cluster-") as folder,
        Network("halftone-cluster") as network,
        ControlPlane(Path(folder) / "up", address=ADDRESS, network=network.path) as cluster,
        Node(cluster, network, images) as node,
    ):
        inside = " ".join(network.command("env", f"KUBECONFIG={cluster.kubeconfig}"))
        print(f"A shell:  {inside} bash")
        print(f"An image: {' '.join(node.loading)} ARCHIVE", flush=True)
        with suppress(EOFError, KeyboardInterrupt):
            input("Enter ends it. ")


if __name__ == "__main__":
    main()

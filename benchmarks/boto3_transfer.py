"""The peer of `publish_s3`: boto3's transfer manager, in a process of its own.

    python benchmarks/boto3_transfer.py BUCKET TREE CONCURRENCY PART_MIB

sends the shards of TREE to the server that the environment names, and prints how many there were.
"""

import sys
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config


def main(bucket: str, tree: Path, concurrency: int, part_mib: int) -> None:
    """Send every file through one manager."""
    part = part_mib << 20
    settings = TransferConfig(
        max_concurrency=concurrency, multipart_chunksize=part, multipart_threshold=part
    )
    config = Config(
        max_pool_connections=concurrency,
        # As over TLS: no second digest of each body for the signature.
        s3={"addressing_style": "path", "payload_signing_enabled": False},
    )
    client = boto3.session.Session().client("s3", config=config)
    with create_transfer_manager(client, settings) as manager:
        sent = [
            manager.upload(str(path), bucket, path.name)
            for path in sorted(tree.glob("*.safetensors"))
        ]
        for future in sent:
            future.result()
    print(len(sent))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

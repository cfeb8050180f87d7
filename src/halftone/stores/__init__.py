"""L2, where bytes come from: a directory, an S3 bucket, the Hub.

`open_source` is the one door. boto3 and huggingface_hub are imported in this room and nowhere
else, and only once a source of their kind is opened. Nothing here knows what a tensor is.
"""

from halftone.stores.opening import open_source

__all__ = ["open_source"]

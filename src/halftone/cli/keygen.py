"""`halftone keygen`: a key pair that signs artifacts."""

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def keygen(path: Path) -> None:
    """Write a private key to PATH (mode 0600) and its public half to PATH.pub.

    Sign with `publish.signingKeyRef.path: PATH` in a job, or HALFTONE_SIGNING_KEY_FILE=PATH; hand
    PATH.pub to whoever runs `halftone verify --public-key`. Neither file is ever overwritten.
    """
    from halftone.publish.keys import generate_key

    key = generate_key(path.absolute())
    click.echo(f"private key {path}, public key {path}.pub, SHA-256 {key.identifier}")

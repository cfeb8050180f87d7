"""A kubeconfig for commands that are tested without a cluster."""

from pathlib import Path

import yaml

# A closed port: nobody listens there, so the answer comes at once.
CLOSED = "https://127.0.0.1:1"


def write_kubeconfig(path: Path, server: str = CLOSED) -> Path:
    """Names a server, by default one that is not there, and two namespaces of it."""
    cluster = {"name": "here", "cluster": {"server": server}}
    mine = {"cluster": "here", "user": "me", "namespace": "mine"}
    theirs = {"cluster": "here", "user": "me", "namespace": "theirs"}
    user = {"name": "me", "user": {"token": "none"}}
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [cluster],
        "users": [user],
        "contexts": [{"name": "here", "context": mine}, {"name": "there", "context": theirs}],
    }
    path.write_text(yaml.safe_dump(body))
    return path

"""CustomResourceDefinitions of other people's operators, as small as an API server needs them.

Called by what brings such an operator into a cluster.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import ControlPlane


class _Loader(yaml.CSafeLoader):
    """A megabyte takes the loader in Python many seconds."""


# YAML 1.1 has a meaning for a lone `=`, which is an operator in Alertmanager's matchers.
_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def install(cluster: ControlPlane, what: str, paths: Iterable[Path]) -> None:
    """Apply the definitions, and wait until the API server serves them; `what` names them.

    Of each only the version that is stored, without its prose: what the server compiles is large
    enough.
    """
    found = [_of_one_version(path.read_text(encoding="utf-8")) for path in paths]
    cluster.kubectl("apply", "--server-side", "-f", "-", text="\n".join(map(json.dumps, found)))
    names = [f"crd/{crd['metadata']['name']}" for crd in found]
    wait = ("wait", "--for=condition=Established", *names, "--timeout=60s")
    cluster.processes.wait(what, lambda: bool(cluster.kubectl(*wait)))


def _of_one_version(text: str) -> dict[str, Any]:
    crd: dict[str, Any] = yaml.load(text, _Loader)
    crd["spec"]["versions"] = [one for one in crd["spec"]["versions"] if one["storage"]]
    _without_prose(crd)
    return crd


def _without_prose(schema: Any) -> None:
    """Take away every description; a property of that name is a mapping, and stays."""
    below = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, dict) and isinstance(schema.get("description"), str):
        del schema["description"]
    for one in below:
        if isinstance(one, dict | list):
            _without_prose(one)

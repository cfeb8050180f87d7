"""What acts found, judged: pure, so that it is tested without a cluster.

Called by the acts and the scene of `python -m tests.e2e`, which raise where something is wrong.
"""

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from halftone.spec.cluster import STAGE_LABEL

Object = Mapping[str, Any]

# What charts make, and pods of it: none is to be left.
MADE_BY_CHARTS: Final = (
    "deployments,jobs,pods,services,configmaps,roles,rolebindings,serviceaccounts,clusterroles,"
    "clusterrolebindings,networkpolicies,rayservices.ray.io,podmonitors.monitoring.coreos.com,"
    "prometheusrules.monitoring.coreos.com"
)
# Shorter words stand anywhere by chance.
_SHORTEST_SECRET: Final = 12


def made_twice(children: Iterable[Object]) -> list[str]:
    """Stages of one QuantizationJob that have more than one Job, whatever those are called."""
    stages = Counter(one["metadata"]["labels"][STAGE_LABEL] for one in children)
    return sorted(stage for stage, count in stages.items() if count > 1)


def values_of(secrets: Iterable[Object]) -> set[str]:
    """What must stand nowhere: values as they are stored, their lines, and what follows an equals
    sign, as in a credentials file.
    """
    found = set()
    for secret in secrets:
        for encoded in (secret.get("data") or {}).values():
            text = base64.b64decode(encoded).decode(errors="replace")
            found |= {line for line in _lines(text) if len(line) >= _SHORTEST_SECRET}
            found |= {encoded} if len(encoded) >= _SHORTEST_SECRET else set()
    return found


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield line.strip()
        yield line.partition("=")[2].strip()


def silent(namespaces: Iterable[str], logs: Mapping[str, str]) -> list[str]:
    """Namespaces of which no log says anything; `logs` are by names that begin with theirs."""
    spoke = {name.split(".", 1)[0] for name, text in logs.items() if text.strip()}
    return sorted(set(namespaces) - spoke)


def other_machine(nodes: Sequence[Object], boot_id: str) -> str | None:
    """Why pods of a cluster with these nodes cannot mount files from here; None if they can.

    `boot_id` is the kernel's own name of this boot; '' where it is not known.
    """
    names = sorted(one["metadata"]["name"] for one in nodes)
    if len(nodes) != 1:
        return f"the cluster has {len(nodes)} nodes ({', '.join(names) or 'none'}), not one"
    told = nodes[0]["status"]["nodeInfo"]["bootID"]
    if boot_id and told and told != boot_id:
        return f"the cluster's node {names[0]} is another machine than this one"
    return None

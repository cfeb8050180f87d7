"""Labels of series in Prometheus, as options give them: `--selector namespace=models`."""

import re
from typing import Final

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

# Labels that the queries and the rules set themselves.
_OURS: Final = frozenset({"model_name", "replica", "source"})
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def label(text: str) -> tuple[str, str]:
    """A label and its value, of `--selector`. Raises RefusedInput."""
    name, equals, value = text.partition("=")
    if not equals or not _LABEL.fullmatch(name):
        told = f"`--selector {text}` must be LABEL=VALUE."
        raise RefusedInput(Reason.InvalidEndpoint, "--selector", told)
    if name in _OURS or name.startswith("__"):
        told = f"`--selector {text}`: the label `{name}` is set by Halftone."
        raise RefusedInput(Reason.InvalidEndpoint, "--selector", told)
    return name, value

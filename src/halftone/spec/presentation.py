"""How results are said to people: what a verdict means, the caveat of divergence, sizes,
and how a plot looks.

The report page (`halftone.validate.page`) and the model card (`halftone.publish.card`) say the same
things of the same documents, and siblings share nothing but these words.
"""

from pathlib import Path
from typing import Any, Final

from halftone.spec.reports import Outcome, Verdict
from halftone.spec.statistics import MeasuredData

_KB: Final = 1000
_MB: Final = 1000**2
_GB: Final = 1000**3
_GIB: Final = 1024**3
_MIB: Final = 1024**2

VERDICT_MEANINGS: Final[dict[Verdict, str]] = {
    Verdict.Passed: "Every gate that the job lists passed, where it was to be measured.",
    Verdict.Emulated: (
        "Every gate passed, but the gates that need a server ran without the target GPU: weights, "
        "activations and cache were rounded on a CPU as that GPU would round them. No GPU kernel "
        "ran, and speed on a GPU was not measured."
    ),
    Verdict.Unmeasured: (
        "The job lists no gates: only the structure and the weight error were checked. How well "
        "the model still answers was not measured."
    ),
    Verdict.Inconclusive: (
        "At least one gate's data decide neither way; nothing is published on such a report."
    ),
    Verdict.Failed: "At least one gate failed; nothing is published on such a report.",
}

# Settings of matplotlib that all plots share: equal data give equal bytes, and text stays text.
PLOT_SETTINGS: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "halftone",
    "text.parse_math": False,  # a name may hold a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}

OUTCOME_WORDS: Final[dict[Outcome, str]] = {
    Outcome.Passed: "Passed",
    Outcome.Failed: "Failed",
    Outcome.Inconclusive: "Inconclusive",
    Outcome.NotRun: "Not run",
}

# Stands beside every KL divergence, perplexity and top-1 agreement.
DIVERGENCE_CAVEAT: Final = (
    "Use these figures to reject, not to rank. Over a wide range they go with benchmark scores; "
    "among good quantizations they do not (28 quantizations of one 35B model, arXiv:2606.19558)."
)


_LONGEST_UNIT: Final = 14  # characters; a longer one is a definition, which the limit says too


def short_unit(unit: str | None) -> str:
    """A gate's unit as it stands behind a number; "" for one that needs a sentence."""
    if unit is None:
        return ""
    if unit.startswith("%") or unit == "percent":
        return "%"
    return unit if len(unit) <= _LONGEST_UNIT else ""


def size_text(nbytes: int) -> str:
    """Both units, because model cards mix them up: `28.55 GB (26.59 GiB)`; small ones in MB."""
    if nbytes < 0.1 * _GB:
        return f"{nbytes / _MB:.2f} MB ({nbytes / _MIB:.2f} MiB)"
    return f"{nbytes / _GB:.2f} GB ({nbytes / _GIB:.2f} GiB)"


def short_size(nbytes: int) -> str:
    """One unit, for columns and plots: `28.55 GB`, `349.70 kB`."""
    for unit, size in (("GB", _GB), ("MB", _MB), ("kB", _KB)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"


def dataset_name(uri: str) -> str:
    """A data set as strangers may know it: of a local one the last part of its path.

    The folders above it tell of a machine and of its user, and nothing of the data.
    """
    local = uri.removeprefix("file://")
    return uri if "://" in local else Path(local).name


def data_text(data: MeasuredData) -> str:
    """What was measured on: `64 of 90 usable rows of calibration.jsonl (Text), 8,192 tokens`."""
    images = f", {data.images:,} images" if data.images else ""
    at = f" at {data.revision}" if data.revision else ""
    return (
        f"{data.samples:,} of {data.usable:,} usable rows of {dataset_name(data.uri)}{at} "
        f"({data.modality}), {data.tokens:,} tokens{images}"
    )


def printable(text: str) -> str:
    """`text` on one line, without what could steer a terminal: it may quote a stranger's bytes."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)

"""Recorded pages of real servers, as tests of the doctor, the contract and the rules use them.

    differences(RECORDING.pages)                          # []: the contract is what servers export
    renamed(page, "vllm:kv_cache_usage_perc")             # as an upgrade would do it
    input_series(RECORDING.pages, steps=60)               # what promtool evaluates rules on

Called by contract tests. Nothing here is the doctor's: what it finds is held to this.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from halftone.telemetry.contract import Need, load_contract
from tests.recording.files import load

RECORDING: Final = load()
# What a recording on one machine without a GPU has not, and why.
NOT_RECORDED: Final = {
    "DCGM_FI_DEV_GPU_UTIL": "DCGM's exporter runs where there is a GPU of NVIDIA's",
    "halftone_endpoint_capacity": "replicas say it through Ray; no server of vLLM's own does yet",
    "ray_node_gpus_utilization": "a node without a GPU has none",
    "up": "Prometheus makes it of every scrape; no page has it",
}
# Labels that a scrape adds, by page, as the PodMonitors of the charts do it.
TARGETS: Final = {
    "vllm": {
        "namespace": "native",
        "job": "native",
        "instance": "10.0.1.1:8000",
        "pod": "native-0",
    },
    "ray": {"namespace": "ray", "job": "ray", "instance": "10.0.1.2:8080", "pod": "head"},
    "operator": {"namespace": "halftone", "job": "operator", "instance": "10.0.1.3:8080"},
    "autoscale": {"namespace": "native", "job": "autoscale", "instance": "10.0.1.4:9464"},
    "doctor": {"namespace": "monitoring", "job": "doctor", "instance": "10.0.1.5:9464"},
    "ray-autoscaler": {"namespace": "ray", "job": "ray", "instance": "10.0.1.2:44217"},
    "ray-dashboard": {"namespace": "ray", "job": "ray", "instance": "10.0.1.2:44227"},
}
_COUNTING: Final = re.compile(r".*_(?:total|bucket|sum|count)")
_COMMENT: Final = re.compile(r"(?m)^#.*\n?")
Labels = Mapping[str, str]
# Name and labels.
Key = tuple[str, tuple[tuple[str, str], ...]]
# Values at each moment; None where a page does not show it.
Series = dict[Key, list[float | None]]


class Sample(NamedTuple):
    """One line of a page."""

    name: str
    labels: Labels
    value: float


@cache
def samples(page: str) -> tuple[Sample, ...]:
    """Every sample of a page, by the name that Prometheus stores."""
    return tuple(
        Sample(each.name, each.labels, each.value)
        for family in text_string_to_metric_families(_COMMENT.sub("", page))
        for each in family.samples
    )


def needed_lines(page: str) -> str:
    """What of a page somebody needs, which is a small part of it."""
    names = {need.name for need in load_contract()}
    lines = page.splitlines(keepends=True)
    return "".join(line for line in lines if re.split("[{ ]", line, maxsplit=1)[0] in names)


def renamed(page: str, name: str) -> str:
    """The page of a server that calls a metric otherwise."""
    return re.sub(rf"(?m)^{re.escape(name)}(?=[{{ ])", f"{name}_renamed", page)


def without_label(page: str, name: str, label: str, *, becomes: str | None = None) -> str:
    """The page of a server whose metric has a label no more, or by another name."""

    def change(match: re.Match[str]) -> str:
        if becomes is not None:
            return re.sub(rf'(?<=[{{,]){label}(?==")', becomes, match[0])
        return re.sub(rf'(?<=[{{,]){label}="(?:[^"\\]|\\.)*",?', "", match[0])

    return re.sub(rf"(?m)^{re.escape(name)}\{{.*$", change, page)


def needs_on(pages: Mapping[str, Sequence[str]]) -> dict[str, tuple[Need, str]]:
    """Every need that is on a page at some moment, with the name of the page."""
    every = {need.name: need for need in load_contract()}
    found = {}
    for place, moments in pages.items():
        for page in moments:
            found.update(
                {
                    each.name: (every[each.name], place)
                    for each in samples(page)
                    if each.name in every
                }
            )
    return found


def differences(pages: Mapping[str, Sequence[str]]) -> list[str]:
    """What contract and pages disagree about: a sentence each, none where all is well."""
    there = needs_on(pages)
    lacking = _lacking(page for moments in pages.values() for page in moments)
    told = []
    for need in load_contract():
        if need.name not in there and need.name not in NOT_RECORDED:
            users = ", ".join(need.needed_by[:3])
            told.append(f"`{need.name}` is on no recorded page, and {users} need it.")
        if need.name in there and need.name in NOT_RECORDED:
            told.append(f"`{need.name}` is recorded, and said not to be.")
        told += [
            f"`{need.name}` has no label `{label}` on a recorded page."
            for label in need.needed_labels(is_scraped=False)
            if (need.name, label) in lacking
        ]
    return told


def _lacking(pages: Iterable[str]) -> set[tuple[str, str]]:
    """Names and labels that a series of that name has not."""
    needed = {need.name: need.needed_labels(is_scraped=False) for need in load_contract()}
    return {
        (each.name, label)
        for page in pages
        for each in samples(page)
        for label in needed.get(each.name, ())
        if not each.labels.get(label)
    }


def series(pages: Mapping[str, Sequence[str]]) -> Series:
    """What somebody needs of the pages, and `up`, as Prometheus has it after a scrape a moment."""
    names = {need.name for need in load_contract()}
    found: Series = {}
    for place, moments in pages.items():
        target = TARGETS[place]
        found["up", tuple(sorted(target.items()))] = [1.0] * len(moments)
        for number, page in enumerate(moments):
            for each in samples(page):
                if each.name in names:
                    values = found.setdefault(_key(each, target), [None] * len(moments))
                    values[number] = each.value
    return found


def _key(sample: Sample, target: Labels) -> Key:
    """A label that the scrape adds too is called otherwise, and an empty one is none."""
    own = {
        f"exported_{label}" if label in target else label: value
        for label, value in sample.labels.items()
        if value
    }
    return sample.name, tuple(sorted({**own, **target}.items()))


def input_series(pages: Mapping[str, Sequence[str]], steps: int = 0) -> list[dict[str, str]]:
    """As a suite of promtool has them: the recorded moments, and then as many as `steps` asks for.

    Those go on as the recorded ones went: counters by the same steps, gauges by the same values.
    """
    return [
        {
            "series": f"{name}{{{', '.join(f'{k}={_quoted(v)}' for k, v in labels)}}}",
            "values": " ".join(_written(prolonged(name, values, steps))),
        }
        for (name, labels), values in series(pages).items()
    ]


def prolonged(name: str, values: Sequence[float | None], steps: int) -> list[float | None]:
    """The values, with more behind them until there are `steps`."""
    found = list(values)
    if not _COUNTING.fullmatch(name):
        while len(found) < steps:
            found.append(values[len(found) % len(values)])
        return found
    known = [value for value in values if value is not None]
    grown = [after - before for before, after in pairwise(known)] or [0.0]
    while len(found) < steps:
        last = found[-1]
        assert last is not None, f"a counter does not vanish: {name}"
        found.append(last + grown[len(found) % len(grown)])
    return found


def _written(values: Iterable[float | None]) -> Iterator[str]:
    """A series that a scrape does not find any more is stale at once."""
    was_there = False
    for value in values:
        if value is None:
            yield "stale" if was_there else "_"
        else:
            yield repr(value)
        was_there = value is not None


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

"""Takes the machine and the hour out of recorded pages, and what would make them huge.

    normalise({"ray": [page, page]}, needed)

Called by the recorder, once with everything that was recorded together: equal values stay equal, in
all pages and at all moments. Names, labels and values are the servers' own.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

Pages = Mapping[str, Sequence[str]]

# A page beyond this loses what nobody needs; see `_kept`.
LARGE: Final = 150_000  # bytes

_SAMPLE: Final = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_TYPE: Final = re.compile(r"# (HELP|TYPE) (\S+)(?: .*)?")
# Labels that name a process, a node or a run of theirs, and what stands in their place.
_IDENTITIES: Final = {
    "SessionName": "session",
    "WorkerId": "worker",
    "ReplicaId": "replica",
    "replica": "replica",
    "replica_id": "replica",
    "actor_id": "actor",
    "node_id": "node",
    "NodeId": "node",
    "handle": "handle",
    "service_instance_id": "service",
}
_NUMBERS: Final = ("pid", "Pid", "process_id")
_ADDRESS: Final = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
_LOOPBACK: Final = re.compile(r"\b(?:127\.0\.0\.1|localhost):\d+\b")
# Of Python's own process, and when something was made: a machine and an hour, and no fact of ours.
_OF_THE_MACHINE: Final = re.compile(r"(?:process|python)_.*|target_info|.*_created")
_KEPT: Final = re.compile(
    r"vllm:.*|ray_vllm_.*|(?:ray_)?halftone_.*|ray_serve_(?!long_poll|event_loop).*|ray_node_.*"
)
_SUFFIXES: Final = re.compile(r"_(?:bucket|sum|count|total|created)$")
LEFT_OUT: Final = "# Nobody needs these families, and the page would be huge with them:"


def normalise(recorded: Pages, needed: Collection[str]) -> dict[str, list[str]]:
    """Pages by name, each at its moments, as they are kept; `needed` are names of samples."""
    identities = _Identities(page for pages in recorded.values() for page in pages)
    return {
        name: [_trimmed(_normal(page, identities), needed) for page in pages]
        for name, pages in recorded.items()
    }


class _Identities:
    """What stands for each identifier; first come, first numbered."""

    def __init__(self, pages: Iterable[str]) -> None:
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        for page in pages:
            for name, value in _LABEL.findall(page):
                if value and name in _IDENTITIES:
                    self._name(value, _IDENTITIES[name])
        longest_first = sorted(self._known, key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def labels(self, text: str) -> str:
        """Labels as they are kept."""
        return _LABEL.sub(lambda match: f'{match[1]}="{self._value(match[1], match[2])}"', text)

    def _value(self, name: str, value: str) -> str:
        if name in _NUMBERS:
            return self._name(value, "process") if value else value
        value = self._tokens.sub(lambda match: self._known[match[0]], value)
        value = _LOOPBACK.sub(lambda match: self._name(match[0], "server"), value)
        return _ADDRESS.sub(lambda match: self._address(match[0]), value)

    def _name(self, value: str, kind: str) -> str:
        if value not in self._known:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._known[value] = f"{kind}-{self._counts[kind]}"
        return self._known[value]

    def _address(self, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:  # a version
            return value
        number = self._name(value, "address").rpartition("-")[2]
        return f"10.0.0.{number}"


def _normal(page: str, identities: _Identities) -> str:
    lines = []
    for line in page.splitlines():
        if line.startswith("#") or not line.strip():
            about = _TYPE.fullmatch(line)
            if about is not None and not _OF_THE_MACHINE.fullmatch(about[2]):
                lines.append(line)
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            raise ValueError(f"no sample of a page of metrics: {line[:200]}")
        if _OF_THE_MACHINE.fullmatch(sample["name"]):
            continue
        labels = "" if sample["labels"] is None else f"{{{identities.labels(sample['labels'])}}}"
        lines.append(f"{sample['name']}{labels} {sample['value']}")
    return "".join(f"{line}\n" for line in lines)


def _trimmed(page: str, needed: Collection[str]) -> str:
    """A large page without what nobody needs: buckets, and families of Ray's own inside."""
    if len(page) <= LARGE:
        return page
    families = {_SUFFIXES.sub("", name) for name in needed} | set(needed)
    left_out: dict[str, None] = {}

    def is_kept(name: str) -> bool:
        if name in needed or (name in families and not name.endswith("_bucket")):
            return True
        kept = _KEPT.fullmatch(name) is not None and not name.endswith("_bucket")
        if not kept:
            left_out[name] = None
        return kept

    lines = list(_lines(page, is_kept))
    told = [LEFT_OUT, *(f"#   {name}" for name in left_out)]
    return "".join(f"{line}\n" for line in (*told, *lines))


def _lines(page: str, is_kept: Callable[[str], bool]) -> Iterator[str]:
    """Samples that are kept, each family below what is said of it."""
    said: dict[str, str] = {}
    family = ""
    for line in page.splitlines():
        about = _TYPE.fullmatch(line)
        if about is not None:
            said = said if about[2] == family else {}
            family = about[2]
            said[about[1]] = line
        elif is_kept(re.split(r"[{ ]", line, maxsplit=1)[0]):
            yield from said.values()
            said = {}
            yield line


def foreign(page: str, words: Iterable[str] = ()) -> list[str]:
    """Lines of a page that are of one machine or one hour; `words` are its names and folders."""
    strange = re.compile(
        "|".join([_FOREIGN, *(rf"\b{re.escape(word)}\b" for word in words if word)])
    )
    return [
        line
        for line in page.splitlines()
        if not line.startswith("#") and _is_foreign(_DIGEST.sub("", line), strange)
    ]


_DIGEST: Final = re.compile(r'digest="[0-9a-f]{64}"')
_FOREIGN: Final = (
    r"session_2\d{3}|/(?:root|home|tmp|var|opt|usr|proc)/|[0-9a-f]{24,}|[0-9a-f]{8}-[0-9a-f]{4}-"
)
# Seconds since 1970 of this decade and the next.
_HOURS: Final = range(1_600_000_000, 2_200_000_000)
_TIMES: Final = re.compile(r"(?:_time|_timestamp|_date)(?:_seconds)?\b")


def _is_foreign(line: str, strange: re.Pattern[str]) -> bool:
    addresses = (match[0] for match in _ADDRESS.finditer(line))
    if strange.search(line) or any(not address.startswith("10.0.0.") for address in addresses):
        return True
    value = float(line.rpartition(" ")[2])
    return _TIMES.search(line) is not None and _HOURS.start <= value < _HOURS.stop

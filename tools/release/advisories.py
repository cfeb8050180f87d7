"""Whether anything is known against a package that an image or a developer gets: `make audit`.

Called by `python -m tools.release audit`. pip-audit asks an advisory service for every pin. It
skips, with exit status 0, what the service does not know, and a mirror of an index has no
advisories at all: so a package with a famous hole is asked for first. If nothing is known of that
one, the data cannot be had, and the audit fails. It fails as well when any package is skipped or
left out. It must not say that nothing is known when nobody could be asked.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.requirements import FOLDER, SETS, pinned

Pin = tuple[str, str]  # name and version

# CVE-2019-10906, a way out of the sandbox, known to every service since 2019.
_CANARY: Final = "jinja2==2.10"
# Of both architectures; the file for tests of Kubeflow's server is no part of a release.
AUDITED: Final = tuple(name for name in SETS if name != "kubeflow-e2e")


class NoAdvisories(Exception):
    """The service could not be asked, or knows nothing; the message says what was seen."""


@dataclass(frozen=True)
class Service:
    """Whom to ask: pip-audit's name of it, and another address than its own."""

    name: str = "osv"
    url: str | None = None

    @property
    def options(self) -> list[str]:
        """As pip-audit takes them."""
        return [
            "--vulnerability-service",
            self.name,
            *(["--osv-url", self.url] if self.url else []),
        ]


def require_advisories(service: Service) -> None:
    """Raise NoAdvisories unless the service knows what everybody knows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "canary.txt")
        path.write_text(f"{_CANARY}\n", encoding="utf-8")
        rows = _asked(path, service)
    known = [row for row in rows if row.get("vulns")]
    if not known:
        told = next(
            (row["skip_reason"] for row in rows if row.get("skip_reason")), "nothing is known"
        )
        raise NoAdvisories(
            f"Advisories cannot be had from '{service.name}': of {_CANARY}, which has known holes, "
            f"it says: {told}. Nothing was audited."
        )


def problems(path: Path, service: Service) -> list[str]:
    """What is known against the pins of one requirement file, and which of them nobody looked at.

    Raises NoAdvisories when the service cannot be asked.
    """
    wanted = pinned(path.read_text(encoding="utf-8"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, pins in enumerate(apart(wanted)):
            bare = Path(folder, f"{number}.txt")
            bare.write_text("".join(f"{name}=={version}\n" for name, version in pins))
            rows += _asked(bare, service)
    return judged(path.name, set(wanted), rows)


def apart(wanted: list[Pin]) -> list[list[Pin]]:
    """As few lists as hold no name twice, which pip-audit refuses.

    Without markers: it leaves out whatever another Python than this one installs.
    """
    lists: list[list[Pin]] = []
    for name, version in wanted:
        free = (one for one in lists if name not in {each for each, _ in one})
        chosen = next(free, None)
        if chosen is None:
            lists.append(chosen := [])
        chosen.append((name, version))
    return lists


def judged(file: str, wanted: set[Pin], rows: list[dict[str, Any]]) -> list[str]:
    """The sentences that pip-audit's answer for `file` amounts to."""
    sentences = []
    for row in rows:
        if row.get("skip_reason"):
            sentences.append(f"{file}: {row['name']} was skipped: {row['skip_reason']}")
        for found in row.get("vulns", ()):
            mended = ", ".join(found["fix_versions"]) or "no version"
            sentences.append(
                f"{file}: {row['name']} {row['version']} has {found['id']}; mended in {mended}."
            )
    skipped = {row["name"] for row in rows if row.get("skip_reason")}
    seen = {(row["name"], row.get("version")) for row in rows}
    unseen = sorted(pin for pin in wanted - seen if pin[0] not in skipped)
    return sentences + [f"{file}: {name} {version} was not looked at." for name, version in unseen]


def _asked(path: Path, service: Service) -> list[dict[str, Any]]:
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(path), "--no-deps", "--disable-pip",
        "--progress-spinner", "off", "--format", "json", *service.options,
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        rows: list[dict[str, Any]] = json.loads(found.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        said = [line for line in found.stderr.splitlines() if line.strip()]
        last = said[-1][:300] if said else "pip-audit said nothing"
        raise NoAdvisories(f"Advisories cannot be had from '{service.name}': {last}") from error
    return rows


def all_problems(service: Service) -> list[str]:
    """Of every requirement file; those for both architectures are asked for as they are."""
    require_advisories(service)
    return [line for name in AUDITED for line in problems(FOLDER / f"{name}.txt", service)]

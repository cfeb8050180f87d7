"""One target under Atheris: `python -m tests.fuzz.one TARGET [options of libFuzzer] CORPUS …`.

Called by `python -m tests.fuzz`, which says what that gives. Our code is instrumented as it is
imported, so nothing of it may be imported before.
"""

import sys

import atheris

with atheris.instrument_imports(include=["halftone", "pydantic", "yaml"]):
    from tests.fuzz.targets import TARGETS, run


def main() -> None:
    """Fuzz until libFuzzer's own limits; it ends the process."""
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *options], lambda data: run(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""What every test gets: a clean environment and its tier's time limit.

Called by pytest. Fixtures that know a stage's data belong to that tier's own conftest.py.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tools.environments import interpreter

ROOT = Path(__file__).resolve().parent.parent
IN_CI = bool(os.environ.get("CI"))

# Seconds a test may take in each tier; a test's own `timeout` mark wins. Unit tests have the
# two seconds of pyproject.toml. Soak tests are bounded by whoever runs them.
TIMEOUTS = {
    "contract": 60,
    "integration": 300,
    "api": 180,
    "node": 900,
    "endpoint": 2400,
    "nodepools": 2400,
    "alerting": 1800,
    "kubeflow": 2400,
    "gpu": 900,
    "soak": 0,
}
if IN_CI:  # the machine is shared: only a hang may exceed these, and no mark makes them less
    TIMEOUTS |= {"unit": 300, "contract": 600, "integration": 1500, "api": 900, "node": 1800}

# Who starts us in the background (`nohup`, `&` in a script) has us ignore these, and so would every
# command that a test starts; what a test tells a command must reach it.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        at_first = signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, at_first)

# A developer's credentials, settings and caches must not decide a test; nor may a test use them.
FOREIGN_PREFIXES = ("AWS_", "HALFTONE_", "HF_", "HUGGING_FACE_", "NUMBA_", "VLLM_")

# The interpreters of peers are found before any test's environment is cleaned; tests reach them
# through `tests/environments.py`.
PEERS = {name: interpreter(name) for name in ("quantize", "serve", "serve-gpu")}

# Examples vary on a developer's machine and repeat in CI; slowness of a machine is no failure.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("developer", deadline=None, suppress_health_check=_SLOW)
settings.register_profile(
    "ci", deadline=None, suppress_health_check=_SLOW, derandomize=True, database=None
)
settings.load_profile("ci" if IN_CI else "developer")


def pytest_configure() -> None:
    """Tests share the cores: a peer's thread that waits awake for another takes them from the rest.

    Benchmarks import this module too, and measure peers as they are.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time limit of the folder that it stands in."""
    for item in items:
        tier = "soak" if item.get_closest_marker("soak") else item.path.relative_to(ROOT).parts[1]
        own = item.get_closest_marker("timeout")
        if tier in TIMEOUTS and (own is None or (IN_CI and 0 < own.args[0] < TIMEOUTS[tier])):
            item.add_marker(pytest.mark.timeout(TIMEOUTS[tier]), append=False)  # the nearest


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials or settings from outside, and bytecode is kept for processes of a test."""
    for name in list(os.environ):
        if is_foreign(name):
            monkeypatch.delenv(name)


def is_foreign(name: str) -> bool:
    """Whether a variable of the environment is kept from tests and from what they start."""
    return name.startswith(FOREIGN_PREFIXES) or name == "PYTHONDONTWRITEBYTECODE"


@pytest.fixture(autouse=True, scope="session")
def no_files_left_behind() -> Iterator[None]:
    """Fail when a test wrote into the checkout; only in CI, where nobody else writes there."""
    before = _untracked() if IN_CI else set()
    yield
    after = _untracked() if IN_CI else set()
    assert after <= before, f"tests left files behind: {sorted(after - before)}"


def _untracked() -> set[str]:
    """Files of the checkout that git neither tracks nor ignores."""
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return set(listed.stdout.splitlines())

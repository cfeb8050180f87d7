"""The compiled pipeline in the package is what its sources give.

We test these aspects:
- compiling again gives the same file, to the byte.
"""

import subprocess
import sys

from tests.conftest import ROOT


def test_the_compiled_pipeline_is_what_its_sources_give() -> None:
    command = [sys.executable, "-m", "tools.pipelines", "check"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr

"""The tables of docs/scaling.md: what its commands say on this machine, and so on every other.

We test these aspects: each row of both tables has the attainment and the replica-hours that
`halftone replay` gives; the plots that the page shows are those of its commands.
"""

import json
import re
from pathlib import Path
from typing import Final

import pytest

from tests.commands import halftone
from tests.conftest import ROOT

TEXT: Final = (ROOT / "docs" / "scaling.md").read_text()
COMMAND: Final = ("--profile", "dense-27b", "--lead-seconds", "277")
# Rows of the first table, columns of the second, by the policy that they are about.
POLICIES: Final = {
    "eight replicas, as the peak needs": "static-8",
    "HPA on KV use and waiting requests": "hpa-kv",
    "KEDA on waiting requests": "keda-waiting",
    "KEDA on tokens": "keda-tokens",
    "llm-d's latency ratio": "latency-ratio",
    "Workload Variant Autoscaler, version 1": "wva-v1",
    "Ray's ongoing requests": "ray-ongoing",
    "Halftone": "halftone",
    "one who knows the load": "oracle",
}
COLUMNS: Final = ("static-8", "latency-ratio", "halftone", "oracle")


def replayed(load: str, *options: str) -> dict[str, tuple[str, str]]:
    """Attainment in percent, cut as the command's table cuts it, and replica-hours, by policy."""
    done = halftone("replay", load, *COMMAND, *options, "--json")
    assert done.code == 0, done.err
    return {
        row["policy"]: (f"{int(row['attainment'] * 1000) / 10:.1f}", f"{row['replicaHours']:.2f}")
        for row in json.loads(done.out)
    }


def test_the_table_of_a_step_is_what_its_command_gives() -> None:
    assert f"halftone replay step {' '.join(COMMAND)}\n" in TEXT
    table = re.findall(r"(?m)^\| ([^|]+) \| ([\d.]+) % \| ([\d.]+) \|$", TEXT)
    assert [name for name, _, _ in table] == list(POLICIES)
    found = replayed("step")
    assert {POLICIES[name]: (met, hours) for name, met, hours in table} == found


@pytest.mark.parametrize("load", ["ramp", "square", "diurnal"])
def test_the_table_of_other_loads_is_what_their_commands_give(load: str) -> None:
    assert f"halftone replay {load} {' '.join(COMMAND)}\n" in TEXT
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{load}` |"))
    told = re.findall(r"([\d.]+) % for ([\d.]+)", row)
    found = replayed(load, "--policies", ",".join(COLUMNS))
    assert dict(zip(COLUMNS, told, strict=True)) == found


@pytest.mark.parametrize("load", ["step", "ramp"])
def test_a_plot_is_that_of_its_command(tmp_path: Path, load: str) -> None:
    done = halftone("replay", load, *COMMAND, "--output", tmp_path)
    assert done.code == 0, done.err
    shown = (ROOT / "docs" / "images" / f"replay-{load}.svg").read_text()
    assert (tmp_path / f"replay-{load}.svg").read_text() == shown

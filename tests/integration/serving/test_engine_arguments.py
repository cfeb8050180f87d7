"""vLLM takes what the endpoint gives it, for every mode and reference model, and serves one so.

We test these aspects: each row of the golden tables becomes a configuration of vLLM that means what
the mode says; the list of argument names is vLLM's own; sources and kernels that the tables name
exist; a quantized pocket model with a measured FP8 cache is served with its own prediction head,
whose drafts are accepted, and the check at start finds our kernels and the measured scales.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.checkpoint.serving_modes import mode_rows
from tests.commands import quantize_directory
from tests.conftest import ROOT
from tests.environments import ask
from tests.quantizing import recipe
from tests.served_models import REFERENCES, assistant, endpoint, served_model, small_model
from tests.serving_goldens import golden

pytestmark = pytest.mark.serve_env

POCKET = ROOT / "examples" / "pocket-model" / "checkpoint"
NAMES = ROOT / "src" / "halftone" / "serve" / "arguments" / "vllm_arguments.yaml"
KERNELS = ROOT / "src" / "halftone" / "validate" / "gates" / "kernels.yaml"
PROMPT = [1, 5, 9, 20, 33] * 20
DEVICES = ("B200", "CPU")  # H100 and A100 differ from B200 in refusals only, GB10 in a number
LONG = 262_144
Row = tuple[str, str, str]  # model, device, mode


def expected_kernels() -> list[str]:
    """Every class that `kernels.yaml` names."""
    devices = yaml.safe_load(KERNELS.read_text())["devices"]
    return sorted({name for row in devices for names in row["formats"].values() for name in names})


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[Row, dict[str, Any]]:
    """Every row that is not refused, with the directory that it is for."""
    folder = tmp_path_factory.mktemp("references")
    drafts = {"assistant": assistant(folder), "small": small_model(folder)}
    rows = {}
    for name in REFERENCES:
        directory = str(served_model(folder, name).path)
        for device in DEVICES:
            for mode, arguments in golden(name)[device].items():
                if "refused" in arguments:
                    continue
                given = dict(arguments)
                if "draft " in mode:
                    place = drafts[mode.rpartition(" ")[2]].path
                    given["speculative_config"] |= {"model": str(place)}
                rows[name, device, mode] = {"model": directory, "arguments": given}
    return rows


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantized, with scales of a cache that were measured, as far as its server can tell."""
    fields = {"kvCache": {"format": "FP8", "scales": "Calibrated"}}
    chosen = recipe(fields, Attention="NVFP4A16", Mlp="NVFP4A16")
    out = tmp_path_factory.mktemp("pocket") / "quantized"
    return quantize_directory(POCKET, out, chosen).directory


@pytest.fixture(scope="module")
def answer(
    asked: dict[Row, dict[str, Any]], pocket: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    served = endpoint(
        modes=["text", "tools", "speculative"], accelerator="CPU", draftTokens=2, maxModelLen=512
    )
    request = {
        "cases": list(asked.values()),
        "sources": sorted({source for row in mode_rows() for source in row.sources}),
        "kernels": expected_kernels(),
        "live": {
            "model": str(pocket),
            "uri": "s3://models/pocket",
            "endpoint": served.model_dump(mode="json"),
            "tokens": PROMPT,
        },
    }
    work = tmp_path_factory.mktemp("asked")
    found: dict[str, Any] = ask(
        "serve", "vllm_engine_arguments.py", request, work=work, timeout_s=300
    )
    return found


@pytest.fixture(scope="module")
def outcomes(asked: dict[Row, dict[str, Any]], answer: dict[str, Any]) -> dict[Row, dict[str, Any]]:
    return dict(zip(asked, answer["cases"], strict=True))


def test_vllm_takes_every_row(outcomes: dict[Row, dict[str, Any]]) -> None:
    refused = {row: found["refused"] for row, found in outcomes.items() if "refused" in found}
    assert refused == {}
    assert {row[0] for row in outcomes} == set(REFERENCES)


def test_vllm_reads_every_row_as_it_is_meant(outcomes: dict[Row, dict[str, Any]]) -> None:
    for (name, device, mode), found in outcomes.items():
        told = f"{name} {device} {mode}: {found}"
        assert bool(found["sees"]) == (mode == "multimodal"), told
        assert (found["speculation"] is not None) == mode.startswith("speculative"), told
        if mode == "multimodal":
            assert found["sees"] == 4, told
        if mode == "tools":
            assert found["parsers"] == [True, True], told
        if mode == "longContext":
            assert (found["maxModelLen"], found["maxSequences"]) == (LONG, 2), told
            assert found["kvCacheDtype"] == "fp8", told


def test_vllm_speculates_as_the_reference_models_are_served(
    outcomes: dict[Row, dict[str, Any]],
) -> None:
    found = {row: outcome["speculation"] for row, outcome in outcomes.items() if row[1] == "B200"}
    assert found["S0", "B200", "speculative"] == ["mtp", 3]
    assert found["S4", "B200", "speculative"] == ["mtp", 2]
    assert found["S2", "B200", "speculative, draft assistant"] == ["mtp", 3]
    assert found["S2", "B200", "speculative, draft small"] == ["draft_model", 3]


def test_the_names_of_arguments_are_those_of_vllm(answer: dict[str, Any]) -> None:
    assert yaml.safe_load(NAMES.read_text()) == answer["names"], (
        "write them anew with `.venvs/serve/bin/python tests/peers/vllm_argument_names.py "
        "src/halftone/serve/arguments/vllm_arguments.yaml`"
    )


def test_sources_and_kernels_that_the_tables_name_are_in_vllm(answer: dict[str, Any]) -> None:
    assert answer["missing"] == []


def test_the_check_at_start_finds_our_kernels_and_the_measured_scales(
    answer: dict[str, Any],
) -> None:
    live = answer["live"]
    assert live["device"]["accelerator"] == "CPU"
    assert live["device"]["engine"].startswith("vllm 0.32.0")
    assert live["kernels"]
    assert live["cacheScales"]
    assert all(key != 1 and value != 1 for _, key, value in live["cacheScales"])
    assert "without Halftone's kernels" in live["withoutKernels"]


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told(answer: dict[str, Any]) -> None:
    assert (
        "`accelerator: GPU` is wanted and no GPU can be used here" in answer["live"]["withoutGpu"]
    )


def test_the_models_own_head_drafts_on_a_cpu(answer: dict[str, Any]) -> None:
    live = answer["live"]
    first, second = live["tokens"]
    assert first == second
    assert len(first) == 24
    assert live["drafts"] > 0
    assert 0 < live["accepted"] <= 2 * live["drafts"]
    # What a replica tells of it is what vLLM's own counters say.
    assert live["told"] == {"drafts": live["drafts"], "acceptedTokens": live["accepted"]}

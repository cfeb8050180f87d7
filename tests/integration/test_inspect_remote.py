"""Inspection over `hf://`: headers and global scales, within a budget, and said what was read.

We test these aspects:
- our result for the 35B-A3B base, as planned, from files without weights on disk
- scales that lie scattered: all of them within the budget, else some of every layer
- the error against a source that is remote too, from a sample
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from halftone.spec.names import DefectKind, RemarkReason
from halftone.validate.budget import Budget
from halftone.validate.findings import Extent
from halftone.validate.inspection import inspect_uri
from tests.builders import full_size_config, write_checkpoint, write_safetensors, write_sparse
from tests.builders import read_checkpoint as read_tensors
from tests.commands import quantize_directory
from tests.doubles.hub import HubDouble
from tests.quantizing import write_planned

Serve = Callable[[Path], str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serves a directory as a repository of the Hub; one at a time."""
    with ExitStack() as running:

        def start(directory: Path) -> str:
            double = running.enter_context(HubDouble(directory))
            monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
            return double.uri

        yield start


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A mixture of experts, and our result with every tensor beside its companions."""
    folder = tmp_path_factory.mktemp("tiny")
    source = write_checkpoint(folder / "source", "qwen3_5_moe")
    quantize_directory(source, folder / "out")
    tensors = read_tensors(folder / "out")
    ordered = {name: tensors[name] for name in sorted(tensors)}
    write_safetensors(folder / "out" / "model.safetensors", ordered)
    return source, folder / "out"


def planned_result(base: str, preset: str, folder: Path) -> Path:
    """What we would write for a full-size base, without weights."""
    source = write_sparse(folder / "base", full_size_config(base), experts="Fused")
    return write_planned(source, folder / "planned", preset)


def test_our_35b_result_is_inspected_in_25_megabytes(tmp_path: Path, serve: Serve) -> None:
    inspection = inspect_uri(serve(planned_result("35B-A3B", "nvfp4a16", tmp_path)))
    assert inspection.defects == ()
    assert inspection.warnings == ()
    assert inspection.bytes == 25_025_868_128
    assert inspection.read.globalScales.extent is Extent.Complete
    assert inspection.read.globalScales.total == 40 + 120 + 30_720  # attention, shared, experts
    assert inspection.read.values.extent is Extent.NotRead
    assert inspection.read.bytes <= 25_000_000
    assert inspection.read.requests <= 200


def test_scattered_scales_are_all_read_where_the_budget_allows(
    tiny: tuple[Path, Path], serve: Serve
) -> None:
    inspection = inspect_uri(serve(tiny[1]))
    assert inspection.read.globalScales.extent is Extent.Complete
    assert inspection.read.values.extent is Extent.Complete  # so small that all of it fits
    assert inspection.defects == ()


def test_else_some_of_every_layer_are_read_and_it_says_so(
    tiny: tuple[Path, Path], serve: Serve
) -> None:
    uri = serve(tiny[1])
    header = int.from_bytes((tiny[1] / "model.safetensors").read_bytes()[:8], "little")
    few = Budget(nbytes=header + 300_000, requests=24)
    inspection = inspect_uri(uri, budget=few)
    read = inspection.read
    assert read.globalScales.extent is Extent.Sampled
    assert 0 < read.globalScales.read < read.globalScales.total
    assert read.requests <= few.requests
    assert read.bytes <= few.nbytes
    assert [w.reason for w in inspection.warnings] == [RemarkReason.Sampled]
    layers = {
        group.name.split(".layers.")[1][0]
        for group in inspection.groups
        if None not in group.globalScales
    }
    assert layers == {"0", "1", "2", "3"}


def test_an_unequal_scale_is_found_without_a_download(
    tiny: tuple[Path, Path], tmp_path: Path, serve: Serve
) -> None:
    shutil.copytree(tiny[1], tmp_path / "x")
    tensors = read_tensors(tiny[1])
    name = "model.language_model.layers.1.mlp.shared_expert.up_proj.weight_global_scale"
    tensors[name] = tensors[name]._replace(data=np.float32(77).tobytes())
    write_safetensors(tmp_path / "x" / "model.safetensors", tensors)
    inspection = inspect_uri(serve(tmp_path / "x"))
    assert [(d.kind, d.tensor) for d in inspection.defects] == [
        (DefectKind.UnequalGlobalScales, name)
    ]


def test_the_error_against_a_source_is_estimated_from_a_sample(
    tiny: tuple[Path, Path], serve: Serve
) -> None:
    source, checkpoint = tiny
    few = Budget(nbytes=1_300_000, requests=60)
    inspection = inspect_uri(serve(checkpoint), str(source), few)
    assert inspection.defects == ()
    assert inspection.read.requests <= few.requests
    assert inspection.read.bytes <= few.nbytes
    assert inspection.read.weights.extent is Extent.Sampled
    compared = [line for line in inspection.roles if line.relativeErrorServing is not None]
    assert {line.role for line in compared} == {"Attention", "Experts", "SharedExperts"}
    for line in compared:
        assert line.relativeErrorServing == pytest.approx(0.095, abs=0.006)

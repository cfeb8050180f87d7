"""Example 07: five published checkpoints as jobs, held to what is known of them, at full size.

The published figures are stated here and nowhere computed: roles, formats, bytes of tensors.
Headers are those of the published configurations, made by builders that are no part of the package.

We test these aspects of each job:
- it takes the published base, with its licence, and is planned without a refusal;
- roles have the formats of the published checkpoint and all other roles stay as they are;
- bytes of tensors are exact, and so are both ratios; a head that was lost is kept, and without it
  the published size comes out;
- what the configuration ignores is every kept matrix and no quantized one, as the layout reads it;
- method, layout, KV cache, and what is measured on how many rows;
- each gate that the card's own statements allow is there, and publishing in public asks for a word
  where the licence restricts it;
- the operator takes it too, and the README states these figures.
"""

import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.control.acceptance import first_refusal
from halftone.control.observed import Observed
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.publish.licences import refuse_unacknowledged
from halftone.quantize.configuration import configuration_files, matrices
from halftone.spec.documents import Method
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.gates import Metric, Speed
from halftone.spec.job import (
    KvCache,
    KvCacheFormat,
    KvCacheScales,
    MultiTokenPrediction,
    QuantizationJob,
    ScaleSearch,
)
from halftone.spec.recipes import parse_job, read_yaml, resolve
from halftone.spec.roles import Role
from halftone.spec.targets import LicenceConsent
from halftone.stores import open_source
from tests.builders import full_size_config, write_sparse
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "07-reference-models"
FP8_UNIT = KvCache(format=KvCacheFormat.FP8)
FP8_MEASURED = KvCache(format=KvCacheFormat.FP8, scales=KvCacheScales.Calibrated)


class Published(NamedTuple):
    """What is known of a published checkpoint. `kept` is in names of modules that are ignored."""

    repository: str
    base: str
    licence: str
    formats: dict[Role, Format]
    nbytes: int
    ratios: tuple[str, str]
    kept: tuple[str, ...]
    layout: CheckpointFormat = CheckpointFormat.CompressedTensors
    cache: KvCache | None = None
    rows: tuple[int, tuple[str, ...]] | None = None
    without_head: int | None = None


_GDN = ".linear_attn.in_proj_qkv"
_ATTENTION_AND_MLP = {Role.Attention: Format.NVFP4A16, Role.Mlp: Format.NVFP4A16}
PUBLISHED = {
    "s0-qwen-27b": Published(
        "Qwen/Qwen3.6-27B", "27B", "apache-2.0", _ATTENTION_AND_MLP, 28_551_539_168,
        ("3.56", "1.95"), (_GDN, "lm_head", "embed_tokens", "visual.", "mtp."),
    ),
    "s1-qwable-35b-a3b": Published(
        "lordx64/Qwable-v1", "35B-A3B", "agpl-3.0",
        dict.fromkeys((Role.Attention, Role.Experts, Role.SharedExperts), Format.NVFP4A16),
        25_025_868_128, ("3.56", "2.87"),
        (_GDN, ".mlp.gate", ".shared_expert_gate", "lm_head", "embed_tokens", "visual.", "mtp."),
    ),
    "s2-gemma-12b": Published(
        "google/gemma-4-12b-it", "Gemma-12B", "gemma", {Role.Mlp: Format.NVFP4}, 11_710_104_704,
        ("3.56", "2.04"), (".self_attn.q_proj", "embed_tokens", "embed_vision", "embed_audio"),
        layout=CheckpointFormat.ModelOpt, cache=FP8_MEASURED, rows=(2048, ("Text",)),
    ),
    "s3-qwen-27b-w4a4": Published(
        "Qwen/Qwen3.6-27B", "27B", "apache-2.0",
        dict.fromkeys((Role.Attention, Role.Mlp, Role.LinearAttention), Format.NVFP4),
        20_592_849_504, ("3.56", "2.70"), (".conv1d", "lm_head", "embed_tokens", "visual.", "mtp."),
        layout=CheckpointFormat.ModelOpt, cache=FP8_UNIT, rows=(128, ("Text", "Image")),
        without_head=19_743_450_720,
    ),
    "s4-qwen-35b-a3b-fp8": Published(
        "Qwen/Qwen3.5-35B-A3B", "35B-A3B", "apache-2.0",
        dict.fromkeys((Role.Attention, Role.Experts), Format.FP8_DYNAMIC), 39_481_900_768,
        ("2.00", "1.82"),
        (_GDN, ".mlp.gate", ".shared_expert_gate", ".shared_expert.up_proj", "lm_head", "visual."),
    ),
}  # fmt: skip
JOBS = pytest.mark.parametrize("name", PUBLISHED)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each base by the name of its job, as sparse files with the licence of its repository."""
    root = tmp_path_factory.mktemp("sources")
    return {
        name: write_sparse(
            root / name,
            full_size_config(published.base),
            layer_scalars=False,
            licence=published.licence,
        )
        for name, published in PUBLISHED.items()
    }


@pytest.fixture(scope="module")
def plans(sources: dict[str, Path]) -> dict[str, Planned]:
    return {name: planned(job(name), source) for name, source in sources.items()}


def job(name: str) -> QuantizationJob:
    path = FOLDER / f"{name}.yaml"
    return parse_job(read_yaml(path), path.name)


def planned(wanted: QuantizationJob, source: Path, **changes: Any) -> Planned:
    recipe = resolve(wanted.spec.quantization, wanted.metadata.name).model_copy(update=changes)
    with_files = open_source(source)
    try:
        return plan_checkpoint(read_checkpoint(with_files), recipe)
    finally:
        with_files.close()


def test_there_is_a_job_for_each_of_the_five() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PUBLISHED)


@JOBS
def test_it_takes_the_published_base_and_keeps_its_licence(
    name: str, plans: dict[str, Planned]
) -> None:
    source, plan = job(name).spec.source.huggingFace, plans[name].plan
    assert source is not None
    assert source.repository == PUBLISHED[name].repository
    assert plan.refusal is None
    assert plan.source is not None
    assert plan.source.licence == PUBLISHED[name].licence


@JOBS
def test_roles_have_the_formats_of_the_published_checkpoint(
    name: str, plans: dict[str, Planned]
) -> None:
    lines = plans[name].plan.roles
    assert {line.role: line.format for line in lines if line.format} == PUBLISHED[name].formats
    kept = [line for line in lines if line.format is None]
    assert kept
    assert all(line.bytesAfter == line.bytesBefore for line in kept)


@JOBS
def test_its_bytes_and_ratios_are_exact(name: str, plans: dict[str, Planned]) -> None:
    plan = plans[name].plan
    assert plan.output is not None
    assert plan.sizes is not None
    assert plan.output.bytes == PUBLISHED[name].nbytes
    assert (plan.sizes.quantized.ratio, plan.sizes.whole.ratio) == PUBLISHED[name].ratios


def test_the_head_that_the_published_s3_lost_is_kept(
    plans: dict[str, Planned], sources: dict[str, Path]
) -> None:
    name = "s3-qwen-27b-w4a4"
    assert Role.MultiTokenPrediction in {line.role for line in plans[name].plan.roles}
    dropped = planned(job(name), sources[name], multiTokenPrediction=MultiTokenPrediction.Drop)
    assert dropped.plan.output is not None
    assert dropped.plan.output.bytes == PUBLISHED[name].without_head


def test_what_a_server_merges_shares_its_scale_in_every_expert(plans: dict[str, Planned]) -> None:
    """In the published S1 nearly all experts have two scales where vLLM takes one."""
    groups = [one for one in plans["s1-qwable-35b-a3b"].plan.groups if one.format is not None]
    pairs = [group for group in groups if ".experts." in group.name and len(group.members) == 2]
    assert len(pairs) == 40 * 256
    shared = [group for group in groups if "shared_expert." in group.name]
    assert len([group for group in shared if len(group.members) == 2]) == 40


@JOBS
def test_its_configuration_ignores_what_is_kept_and_nothing_else(
    name: str, plans: dict[str, Planned]
) -> None:
    files = configuration_files(plans[name], full_size_config(PUBLISHED[name].base))
    block = files["config.json"]["quantization_config"]
    modules = matrices(plans[name])
    ignored = {module for module in modules if is_ignored(module, block)}
    assert ignored == {module for module, chosen in modules.items() if chosen is None}
    for word in PUBLISHED[name].kept:
        assert any(word in module for module in ignored), word
    if block["quant_method"] == "compressed-tensors":
        targets = [one for group in block["config_groups"].values() for one in group["targets"]]
        assert all(fits(module, targets) for module in modules.keys() - ignored)


def is_ignored(module: str, block: dict[str, Any]) -> bool:
    """By the rules of its layout: expressions and names, or patterns with stars."""
    if block["quant_method"] == "compressed-tensors":
        return fits(module, block["ignore"])
    return any(fnmatchcase(module, pattern) for pattern in block["ignore"])


def fits(module: str, rules: list[str]) -> bool:
    return any(
        re.match(rule.removeprefix("re:"), module) if rule.startswith("re:") else rule == module
        for rule in rules
    )


@JOBS
def test_method_layout_cache_and_data_are_the_published_ones(
    name: str, plans: dict[str, Planned]
) -> None:
    published, plan = PUBLISHED[name], plans[name].plan
    assert plan.recipe is not None
    assert plan.recipe.checkpointFormat is published.layout
    assert plan.recipe.kvCache == published.cache
    calibration = plan.recipe.calibration
    measured = (calibration.samples, calibration.modalities) if calibration else None
    assert measured == published.rows
    assert plan.method is (Method.Calibrated if published.rows else Method.DataFree)
    if plan.method is Method.DataFree and Format.NVFP4A16 in published.formats.values():
        assert plan.recipe.scaleSearch is ScaleSearch.Exhaustive  # less error in as many bytes


@JOBS
def test_it_is_proven_on_an_engine_before_it_is_published(name: str) -> None:
    metrics = [gate.metric for gate in job(name).spec.validation.gates]
    wanted = {Metric.EngineLoads, Metric.KlDivergence, Metric.Perplexity, Metric.Task, Metric.Speed}
    assert wanted <= set(metrics)
    served_with_head = name in {"s0-qwen-27b", "s4-qwen-35b-a3b-fp8"} or name.startswith("s3")
    assert (Metric.AcceptanceLength in metrics) is served_with_head


def test_speed_is_judged_where_the_published_ones_state_it() -> None:
    loads = {
        name: [g.concurrency for g in job(name).spec.validation.gates if isinstance(g, Speed)]
        for name in PUBLISHED
    }
    assert loads["s1-qwable-35b-a3b"] == [1, 16]
    assert loads["s2-gemma-12b"] == [1, 32]


@JOBS
def test_publishing_in_public_asks_for_a_word_where_the_licence_does(name: str) -> None:
    publish, licence = job(name).spec.publish, PUBLISHED[name].licence
    assert publish is not None
    refuse_unacknowledged(licence, publish)
    if publish.licence is LicenceConsent.Acknowledged:
        silent = publish.model_copy(update={"licence": LicenceConsent.Inherit})
        with pytest.raises(RefusedInput, match=licence):
            refuse_unacknowledged(licence, silent)


@JOBS
def test_the_operator_takes_it_too(name: str) -> None:
    wanted = job(name)
    metadata = {"name": wanted.metadata.name, "namespace": "halftone"}
    assert first_refusal(wanted.spec, Observed(metadata, {}, {}, datetime.now(UTC))) is None


def test_the_readme_states_these_figures() -> None:
    text = (FOLDER / "README.md").read_text()
    for name, published in PUBLISHED.items():
        (row,) = (line for line in text.splitlines() if f"]({name}.yaml)" in line)
        assert f"{published.nbytes:,}" in row
        assert published.repository in row
        assert published.without_head is None or f"{published.without_head:,}" in row

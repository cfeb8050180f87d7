"""What the engine writes from statistics, on every tiny family and in both layouts.

The statistics are made by hand (`tests.builders.statistics`); what each scale must be is computed
here, from names and NumPy alone.

We test these aspects:
- both layouts hold the same codes and block scales bit for bit, and ModelOpt's factor is float32 of
  one over the divisor; dividing instead of multiplying moves no value by more than 2^-22 of the
  largest
- an input scale is that of its whole group, experts of a layer included, as the layout stores it
- scales of the KV cache stand where each layout's loaders look, Gemma's layers without values too
- FP8 with one scale a group takes it from the largest member, whatever the tiles and the workers
- zeros give the scales that the library gives
"""

import json
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from halftone.checkpoint import reference
from halftone.checkpoint.digests import checkpoint_digest
from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import plan_checkpoint
from halftone.spec.formats import CheckpointFormat, Format
from halftone.stores import open_source
from tests import builders
from tests.builders import TINY, Tensor, as_float32, write_checkpoint, write_statistics
from tests.builders.statistics import any_amax, caches
from tests.commands import Made, files_of, quantize_directory, wide_config
from tests.quantizing import codes, mixture, recipe

CT, MODELOPT = CheckpointFormat.CompressedTensors, CheckpointFormat.ModelOpt
NVFP4 = {Format.NVFP4, Format.NVFP4A16}
FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv"),
    **dict.fromkeys(("gate_proj", "up_proj", "w1", "w3"), "gate_up"),
    **dict.fromkeys(("in_proj_qkv", "in_proj_z"), "qkvz"),
}


class Pair(NamedTuple):
    """One source in both layouts."""

    compressed_tensors: Made
    modelopt: Made

    def stored(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tensors of each."""
        return tuple(builders.read_checkpoint(made.directory) for made in self)  # type: ignore[return-value]


@pytest.fixture(scope="module", params=TINY)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp(request.param)
    source = write_checkpoint(root / "source", request.param)
    return Pair(*(quantize_directory(source, root / of, mixture(of)) for of in (CT, MODELOPT)))


def quantized(made: Made) -> dict[str, Format]:
    """The format of each quantized module."""
    return {
        t.name.removesuffix(".weight"): t.format
        for t in made.planned.tensors
        if t.format is not None
    }


def number(tensor: Tensor) -> np.float32:
    """The one value of a tensor."""
    values = as_float32(tensor).reshape(-1)
    assert values.size == 1
    return np.float32(values[0])


def fp8_scale(amax: float) -> np.float32:
    """amax / 448, rounded to BF16."""
    scale = np.array([np.float32(amax) / np.float32(448)], np.float32)
    return np.float32(reference.bf16_decode(reference.bf16_encode(scale))[0])


def test_both_layouts_hold_the_same_codes_and_values(pair: Pair) -> None:
    ours, theirs = pair.stored()
    formats = quantized(pair.modelopt)
    assert formats == quantized(pair.compressed_tensors)
    for module, fmt in formats.items():
        scale, twin = ours[f"{module}.weight_scale"], theirs[f"{module}.weight_scale"]
        if fmt not in NVFP4:
            assert ours[f"{module}.weight"] == theirs[f"{module}.weight"]
            assert twin.dtype == "F32"
            assert np.array_equal(as_float32(scale).reshape(-1), as_float32(twin).reshape(-1))
            continue
        packed = codes(ours[f"{module}.weight_packed"])
        assert np.array_equal(packed, codes(theirs[f"{module}.weight"]))
        assert scale == twin
        divisor = number(ours[f"{module}.weight_global_scale"])
        factor = number(theirs[f"{module}.weight_scale_2"])
        assert factor == np.float32(1) / divisor  # a server that reads divisors multiplies by this
        values = reference.nvfp4_dequantize(packed, codes(scale), factor, multiplies=True)
        divided = reference.nvfp4_dequantize(packed, codes(scale), divisor)
        assert np.abs(values).max() > 0
        assert np.abs(values - divided).max() <= 2.0**-22 * np.abs(values).max()


def test_the_layouts_differ_in_nothing_but_quantized_tensors(pair: Pair) -> None:
    ours, theirs = pair.stored()
    modules = tuple(f"{module}." for module in quantized(pair.modelopt))
    scales = (".k_scale", ".v_scale")

    def rest(stored: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: t for n, t in stored.items() if not n.startswith(modules) and not n.endswith(scales)
        }

    assert rest(ours) == rest(theirs)
    assert {name.rpartition(".")[2] for name in theirs} & {
        "weight_packed",
        "input_global_scale",
    } == set()


def input_groups(made: Made) -> dict[str, list[str]]:
    """Modules whose input is quantized, by what shares a scale: worked out from their names."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for module, fmt in quantized(made).items():
        if fmt not in {Format.NVFP4, Format.FP8}:
            continue
        parent, _, leaf = module.rpartition(".")
        if ".experts." in module:
            parent = parent.rpartition(".")[0]
        groups[f"{parent}.{FUSED.get(leaf, leaf)}"].append(module)
    return groups


def test_input_scales_are_those_of_their_groups(pair: Pair) -> None:
    ours, theirs = pair.stored()
    formats = quantized(pair.modelopt)
    groups = input_groups(pair.modelopt)
    assert any(len(members) > 2 for members in groups.values())
    for members in groups.values():
        amax = max(map(any_amax, members))
        for module in members:
            twin = theirs[f"{module}.input_scale"]
            assert (twin.dtype, twin.shape) == ("F32", ())
            if formats[module] is Format.FP8:
                stored = ours[f"{module}.input_scale"]
                assert (stored.dtype, stored.shape) == ("BF16", (1,))
                assert number(stored) == number(twin) == fp8_scale(amax)
                continue
            stored = ours[f"{module}.input_global_scale"]
            assert (stored.dtype, stored.shape) == ("F32", (1,))
            divisor = reference.nvfp4_global_scale(amax)
            assert number(stored) == divisor
            assert number(twin) == np.float32(1) / divisor


def test_scales_of_the_cache_stand_where_loaders_look(pair: Pair) -> None:
    ours, theirs = pair.stored()
    modules = caches(pair.modelopt.planned)
    assert modules
    for attention in modules:
        for half in "kv":
            expected = fp8_scale(any_amax(f"{attention}.{half}"))
            stored = ours[f"{attention}.{half}_scale"]
            twin = theirs[f"{attention}.{half}_proj.{half}_scale"]
            assert (stored.dtype, stored.shape) == ("BF16", (1,))
            assert (twin.dtype, twin.shape) == ("F32", ())
            assert number(stored) == number(twin) == expected
    for stored_tensors in (ours, theirs):
        found = [name for name in stored_tensors if name.endswith((".k_scale", ".v_scale"))]
        assert len(found) == 2 * len(modules)


def test_the_documents_say_what_was_written(pair: Pair) -> None:
    for made, stored in zip(pair, pair.stored(), strict=True):
        document = made.document
        assert document.statisticsDigest is not None
        assert document.digest == checkpoint_digest(document.files)
        for group in document.groups:
            module = group.members[0].removesuffix(".weight")
            suffix = {Format.NVFP4: "weight_global_scale", Format.FP8: "weight_scale"}
            if made is pair.modelopt:
                suffix[Format.NVFP4] = "weight_scale_2"
            if group.format not in suffix:
                assert group.globalScale is None
                continue
            scale = number(stored[f"{module}.{suffix[group.format]}"])
            assert np.float32(group.globalScale) == scale
    files = {file.path for file in pair.modelopt.document.files}
    assert "hf_quant_config.json" in files
    assert not any("hf_quant" in file.path for file in pair.compressed_tensors.document.files)
    without = [f for f in pair.modelopt.document.files if f.path != "hf_quant_config.json"]
    assert checkpoint_digest(without) != pair.modelopt.document.digest


def test_the_configuration_says_it_twice_in_modelopts_layout(pair: Pair) -> None:
    folder = pair.modelopt.directory
    own = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]
    block = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert block["quant_method"] == "modelopt"
    assert block["quant_algo"] == own["quant_algo"] == "MIXED_PRECISION"
    assert block["quantized_layers"] == own["quantized_layers"]
    assert own["kv_cache_quant_algo"] == "FP8"
    assert block["kv_cache_scheme"] == {"dynamic": False, "num_bits": 8, "type": "float"}
    named = {name.split(".experts.")[0] for name in quantized(pair.modelopt)}
    assert {name.removesuffix(".experts") for name in own["quantized_layers"]} == named


@pytest.mark.parametrize("fmt", ["FP8", "NVFP4"])
def test_large_groups_share_a_scale_whatever_the_workers(
    fmt: str, wide_source: Path, tmp_path: Path
) -> None:
    chosen = recipe(Attention=fmt, Mlp=fmt)
    made = [quantize_directory(wide_source, tmp_path / str(n), chosen, workers=n) for n in (1, 5)]
    assert files_of(made[0].directory) == files_of(made[1].directory)
    if fmt != "FP8":
        return
    originals, stored = (
        builders.make_tensors(wide_config()),
        builders.read_checkpoint(tmp_path / "1"),
    )
    assert any(len(group.members) == 3 for group in made[0].document.groups)
    for group in made[0].document.groups:
        weights = [as_float32(originals[name]) for name in group.members]
        scale = fp8_scale(max(float(np.abs(one).max()) for one in weights))
        error = weight = 0.0
        for name, values in zip(group.members, weights, strict=True):
            assert number(stored[f"{name}_scale"]) == scale
            bits = reference.bf16_encode(values)
            found = reference.fp8_quantize(
                bits, reference.bf16_encode(np.full((1, 1), scale, np.float32)), values.shape
            )
            assert np.array_equal(found, codes(stored[name]))
            after = reference.fp8_dequantize(
                found, np.full((1, 1), scale, np.float32), values.shape
            )
            error += float(np.square(values.astype(np.float64) - after).sum())
            weight += float(np.square(values.astype(np.float64)).sum())
        assert float(group.relativeError) == pytest.approx((error / weight) ** 0.5, abs=3e-6)


def test_zeros_alone_give_the_librarys_scales(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    chosen = mixture(CT)
    with closing(open_source(source)) as opened:
        planned = plan_checkpoint(read_checkpoint(opened), chosen)
    zeros = write_statistics(planned, tmp_path / "zeros", amax=lambda module: 0.0)

    made = quantize_directory(source, tmp_path / "made", chosen, statistics=zeros)

    stored = builders.read_checkpoint(made.directory)
    assert number(stored["model.layers.0.self_attn.q_proj.input_scale"]) == 2.0**-7
    assert number(stored["model.layers.0.self_attn.k_scale"]) == 2.0**-7
    assert number(stored["model.layers.0.mlp.up_proj.input_global_scale"]) == 1.0

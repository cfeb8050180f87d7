"""What fits on a device: sizes that a server can split, the memory left, and what is said of it."""

import re
from typing import Any

import pytest

from halftone.plan.cache import kv_cache
from halftone.plan.devices import Device, find_device
from halftone.plan.fit import Fit, Verdict, fit
from halftone.plan.splitting import Matrix
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format, stored_bytes
from halftone.spec.names import Reason
from tests.builders import full_size_config

S0_BYTES = 28_551_539_168  # the 27B with Attention and Mlp in NVFP4A16
H100 = find_device("H100")


def _mlp(fmt: Format | None, hidden: int = 5120, inner: int = 17408) -> list[Matrix]:
    return [
        Matrix("model.layers.0.mlp.gate_proj.weight", inner, hidden, fmt, "Column"),
        Matrix("model.layers.0.mlp.up_proj.weight", inner, hidden, fmt, "Column"),
        Matrix("model.layers.0.mlp.down_proj.weight", hidden, inner, fmt, "Row"),
    ]


def _fit(
    matrices: list[Matrix],
    device: Device = H100,
    context: int = 32_768,
    config: dict[str, Any] | None = None,
    kv_format: Any = "auto",
    weight_bytes: int = S0_BYTES,
) -> Fit:
    return fit(
        device, context, weight_bytes, config or full_size_config("27B"), matrices, kv_format
    )


def _verdicts(report: Fit) -> dict[int, Verdict]:
    return {row.size: row.verdict for row in report.tensorParallelSizes}


def _reason(report: Fit, size: int) -> str:
    [row] = [row for row in report.tensorParallelSizes if row.size == size]
    assert row.reason is not None
    return row.reason


def test_the_27b_in_nvfp4_fits_one_h100() -> None:
    report = _fit(_mlp(Format.NVFP4A16))
    assert (report.device, report.memoryBytes) == ("H100", 85_520_809_984)
    assert report.tensorParallelSize == 1
    assert report.weightBytes == S0_BYTES
    assert (report.blockTokens, report.bytesPerBlock) == (784, 51_380_224)
    assert report.blocks == report.cacheBytes // report.bytesPerBlock
    assert report.blocksPerRequest == 3 + 42
    assert report.concurrentRequests == (report.blocks - 1) // 45


def test_cache_weights_and_reserve_stay_within_the_granted_memory() -> None:
    report = _fit(_mlp(Format.NVFP4A16))
    granted = report.memoryBytes * 92 // 100
    reserve = granted - report.cacheBytes - report.weightBytes
    assert 2 * 2**30 < reserve < 8 * 2**30
    assert f"{reserve / 2**30:.1f} GiB" in report.notes[0]


def test_a_dense_model_that_names_the_width_of_experts_as_null_has_a_report() -> None:
    config = full_size_config("27B")
    dense = {"moe_intermediate_size": None, "num_experts_per_tok": None}
    named = config | {"text_config": config["text_config"] | dense}

    assert _fit(_mlp(Format.NVFP4A16), config=named) == _fit(_mlp(Format.NVFP4A16))


def test_every_assumption_is_said_with_its_value() -> None:
    note = _fit(_mlp(Format.NVFP4A16)).notes[0]
    for word in ("92 %", "--gpu-memory-utilization 0.92", "8192 tokens a step", "1024 sequences"):
        assert word in note


def test_sizes_go_up_to_the_machines_gpus() -> None:
    assert list(_verdicts(_fit([], H100))) == [1, 2, 4, 8]
    assert list(_verdicts(_fit([], find_device("GB200")))) == [1, 2, 4]
    assert list(_verdicts(_fit([], find_device("GB10")))) == [1]


def test_more_ranks_hold_less_of_the_split_matrices_and_all_of_the_rest() -> None:
    matrices = _mlp(Format.NVFP4A16)
    layout = CheckpointFormat.CompressedTensors
    split = sum(stored_bytes(Format.NVFP4A16, layout, m.rows, m.columns) for m in matrices)
    rows = {row.size: row for row in _fit(matrices).tensorParallelSizes}
    for size in (1, 2, 4, 8):
        # The per-tensor scales, four bytes each, are on every rank.
        assert rows[size].weightBytes == S0_BYTES - split + (split - 12) // size + 12


@pytest.mark.parametrize(
    ("layout", "width"), [(CheckpointFormat.CompressedTensors, 2), (CheckpointFormat.ModelOpt, 4)]
)
def test_scales_are_as_wide_as_the_layout_stores_them(layout: CheckpointFormat, width: int) -> None:
    gate = _mlp(Format.FP8_DYNAMIC)[:1]
    report = fit(H100, 32_768, S0_BYTES, full_size_config("27B"), gate, "auto", layout)
    rows = {row.size: row for row in report.tensorParallelSizes}
    assert rows[1].weightBytes - rows[2].weightBytes == 17408 * (5120 + width) // 2


def test_a_replicated_matrix_is_whole_on_every_rank() -> None:
    router = Matrix("model.layers.0.mlp.gate.weight", 255, 2048, None, "Replicated")
    report = _fit([router])
    assert {row.weightBytes for row in report.tensorParallelSizes} == {S0_BYTES}
    assert Verdict.Illegal not in _verdicts(report).values()


def test_kv_projections_are_copied_rather_than_cut_through_a_head() -> None:
    kv = Matrix("model.layers.3.self_attn.k_proj.weight", 4 * 256, 5120, None, "Column")
    rows = {
        row.size: row for row in _fit([kv], weight_bytes=kv.rows * 5120 * 2).tensorParallelSizes
    }
    assert rows[4].weightBytes == rows[8].weightBytes == 256 * 5120 * 2


def test_a_copied_kv_head_keeps_its_fp8_blocks_whole() -> None:
    config = full_size_config("35B-A3B")  # two KV heads of 256
    kv = Matrix("model.layers.3.self_attn.k_proj.weight", 512, 2048, Format.FP8_BLOCK, "Column")
    assert Verdict.Illegal not in _verdicts(_fit([kv], config=config)).values()
    other = kv._replace(name="model.layers.3.mlp.shared_expert.up_proj.weight")
    assert _verdicts(_fit([other], config=config))[8] is Verdict.Illegal


@pytest.mark.parametrize(
    ("fmt", "inner", "size", "sentence"),
    [
        (Format.NVFP4A16, 224, 8, "28 columns of .*down_proj.*multiples of 32"),
        (Format.FP8_DYNAMIC, 208, 4, "52 columns of .*down_proj.*multiples of 32"),
        (Format.FP8_BLOCK, 512, 8, "64 rows of .*gate_proj.*blocks of FP8_BLOCK have 128"),
        (Format.FP8_BLOCK_A16, 1792, 8, "224 rows of .*gate_proj.*have 128"),
        (None, 1001, 2, "has 1001 rows, which 2 does not divide"),
    ],
)
def test_a_share_that_kernels_do_not_take_makes_a_size_illegal(
    fmt: Format | None, inner: int, size: int, sentence: str
) -> None:
    report = _fit(_mlp(fmt, inner=inner))
    assert _verdicts(report)[size] is Verdict.Illegal
    assert re.search(sentence, _reason(report, size))
    assert _verdicts(report)[1] is Verdict.Fits  # one rank splits nothing


def test_the_same_shapes_in_bf16_are_legal() -> None:
    assert Verdict.Illegal not in _verdicts(_fit(_mlp(None, inner=224))).values()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_attention_heads": 12}, "12 attention heads cannot be dealt out to 8 ranks"),
        ({"linear_num_key_heads": 4}, "4 linear-attention key heads cannot be dealt out to 8"),
        ({"linear_num_value_heads": 12}, "12 linear-attention value heads"),
        ({"num_key_value_heads": 6}, "6 KV heads can be neither dealt out to nor copied on 8"),
    ],
)
def test_heads_that_cannot_be_dealt_out_make_a_size_illegal(
    changes: dict[str, Any], sentence: str
) -> None:
    config = full_size_config("27B")
    config["text_config"] = config["text_config"] | changes
    report = _fit([], config=config)
    assert sentence in _reason(report, 8)
    assert _verdicts(report)[2] is Verdict.Fits


def test_a_vision_tower_is_split_too() -> None:
    config = full_size_config("27B")
    config["vision_config"] = config["vision_config"] | {"num_heads": 6}
    assert "6 heads of the vision tower" in _reason(_fit([], config=config), 4)


def test_the_smallest_size_that_fits_speaks_for_the_report() -> None:
    bf16 = 55_560_000_000
    body = [Matrix("body", 1024 * 24, 1024 * 1024, None, "Column")]
    report = _fit(body, find_device("L40S"), 4096, weight_bytes=bf16)
    assert _verdicts(report)[1] is Verdict.DoesNotFit
    assert "leave no room" in _reason(report, 1)
    assert report.tensorParallelSize == 2
    assert report.concurrentRequests > 0


def test_nothing_fits_where_the_weights_do_not() -> None:
    report = _fit([], find_device("RTX-4090"))
    assert set(_verdicts(report).values()) == {Verdict.DoesNotFit}
    assert report.concurrentRequests == 0
    assert report.tensorParallelSize == 2


def test_a_context_that_no_server_would_start_with_does_not_fit() -> None:
    report = _fit(_mlp(Format.NVFP4A16), find_device("RTX-PRO-6000"), context=1_000_000)
    assert _verdicts(report)[1] is Verdict.DoesNotFit
    assert "for a request of 1000000 tokens" in _reason(report, 1)
    assert any("beyond the model's own limit of 262144" in note for note in report.notes)


@pytest.mark.parametrize(
    ("device", "told"), [("B200", False), ("H100", True), ("RTX-PRO-6000", True)]
)
def test_a_format_without_a_native_kernel_is_named(device: str, told: bool) -> None:
    notes = _fit(_mlp(Format.NVFP4A16), find_device(device)).notes
    assert any("no native kernel for NVFP4A16" in note for note in notes) is told


def test_the_concurrency_that_a_server_prints_is_explained() -> None:
    report = _fit(_mlp(Format.NVFP4A16))
    [row] = [row for row in report.tensorParallelSizes if row.size == 1]
    assert row.reservedBlocksPerRequest == report.blocksPerRequest + 3
    assert any(f"sets aside {row.reservedBlocksPerRequest}" in note for note in report.notes)


def test_more_requests_than_a_server_runs_by_default_are_pointed_out() -> None:
    report = _fit([], find_device("B300"), context=100)
    assert report.concurrentRequests > 1024
    assert any("--max-num-seqs" in note for note in report.notes)


@pytest.mark.parametrize(("context", "told"), [(555, True), (32_768, False)])
def test_an_fp8_cache_that_gains_nothing_is_pointed_out(context: int, told: bool) -> None:
    notes = _fit([], context=context, kv_format="fp8").notes
    assert any("gains nothing at this context" in note for note in notes) is told


def test_a_split_cache_is_reported_for_one_rank() -> None:
    report = _fit(_mlp(Format.NVFP4A16))
    for row in report.tensorParallelSizes:
        pool = kv_cache(full_size_config("27B"), "auto", row.size)
        assert row.bytesPerBlock == pool.bytes_per_block
        assert row.concurrentRequests == pool.concurrent_requests(row.cacheBytes, 32_768)


@pytest.mark.parametrize("name", ["27B", "35B-A3B", "Gemma-12B"])
def test_every_reference_family_has_a_report(name: str) -> None:
    report = _fit([], find_device("B200"), config=full_size_config(name))
    assert set(_verdicts(report).values()) == {Verdict.Fits}


def test_a_devices_own_note_is_passed_on() -> None:
    assert "shared with the CPU" in _fit([], find_device("GB10")).notes[-1]


def test_a_context_below_one_is_refused() -> None:
    with pytest.raises(RefusedInput, match="`--context` 0 must be at least 1") as refused:
        _fit([], context=0)
    assert refused.value.reason is Reason.InvalidJob

"""What fits on a device: KV blocks, concurrent requests, legal tensor-parallel sizes.

`halftone plan --gpu NAME --context N` calls `fit` with the planned matrices. It is pure: sizes go
in, a report comes out. It predicts what vLLM 0.32 does with its defaults and measures nothing, so
whatever is assumed is said in `notes`; a capacity card replaces it once a device is measured.
Expert parallelism, pipelines and speculative decoding are not considered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from halftone.plan.cache import KvFormat, integer, kv_cache, text_config
from halftone.plan.devices import Device, Kernel
from halftone.plan.splitting import Matrix, Splitting
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format, stored_bytes
from halftone.spec.names import Reason

GIB: Final = 2**30
# CUDA context, NCCL buffers and CUDA graphs. Not derived: servers of this size report 1 to 2 GiB.
_RUNTIME_BYTES: Final = 3 * GIB // 2
# Steps that a server has scheduled and not yet settled: asynchronous scheduling overlaps two.
_STEPS_IN_FLIGHT: Final = 2
_BF16_BYTES: Final = 2
_SPECULATIVE_NOTE: Final = (
    "No speculative decoding is counted: a multi-token-prediction head adds a KV layer, and a "
    "hybrid model then holds one more state block a group for each drafted token."
)


class Verdict(StrEnum):
    """What becomes of one tensor-parallel size."""

    Fits = "Fits"
    DoesNotFit = "DoesNotFit"  # legal, but memory does not hold one request of this context
    Illegal = "Illegal"  # a server cannot split the model so


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorParallelSize(_Row):
    """The model spread over `size` GPUs; bytes and blocks are those of one of them.

    `reason` says why a size does not fit or is illegal; an illegal one has no figures.
    """

    size: int
    verdict: Verdict
    reason: str | None = None
    weightBytes: int = 0
    cacheBytes: int = 0
    blockTokens: int = 0
    bytesPerBlock: int = 0
    blocks: int = 0
    blocksPerRequest: int = 0
    reservedBlocksPerRequest: int = 0
    concurrentRequests: int = 0


class Fit(_Row):
    """The report. Figures at the top are those of `tensorParallelSize`, the smallest that fits.

    When none fits they are those of the largest legal size, with `concurrentRequests` 0.
    """

    device: str
    memoryBytes: int
    context: int
    kvFormat: KvFormat
    tensorParallelSize: int
    weightBytes: int
    cacheBytes: int
    blockTokens: int
    bytesPerBlock: int
    blocks: int
    blocksPerRequest: int
    concurrentRequests: int
    tensorParallelSizes: tuple[TensorParallelSize, ...]
    notes: tuple[str, ...]


def fit(
    device: Device,
    context: int,
    weight_bytes: int,
    config: dict[str, Any],
    matrices: Sequence[Matrix],
    kv_format: KvFormat,
    layout: CheckpointFormat = CheckpointFormat.CompressedTensors,
) -> Fit:
    """What `device` holds of a model of `weight_bytes`, for requests of `context` tokens in all.

    `matrices` are those that a server splits; whatever else is in `weight_bytes` is counted on
    every rank. `config` is the parsed `config.json`. `kv_format` is "fp8" also where the
    checkpoint itself asks for it. Raises RefusedInput for a context below 1 and for a
    configuration without a KV-cache rule.
    """
    if context < 1:
        raise RefusedInput(
            Reason.InvalidJob, "--context", f"`--context` {context} must be at least 1 token."
        )
    case = _Case(device, context, weight_bytes, config, tuple(matrices), kv_format, layout)
    # Servers split heads, and heads come in powers of two; a machine's GPUs are the limit.
    sizes = [2**power for power in range(device.gpusPerNode.bit_length())]
    rows = tuple(_judge(case, size) for size in sizes)
    legal = [row for row in rows if row.verdict is not Verdict.Illegal]
    best = next((row for row in legal if row.verdict is Verdict.Fits), legal[-1])
    return Fit(
        device=device.name,
        memoryBytes=device.memory_bytes,
        context=context,
        kvFormat=kv_format,
        tensorParallelSize=best.size,
        weightBytes=best.weightBytes,
        cacheBytes=best.cacheBytes,
        blockTokens=best.blockTokens,
        bytesPerBlock=best.bytesPerBlock,
        blocks=best.blocks,
        blocksPerRequest=best.blocksPerRequest,
        concurrentRequests=best.concurrentRequests,
        tensorParallelSizes=rows,
        notes=tuple(_notes(case, best)),
    )


@dataclass(frozen=True)
class _Case:
    """The question, and what a server takes from it before it splits anything."""

    device: Device
    context: int
    weight_bytes: int
    config: dict[str, Any]
    matrices: tuple[Matrix, ...]
    kv_format: KvFormat
    layout: CheckpointFormat

    @cached_property
    def text(self) -> dict[str, Any]:
        return text_config(self.config)

    @cached_property
    def batch_tokens(self) -> int:
        """Tokens a step by default (`EngineArgs.get_batch_defaults`, OpenAI server)."""
        if self.device.memory_bytes >= 160 * GIB:
            return 16384
        return 8192 if self._is_large else 2048

    @cached_property
    def max_sequences(self) -> int:
        """Sequences that run at once by default (the same function)."""
        return 1024 if self._is_large else 256

    @property
    def _is_large(self) -> bool:
        return self.device.memory_bytes >= 70 * GIB and not self.device.name.startswith("A100")

    @cached_property
    def splitting(self) -> Splitting:
        return Splitting(self.config, self.matrices)

    def reserve(self, size: int) -> int:
        """Bytes that a rank needs beside weights and cache: an estimate, text input only.

        The largest step's activations (four of the hidden size; gate, up and their product of
        the widest MLP; 2 bytes each), float32 logits and a sorted copy for every sequence that
        may run, and the runtime.
        """
        experts = integer(self.text, "num_experts_per_tok", integer(self.text, "top_k_experts", 1))
        # Configurations of dense models name the field too, and say null.
        sparse = self.text.get("moe_intermediate_size") is not None
        widest = experts * integer(
            self.text, "moe_intermediate_size" if sparse else "intermediate_size"
        )
        values = 4 * integer(self.text, "hidden_size") + 3 * widest // size
        logits = self.max_sequences * integer(self.text, "vocab_size") * 4 * 2
        return _RUNTIME_BYTES + self.batch_tokens * values * 2 + logits


def _judge(case: _Case, size: int) -> TensorParallelSize:
    """One row of the report."""
    pool = kv_cache(case.config, case.kv_format, size)
    reason = next(case.splitting.obstacles(size), None)
    if reason is not None:
        return TensorParallelSize(size=size, verdict=Verdict.Illegal, reason=reason)
    weights = _weight_bytes_on_rank(case, size)
    granted = case.device.memory_bytes * case.device.memoryPercent // 100
    cache_bytes = max(0, granted - weights - case.reserve(size))
    blocks = pool.blocks(cache_bytes)
    in_flight = _STEPS_IN_FLIGHT * case.batch_tokens
    reserved = pool.reserved_blocks_per_request(case.context, in_flight)
    starts = blocks > reserved  # one block is never handed out
    return TensorParallelSize(
        size=size,
        verdict=Verdict.Fits if starts else Verdict.DoesNotFit,
        reason=None if starts else _why_too_small(case.context, blocks, reserved),
        weightBytes=weights,
        cacheBytes=cache_bytes,
        blockTokens=pool.block_tokens,
        bytesPerBlock=pool.bytes_per_block,
        blocks=blocks,
        blocksPerRequest=pool.blocks_per_request(case.context),
        reservedBlocksPerRequest=reserved,
        concurrentRequests=pool.concurrent_requests(cache_bytes, case.context) if starts else 0,
    )


def _why_too_small(context: int, blocks: int, reserved: int) -> str:
    if blocks == 0:
        return "The weights and the server's own memory leave no room for a KV cache."
    return (
        f"A server reserves {reserved} blocks for a request of {context} tokens and has "
        f"{blocks - 1}; use a shorter context or more GPUs."
    )


def _weight_bytes_on_rank(case: _Case, size: int) -> int:
    """Bytes of weights on one of `size` ranks; what `matrices` leave out is on each."""
    whole = sum(_stored(case, m.format, m.rows, m.columns) for m in case.matrices)
    share = sum(_stored(case, m.format, *case.splitting.share(size, m)) for m in case.matrices)
    return max(0, case.weight_bytes - whole) + share


def _stored(case: _Case, fmt: Format | None, rows: int, columns: int) -> int:
    if fmt is None:
        return rows * columns * _BF16_BYTES
    return stored_bytes(fmt, case.layout, rows, columns)


def _notes(case: _Case, best: TensorParallelSize) -> Iterator[str]:
    """What the reader must know to believe the figures."""
    device = case.device
    yield (
        f"Assumed, not measured: a server takes {device.memoryPercent} % of the memory "
        f"(`--gpu-memory-utilization {device.memoryPercent / 100:g}`) and of that "
        f"{case.reserve(best.size) / GIB:.1f} GiB for activations ({case.batch_tokens} tokens a "
        f"step), logits ({case.max_sequences} sequences) and its runtime, with text input only."
    )
    for fmt in sorted({m.format for m in case.matrices if m.format is not None}):
        if device.kernels[fmt] is Kernel.Marlin:
            yield (
                f"{device.name} has no native kernel for {fmt}: Marlin unpacks the weights to 16 "
                "bits, which saves memory and reads but no arithmetic."
            )
    yield from _cache_notes(case, best)
    if best.concurrentRequests > case.max_sequences:
        yield (
            f"A server runs at most {case.max_sequences} sequences by default; set "
            f"`--max-num-seqs` to use room for {best.concurrentRequests}."
        )
    longest = case.text.get("max_position_embeddings")
    if isinstance(longest, int) and case.context > longest:
        yield f"The context is beyond the model's own limit of {longest} tokens."
    yield _SPECULATIVE_NOTE
    if device.note is not None:
        yield device.note


def _cache_notes(case: _Case, best: TensorParallelSize) -> Iterator[str]:
    if best.reservedBlocksPerRequest > best.blocksPerRequest:
        yield (
            f"A decoding request holds {best.blocksPerRequest} blocks, but a server sets aside "
            f"{best.reservedBlocksPerRequest} for it at start (earlier states for prefix caching, "
            "windows with steps in flight) and so reports a maximum concurrency of about "
            f"{best.blocks // best.reservedBlocksPerRequest}."
        )
    wide = kv_cache(case.config, "auto", best.size)
    at_16_bits = wide.concurrent_requests(best.cacheBytes, case.context)
    if case.kv_format == "fp8" and 0 < best.concurrentRequests <= at_16_bits:
        yield (
            "An FP8 KV cache gains nothing at this context: states set the size of a block, and a "
            "request holds as many blocks as with 16 bits."
        )

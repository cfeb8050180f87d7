"""Which tensor-parallel sizes a model has, and what of a matrix each rank gets.

`fit` counts memory by it, and the endpoint refuses an illegal size before a weight is read. Pure.
The rules are those of vLLM 0.32's parallel linear layers and of the kernels behind them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from halftone.plan.cache import attention_shapes, text_config
from halftone.spec.formats import FP8_BLOCK_SIDE, Format

# A rank's share of the inputs (K) of a quantized matrix: vllm-project/vllm#48898.
K_MULTIPLE: Final = 32
_BLOCK_FORMATS: Final = (Format.FP8_BLOCK, Format.FP8_BLOCK_A16)


class Matrix(NamedTuple):
    """One weight of `rows` outputs and `columns` inputs, as a server splits it.

    Column-parallel matrices are cut between rows (a rank computes some of the outputs),
    row-parallel ones between columns. `format` None is BF16.
    """

    name: str
    rows: int
    columns: int
    format: Format | None
    split: Literal["Column", "Row", "Replicated"]


@dataclass(frozen=True)
class Splitting:
    """The model of `config` (a parsed `config.json`), whose split weights are `matrices`.

    `towers`: the parts that see and hear are served too.
    """

    config: dict[str, Any]
    matrices: tuple[Matrix, ...]
    towers: bool = True

    @cached_property
    def _text(self) -> dict[str, Any]:
        return text_config(self.config)

    @cached_property
    def _kv_rows(self) -> dict[int, int]:
        """Rows of a K or V projection -> rows of one head, which is never cut."""
        return {heads * width: width for heads, width in attention_shapes(self._text)}

    def obstacles(self, size: int) -> Iterator[str]:
        """Why `size` ranks cannot serve the model, a sentence each. One rank splits nothing."""
        if size == 1:
            return
        for what, count in self._counts():
            if isinstance(count, int) and count % size:
                yield f"{count} {what} cannot be dealt out to {size} ranks."
        for heads, _ in attention_shapes(self._text):
            if heads % size and size % heads:
                yield f"{heads} KV heads can be neither dealt out to nor copied on {size} ranks."
        for matrix in self.matrices:
            yield from self._unfit_share(size, matrix)

    def share(self, size: int, matrix: Matrix) -> tuple[int, int]:
        """(rows, columns) of `matrix` on a rank; a KV head stays whole."""
        if matrix.split == "Column":
            return max(self._head_rows(matrix) or 1, matrix.rows // size), matrix.columns
        return matrix.rows, matrix.columns // size if matrix.split == "Row" else matrix.columns

    def _counts(self) -> Iterator[tuple[str, Any]]:
        yield "attention heads", self._text.get("num_attention_heads")
        yield "linear-attention key heads", self._text.get("linear_num_key_heads")
        yield "linear-attention value heads", self._text.get("linear_num_value_heads")
        vision = self.config.get("vision_config")
        if self.towers and isinstance(vision, dict):
            yield "heads of the vision tower", vision.get("num_heads")

    def _unfit_share(self, size: int, matrix: Matrix) -> Iterator[str]:
        """Why a rank's share of `matrix` is not one that kernels take."""
        rows, columns = self.share(size, matrix)
        if matrix.split == "Replicated":
            extent, share, side = size, FP8_BLOCK_SIDE, "rows"
        elif matrix.split == "Column":
            extent, share, side = matrix.rows, rows, "rows"
        else:
            extent, share, side = matrix.columns, columns, "columns"
        if extent % size and self._head_rows(matrix) is None:
            yield f"`{matrix.name}` has {extent} {side}, which {size} does not divide."
        if matrix.format is not None and columns % K_MULTIPLE:
            yield (
                f"A rank would get {columns} columns of `{matrix.name}`; kernels of "
                f"{matrix.format} take multiples of {K_MULTIPLE}."
            )
        if matrix.format in _BLOCK_FORMATS and share % FP8_BLOCK_SIDE:
            yield (
                f"A rank would get {share} {side} of `{matrix.name}`; blocks of {matrix.format} "
                f"have {FP8_BLOCK_SIDE}."
            )

    def _head_rows(self, matrix: Matrix) -> int | None:
        """Rows of one head when `matrix` projects to keys or values; else None."""
        projects = matrix.name.removesuffix(".weight").endswith(("k_proj", "v_proj"))
        return self._kv_rows.get(matrix.rows) if projects else None

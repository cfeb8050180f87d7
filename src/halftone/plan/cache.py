"""How a server cuts a model's KV cache into blocks, from `config.json` alone.

Every layer of a hybrid model draws blocks of one size from one pool, so blocks are sized for the
hungriest kind of layer and memory is counted in blocks per cache group, never in tokens x bytes.
`fit` calls this; it must not read files and knows nothing of devices.

The rules are those of vLLM 0.32 (`vllm/v1/core/kv_cache_utils.py`, `vllm/v1/kv_cache_interface.py`,
`vllm/platforms/interface.py: _align_hybrid_block_size`) with attention kernels that take blocks of
any multiple of 16 tokens and a layer-outermost layout, which is what its CUDA defaults resolve to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from halftone.spec.errors import RefusedInput
from halftone.spec.names import CONFIG_FILE, Reason

KvFormat = Literal["auto", "fp8"]

_LARGEST: Final = 2**24  # no dimension of a model is larger
_MOST_LAYERS: Final = 4096  # of the deepest models some hundred; a list is made of this length
KERNEL_BLOCK_TOKENS: Final = 16  # the attention kernels' granularity, and vLLM's default block
MODEL_DTYPE_BYTES: Final = 2  # `auto` caches in the model's dtype; servers run float32 as 16 bits
_DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


class CacheKind(StrEnum):
    """What a layer remembers, and so how its blocks grow with a request."""

    Full = "Full"  # every token
    SlidingWindow = "SlidingWindow"  # the last tokens
    State = "State"  # one recurrent state, whatever the length


@dataclass(frozen=True)
class LayerCache:
    """One layer's memory on one rank: bytes a token for attention, bytes a request for a state."""

    kind: CacheKind
    token_bytes: int = 0
    state_bytes: int = 0
    window: int = 0


@dataclass(frozen=True)
class CacheGroup:
    """Layers that share a block table; a block of the group holds `block_tokens` tokens."""

    kind: CacheKind
    layers: int
    block_tokens: int
    window: int = 0

    def held_blocks(self, tokens: int) -> int:
        """Blocks that a decoding request of `tokens` tokens holds.

        A window that starts inside a block touches one block more than its length suggests.
        """
        whole = _ceil(tokens, self.block_tokens)
        match self.kind:
            case CacheKind.Full:
                return whole
            case CacheKind.SlidingWindow:
                return min(whole, _ceil(self.window - 1, self.block_tokens) + 1)
            case CacheKind.State:
                return 1

    def reserved_blocks(self, tokens: int, in_flight_tokens: int, prefix_caching: bool) -> int:
        """Blocks that vLLM sets aside for one request when it starts (`max_memory_usage_bytes`).

        More than a request holds: prefix caching keeps the previous state beside the current
        one, and a window still holds what the steps in flight (`in_flight_tokens`) will free.
        """
        match self.kind:
            case CacheKind.Full:
                return _ceil(tokens, self.block_tokens)
            case CacheKind.SlidingWindow:
                live = min(self.window - 1 + in_flight_tokens, tokens)
                return _ceil(live, self.block_tokens) + 1
            case CacheKind.State:
                return 2 if prefix_caching else 1


@dataclass(frozen=True)
class KvCache:
    """The pool's geometry on one rank: `page_bytes` a layer and block."""

    groups: tuple[CacheGroup, ...]
    page_bytes: int

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block: the largest group's layers, each with a page."""
        return self.page_bytes * max(group.layers for group in self.groups)

    @property
    def block_tokens(self) -> int:
        """Tokens a block of the groups that grow with the context; a server's `block_size`."""
        growing = [g for g in self.groups if g.kind is not CacheKind.State]
        return max(growing, key=lambda g: g.kind is CacheKind.Full).block_tokens

    def blocks_per_request(self, tokens: int) -> int:
        """Blocks that a request of `tokens` tokens (prompt and answer) holds, over all groups."""
        return sum(group.held_blocks(tokens) for group in self.groups)

    def reserved_blocks_per_request(
        self, tokens: int, in_flight_tokens: int, prefix_caching: bool = True
    ) -> int:
        """Blocks that must be free for a request of `tokens` tokens, or the server will not start.

        The server's own line "Maximum concurrency" divides the pool by this number. Prefix
        caching is on unless a server is told otherwise.
        """
        return sum(
            group.reserved_blocks(tokens, in_flight_tokens, prefix_caching) for group in self.groups
        )

    def blocks(self, cache_bytes: int) -> int:
        """Blocks in `cache_bytes` of memory, with the one that is never handed out."""
        return max(0, cache_bytes) // self.bytes_per_block

    def concurrent_requests(self, cache_bytes: int, tokens: int) -> int:
        """Requests of `tokens` tokens that decode at once in `cache_bytes` of memory."""
        usable = max(0, self.blocks(cache_bytes) - 1)  # the null block
        return usable // self.blocks_per_request(tokens)


def kv_cache(config: dict[str, Any], kv_format: KvFormat, tensor_parallel: int = 1) -> KvCache:
    """The KV cache of the model of `config` (a parsed `config.json`) on each of `tensor_parallel`.

    Heads that cannot be split are replicated. Draft layers (multi-token prediction) are not
    counted. Raises RefusedInput(UnknownArchitecture) for a family without a rule and
    RefusedInput(MalformedCheckpoint) for a missing or senseless number.
    """
    text = text_config(config)
    value_bytes = 1 if kv_format == "fp8" else MODEL_DTYPE_BYTES
    layers = _layer_caches(text, value_bytes, tensor_parallel)
    kinds = list(dict.fromkeys(layers))
    counts = [layers.count(kind) for kind in kinds]
    page_bytes, block_tokens = _common_page(kinds)
    group_size = _group_size(counts)
    groups: list[CacheGroup] = []
    for kind, count, tokens in zip(kinds, counts, block_tokens, strict=True):
        parts = _ceil(count, group_size)
        sizes = [len(range(part, count, parts)) for part in range(parts)]
        groups += [CacheGroup(kind.kind, size, tokens, kind.window) for size in sizes]
    return KvCache(tuple(groups), page_bytes)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a configuration, nested or not."""
    nested = config.get("text_config", config)
    if not isinstance(nested, dict):
        raise _malformed("text_config", "must be an object")
    return nested


def integer(
    config: dict[str, Any],
    key: str,
    default: int | None = None,
    *,
    least: int = 1,
    most: int = _LARGEST,
) -> int:
    """A whole number of `config.json`; raises RefusedInput(MalformedCheckpoint)."""
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _malformed(key, f"must be an integer from {least} to {most}")
    return value


def attention_shapes(text: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """The distinct (KV heads, head dimension) of the attention layers; sliding ones first."""
    heads = integer(text, "num_attention_heads")
    kv_heads = integer(text, "num_key_value_heads", heads)
    head_dim = text.get("head_dim") or integer(text, "hidden_size") // heads
    if not isinstance(head_dim, int) or head_dim < 1:
        raise _malformed("head_dim", "must be a positive integer")
    sliding = (kv_heads, head_dim)
    if not _is_gemma4(text):
        return (sliding,)
    own = text.get("per_layer_config")
    if isinstance(own, dict) and own:  # how transformers 5 saves what Hub files name globally
        layer = next(iter(own.values()))
        if not isinstance(layer, dict):
            raise _malformed("per_layer_config", "must hold an object for each layer it names")
        return (
            sliding,
            (integer(layer, "num_key_value_heads", kv_heads), integer(layer, "head_dim", 512)),
        )
    shared = integer(text, "num_global_key_value_heads", kv_heads)
    full_heads = shared if text.get("attention_k_eq_v") else kv_heads
    return (sliding, (full_heads, integer(text, "global_head_dim", 512)))


def _common_page(kinds: Sequence[LayerCache]) -> tuple[int, list[int]]:
    """The page that all kinds share, in bytes, and the tokens that each kind puts in one.

    Beside a state, attention blocks grow until they hold it. Without one, the kind with the
    largest page sets it and the others take more tokens, or padding where that does not divide.
    """
    state = max(kind.state_bytes for kind in kinds)
    widest = max(kind.token_bytes for kind in kinds)
    steps = max(1, _ceil(state, KERNEL_BLOCK_TOKENS * widest))
    page = steps * KERNEL_BLOCK_TOKENS * widest
    base = steps * KERNEL_BLOCK_TOKENS
    tokens = []
    for kind in kinds:
        own = base * kind.token_bytes
        tokens.append(base * (page // own) if own and page % own == 0 else base)
    return page, tokens


def _group_size(counts: Sequence[int]) -> int:
    """Layers a group: the rarest kind's, or the commonest's when they are nearly as many."""
    fewest, most = min(counts), max(counts)
    return most if most < fewest * 1.5 else fewest


def _layer_caches(text: dict[str, Any], value_bytes: int, size: int) -> list[LayerCache]:
    """Each layer's cache on one of `size` ranks, in layer order."""
    shapes = attention_shapes(text)
    sliding, full = shapes[0], shapes[-1]
    window = _window(text)

    def attention(shape: tuple[int, int], window: int | None) -> LayerCache:
        kind = CacheKind.Full if window is None else CacheKind.SlidingWindow
        token_bytes = max(1, shape[0] // size) * shape[1] * 2 * value_bytes  # K and V
        return LayerCache(kind, token_bytes=token_bytes, window=window or 0)

    layers: list[LayerCache] = []
    for layer_type in _layer_types(text):
        match layer_type:
            case "full_attention":
                layers.append(attention(full, None))
            case "sliding_attention":
                layers.append(attention(sliding, window or integer(text, "sliding_window")))
            case "linear_attention":
                layers.append(_gated_delta_net(text, size))
            case _:
                raise _malformed("layer_types", f"holds '{layer_type}', which has no cache rule")
    # The last layers of a Gemma 4 may read an earlier layer's cache and own none.
    shared = integer(text, "num_kv_shared_layers", 0, least=0, most=len(layers) - 1)
    own = layers[: len(layers) - shared]
    if all(layer.kind is CacheKind.State for layer in own):
        raise _malformed("layer_types", "must name at least one attention layer with its own cache")
    return own


def _layer_types(text: dict[str, Any]) -> list[str]:
    count = integer(text, "num_hidden_layers", most=_MOST_LAYERS)
    family = str(text.get("model_type", ""))
    if not _is_gemma4(text) and family not in _FAMILIES:
        raise RefusedInput(
            Reason.UnknownArchitecture,
            CONFIG_FILE,
            f"`model_type` '{family}' has no KV-cache rule; leave out `--gpu` to plan without one.",
        )
    named = text.get("layer_types")
    if named is not None:
        if not isinstance(named, list) or len(named) != count:
            raise _malformed("layer_types", f"must be a list of {count} names")
        return [str(name) for name in named]
    if _is_gemma4(text):  # five sliding layers, one full; the last is always full
        return [_every(i, 6, "sliding_attention") for i in range(count - 1)] + ["full_attention"]
    if family.startswith("qwen3_5"):
        interval = integer(text, "full_attention_interval", 4)
        return [_every(i, interval, "linear_attention") for i in range(count)]
    return ["full_attention" if _window(text) is None else "sliding_attention"] * count


def _every(layer: int, interval: int, otherwise: str) -> str:
    return otherwise if (layer + 1) % interval else "full_attention"


_FAMILIES: Final = frozenset(
    {"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"}
    | {"qwen3", "qwen3_moe", "llama", "mistral", "mixtral"}
)


def _is_gemma4(text: dict[str, Any]) -> bool:
    return str(text.get("model_type", "")).startswith("gemma4")


def _window(text: dict[str, Any]) -> int | None:
    """Tokens that a sliding layer sees; None where the family's switch turns windows off."""
    if text.get("sliding_window") is None or text.get("use_sliding_window") is False:
        return None
    window = integer(text, "sliding_window")
    if _is_gemma4(text) and text.get("use_bidirectional_attention") == "all":
        return window // 2 + 1  # as transformers' Gemma4UnifiedTextConfig halves it
    return window


def _gated_delta_net(text: dict[str, Any], size: int) -> LayerCache:
    """Convolution tail and recurrent state (`gated_delta_net_state_shape`), on one of `size`.

    The recurrent state has `mamba_ssm_dtype`, or the model's where the configuration is silent.
    """
    key_dim = integer(text, "linear_key_head_dim")
    value_dim = integer(text, "linear_value_head_dim")
    key_heads = integer(text, "linear_num_key_heads")
    value_heads = integer(text, "linear_num_value_heads")
    channels = 2 * key_dim * key_heads + value_dim * value_heads
    tail = integer(text, "linear_conv_kernel_dim", 4) - 1
    dtype = text.get("mamba_ssm_dtype")
    if dtype is not None and str(dtype) not in _DTYPE_BYTES:
        raise _malformed("mamba_ssm_dtype", f"must be one of {', '.join(_DTYPE_BYTES)}")
    state_value = MODEL_DTYPE_BYTES if dtype is None else _DTYPE_BYTES[str(dtype)]
    convolution = tail * (channels // size) * MODEL_DTYPE_BYTES
    recurrent = (value_heads // size) * value_dim * key_dim * state_value
    return LayerCache(CacheKind.State, state_bytes=convolution + recurrent)


def _malformed(key: str, rule: str) -> RefusedInput:
    return RefusedInput(
        Reason.MalformedCheckpoint, CONFIG_FILE, f"`{key}` of `{CONFIG_FILE}` {rule}."
    )


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)

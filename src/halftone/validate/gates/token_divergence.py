"""What two models think of the same tokens, as numbers: divergence, agreement, loss.

    measured = compare(source_answer, quantized_answer, floor_answer, prompt_set.kinds, digest)
    measured.clustered("kl")          # mean in nats a token, and its standard error

Called by the gates `KlDivergence`, `TopOneAgreement` and `Perplexity`, which share one pair of
answers of `halftone.validate.serving.scoring`; arithmetic only. **KL**: at each position the
source's top k ids have probabilities p_i and, in the other model, q_i; everything else is one more
outcome, the tail, with what is left of each. Then

    KL = sum_i p_i (ln p_i - ln q_i) + p_tail (ln p_tail - ln q_tail)

which is at most the KL over the whole vocabulary, because merging outcomes can only lose divergence
(the log sum inequality: Cover and Thomas, Elements of Information Theory, theorem 2.7.1), and
equals it when k is the vocabulary. Without the tail it would not be a divergence at all, and could
be negative. **Standard errors** treat tokens of one prompt as one cluster, because they are not
independent (Miller, arXiv:2411.00640, clustered standard errors, as a ratio of sums).
**Perplexity** is exp of the mean negative log probability of the prompts' own tokens. First choices
that are tied agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Below this the tail is rounding: log probabilities are FP32, so a sum of k is good to about 1e-7.
_TAIL_FLOOR: Final = 1e-7


@dataclass(frozen=True)
class PromptMeasure:
    """One prompt: a value a scored position, in nats where they are divergences or losses."""

    id: str
    kind: str
    kl: Floats
    agrees: NDArray[np.bool_]
    source_loss: Floats
    quantized_loss: Floats
    positions: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Divergence:
    """What both models said to one prompt set; `floor` is the source against itself."""

    prompts: tuple[PromptMeasure, ...]
    floor: Floats
    prompt_set_sha256: str
    top_k: int
    method: str

    def joined(self, name: str) -> Floats:
        """All positions of all prompts of the field `name`, in order."""
        return np.concatenate([getattr(p, name) for p in self.prompts]).astype(np.float64)

    def clustered(self, name: str) -> tuple[float, float | None]:
        """Mean over tokens of the field `name` and its standard error by prompts."""
        return clustered_mean([np.asarray(getattr(p, name), np.float64) for p in self.prompts])


def compare(
    source: Mapping[str, Any],
    quantized: Mapping[str, Any],
    floor: Mapping[str, Any],
    kinds: Mapping[str, str],
    prompt_set_sha256: str,
) -> Divergence:
    """The measurement from the answers of `score` and twice `follow`.

    ValueError where the answers are not about the same prompts.
    """
    vocabulary = int(source["vocabulary"])
    rows = zip(source["prompts"], quantized["prompts"], strict=True)
    prompts = tuple(_measure(one, other, kinds, vocabulary) for one, other in rows)
    again = zip(source["prompts"], floor["prompts"], strict=True)
    noise = [token_divergence(one, other, vocabulary) for one, other in again]
    return Divergence(
        prompts,
        np.concatenate(noise) if noise else np.zeros(0),
        prompt_set_sha256,
        int(source["topK"]),
        str(quantized["method"]),
    )


def _measure(
    source: Mapping[str, Any], other: Mapping[str, Any], kinds: Mapping[str, str], vocabulary: int
) -> PromptMeasure:
    if source["id"] != other["id"]:
        raise ValueError(f"answers about `{source['id']}` and `{other['id']}` were compared")
    return PromptMeasure(
        source["id"],
        kinds.get(source["id"], "user"),
        token_divergence(source, other, vocabulary),
        _agreement(source, other),
        -np.asarray(source["targets"], np.float64),
        -np.asarray(other["targets"], np.float64),
        tuple(source["positions"]),
        tuple(source["pieces"]),
    )


def token_divergence(
    source: Mapping[str, Any], other: Mapping[str, Any], vocabulary: int
) -> Floats:
    """KL in nats at each position; infinite where the other model's numbers are not finite."""
    p = np.asarray(source["logprobs"], np.float64)
    q = np.asarray(other["logprobs"], np.float64)
    if p.shape != q.shape:
        raise ValueError(f"`{source['id']}` has {p.shape} log probabilities and {q.shape}")
    if p.size == 0:
        return np.zeros(0)
    with np.errstate(invalid="ignore"):
        found: Floats = np.sum(np.exp(p) * (p - q), axis=1)
        if p.shape[1] < vocabulary:
            p_tail, q_tail = _tail(p), _tail(q)
            found = found + p_tail * (np.log(p_tail) - np.log(q_tail))
    # A divergence is never negative; what is, is rounding.
    return np.where(np.isfinite(found), np.maximum(found, 0.0), np.inf)


def _tail(logprobs: Floats) -> Floats:
    """The probability of all other ids."""
    rest: Floats = np.maximum(1.0 - np.exp(logprobs).sum(axis=1), _TAIL_FLOOR)
    return rest


def _agreement(source: Mapping[str, Any], other: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Whether any of the source's likeliest ids is among the other's likeliest."""
    agrees = [
        best == other_best
        or any(
            logprob == best_logprob and (i == other_best or asked >= other_best_logprob)
            for i, logprob, asked in zip(ids, logprobs, asked_row, strict=True)
        )
        for best, best_logprob, ids, logprobs, other_best, other_best_logprob, asked_row in zip(
            source["best"],
            source["bestLogprobs"],
            source["ids"],
            source["logprobs"],
            other["best"],
            other["bestLogprobs"],
            other["logprobs"],
            strict=True,
        )
    ]
    return np.asarray(agrees, np.bool_)


def clustered_mean(clusters: Sequence[Floats]) -> tuple[float, float | None]:
    """Mean of all values, and its standard error when each array is one cluster.

    With sums S_j of n_j values, N in all and mean m: sqrt(J/(J-1) * sum_j (S_j - m n_j)^2) / N.
    None for fewer than two clusters or values that are not finite.
    """
    filled = [cluster for cluster in clusters if cluster.size]
    total = sum(cluster.size for cluster in filled)
    if not total:
        return float("nan"), None
    mean = float(sum(cluster.sum() for cluster in filled) / total)
    if len(filled) < 2 or not np.isfinite(mean):
        return mean, None
    spread = sum(float(cluster.sum() - mean * cluster.size) ** 2 for cluster in filled)
    return mean, float(np.sqrt(len(filled) / (len(filled) - 1) * spread) / total)


def perplexities(measured: Divergence) -> tuple[float, float]:
    """Of the source and of the quantized model, on the prompts' own tokens."""
    with np.errstate(over="ignore"):
        source = np.exp(measured.joined("source_loss").mean())
        quantized = np.exp(measured.joined("quantized_loss").mean())
    return float(source), float(quantized) if np.isfinite(quantized) else float("inf")

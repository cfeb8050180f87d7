"""How far two models' next-token distributions are apart, from the likeliest tokens of each.

Pure; called by `replaying` with what `scoring` read. At one position the old model says the
probabilities p of its k likeliest tokens, the new one q of its own k. **KL** here is the smallest
divergence of new from old that both lists allow:

    S  tokens that both list: p and q are known
    A  tokens that the old model alone lists, taken together: p(A) is known; q(A) is x, at most
       |A| times the new model's k-th probability, and at most what is left of q beside S and the
       tokens that the new model alone lists
    R  all else, taken together: what is left of either

    KL >= sum over S of p ln(p/q)  +  p(A) ln(p(A)/x)  +  p(R) ln(p(R)/q(R))   at the best x

Merging tokens can only lose divergence (the log sum inequality: Cover and Thomas, Elements of
Information Theory, theorem 2.7.1), and x is chosen in the new model's favour, so the truth is at
least this. It is zero for equal models, and equal to the KL over the vocabulary where k is that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from halftone.validate.gates.token_divergence import Floats, clustered_mean
from halftone.validate.statistics import student_quantile

# Below this what is left is rounding: log probabilities are FP32, and a sum of k has that of k.
_FLOOR: Final = 1e-7


@dataclass(frozen=True)
class Scored:
    """One prompt: a value a position of the old answer; `agrees` where the likeliest token is the
    same."""

    kl: Floats
    agrees: Floats


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens, its standard error with tokens of one prompt as one cluster."""

    mean: float
    error: float | None
    prompts: int
    tokens: int

    def bound(self, alpha: float, side: int) -> float:
        """The one-sided bound at level `alpha`: below the mean for side -1, above it for +1.

        Student's, with one degree of freedom less than prompts.
        """
        if self.error is None:
            return side * math.inf
        return self.mean + side * student_quantile(alpha, self.prompts - 1) * self.error


def estimate(clusters: list[Floats]) -> Estimate:
    """Of one array for each prompt; those without a position are left out."""
    filled = [cluster for cluster in clusters if cluster.size]
    mean, error = clustered_mean(filled)
    return Estimate(mean, error, len(filled), sum(cluster.size for cluster in filled))


def scored(
    old: Sequence[Mapping[str, float]], new: Sequence[Mapping[str, float]], top_k: int
) -> Scored:
    """Log probabilities by token at each position, of both models, in the same contexts.

    Each lists its `top_k` likeliest tokens, and may list another beside them.
    """
    pairs = [(one, other) for one, other in zip(old, new, strict=True) if one and other]
    return Scored(
        np.array([least_kl(one, other, top_k) for one, other in pairs]),
        np.array([_agrees(one, other) for one, other in pairs], np.float64),
    )


def least_kl(old: Mapping[str, float], new: Mapping[str, float], top_k: int) -> float:
    """The smallest KL divergence in nats that the two lists of log probabilities allow."""
    smallest = sorted(new.values(), reverse=True)[:top_k][-1]
    known = sum(math.exp(p) * (p - new[token]) for token, p in old.items() if token in new)
    p_both = sum(math.exp(p) for token, p in old.items() if token in new)
    q_both = sum(math.exp(q) for token, q in new.items() if token in old)
    alone = [math.exp(p) for token, p in old.items() if token not in new]
    q_alone = sum(math.exp(q) for token, q in new.items() if token not in old)
    q_left = max(1.0 - q_both, _FLOOR)
    p_alone, p_left = sum(alone), max(1.0 - p_both, _FLOOR)
    if not alone:
        return max(0.0, known + _term(p_left, q_left))
    p_rest = max(p_left - p_alone, 0.0)
    most = min(len(alone) * math.exp(smallest), max(q_left - q_alone, _FLOOR))
    x = min(most, q_left * p_alone / (p_alone + p_rest))
    return max(0.0, known + _term(p_alone, x) + _term(p_rest, max(q_left - x, _FLOOR)))


def _term(p: float, q: float) -> float:
    return p * (math.log(p) - math.log(max(q, 1e-300))) if p > 0 else 0.0


def _agrees(old: Mapping[str, float], new: Mapping[str, float]) -> bool:
    """Whether any of the old model's likeliest tokens is among the new one's likeliest."""
    best = {token for token, p in old.items() if p >= max(old.values())}
    other = {token for token, q in new.items() if q >= max(new.values())}
    return bool(best & other)

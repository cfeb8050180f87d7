"""From what was measured to the loss that a role costs in a format: the model behind the choice.

Called by `halftone.quantize.sweep.sweeping`. Both models are additive: the loss of a combination is
the sum over its roles, as if errors were small, independent, and met each other nowhere.

Without data (`WeightError`), for role r and format f, over its units u of n_u weights:

    loss(r, f) = p_r · Σ_u n_u ||W_u - W'_u||² / ||W_u||² / Σ_u n_u

where p_r is the share of r in the quantizable weights that one token meets (of routed experts only
those that the router picks). So a combination's loss is the mean squared relative weight error over
the weights that a token meets. It takes every weight for equally important and does not see
activations: formats that differ only in those cost the same.

With data (`OutputDivergence`), over decoder layers l and tokens t:

    loss(r, f) = Σ_l mean_t ||h'_lt - h_lt||² / ||h_lt||²

where h is the output of the layer, residual stream included, and h' the same with only role r of
this layer in format f: weights, and activations where the format quantizes them. The inputs are the
unquantized model's, so the sum leaves out how later layers damp or amplify an error. How well it
orders whole models by their KL divergence is measured in tests/integration/test_sweep_is_honest.py.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import fsum, prod
from typing import Any, Final

from halftone.checkpoint.architectures import text_config
from halftone.plan.tensors import LogicalTensor
from halftone.quantize.sweep.document import LayerDivergence
from halftone.quantize.sweep.sampling import Sampled, Unit, units_of
from halftone.quantize.sweep.weight_errors import UnitErrors
from halftone.spec.formats import Format
from halftone.spec.roles import Role

Losses = dict[tuple[Role, Format], float]

# How the families of transformers call the number of experts that a token visits.
EXPERTS_PER_TOKEN: Final = (
    "num_experts_per_tok",  # Qwen, Mixtral, DeepSeek, GLM and most others
    "top_k_experts",  # Gemma 4
    "num_experts_per_token",  # Kimi
    "moe_k",  # ERNIE
    "moe_topk",  # Hunyuan, LongCat
    "moe_top_k",  # Step
)


def weight_losses(
    sample: Mapping[Role, Sampled],
    errors: Mapping[str, UnitErrors],
    shares: Mapping[Role, float],
) -> Losses:
    """The loss of each role in each format by weight error alone; see above."""
    losses: Losses = {}
    for role, some in sample.items():
        total = sum(map(_weights, some.units))
        for fmt in errors[some.units[0].name]:
            squares = sum(_weights(u) * errors[u.name][fmt].squared for u in some.units)
            losses[role, fmt] = shares[role] * squares / total
    return losses


def divergence_losses(measured: Iterable[LayerDivergence], layers: Mapping[Role, int]) -> Losses:
    """The loss of each role in each format by its layers' output; see above.

    `layers` counts all layers of a role: where some were measured, they stand for the others.
    """
    found: defaultdict[tuple[Role, Format], list[float]] = defaultdict(list)
    for one in measured:
        found[one.role, one.format].append(float(one.divergence))
    return {
        (role, fmt): layers[role] * fsum(values) / len(values)
        for (role, fmt), values in found.items()
    }


def token_shares(
    tensors: Mapping[Role, Iterable[LogicalTensor]], config: Mapping[str, Any]
) -> dict[Role, float] | None:
    """The share of each role in the quantizable weights that one token meets; they add up to 1.

    None where `config` does not say how many of the routed experts a token visits.
    """
    met = {}
    for role, matrices in tensors.items():
        units = units_of(matrices)
        weights = sum(map(_weights, units))
        experts = len({unit.expert for unit in units if unit.expert is not None})
        routed = _routed_share(config, experts) if experts else 1.0
        if routed is None:
            return None
        met[role] = weights * routed
    total = sum(met.values())
    return {role: weights / total for role, weights in met.items()}


def _routed_share(config: Mapping[str, Any], experts: int) -> float | None:
    """The part of a layer's `experts` that a token visits; None where that is not said."""
    text = text_config(dict(config))
    picked = next((text[name] for name in EXPERTS_PER_TOKEN if text.get(name) is not None), None)
    if not isinstance(picked, int) or not 0 < picked <= experts:
        return None
    return picked / experts


def _weights(unit: Unit) -> int:
    return sum(prod(member.shape) for member in unit.members)

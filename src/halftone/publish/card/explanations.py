"""Why the card says what it says: formats and layouts in words, and why a role was kept."""

from typing import Final

from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.roles import QUANTIZABLE_ROLES, Role

FORMATS_IN_WORDS: Final[dict[Format, str]] = {
    Format.NVFP4A16: "4-bit weights (NVFP4, an FP8 scale for 16 of them), 16-bit activations",
    Format.NVFP4: "4-bit weights and activations (NVFP4, an FP8 scale for 16 of them, and one for "
    "all that enters a matrix, measured before)",
    Format.FP8: "8-bit weights and activations (FP8, one scale for the weights of a matrix and one "
    "for its input, measured before)",
    Format.FP8_DYNAMIC: "8-bit weights (FP8, a scale for each row), 8-bit activations scaled "
    "for each token at run time",
    Format.FP8_BLOCK: "8-bit weights (FP8, a scale for each 128×128 block), 8-bit activations "
    "scaled in groups at run time",
    Format.FP8_BLOCK_A16: "8-bit weights (FP8, a scale for each 128×128 block), 16-bit activations",
}

LAYOUTS_IN_WORDS: Final[dict[CheckpointFormat, str]] = {
    CheckpointFormat.CompressedTensors: "that of compressed-tensors (`quantization_config` in "
    "`config.json`)",
    CheckpointFormat.ModelOpt: "ModelOpt's (`hf_quant_config.json`, and `quantization_config` in "
    "`config.json`)",
}

# Roles that no recipe may quantize.
_ALWAYS_KEPT: Final[dict[Role, str]] = {
    Role.Router: "picks the experts; a small error here sends tokens to others",
    Role.Embedding: "is looked up and not multiplied by",
    Role.LmHead: "decides every token, and its error reaches the answer unsoftened",
    Role.Vision: "sees images; kept as it is",
    Role.Audio: "hears; kept as it is",
    Role.Projector: "joins another tower to the language model; kept as it is",
    Role.MultiTokenPrediction: "predicts tokens ahead; its guesses are checked, and a worse one "
    "costs speed",
    Role.Norm: "is no matrix, and tiny",
    Role.Other: "is no matrix that a server multiplies by (convolutions, states)",
}
# Roles that the recipe could have named.
_NOT_NAMED: Final[dict[Role, str]] = {
    Role.LinearAttention: "is not named by the recipe; errors add up in its state",
    Role.LinearAttentionGate: "is not named by the recipe; tiny and sensitive",
}


def why_kept(role: Role, named: bool) -> str:
    """Why a line of the plan is as in the source; `named`: the recipe quantizes its role."""
    if named:
        return "belongs to a quantized role, but is no matrix (biases)"
    if role in QUANTIZABLE_ROLES:
        return _NOT_NAMED.get(role, "is not named by the recipe")
    return _ALWAYS_KEPT[role]

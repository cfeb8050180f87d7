"""What a plan says although it goes on: one row for each notice, with when it applies.

Called by `halftone.plan.planning`. What a server could not load is in `halftone.plan.loading`.
"""

from halftone.checkpoint.architectures import GENERIC, Architecture, text_config
from halftone.checkpoint.index import Checkpoint
from halftone.plan.companions import left_behind
from halftone.plan.tensors import LogicalTensors, SourceScale
from halftone.spec.documents import Method, Notice, PlanSource, RoleSummary
from halftone.spec.formats import FORMATS
from halftone.spec.job import KvCacheScales, MultiTokenPrediction, Recipe
from halftone.spec.names import WarningReason
from halftone.spec.roles import Role

# Whether it applies, why, what it is about, and the sentence.
_Candidate = tuple[bool, WarningReason, str, str]


def notices(
    checkpoint: Checkpoint,
    architecture: Architecture,
    recipe: Recipe,
    logical: LogicalTensors,
    scales: dict[str, SourceScale],
    roles: tuple[RoleSummary, ...],
    source: PlanSource,
    method: Method,
) -> tuple[Notice, ...]:
    """Every notice that applies, in a fixed order."""
    present = {line.role for line in roles}
    behind = left_behind(checkpoint.other_files)
    promised = text_config(checkpoint.config).get("mtp_num_hidden_layers") or 0
    lost_head = promised and Role.MultiTokenPrediction not in present
    asked_to_drop = recipe.multiTokenPrediction is MultiTokenPrediction.Drop
    candidates: list[_Candidate] = [
        (
            source.licence is None,
            WarningReason.LicenceMissing,
            "licence",
            "The source has neither a licence file nor a `license` in its card; find out what "
            "you may do with the result before you publish it.",
        ),
        (
            bool(scales),
            WarningReason.SourceDequantized,
            next(iter(scales), ""),
            f"The source is FP8 ({len(scales)} matrices) and is dequantized on the way in; what "
            "is kept is written in BF16, and later checks compare with the dequantized source.",
        ),
        *(
            (
                line.role not in present,
                WarningReason.RoleAbsent,
                line.role,
                f"The recipe gives {line.role} the format {line.format}, but this model has none.",
            )
            for line in recipe.precision
        ),
        (
            architecture is GENERIC,
            WarningReason.GenericArchitecture,
            "config.json",
            "The architecture has no table; roles and fused groups were guessed from the last "
            "components of the names.",
        ),
        (
            bool(logical.unlisted) and architecture is not GENERIC,
            WarningReason.UnlistedTensors,
            next(iter(logical.unlisted), ""),
            f"{len(logical.unlisted)} tensors are not in the table of {architecture.name} and are "
            f"kept, the first of them `{next(iter(logical.unlisted), '')}`.",
        ),
        (
            bool(lost_head) and not asked_to_drop,
            WarningReason.MultiTokenPredictionAbsent,
            "mtp_num_hidden_layers",
            "`config.json` promises a multi-token-prediction head whose weights the source does "
            "not have; set `multiTokenPrediction: Drop` to take the promise back.",
        ),
        *_of_calibration(recipe, method),
        (
            bool(behind),
            WarningReason.FilesLeftBehind,
            next(iter(behind), ""),
            f"{len(behind)} files in sub-directories are not carried over, the first of them "
            f"'{next(iter(behind), '')}'.",
        ),
    ]
    return tuple(
        Notice(reason=reason, subject=subject, message=message)
        for applies, reason, subject, message in candidates
        if applies
    )


def _of_calibration(recipe: Recipe, method: Method) -> tuple[_Candidate, _Candidate]:
    measured = ", ".join(fmt for fmt, traits in FORMATS.items() if traits.needs_calibration)
    return (
        (
            method is Method.Calibrated and recipe.calibration is None,
            WarningReason.CalibrationDataMissing,
            "quantization.calibration",
            "The recipe quantizes activations or measures the KV cache, and names no data to "
            "measure on; set `quantization.calibration` before `halftone calibrate`.",
        ),
        (
            method is Method.DataFree and recipe.calibration is not None,
            WarningReason.CalibrationUnused,
            "quantization.calibration",
            "`quantization.calibration` names data, but nothing in the recipe is measured; remove "
            f"it, or give a role one of {measured}, or `kvCache` the scales "
            f"{KvCacheScales.Calibrated}.",
        ),
    )

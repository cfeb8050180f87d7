"""The gate `EngineLoads`: vLLM loads the checkpoint, answers, and its log holds no bad news.

    result, document = judge(gate, facts, generated, log, calibrated=False, formats=("NVFP4A16",))

Pure: `halftone.validate.engine_gates` gathers, this judges. Predicates run in order and the first
one that does not hold is the result; the list is the documentation. A load that failed never gets
here; `failed_to_load` makes its result.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from halftone.spec.errors import HalftoneError
from halftone.spec.gates import EngineLoads
from halftone.spec.reports import GateResult, Outcome
from halftone.validate.gates.kernels import unexpected_kernel
from halftone.validate.serving.session import EngineFacts

# Words of vLLM 0.32 (`CompressedTensorsW4A4Fp4`, ModelOpt's linear method, the experts' methods,
# Quark's): the members of a merged layer have different scales, so all but one are decoded wrongly.
_DIFFERENT: Final = re.compile(
    r"global[ _]scale(?: for \w+)?(?: is| are) different|w1_weight_\w+ must match"
    r"|(?:weight|input) scale differs across"
)
# Experts with input scales of their own lose accuracy but are decoded rightly: vLLM takes the
# largest.
_SHARED: Final = re.compile(r"activation global scale for inputs are different")
# `BaseKVCacheMethod`: scales of 1 although the cache is FP8. vLLM says so of ModelOpt's checkpoints
# only, our plugin for CPUs of any; `maybe_remap_kv_scale_name` tells of scales without a place.
_UNIT_SCALE: Final = re.compile(r"scaling factor 1\.0|_scale in the checkpoint .* is not loaded")
_WARNING: Final = re.compile(r"\b(?:WARNING|ERROR)\b")
_LAYER: Final = re.compile(r"\b(?:[A-Za-z_]\w*\.)*layers\.\d+(?:\.\w+)*")
# vLLM says these of every model on every CPU.
_IDLE: Final = ("LD_PRELOAD", "set_num_threads", "OMP_NUM_THREADS", "Triton", "NUMA")
_MOST_WARNINGS: Final = 50


@dataclass(frozen=True)
class Gathered:
    """All that is judged. `calibrated`: the checkpoint has k_scale and v_scale tensors."""

    facts: EngineFacts
    generated: Sequence[Mapping[str, Any]]
    log: str
    calibrated: bool
    formats: tuple[str, ...]


@dataclass(frozen=True)
class Complaint:
    """Why the gate fails, and who is to blame."""

    message: str
    culprit: str | None = None


def judge(
    gate: EngineLoads,
    facts: EngineFacts,
    generated: Sequence[Mapping[str, Any]],
    log: str,
    *,
    calibrated: bool,
    formats: Iterable[str],
) -> tuple[GateResult, dict[str, Any]]:
    """The gate's result and its evidence.

    `generated` are rows of `serving.generating.generate`, `log` all that vLLM said, `formats` those
    of the checkpoint's weights.
    """
    gathered = Gathered(facts, generated, log, calibrated, tuple(sorted(formats)))
    found = next(filter(None, (check(gathered) for check in CHECKS)), None)
    emulated = " on a CPU with our kernels" if facts.emulated else ""
    message = (
        found.message
        if found
        else (
            f"{facts.engine} loaded the checkpoint in {facts.loadSeconds:.1f} s{emulated}, has "
            f"{facts.kvBlocks:,} KV blocks and answered all {len(generated)} prompts."
        )
    )
    result = GateResult(
        name=gate.name,
        metric=gate.metric,
        outcome=Outcome.Failed if found else Outcome.Passed,
        message=message,
        items=len(generated),
        culprit=found.culprit if found else None,
    )
    return result, _evidence(gathered)


def failed_to_load(gate: EngineLoads, error: HalftoneError) -> tuple[GateResult, dict[str, Any]]:
    """The result where `EngineSession` could not be entered because vLLM refuses the checkpoint."""
    named = _LAYER.search(error.message)
    result = GateResult(
        name=gate.name,
        metric=gate.metric,
        outcome=Outcome.Failed,
        message=error.message,
        culprit=named.group() if named else None,
    )
    return result, {"error": error.message, "warnings": [], "generated": []}


def scan(log: str, pattern: re.Pattern[str]) -> list[str]:
    """The lines of `log` in which `pattern` occurs, each once."""
    return list(dict.fromkeys(line.strip() for line in log.splitlines() if pattern.search(line)))


def _scales_agree(gathered: Gathered) -> Complaint | None:
    lines = [line for line in scan(gathered.log, _DIFFERENT) if not _SHARED.search(line)]
    if not lines:
        return None
    return Complaint(
        f"vLLM says that members of a merged layer have different global scales, so it decodes all "
        f"but one of them wrongly: {_shortened(lines[0])}",
        _layer_in(lines[0]),
    )


def _cache_scales_arrived(gathered: Gathered) -> Complaint | None:
    """Asked of the loaded layers too, as the log says nothing for compressed-tensors on a GPU."""
    if not gathered.calibrated:
        return None
    lines = scan(gathered.log, _UNIT_SCALE)
    if lines:
        return _unscaled(_layer_in(lines[0]), f": {_shortened(lines[0])}")
    scales = gathered.facts.cacheScales
    unscaled = next((row for row in scales if row["key"] == row["value"] == 1), None)
    if unscaled is not None:
        return _unscaled(unscaled["layer"], f", first `{unscaled['layer']}`.")
    if not scales:
        return Complaint(
            "The checkpoint has calibrated KV cache scales, but vLLM keeps no cache in FP8; see "
            "whether `kv_cache_scheme` is in `config.json`."
        )
    return None


def _unscaled(layer: str | None, told: str) -> Complaint:
    return Complaint(
        "The checkpoint has calibrated KV cache scales, but vLLM uses 1.0 for at least one layer"
        f"{told}",
        layer,
    )


def _kernels_are_expected(gathered: Gathered) -> Complaint | None:
    wrong = unexpected_kernel(gathered.facts, gathered.formats)
    return Complaint(wrong.message, wrong.kernel) if wrong else None


def _emulation_is_ours(gathered: Gathered) -> Complaint | None:
    """Whether a CPU computed as the GPU would: our kernels did, not vLLM's own for CPUs."""
    facts = gathered.facts
    if not (facts.emulated and gathered.formats) or facts.kernels:
        return None
    return Complaint(
        f"{facts.engine} served {', '.join(gathered.formats)} on a CPU without Halftone's kernels, "
        "so nothing was measured as the target would compute it; install Halftone where vLLM is, "
        "so that its plugin is found."
    )


def _answers_are_numbers(gathered: Gathered) -> Complaint | None:
    broken = [row for row in gathered.generated if not row["finite"]]
    if not broken:
        return None
    name = str(broken[0]["id"])
    return Complaint(
        f"The model answers {len(broken)} of {len(gathered.generated)} prompts with probabilities "
        f"that are no numbers, first `{name}`; a weight or a scale is NaN or too large.",
        name,
    )


def _answers_are_there(gathered: Gathered) -> Complaint | None:
    if not gathered.generated:
        return Complaint("The model was asked nothing, so nothing shows that it can answer.")
    silent = [row for row in gathered.generated if not row["tokens"]]
    if not silent:
        return None
    name = str(silent[0]["id"])
    return Complaint(f"The model generates nothing for prompt `{name}`.", name)


CHECKS: Final[tuple[Callable[[Gathered], Complaint | None], ...]] = (
    _scales_agree,
    _cache_scales_arrived,
    _kernels_are_expected,
    _emulation_is_ours,
    _answers_are_numbers,
    _answers_are_there,
)


def _evidence(gathered: Gathered) -> dict[str, Any]:
    facts = gathered.facts
    warnings = [
        line for line in scan(gathered.log, _WARNING) if not any(idle in line for idle in _IDLE)
    ]
    return {
        "loadSeconds": facts.loadSeconds,
        "kvBlocks": facts.kvBlocks,
        "cacheGroups": [dict(group) for group in facts.cacheGroups],
        "cacheScales": [dict(row) for row in facts.cacheScales],
        "platform": {
            "device": facts.device,
            "driver": facts.driver,
            "capability": facts.capability,
            "emulated": facts.emulated,
            "engine": facts.engine,
        },
        "kernels": list(facts.kernels),
        "engineArguments": dict(facts.engineArguments),
        "warnings": [_shortened(line) for line in warnings[:_MOST_WARNINGS]],
        "generated": [dict(row) for row in gathered.generated],
    }


def _layer_in(line: str) -> str | None:
    found = _LAYER.search(line)
    return found.group() if found else None


def _shortened(line: str) -> str:
    """What vLLM said, without process, time and file, and not longer than a sentence should be."""
    said = re.sub(r"^.*?\[[\w.]+:\d+\]\s*", "", line)
    return said if len(said) <= 300 else f"{said[:300]}…"

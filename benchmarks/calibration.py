"""`halftone calibrate` and the writer behind it against llm-compressor's `oneshot`, and alone.

Both measure the same samples on the same model, layer by layer, in the same environment. Times are
taken inside of each process, so that importing torch does not count. The library's stages are told
apart by its own lifecycle: loading, tracing and forward passes are calibration, scales of weights
and saving are quantization. Ours is one call that reads weights layer by layer, then another that
reads them again and writes. Runs take turns, and a ratio is the median of the ratios of each turn,
so that other work on the machine weighs on both. Memory is the largest resident set of a process:
what it has allocated and the pages of files that it maps, code of libraries among them, not the
page cache beside it. The model for it is larger than its limit, so it cannot be held as a whole.
"""

import json
import random
import shutil
import string
from pathlib import Path
from typing import Any

import yaml

from benchmarks import checkpoints
from benchmarks.measuring import HALFTONE, ROOT, Result, Run, median_of, quantize_environment, run

_PEERS = ROOT / "tests" / "peers"
_ROUNDS = 3
_SAMPLES = 32
_TOKENS = 64
_ROUTED = (2, 64)  # samples and tokens through 2 GB of experts a layer: memory hardly depends on it
_ATTENTION = r"re:.*self_attn\.[qkvo]_proj$"
_MLP = r"re:.*mlp\.(gate|up|down)_proj$"
_LAYER_BYTES = 2e9
_CALIBRATION_LIMIT = 3 * _LAYER_BYTES + 2e9
_WRITER_LIMIT = 1e9

Seconds = dict[str, float]


def main(scratch: Path) -> list[Result]:
    """Times against the library on 0.44 GB; peaks on five layers of 2 GB of experts."""
    return [*_against_oneshot(scratch), *_peaks(scratch)]


def _against_oneshot(scratch: Path) -> list[Result]:
    source = checkpoints.llama_like(scratch / "llama-like")
    recipe = _recipe(scratch, ("Attention", "Mlp"), _SAMPLES, _TOKENS)
    ours: list[Seconds] = []
    theirs: list[Seconds] = []
    unpropagated: list[Seconds] = []
    for _ in range(_ROUNDS):
        ours.append(_ours(source, recipe, scratch))
        theirs.append(_oneshot(source, scratch, propagate=True))
        unpropagated.append(_oneshot(source, scratch, propagate=False))
    details = {"ours": ours, "oneshot": theirs, "oneshotWithoutPropagation": unpropagated}
    size = f"{checkpoints.tensor_bytes(source) / 1e9:.2f} GB"
    once = f"{size}, {_SAMPLES} samples of {_TOKENS} tokens"
    return [
        _calibration_time(once, ours, theirs, "", 1.1, details),
        _calibration_time(once, ours, unpropagated, " without its second pass", None, details),
        _writing_time(size, ours, theirs, details),
    ]


def _calibration_time(
    what: str,
    ours: list[Seconds],
    theirs: list[Seconds],
    variant: str,
    target: float | None,
    details: dict[str, Any],
) -> Result:
    """Ours, weights read on the way, against the library's loading, tracing and passes."""
    own = [one["calibrate"] for one in ours]
    whole = [one["load"] + one["trace"] + one["calibrate"] for one in theirs]
    ratio = median_of([a / b for a, b in zip(own, whole, strict=True)])
    passes = median_of([one["calibrate"] for one in theirs])
    return Result(
        f"calibration of {what}, against oneshot{variant}",
        f"<= {target} times" if target else "stated",
        f"{ratio:.2f} times ({median_of(own):.1f} s, peer {median_of(whole):.1f} s, of these "
        f"{passes:.1f} s in passes)",
        target is None or ratio <= target,
        details,
    )


def _writing_time(
    size: str, ours: list[Seconds], theirs: list[Seconds], details: dict[str, Any]
) -> Result:
    own = [one["quantize"] for one in ours]
    whole = [one["weights"] + one["save"] for one in theirs]
    ratio = median_of([b / a for a, b in zip(own, whole, strict=True)])
    saving = median_of([one["save"] for one in theirs])
    return Result(
        f"NVFP4 W4A4 of {size} with statistics, quantize and save, against oneshot",
        ">= 10 times faster",
        f"{ratio:.1f} times ({median_of(own):.2f} s, peer {median_of(whole):.1f} s, of these "
        f"{saving:.1f} s in saving)",
        ratio >= 10,
        details,
    )


def _peaks(scratch: Path) -> list[Result]:
    source = checkpoints.layers_of_experts(scratch / "layers-of-experts")
    recipe = _recipe(scratch, ("Experts",), *_ROUTED)
    try:
        measured, _ = _calibrate(source, recipe, scratch)
        written = _quantize(source, recipe, scratch)
    finally:
        for made in (source, scratch / "ours"):
            shutil.rmtree(made, ignore_errors=True)
    rows = []
    for what, peak, limit in (
        ("calibration, five layers with 2 GB of experts each", measured, _CALIBRATION_LIMIT),
        ("writing that model from statistics", written, _WRITER_LIMIT),
    ):
        rows.append(
            Result(
                f"peak resident memory, {what}",
                f"<= {limit / 1e9:.0f} GB",
                f"{peak.peak_bytes / 1e9:.2f} GB",
                peak.peak_bytes <= limit,
                {"seconds": peak.seconds, "peakBytes": peak.peak_bytes},
            )
        )
    return rows


def _ours(source: Path, recipe: Path, scratch: Path) -> Seconds:
    """Seconds of our two calls; writes are synced."""
    _, calibrated = _calibrate(source, recipe, scratch)
    done = _quantize(source, recipe, scratch)
    quantized = float(json.loads(done.output)["seconds"]) + done.sync_seconds
    return {"calibrate": calibrated, "quantize": quantized}


def _calibrate(source: Path, recipe: Path, scratch: Path) -> tuple[Run, float]:
    """Measure into `scratch/statistics`; the process, and seconds inside of it."""
    target = scratch / "statistics"
    shutil.rmtree(target, ignore_errors=True)
    case = {
        "source": str(source),
        "recipe": yaml.safe_load(recipe.read_text()) | {"name": "benchmark"},
        "samples": str(scratch / "samples.safetensors"),
        "output": str(target),
    }
    done, answer = _peer("calibration_samples.py", case, scratch)
    return done, float(answer)


def _quantize(source: Path, recipe: Path, scratch: Path) -> Run:
    target = scratch / "ours"
    shutil.rmtree(target, ignore_errors=True)
    options = ("--recipe", recipe, "--statistics", scratch / "statistics", "--json")
    return run([HALFTONE, "quantize", source, target, *options])


def _oneshot(source: Path, scratch: Path, *, propagate: bool) -> Seconds:
    """The library's stages on the samples that `_calibrate` used; saving is synced."""
    target = scratch / "peer"
    shutil.rmtree(target, ignore_errors=True)
    case = {
        "source": str(source),
        "target": str(target),
        "samples": str(scratch / "samples.safetensors"),
        "schemes": {"NVFP4": [_ATTENTION, _MLP]},
        "cache": True,
        "propagateError": propagate,
    }
    done, answer = _peer("oneshot.py", case, scratch)
    stages: Seconds = answer
    return stages | {"save": stages["save"] + done.sync_seconds}


def _peer(script: str, case: dict[str, Any], scratch: Path) -> tuple[Run, Any]:
    """One case in a process of its own; what it says of its seconds."""
    cases, answers = scratch / "cases.json", scratch / "answers.json"
    cases.write_text(json.dumps([case]))
    done = run([quantize_environment(), _PEERS / script, cases, answers])
    (answer,) = json.loads(answers.read_text())
    if answer["error"]:
        raise RuntimeError(f"{script}: {answer['error']}")
    return done, answer["seconds"]


def _recipe(scratch: Path, roles: tuple[str, ...], samples: int, tokens: int) -> Path:
    """A recipe file with its data beside it: letters, one token each."""
    draw = random.Random(0)
    rows = ["".join(draw.choices(string.printable, k=tokens)) for _ in range(samples)]
    dataset = scratch / "calibration.jsonl"
    dataset.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    recipe = {
        "precision": [{"role": role, "format": "NVFP4"} for role in roles],
        "kvCache": {"format": "FP8", "scales": "Calibrated"},
        "calibration": {
            "dataset": {"path": str(dataset)},
            "samples": samples,
            "maxSequenceLength": tokens,
        },
    }
    path = scratch / "calibrated.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path

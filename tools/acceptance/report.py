"""One report of an acceptance: a folder with a summary, the gates' page, and what was measured.

Called by the program after the steps, and by tests with results that were recorded. It reads the
output folder and writes `report/` in it: `summary.md`, `report.html`, `machine.json`,
`results.json`, and copies of plan, report and benchmarks. Whatever is not there is said to be not
there. It must not judge: an outcome is what `carrying` wrote down.
"""

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any, Final

from tools.acceptance.asking import MODES
from tools.acceptance.carrying import PASSED, RESULTS, Result

REPORT: Final = "report"
# Where a file lies in the output folder, and how it is called in the report.
_COPIES: Final = {
    "work/report.html": "report.html",
    "work/report.json": "report.json",
    "plan.json": "plan.json",
    "job.yaml": "job.yaml",
    "bench/text/bench.json": "bench-text.json",
    "bench/speculative/bench.json": "bench-speculative.json",
    "compare.json": "compare.json",
    RESULTS: RESULTS,
}


def write_report(output: Path, results: list[Result], modes: tuple[str, ...]) -> Path:
    """The folder of the report; its `summary.md` begins with the verdict."""
    folder = output / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in _COPIES.items():
        if (output / place).is_file():
            shutil.copyfile(output / place, folder / name)
    for card in (output / "bench").glob("*/capacity/*.json"):
        (folder / "capacity").mkdir(exist_ok=True)
        shutil.copyfile(card, folder / "capacity" / card.name)
    facts = machine(output)
    (folder / "machine.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "summary.md").write_text(_summary(output, results, modes, facts))
    return folder


def machine(output: Path) -> dict[str, Any]:
    """What it ran on; `gpus` are the lines of nvidia-smi, its heading first."""
    said = {name: _log(output, name) for name in ("machine", "version")}
    return {
        "gpus": said["machine"],
        "halftone": " ".join(said["version"]),
        "processors": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "memoryBytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def is_accepted(results: list[Result]) -> bool:
    """Whether every step passed; a step that was not run did not."""
    return bool(results) and all(one.outcome == PASSED for one in results)


def _summary(
    output: Path, results: list[Result], modes: tuple[str, ...], facts: dict[str, Any]
) -> str:
    failed = [one for one in results if one.outcome != PASSED]
    verdict = "every step passed" if is_accepted(results) else f"{len(failed)} did not pass"
    head = "Accepted" if is_accepted(results) else "Not accepted"
    parts = [
        f"# {head}: {len(results)} steps, {verdict}\n",
        *(f"- `{one.name}` {one.outcome}: {one.told}" for one in failed),
        _what(output, facts),
        _gates(output),
        _modes(results, modes),
        _speeds(output),
        _steps(results),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _what(output: Path, facts: dict[str, Any]) -> str:
    lines = ["\n## What and where\n", "| | |", "|---|---|"]
    rows = {f"GPU {place}": line for place, line in enumerate(facts["gpus"][1:])}
    rows |= {
        "machine": f"{facts['processors']} CPUs, {facts['memoryBytes'] / 1e9:.0f} GB of memory",
        "system": f"{facts['system']}, Python {facts['python']}",
        "halftone": facts["halftone"] or "not known",
    }
    plan, artifact = _json(output / "plan.json"), _json(output / "artifact" / "artifact.json")
    if plan is not None:
        rows["source"] = f"{plan['source']['uri']} at {plan['source']['revision'] or 'no revision'}"
        rows["bytes of tensors"] = (
            f"{plan['source']['bytes']:,} before, {plan['output']['bytes']:,} after "
            f"({plan['sizes']['whole']['ratio']} times smaller as a whole, "
            f"{plan['sizes']['quantized']['ratio']} where it is quantized)"
        )
    if artifact is not None:
        rows["checkpoint digest"] = artifact["checkpointDigest"]
    return "\n".join([*lines, *(f"| {name} | {text} |" for name, text in rows.items())])


def _gates(output: Path) -> str:
    report = _json(output / "work" / "report.json")
    if report is None:
        return "\n## Gates\n\nThere is no report: the gates did not run to their end."
    where = report.get("platform") or {}
    told = f"Verdict {report['verdict']}, on {where.get('device', 'no engine')}."
    rows = [
        f"| {gate['name']} | {gate['metric']} | {gate['score'] or ''} | {gate['limit'] or ''} | "
        f"{gate['sourceScore'] or ''} | {gate['quantizedScore'] or ''} | {gate['outcome']} |"
        for gate in report["gates"]
    ]
    heading = "| gate | metric | score | limit | source | quantized | outcome |"
    return "\n".join(["\n## Gates\n", f"{told}\n", heading, "|---|---|---|---|---|---|---|", *rows])


def _modes(results: list[Result], modes: tuple[str, ...]) -> str:
    outcomes = {one.name: one for one in results}
    rows = []
    for mode in modes:
        up, answer = outcomes.get(f"serve {mode}"), outcomes.get(f"ask {mode}")
        if up is None or answer is None:
            rows.append(f"| {mode} | NotRun | | NotRun | |")
            continue
        told = up.told or answer.told
        rows.append(f"| {mode} | {up.outcome} | {up.seconds:.0f} | {answer.outcome} | {told} |")
    heading = "| mode | comes up | seconds | answers as the mode does | |"
    table = ["\n## Serving modes\n", heading, "|---|---|---|---|---|", *rows]
    unasked = [mode for mode in MODES if mode not in modes]
    return "\n".join([*table, *([f"\nNot asked for: {', '.join(unasked)}."] if unasked else [])])


_SPEEDS: Final = """\
| at a time | | TTFT p50, p95 (ms) | ITL p50 (ms) | tok/s all | tokens a step |
|---|---|---|---|---|---|"""


def _speeds(output: Path) -> str:
    parts = ["\n## Speed\n"]
    for mode in ("text", "speculative"):
        bench = _json(output / "bench" / mode / "bench.json")
        if bench is None:
            parts.append(f"Not measured in the mode {mode}.")
            continue
        shape = f"{bench['inputTokens']} tokens in, {bench['outputTokens']} out"
        parts.append(f"Mode {mode}, {shape}, {bench['rounds']} rounds of each load:\n")
        parts.append(_SPEEDS)
        for load in bench["loads"]:
            sides = [("endpoint", load["endpoint"]), ("baseline", load["baseline"])]
            parts += [_speed(load["concurrency"], *side) for side in sides if side[1] is not None]
        parts.append("")
    return "\n".join(parts).rstrip()


def _speed(concurrency: int, side: str, found: dict[str, Any]) -> str:
    first, later = found["ttftMs"], found["itlMs"]
    cells = [
        str(concurrency),
        side + (f" ({found['failed']} failed)" if found["failed"] else ""),
        f"{first['p50']:.1f}, {first['p95']:.1f}",
        f"{later['p50']:.2f}" if later else "",
        f"{found['tokensPerSecond']:.1f}",
        f"{found['acceptLength']:.2f}" if found["acceptLength"] else "",
    ]
    return f"| {' | '.join(cells)} |"


def _steps(results: list[Result]) -> str:
    rows = [f"| {one.name} | {one.outcome} | {one.seconds:.0f} | `{one.line}` |" for one in results]
    heading = "| step | outcome | seconds | command |"
    return "\n".join(["\n## Every step\n", heading, "|---|---|---|---|", *rows])


def _log(output: Path, name: str) -> list[str]:
    path = output / "logs" / f"{name}.log"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found

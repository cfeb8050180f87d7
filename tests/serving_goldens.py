"""Golden tables of what each reference model is served with: by mode and by device.

    python -m tests.serving_goldens        # write them anew; then read the difference

Called by `tests/unit/test_engine_arguments.py`, which compares, and by the integration test, which
gives every row to vLLM. A row is the arguments, or the reason and sentence of a refusal.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from halftone.checkpoint.serving_modes import mode_rows
from halftone.serve.arguments.case import Case
from halftone.serve.arguments.checkpoint_facts import CheckpointFacts, read_facts
from halftone.serve.arguments.engine_arguments import arguments_of
from halftone.serve.served_model import ServedModel
from halftone.spec.errors import RefusedInput
from halftone.spec.serving import ServingMode
from tests.served_models import DEVICES, REFERENCES, assistant, endpoint, served_model, small_model

GOLDEN = Path(__file__).parent / "golden" / "serving"
DRAFT_PLACE = "/weights/draft"
DRAFTS: dict[str, Callable[[Path], ServedModel]] = {
    "assistant": assistant,
    "small": small_model,
}
_DRAFT = {"uri": "s3://models/draft"}

Table = dict[str, dict[str, Any]]


def drafts_of(folder: Path) -> dict[str, CheckpointFacts]:
    """The facts of each draft."""
    return {name: read_facts(write(folder)) for name, write in DRAFTS.items()}


def table_of(facts: CheckpointFacts, drafts: dict[str, CheckpointFacts]) -> Table:
    """Every device and mode, and what comes of it."""
    return {device: dict(_rows(facts, drafts, device)) for device in DEVICES}


def documented_modes() -> str:
    """The table of modes as `docs/serving-modes.md` shows it."""
    lines = ["| mode | for | needs | arguments of vLLM |", "|---|---|---|---|"]
    for row in mode_rows():
        selectors = list(row.families or ("any family",))
        if row.towers is not None:
            selectors.append("with towers" if row.towers else "without towers")
        if row.drafts is not None:
            drafts = "any" if row.drafts == "any" else " or ".join(row.drafts)
            selectors.append(f"draft: {drafts}")
        given = ", ".join(f"`{name}: {json.dumps(v)}`" for name, v in row.arguments.items())
        needs = ", ".join(row.needs)
        lines.append(f"| `{row.mode}` | {', '.join(selectors)} | {needs} | {given or 'none'} |")
    return "\n".join(lines)


def golden(name: str) -> Table:
    """The table as it is kept."""
    found: Table = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


def _rows(
    facts: CheckpointFacts, drafts: dict[str, CheckpointFacts], device: str
) -> Iterator[tuple[str, Any]]:
    for mode in ServingMode:
        yield mode.value, _outcome(facts, None, device, mode)
    for name, draft in drafts.items():
        yield f"speculative, draft {name}", _outcome(facts, draft, device, ServingMode.Speculative)


def _outcome(
    facts: CheckpointFacts, draft: CheckpointFacts | None, device: str, mode: ServingMode
) -> dict[str, Any]:
    chosen = DEVICES[device]
    fields: dict[str, Any] = {"modes": [mode], "accelerator": chosen.accelerator}
    if draft is not None:
        fields["draft"] = _DRAFT
    place = None if draft is None else DRAFT_PLACE
    try:
        return arguments_of(Case(endpoint(**fields), facts, draft, chosen), place)
    except RefusedInput as refusal:
        return {"refused": refusal.reason.value, "sentence": refusal.message}


def main() -> None:
    """Write every table."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drafts = drafts_of(folder)
        for model in REFERENCES:
            table = table_of(read_facts(served_model(folder, model)), drafts)
            (GOLDEN / f"{model}.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

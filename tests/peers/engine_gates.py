"""What the engine gates say of a checkpoint whose source they did not know: each list by itself.

    python engine_gates.py REQUEST.json ANSWERS.json

REQUEST: {source, judged, workdir, cache, validations}. The checkpoint lies in `workdir`; it was
made of `source`, and is judged as if it had been made of `judged`, which no job can ask for.
ANSWERS: for each of `validations` the gates' results and evidence, and the platform.
"""

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import plan_checkpoint
from halftone.spec.documents import CheckpointDocument
from halftone.spec.gates import Validation
from halftone.spec.names import CACHE_DIRECTORY, CHECKPOINT_FILE
from halftone.spec.recipes import load_recipe
from halftone.stores import open_source
from halftone.validate.engine_gates import run_engine_gates
from halftone.validate.validating import Ledger, Subject


def judge(asked: dict[str, Any], validation: Validation) -> dict[str, Any]:
    workdir = Path(asked["workdir"])
    with (
        closing(open_source(Path(asked["source"]))) as source,
        closing(open_source(Path(asked["judged"]))) as judged,
        closing(open_source(workdir / "checkpoint")) as checkpoint,
    ):
        subject = Subject(
            workdir=workdir,
            validation=validation,
            planned=plan_checkpoint(read_checkpoint(source), load_recipe("nvfp4a16")),
            document=CheckpointDocument.load(workdir / CHECKPOINT_FILE),
            source=judged,
            checkpoint=checkpoint,
        )
        ledger = Ledger(workdir, lambda line: print(line, file=sys.stderr))
        run_engine_gates(subject, validation.gates, ledger)
    assert ledger.platform is not None
    return {
        "results": [result.model_dump(mode="json") for result in ledger.results],
        "evidence": ledger.evidence,
        "platform": ledger.platform.model_dump(mode="json"),
    }


def main(request: Path, answers: Path) -> None:
    asked = json.loads(request.read_text())
    os.environ[CACHE_DIRECTORY] = asked["cache"]
    validations = [Validation.model_validate(each) for each in asked["validations"]]
    answers.write_text(json.dumps([judge(asked, validation) for validation in validations]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

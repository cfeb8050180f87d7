"""What Halftone makes of calibration data, and what transformers makes of it unaided.

    python calibration_data.py REQUEST.json ANSWER.json

Run in the quantize environment. REQUEST has `parquet`, files to write first: `{"file": PATH,
"rows": [...], "groups": ROWS_A_GROUP}`, where bytes of an image are in base64;
`cases` by name: `{"checkpoint": DIRECTORY, "calibration": {...}, "environment": {...}}`; and
`direct`: `{"checkpoint": DIRECTORY, "row": {...}, "images": [FILE, ...]}`. ANSWER has, for each
case, what was measured, the samples and how many files were then in the folder `scratch`, or the
refusal; for each row of `direct` its inputs; and what was left in the folder `temporary`.
"""

import base64
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The environment's own setting would keep a case from its double of the Hub.
os.environ.pop("HF_HUB_OFFLINE", None)

import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from transformers import AutoProcessor, AutoTokenizer

from halftone.checkpoint.index import read_checkpoint
from halftone.quantize.calibration.dataset.preparing import prepare_data
from halftone.spec.calibration import Calibration
from halftone.spec.errors import HalftoneError
from halftone.stores import open_source


def prepare(case: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """What `prepare_data` gives, or how it refuses."""
    os.environ.update(case.get("environment", {}))
    checkpoint = read_checkpoint(open_source(case["checkpoint"]))
    try:
        data = prepare_data(Calibration.model_validate(case["calibration"]), checkpoint, scratch)
    except HalftoneError as error:
        return {"refused": [error.reason, error.subject, error.message]}
    first = [described(sample.inputs) for sample in data.samples()]
    again = [described(sample.inputs) for sample in data.samples()]
    return {
        "measured": [part.model_dump(mode="json") for part in data.measured],
        "modalities": [sample.modality for sample in data.samples()],
        "notices": data.notices,
        "samples": first,
        "again": first == again,
        "copies": len(list(scratch.iterdir())),
    }


def described(inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Inputs as JSON: ids in full; of each tensor shape, type and a sum that shows differences."""
    found: dict[str, Any] = {"ids": inputs["input_ids"].tolist()}
    for name, value in sorted(inputs.items()):
        weights = torch.arange(1, value.numel() + 1, dtype=torch.float64)
        total = float((value.flatten().double() * weights).sum())
        found[name] = [list(value.shape), str(value.dtype), total]
    return found


def directly(checkpoint: str, row: Mapping[str, Any], images: list[str]) -> dict[str, Any]:
    """The inputs of a row as transformers' documentation makes them."""
    if not images:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        if "text" in row:
            return described(tokenizer(row["text"], return_tensors="pt"))
        return described(tokenizer.apply_chat_template(row["messages"], return_tensors="pt"))
    processor = AutoProcessor.from_pretrained(checkpoint)
    opened = [Image.open(image) for image in images]
    if "text" in row:
        return described(processor(text=[row["text"]], images=opened, return_tensors="pt"))
    messages = json.loads(json.dumps(row["messages"]))
    parts = [part for message in messages for part in message["content"] if isinstance(part, dict)]
    places = [part for part in parts if part["type"] == "image"]
    for place, image in zip(places, opened, strict=True):
        place["image"] = image
    return described(
        processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # A processor, unlike a tokenizer and a server, adds tokens to what a template wrote.
            processor_kwargs={"add_special_tokens": False},
        )
    )


def write(file: str, rows: list[dict[str, Any]], groups: int) -> None:
    """Write a Parquet file."""
    for row in rows:
        for image in row.get("images") or ():
            if isinstance(image, dict) and image.get("bytes"):
                image["bytes"] = base64.b64decode(image["bytes"])
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, file, row_group_size=groups)


def main(request: Path, answer: Path) -> None:
    """Answer every question of a file."""
    torch.set_num_threads(2)
    asked = json.loads(request.read_text())
    tempfile.tempdir = asked["temporary"]
    for one in asked["parquet"]:
        write(**one)
    scratch = Path(asked["scratch"])
    cases = {name: prepare(case, scratch) for name, case in asked["cases"].items()}
    direct = {name: directly(**one) for name, one in asked["direct"].items()}
    left = [path.name for path in Path(asked["temporary"]).iterdir()]
    answer.write_text(json.dumps({"cases": cases, "direct": direct, "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
